"""The door to tpm2-pytss: what hwtrust uses of it, the form of TLS key files aside.

tpm2-pytss loads what hwtrust does not use, and what takes a fifth of a device's boot:

1. All of X.509, for two conversions of certificates. While tpm2-pytss is loaded,
   forwarders stand for these two functions: whoever calls one calls the real one.
2. Its feature API and its policies. It does without them where their libraries are not
   installed, and so it is told. Whoever asks it for one of their names gets it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_X509: Final = "cryptography.x509"
_USED: Final = ("load_der_x509_certificate", "load_pem_x509_certificate")
_PACKAGE: Final = "tpm2_pytss"
_FEATURES: Final = ("tpm2_pytss.FAPI", "tpm2_pytss.policy")


class _Later(ModuleType):
    """X.509, not loaded yet. Another thread that comes across it finds all that it seeks."""

    def __init__(self) -> None:
        super().__init__(_X509)
        spec = importlib.util.find_spec(_X509)
        self.__path__ = list(spec.submodule_search_locations or ()) if spec is not None else []
        for name in _USED:
            setattr(self, name, self._forwarder(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def _forwarder(self, name: str) -> Callable[..., Any]:
        def forward(*args: Any, **named: Any) -> Any:
            return getattr(self._real(), name)(*args, **named)

        return forward

    def _real(self) -> ModuleType:
        self.step_aside()
        return importlib.import_module(_X509)

    def step_aside(self) -> None:
        """Be imported by nobody any more."""
        if sys.modules.get(_X509) is self:
            del sys.modules[_X509]


@contextlib.contextmanager
def _without_x509() -> Iterator[None]:
    if _X509 in sys.modules:
        yield
        return
    later = _Later()
    sys.modules[_X509] = later
    try:
        yield
    finally:
        later.step_aside()


class _Absent:
    """Finds that features are not installed, for the thread that makes it and no other."""

    def __init__(self) -> None:
        self._thread = get_ident()

    def find_spec(self, name: str, *_: object) -> None:
        """Say of a feature what it says itself where its library is missing."""
        if name in _FEATURES and get_ident() == self._thread:
            raise NotImplementedError(name)


def _with_features(name: str) -> Any:
    """A name that the package lacks (PEP 562): it gets those of all features, once."""
    package = sys.modules[_PACKAGE]
    del package.__getattr__
    for feature in _FEATURES:
        with contextlib.suppress(NotImplementedError):
            found = vars(importlib.import_module(feature))
            vars(package).update({one: found[one] for one in found if not one.startswith("_")})
    return getattr(package, name)


@contextlib.contextmanager
def _without_features() -> Iterator[None]:
    if _PACKAGE in sys.modules:
        yield
        return
    absent = _Absent()
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
    vars(sys.modules[_PACKAGE])["__getattr__"] = _with_features


with _without_x509(), _without_features():
    from tpm2_pytss import ESAPI, ESYS_TR, TSS2_Exception
    from tpm2_pytss.constants import (
        TPM2_ALG,
        TPM2_CAP,
        TPM2_CC,
        TPM2_EO,
        TPM2_RH,
        TPM2_SE,
        TPMA_SESSION,
        TSS2_RC,
    )
    from tpm2_pytss.TCTI import TCTI, PollData, PyTCTI
    from tpm2_pytss.TCTILdr import TCTILdr
    from tpm2_pytss.types import (
        TPM2B_DIGEST,
        TPM2B_ENCRYPTED_SECRET,
        TPM2B_ID_OBJECT,
        TPM2B_NV_PUBLIC,
        TPM2B_PRIVATE,
        TPM2B_PUBLIC,
        TPM2B_SENSITIVE_CREATE,
        TPML_DIGEST,
        TPML_DIGEST_VALUES,
        TPML_PCR_SELECTION,
        TPMS_NV_PUBLIC,
        TPMT_HA,
        TPMT_PUBLIC,
        TPMT_PUBLIC_PARMS,
        TPMT_SIG_SCHEME,
        TPMT_SIGNATURE,
        TPMT_SYM_DEF_OBJECT,
        TPMT_TK_HASHCHECK,
        TPMT_TK_VERIFIED,
        TPMU_HA,
    )

__all__ = [
    "ESAPI",
    "ESYS_TR",
    "TCTI",
    "TPM2B_DIGEST",
    "TPM2B_ENCRYPTED_SECRET",
    "TPM2B_ID_OBJECT",
    "TPM2B_NV_PUBLIC",
    "TPM2B_PRIVATE",
    "TPM2B_PUBLIC",
    "TPM2B_SENSITIVE_CREATE",
    "TPM2_ALG",
    "TPM2_CAP",
    "TPM2_CC",
    "TPM2_EO",
    "TPM2_RH",
    "TPM2_SE",
    "TPMA_SESSION",
    "TPML_DIGEST",
    "TPML_DIGEST_VALUES",
    "TPML_PCR_SELECTION",
    "TPMS_NV_PUBLIC",
    "TPMT_HA",
    "TPMT_PUBLIC",
    "TPMT_PUBLIC_PARMS",
    "TPMT_SIGNATURE",
    "TPMT_SIG_SCHEME",
    "TPMT_SYM_DEF_OBJECT",
    "TPMT_TK_HASHCHECK",
    "TPMT_TK_VERIFIED",
    "TPMU_HA",
    "TSS2_RC",
    "PollData",
    "PyTCTI",
    "TCTILdr",
    "TSS2_Exception",
]
