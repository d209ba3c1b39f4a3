"""Enclaves and confidential VMs: how they come in, attest, and get their roots."""

from __future__ import annotations

from hwtrust_backend.enclaves.roots import EnclaveRoots
from hwtrust_backend.enclaves.service import Enclaves
from hwtrust_backend.enclaves.trust import (
    TrustKind,
    UnsafeRoots,
    add_authority,
    enclave_trust,
    list_authorities,
    remove_authority,
)

__all__ = [
    "EnclaveRoots",
    "Enclaves",
    "TrustKind",
    "UnsafeRoots",
    "add_authority",
    "enclave_trust",
    "list_authorities",
    "remove_authority",
]
