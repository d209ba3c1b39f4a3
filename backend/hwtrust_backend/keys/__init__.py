"""What the backend signs with: the vault, its signers, and its certificate authorities."""

from __future__ import annotations

from hwtrust_backend.keys.authority import (
    DeviceIdentity,
    Issued,
    device_of_certificate,
    issue_device_certificate,
    issue_server_certificate,
    make_authority,
)
from hwtrust_backend.keys.passphrase import Passphrase, find_passphrase, new_passphrase
from hwtrust_backend.keys.signing import KeyRole, KeyVault, Secret, Signer
from hwtrust_backend.keys.vault import FileVault

__all__ = [
    "DeviceIdentity",
    "FileVault",
    "Issued",
    "KeyRole",
    "KeyVault",
    "Passphrase",
    "Secret",
    "Signer",
    "device_of_certificate",
    "find_passphrase",
    "issue_device_certificate",
    "issue_server_certificate",
    "make_authority",
    "new_passphrase",
]
