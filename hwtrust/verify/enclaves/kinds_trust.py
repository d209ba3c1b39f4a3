"""Whom and what an enclave's evidence of any kind is verified with, all of it offline.

    files of an operator ──▶ EnclaveTrust ── kinds ──▶ EnclaveClaims

Rules:
1. Roots are pinned in the trust of each kind; those of AMD, Intel, AWS and NVIDIA are
   the default. Of a CCA platform nobody is trusted until its key is given.
2. What an operator adds stands beside what comes with the evidence, and is trusted no
   more than that: it has to lead to a root.
3. The collateral of a quote is that of its TEE, FMSPC and CA. Of several the newest
   counts that had been issued by then.
4. Loading this needs neither dcap-qvl nor a CBOR codec.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography import x509

from hwtrust.errors import MalformedError
from hwtrust.errors.dcap import DcapCollateralAbsentError
from hwtrust.verify import der
from hwtrust.verify.certificates import PARSER_ERRORS, pem_blocks, read_certificate, read_crl
from hwtrust.verify.enclaves.cca_keys import CcaTrust
from hwtrust.verify.enclaves.dcap_chain import INTEL, DcapTrust, platform_of
from hwtrust.verify.enclaves.nitro_chain import AWS, NitroTrust
from hwtrust.verify.enclaves.nvidia import NvidiaTrust
from hwtrust.verify.enclaves.snp_chain import AMD, SnpTrust
from hwtrust.wire.enclaves.dcap import Collateral, Quote, TcbInfo, Tee

if TYPE_CHECKING:
    from typing import Self

NO_CCA: Final = CcaTrust(keys=MappingProxyType({}))
"""No CCA platform is known."""
NVIDIA: Final = NvidiaTrust()

_PEM: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveTrust:
    """What is trusted, and what is known, of every kind.

    Attributes:
        certificates: what the operator adds for SNP (VCEK or VLEK, ASK or ASVK, ARK),
            each DER or PEM; `certificates_in` makes them of files.
        collateral: of the platforms whose TDX and SGX quotes are verified.
    """

    snp: SnpTrust = AMD
    certificates: tuple[bytes, ...] = field(default=(), repr=False)
    dcap: DcapTrust = INTEL
    collateral: tuple[Collateral, ...] = field(default=(), repr=False)
    nitro: NitroTrust = AWS
    cca: CcaTrust = field(default=NO_CCA, repr=False)
    nvidia: NvidiaTrust = NVIDIA

    def with_crls(self, files: Iterable[bytes]) -> Self:
        """The same with more revocation lists, DER or PEM: of AMD and NVIDIA.

        Intel's are part of the collateral.

        Raises:
            MalformedError: one cannot be read.
        """
        lists = crls_in(files)
        read = tuple(read_crl(crl) for crl in lists)
        return replace(
            self,
            snp=replace(self.snp, crls=(*self.snp.crls, *lists)),
            nvidia=replace(self.nvidia, crls=(*self.nvidia.crls, *read)),
        )

    def collateral_of(self, quote: Quote, *, now: datetime) -> Collateral:
        """What `quote` is verified with at `now`, by rule 3; the quote is only asked for its name.

        Raises:
            DcapCollateralAbsentError: there is none.
            DcapCertificationError: the quote does not say of which platform it is.
            MalformedError: its certificate, or collateral, cannot be read.
        """
        fmspc, issuer = platform_of(quote)
        until = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = [
            (info.issue_date <= until, info.issue_date, at)
            for at, item in enumerate(self.collateral)
            if (info := TcbInfo.decode(item.tcb_info)).id == _IDS[quote.tee]
            and info.fmspc.lower() == fmspc.hex()
            and _crl_issuer(item.pck_crl) == issuer
        ]
        if not found:
            raise DcapCollateralAbsentError(
                f"no collateral of {_IDS[quote.tee]} is given for the FMSPC {fmspc.hex()}",
                fmspc=fmspc.hex(),
            )
        return self.collateral[max(found)[2]]


_IDS: Final = {Tee.SGX: "SGX", Tee.TDX: "TDX"}
"""As TCB info calls them."""


def certificates_in(files: Iterable[bytes]) -> tuple[bytes, ...]:
    """The certificates in files of DER or PEM, each once and alone, DER.

    Raises:
        MalformedError: a file holds none, or one that cannot be read.
    """
    found: dict[bytes, None] = {}
    for file in files:
        ders = elements(file, b"CERTIFICATE")
        if not ders:
            raise MalformedError("a file holds no certificate")
        found.update((read_certificate(der_).der, None) for der_ in ders)
    return tuple(found)


def crls_in(files: Iterable[bytes]) -> tuple[bytes, ...]:
    """The revocation lists in files of DER or PEM, DER.

    Raises:
        MalformedError: a file holds none, or one that cannot be read.
    """
    found: dict[bytes, None] = {}
    for file in files:
        ders = elements(file, b"X509 CRL")
        if not ders:
            raise MalformedError("a file holds no revocation list")
        for crl in ders:
            read_crl(crl)
            found[crl] = None
    return tuple(found)


def elements(file: bytes, label: bytes) -> list[bytes]:
    """What a file of PEM under that label, or of DER, holds one behind the other.

    Raises:
        MalformedError: it is neither.
    """
    blocks = pem_blocks(file, label) if _PEM in file else [file]
    return [element for block in blocks for element in der.split(block)]


def _crl_issuer(crl: bytes) -> bytes:
    try:
        return x509.load_der_x509_crl(crl).issuer.public_bytes()
    except PARSER_ERRORS:
        raise MalformedError("a revocation list of the collateral cannot be read") from None
