"""Intel's part under a test root: platforms with PCK certificates, quoting enclaves, collateral.

    root ──▶ Platform CA ──▶ PCK certificate ── signs ──▶ QE report ── names ──▶ attestation key
      └────▶ TCB Signing ── signs ──▶ TCB info, QE identity                        └─▶ quote

All keys come from fixed numbers and all signatures are deterministic, so the same
call makes the same bytes. What is odd about a quote or its collateral is a keyword.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
END: Final = datetime(2040, 1, 1, tzinfo=UTC)
"""A certificate is valid from START to END, collateral for 30 days around NOW."""
ISSUED: Final = NOW - timedelta(days=15)
NEXT: Final = NOW + timedelta(days=15)

SGX_EXTENSION: Final = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
QE_SIGNER: Final = hashlib.sha256(b"vendor of the quoting enclaves").digest()
VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
AUTH_DATA: Final = bytes(range(32))

SEPT_VE_DISABLE: Final = 1 << 28
XFAM: Final = 0x602E7
XFRM: Final = 0xE7
TEE_TCB_SVN: Final = bytes((5, 1, 3)) + bytes(13)

Changes = dict[str, Any]


def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of that name, always the same."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1
    return ec.derive_private_key(number, ec.SECP256R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """An ECDSA signature as r and s, 32 bytes each."""
    made = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(made))


def raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as x and y."""
    point = key.public_key().public_numbers()
    return point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")


def stamp(moment: datetime) -> str:
    """`moment` as collateral spells it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- reports -------------------------------------------------------------------------


def enclave_report(**changes: int | bytes) -> bytes:
    """REPORTBODY of an enclave; `changes` are fields of `EnclaveReport`."""
    fields: Changes = {
        "cpu_svn": bytes((3, 3, 2, 2, 4, 1)) + bytes(10),
        "misc_select": 0,
        "reserved": bytes(12),
        "isv_ext_prod_id": bytes(16),
        "attributes": 0x05,
        "xfrm": XFRM,
        "mr_enclave": hashlib.sha256(b"enclave").digest(),
        "reserved2": bytes(32),
        "mr_signer": hashlib.sha256(b"vendor").digest(),
        "reserved3": bytes(32),
        "config_id": bytes(64),
        "isv_prod_id": 7,
        "isv_svn": 3,
        "config_svn": 0,
        "reserved4": bytes(42),
        "isv_family_id": bytes(16),
        "report_data": bytes(64),
    } | changes
    return struct.pack("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s", *fields.values())


def td_report(**changes: int | bytes) -> bytes:
    """TDREPORT of a TD, of TDX 1.5 if `tee_tcb_svn2` is among the changes."""
    fields: Changes = {
        "tee_tcb_svn": TEE_TCB_SVN,
        "mr_seam": hashlib.sha384(b"TDX module").digest(),
        "mr_signer_seam": bytes(48),
        "seam_attributes": 0,
        "td_attributes": SEPT_VE_DISABLE,
        "xfam": XFAM,
        "mr_td": hashlib.sha384(b"TD").digest(),
        "mr_config_id": bytes(48),
        "mr_owner": bytes(48),
        "mr_owner_config": bytes(48),
        **{f"rtmr{n}": hashlib.sha384(b"RTMR %d" % n).digest() for n in range(4)},
        "report_data": bytes(64),
    } | changes
    svn2 = fields.pop("tee_tcb_svn2", None)
    service = fields.pop("mr_service_td", bytes(48))
    base = struct.pack("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s", *fields.values())
    return base if svn2 is None else base + struct.pack("<16s48s", svn2, service)


# --- certificates --------------------------------------------------------------------


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def _oid(*tail: int) -> bytes:
    return _der(0x06, bytes.fromhex("2a864886f84d010d01"), bytes(tail))


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What a PCK certificate says of its platform."""

    fmspc: bytes = bytes.fromhex("b0c06f000000")
    pce_id: bytes = bytes(2)
    svns: bytes = bytes((3, 3, 2, 2, 4, 1, 0, 5)) + bytes(8)
    pce_svn: int = 13
    ppid: bytes = bytes(range(16))
    dynamic: bool = False
    cached_keys: bool = False
    smt: bool = False

    def extension(self) -> bytes:
        """The SGX extension, Intel SGX PCK Certificate Profile §1.3.5."""
        tcb = [_der(0x30, _oid(2, n), _integer(svn)) for n, svn in enumerate(self.svns, 1)]
        tcb += [
            _der(0x30, _oid(2, 17), _integer(self.pce_svn)),
            _der(0x30, _oid(2, 18), _der(0x04, self.svns)),
        ]
        flags = (self.dynamic, self.cached_keys, self.smt)
        configuration = [
            _der(0x30, _oid(7, n), _der(0x01, b"\xff" if flag else b"\0"))
            for n, flag in enumerate(flags, 1)
        ]
        return _der(
            0x30,
            _der(0x30, _oid(1), _der(0x04, self.ppid)),
            _der(0x30, _oid(2), _der(0x30, *tcb)),
            _der(0x30, _oid(3), _der(0x04, self.pce_id)),
            _der(0x30, _oid(4), _der(0x04, self.fmspc)),
            _der(0x30, _oid(5), _der(0x0A, b"\1")),
            _der(0x30, _oid(6), _der(0x04, bytes(range(16, 32)))),
            _der(0x30, _oid(7), _der(0x30, *configuration)),
        )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "hwtrust simulators"),
        ]
    )


@dataclass(frozen=True)
class Issuer:
    """A name with its key and certificate."""

    common: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


def certify(
    common: str,
    issuer: Issuer | None,
    *,
    ca: bool = False,
    extension: bytes | None = None,
    key: str = "",
    not_before: datetime = START,
    not_after: datetime = END,
) -> Issuer:
    """A certificate for `common`, self-signed where there is no issuer."""
    own = key_of(key or common)
    signer = issuer or Issuer(common, own, None)  # type: ignore[arg-type]
    usages = ("digital_signature", "content_commitment", "key_cert_sign", "crl_sign")
    others = ("key_encipherment", "data_encipherment", "key_agreement")
    usage = {name: (name in usages[2:]) is ca for name in usages} | dict.fromkeys(others, False)
    serial = int.from_bytes(hashlib.sha256(f"{common}{key}".encode()).digest()[:8], "big") >> 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(_name(signer.common))
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=ca, path_length=1 if ca else None), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(SGX_EXTENSION, extension), critical=False
        )
    made = builder.sign(signer.key, hashes.SHA256(), ecdsa_deterministic=True)
    return Issuer(common, own, made)


def revocation_list(
    issuer: Issuer,
    *revoked: Issuer,
    issued: datetime = ISSUED,
    next_update: datetime = NEXT,
) -> bytes:
    """A revocation list in DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(_name(issuer.common))
        .last_update(issued)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(issued).build())
    made = builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)
    return made.public_bytes(serialization.Encoding.DER)


# --- Intel ---------------------------------------------------------------------------


def _level(
    status: str, svns: bytes, pce_svn: int, tdx: bytes, advisories: tuple[str, ...]
) -> Changes:
    tcb: Changes = {"sgxtcbcomponents": [{"svn": svn} for svn in svns], "pcesvn": pce_svn}
    if tdx:
        tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in tdx]
    level: Changes = {"tcb": tcb, "tcbDate": stamp(START), "tcbStatus": status}
    return level | ({"advisoryIDs": list(advisories)} if advisories else {})


@dataclass(frozen=True, kw_only=True)
class DcapSigner:
    """Intel and one of its platforms.

    Attributes:
        names: the common names of root, Platform CA, PCK and TCB signing certificates.
        revoked: which of them the revocation lists name.
    """

    platform: Platform = field(default_factory=Platform)
    root_name: str = "Intel SGX Root CA"
    ca_name: str = "Intel SGX PCK Platform CA"
    pck_name: str = "Intel SGX PCK Certificate"
    tcb_name: str = "Intel SGX TCB Signing"
    seed: str = ""
    pck_not_after: datetime = END
    root_not_after: datetime = END

    @property
    def root(self) -> Issuer:
        """The root."""
        return _certified(self)["root"]

    @property
    def ca(self) -> Issuer:
        """The Platform CA."""
        return _certified(self)["ca"]

    @property
    def pck(self) -> Issuer:
        """The platform's certificate."""
        return _certified(self)["pck"]

    @property
    def tcb(self) -> Issuer:
        """TCB Signing."""
        return _certified(self)["tcb"]

    @property
    def chain(self) -> bytes:
        """The platform's certificates as quotes carry them."""
        return self.pck.pem + self.ca.pem + self.root.pem + b"\0"

    def sgx(self, report: bytes | None = None, **options: Any) -> bytes:  # noqa: ANN401 - those of `quote`
        """A quote of version 3."""
        return self.quote(3, enclave_report() if report is None else report, **options)

    def tdx(self, report: bytes | None = None, *, version: int = 4, **options: Any) -> bytes:  # noqa: ANN401 - those of `quote`
        """A quote of version 4 or 5."""
        return self.quote(version, td_report() if report is None else report, **options)

    def quote(
        self,
        version: int,
        report: bytes,
        *,
        header: Changes | None = None,
        body: tuple[int, int] | None = None,
        qe: Changes | None = None,
        auth_data: bytes = AUTH_DATA,
        chain: bytes | None = None,
        certification: int = 5,
        nested: int = 6,
        padding: bytes = b"",
        attestation_key: str = "attestation key",
    ) -> bytes:
        """A quote over `report`; each keyword is one thing in which it may be odd."""
        fields: Changes = {
            "version": version,
            "key_type": 2,
            "tee": 0 if version == 3 else 0x81,
            "qe_svn": 8,
            "pce_svn": 13,
            "vendor": VENDOR,
            "user": bytes(20),
        } | (header or {})
        signed = struct.pack("<HHIHH16s20s", *fields.values())
        if version == 5:
            signed += struct.pack("<HI", *(body or ({584: 2, 648: 3}[len(report)], len(report))))
        signed += report
        key = key_of(attestation_key)
        named = hashlib.sha256(raw_public(key) + auth_data).digest() + bytes(32)
        reported: Changes = {
            "attributes": 0x15,
            "mr_signer": QE_SIGNER,
            "isv_prod_id": 1 if version == 3 else 2,
            "isv_svn": 8,
            "report_data": named,
        }
        qe_report = enclave_report(**(reported | (qe or {})))
        chain = self.chain if chain is None else chain
        certified = (
            qe_report
            + raw_signature(self.pck.key, qe_report)
            + struct.pack("<H", len(auth_data))
            + auth_data
            + struct.pack("<HI", certification, len(chain))
            + chain
        )
        if version > 3:
            certified = struct.pack("<HI", nested, len(certified)) + certified
        data = raw_signature(key, signed) + raw_public(key) + certified
        return signed + struct.pack("<I", len(data)) + data + padding

    def collateral(
        self,
        tee: str,
        *,
        tcb_info: Changes | None = None,
        qe_identity: Changes | None = None,
        status: str = "UpToDate",
        advisories: tuple[str, ...] = (),
        qe_status: str = "UpToDate",
        qe_advisories: tuple[str, ...] = (),
        **changes: str,
    ) -> bytes:
        """The JSON for `sgx` or `tdx`; `changes` are its fields, made after all signing."""
        info = json.dumps(self.tcb_info(tee, status, advisories) | (tcb_info or {}))
        identity = json.dumps(self.qe_identity(tee, qe_status, qe_advisories) | (qe_identity or {}))
        signer = (self.tcb.pem + self.root.pem).decode()
        made = {
            "pck_crl_issuer_chain": (self.ca.pem + self.root.pem).decode(),
            "root_ca_crl": revocation_list(self.root).hex(),
            "pck_crl": revocation_list(self.ca).hex(),
            "tcb_info_issuer_chain": signer,
            "tcb_info": info,
            "tcb_info_signature": raw_signature(self.tcb.key, info.encode()).hex(),
            "qe_identity_issuer_chain": signer,
            "qe_identity": identity,
            "qe_identity_signature": raw_signature(self.tcb.key, identity.encode()).hex(),
        }
        return json.dumps(made | changes).encode()

    def tcb_info(self, tee: str, status: str, advisories: tuple[str, ...]) -> Changes:
        """TCB info with two levels: that of the platform, and an old one."""
        tdx = tee == "tdx"
        zeros = bytes(16)
        svns, pce_svn = self.platform.svns, self.platform.pce_svn
        levels = [_level(status, svns, pce_svn, TEE_TCB_SVN[:1] + bytes(15), advisories)]
        levels += [_level("OutOfDate", bytes((1,)) + bytes(15), 5, zeros, ("INTEL-SA-00001",))]
        made: Changes = {
            "id": tee.upper(),
            "version": 3,
            "issueDate": stamp(ISSUED),
            "nextUpdate": stamp(NEXT),
            "fmspc": self.platform.fmspc.hex().upper(),
            "pceId": self.platform.pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 18,
        }
        if tdx:
            module = {
                "mrsigner": bytes(48).hex(),
                "attributes": bytes(8).hex(),
                "attributesMask": "FF" * 8,
            }
            module_level = {
                "tcb": {"isvsvn": 5},
                "tcbDate": stamp(START),
                "tcbStatus": "UpToDate",
            }
            made["tdxModule"] = module
            made["tdxModuleIdentities"] = [{"id": "TDX_01", **module, "tcbLevels": [module_level]}]
        else:
            for level in levels:
                level["tcb"].pop("tdxtcbcomponents", None)
        return made | {"tcbLevels": levels}

    def qe_identity(self, tee: str, status: str, advisories: tuple[str, ...]) -> Changes:
        """The identity of the quoting enclave."""
        level: Changes = {"tcb": {"isvsvn": 8}, "tcbDate": stamp(START), "tcbStatus": status}
        return {
            "id": "TD_QE" if tee == "tdx" else "QE",
            "version": 2,
            "issueDate": stamp(ISSUED),
            "nextUpdate": stamp(NEXT),
            "tcbEvaluationDataNumber": 18,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FB" + "FF" * 7 + "00" * 8,
            "mrsigner": QE_SIGNER.hex().upper(),
            "isvprodid": 2 if tee == "tdx" else 1,
            "tcbLevels": [level | ({"advisoryIDs": list(advisories)} if advisories else {})],
        }


@cache
def _certified(signer: DcapSigner) -> dict[str, Issuer]:
    seed = signer.seed
    root = certify(
        signer.root_name, None, ca=True, key=f"{seed}root", not_after=signer.root_not_after
    )
    ca = certify(signer.ca_name, root, ca=True, key=f"{seed}ca")
    pck = certify(
        signer.pck_name,
        ca,
        extension=signer.platform.extension(),
        key=f"{seed}pck",
        not_after=signer.pck_not_after,
    )
    return {
        "root": root,
        "ca": ca,
        "pck": pck,
        "tcb": certify(signer.tcb_name, root, key=f"{seed}tcb"),
    }
