"""Which claims of AR4SI the findings about enclaves, GPUs and logs touch.

By the part of the evidence, by claim: the problems that speak against it. A test holds
this to the codes of `hwtrust.verify`, so that none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from hwtrust_backend.results.ar4si import ALERT, UNAVAILABLE, UNTRUSTED, VISIBLE, Claim

_HARDWARE: Final = (Claim.HARDWARE,)
_SOFTWARE: Final = (Claim.EXECUTABLES,)
_CONFIGURATION: Final = (Claim.CONFIGURATION,)
_INSTANCE: Final = (Claim.INSTANCE,)
_OPEN: Final = (Claim.RUNTIME, Claim.CONFIGURATION)
_FILES: Final = (Claim.EXECUTABLES, Claim.FILES)

_PROBLEMS: Final[Mapping[str, Mapping[tuple[Claim, ...], str]]] = {
    "snp": {
        _OPEN: "debug",
        _HARDWARE: (
            "product signing-key csp tcb tcb-current tcb-committed tcb-launch firmware "
            "firmware-committed platform platform-missing"
        ),
        _SOFTWARE: "measurement id-key author-key guest-svn",
        _CONFIGURATION: "absent policy policy-missing abi vmpl host-data",
    },
    "tdx": {
        _OPEN: "debug",
        _HARDWARE: (
            "tcb advisory collateral platform mr-seam mr-signer-seam seam-attributes tcb-svn"
        ),
        _SOFTWARE: "mr-td rtmr event log",
        _CONFIGURATION: ("absent attributes mr-config-id mr-owner mr-owner-config service-td xfam"),
    },
    "sgx": {
        _OPEN: "debug",
        _HARDWARE: "tcb advisory collateral platform",
        _SOFTWARE: "mr-enclave mr-signer isv-prod-id isv-svn",
        _CONFIGURATION: "absent attributes config-id config-svn misc-select xfrm",
    },
    "nitro": {
        _OPEN: "debug",
        _SOFTWARE: "pcr pcr-missing pcr-unlisted",
        _CONFIGURATION: "absent age",
    },
    "cca": {
        (Claim.RUNTIME, Claim.HARDWARE): "lifecycle",
        _HARDWARE: "implementation config component component-missing signer claim",
        _SOFTWARE: "rim rem",
        _CONFIGURATION: "absent rpv",
    },
    "azure": {
        _INSTANCE: "tpm vm",
        _SOFTWARE: "pcr pcr-missing",
        _CONFIGURATION: "absent secure-boot console",
    },
    "nvidia": {
        _HARDWARE: "missing model vbios measurement",
        _SOFTWARE: "driver",
        _CONFIGURATION: "absent",
    },
    "firmware": {
        _SOFTWARE: "digest sequence required authority separator",
        _CONFIGURATION: "absent bank register-missing register-unlisted secure-boot",
    },
    "ima": {
        _FILES: "violation unknown digest signature key malformed",
        _SOFTWARE: "boot-aggregate buffer",
        _CONFIGURATION: "absent empty pcr-missing weak",
    },
    "register": {_SOFTWARE: "missing log"},
}


def _spread() -> Iterator[tuple[str, Mapping[Claim, int]]]:
    for part, by_claim in _PROBLEMS.items():
        for claims, problems in by_claim.items():
            values = {claim: VISIBLE if claim is Claim.RUNTIME else UNTRUSTED for claim in claims}
            for problem in problems.split():
                yield f"{part}:{problem}", values


CLAIMS_OF_EVIDENCE: Final[Mapping[str, Mapping[Claim, int]]] = MappingProxyType(
    {
        **dict(_spread()),
        # These do not fail: an administrator should look.
        "snp:platform-unknown": {Claim.HARDWARE: ALERT},
        "firmware:data": {Claim.EXECUTABLES: ALERT},
        "firmware:log-missing": {Claim.CONFIGURATION: UNAVAILABLE},
        "ima:log-missing": {Claim.CONFIGURATION: UNAVAILABLE},
    }
)
