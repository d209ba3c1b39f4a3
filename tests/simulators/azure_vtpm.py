"""A confidential virtual machine with a vTPM in its TEE, as Azure's paravisor makes it.

    machine = AzureVm()                  # or AzureVm(kind=TeeKind.TDX)
    report = machine.hcl_report()
    quote = machine.quote(nonce)
    verify_azure(report, quote.message, quote.signature, tee=machine.tee(report), …)

The TEE is that of `simulators.snp_signer` or `simulators.dcap_signer`, the vTPM a
`SoftwareTpm` with a fixed RSA key: everything comes out the same each time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from struct import pack
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hwtrust.verify.enclaves.azure import SnpTee, TdxTee, Tee
from hwtrust.verify.enclaves.dcap import DcapTrust
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.enclaves.azure import HclReport, TeeKind
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.structures import Signature
from simulators.dcap_signer import NOW, DcapSigner, td_report
from simulators.snp_signer import Chip, trust
from simulators.software_tpm import Signed, SoftwareTpm

__all__ = ["CHIP", "NOW", "PCRS", "AzureVm", "rsa_key"]

KEYS: Final = Path(__file__).parents[1] / "vectors" / "azure" / "keys"
CHIP: Final = Chip(Product.MILAN)
INTEL: Final = DcapSigner()
PCRS: Final = {Alg.SHA256: {n: new_hash(Alg.SHA256, bytes([n])) for n in range(24)}}
CONFIGURATION: Final[dict[str, Any]] = {
    "console-enabled": False,
    "secure-boot": True,
    "tpm-enabled": True,
    "vmUniqueId": "26F8BC30-774E-4290-8E7A-535F3B672AEE",
}
_HASHES: Final = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A fixed key: `ak` or `other-ak`."""
    key = load_pem_private_key((KEYS / f"{name}.pem").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def jwk(key: rsa.RSAPublicKey, kid: str) -> dict[str, object]:
    """The public key as the paravisor writes it."""
    numbers = key.public_numbers()
    n = numbers.n.to_bytes(key.key_size // 8, "big")
    return {
        "kid": kid,
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": base64.urlsafe_b64encode(numbers.e.to_bytes(3, "big")).rstrip(b"=").decode(),
        "n": base64.urlsafe_b64encode(n).rstrip(b"=").decode(),
    }


@dataclass(frozen=True)
class AzureVm:
    """A machine; `ak` names the key of its vTPM."""

    kind: TeeKind = TeeKind.SNP
    ak: str = "ak"
    vmpl: int = 0
    chip: Chip = CHIP

    @property
    def tpm(self) -> SoftwareTpm:
        """Its vTPM."""
        return SoftwareTpm(seed=b"vtpm", ak_key=rsa_key(self.ak), scheme=Alg.RSASSA)

    def runtime_data(
        self,
        *,
        user_data: bytes = bytes(64),
        user_text: str | None = None,
        configuration: dict[str, Any] | None = None,
        **changes: object,
    ) -> bytes:
        """The JSON; `changes` are its members."""
        public = rsa_key(self.ak).public_key()
        members = {
            "keys": [jwk(public, "HCLAkPub"), jwk(rsa_key("other-ak").public_key(), "HCLEkPub")],
            "vm-configuration": CONFIGURATION | (configuration or {}),
            "user-data": user_data.hex().upper() if user_text is None else user_text,
        }
        return json.dumps(members | changes, separators=(",", ":")).encode()

    def hcl_report(
        self,
        runtime_data: bytes | None = None,
        *,
        report_data: bytes | None = None,
        hash_: int = 1,
    ) -> bytes:
        """What the NV index holds; the TEE's report is over `report_data` if that is given."""
        data = self.runtime_data() if runtime_data is None else runtime_data
        digest = _HASHES[hash_](data).digest() if report_data is None else report_data
        bound = digest.ljust(64, b"\0")
        if self.kind is TeeKind.SNP:
            tee_report = self.chip.report(report_data=bound, vmpl=self.vmpl)
        else:
            tee_report = (bytes(128) + bound).ljust(1024, b"\0").ljust(1184, b"\0")
        return framed(tee_report, data, kind=int(self.kind), hash_=hash_)

    def tee(self, report: bytes, *, quoted: bytes | None = None) -> Tee:
        """What the TEE's report is verified with; of TDX, a quote over `quoted`."""
        if self.kind is TeeKind.SNP:
            return SnpTee(certificates=self.chip.certificates(), trust=trust())
        bound = HclReport.decode(report).report_data if quoted is None else quoted
        return TdxTee(
            quote=Quote.decode(INTEL.tdx(td_report(report_data=bound))),
            collateral=Collateral.decode(INTEL.collateral("tdx")),
            trust=DcapTrust.of(INTEL.root.der),
        )

    def quote(self, nonce: bytes) -> Signed:
        """A quote of all PCRs of the SHA-256 bank."""
        return self.tpm.quote(nonce, PCRS)

    def bare_quote(self, nonce: bytes) -> Signed:
        """The same as Azure's tools write it: the signature without its algorithm."""
        quote = self.quote(nonce)
        value = Signature.decode(quote.signature).value
        assert isinstance(value, bytes)
        return Signed(quote.message, value)


def framed(
    tee_report: bytes,
    data: bytes,
    *,
    magic: bytes = b"HCLA",
    version: int = 1,
    runtime_version: int = 1,
    kind: int = 2,
    hash_: int = 1,
    size_off: int = 0,
    length_off: int = 0,
    padding: bytes = bytes(64),
) -> bytes:
    """Header, report, runtime data and padding."""
    size = len(data) + 20 + size_off
    return (
        pack("<4sIIII12s", magic, version, 32 + len(tee_report) + size, 2, 0, b"")
        + tee_report
        + pack("<IIIII", size, runtime_version, kind, hash_, len(data) + length_off)
        + data
        + padding
    )
