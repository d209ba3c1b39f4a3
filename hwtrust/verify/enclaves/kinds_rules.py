"""What is accepted of enclaves of every kind: one table a kind, as policies embed them.

    [snp] [tdx] [sgx] [nitro] [cca] [azure] [nvidia]

A kind whose table is absent is not accepted. Loading this needs neither dcap-qvl nor a
CBOR codec: rules are read where nothing is verified, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from hwtrust.verify.enclaves import (
    azure_rules,
    cca_rules,
    nitro_rules,
    nvidia_rules,
    sgx_rules,
    snp_rules,
    tdx_rules,
)
from hwtrust.verify.enclaves.azure_rules import AzureRules
from hwtrust.verify.enclaves.cca_rules import CcaRules
from hwtrust.verify.enclaves.nitro_rules import NitroRules
from hwtrust.verify.enclaves.nvidia_rules import NvidiaRules
from hwtrust.verify.enclaves.sgx_rules import SgxRules
from hwtrust.verify.enclaves.snp_rules import SnpRules
from hwtrust.verify.enclaves.tdx_rules import TdxRules
from hwtrust.wire.messages import Severity

ABSENT: Final = "policy:absent"


class EnclaveRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of each kind. A kind without rules is not accepted."""

    snp: SnpRules | UnsetType = UNSET
    tdx: TdxRules | UnsetType = UNSET
    sgx: SgxRules | UnsetType = UNSET
    nitro: NitroRules | UnsetType = UNSET
    cca: CcaRules | UnsetType = UNSET
    azure: AzureRules | UnsetType = UNSET
    """Of a vTPM in a TEE; the TEE's own rules stand in its `snp` or `tdx`."""
    nvidia: NvidiaRules | UnsetType = UNSET
    """Of a GPU beside the enclave. A GPU's report needs them, and they need a GPU's report."""


FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        ABSENT: (Severity.FAIL, "the policy has no rules for evidence of this kind"),
        **snp_rules.FINDINGS,
        **tdx_rules.FINDINGS,
        **sgx_rules.FINDINGS,
        **nitro_rules.FINDINGS,
        **cca_rules.FINDINGS,
        **azure_rules.FINDINGS,
        **nvidia_rules.FINDINGS,
    }
)
"""What each code of each kind means, and how it weighs."""
