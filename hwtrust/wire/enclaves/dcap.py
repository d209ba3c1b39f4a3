"""Quotes by Intel's TDX and SGX, and their collateral: bytes to fields, nothing believed.

    header 48 │ [type, size 6] │ report 384, 584 or 648 │ size 4 │ signature data │ 0…0
              (version 5 only)

Version 3 is SGX, versions 4 and 5 are TDX (Intel SGX and TDX DCAP Quote Generation
Library, appendices A.3 to A.5). All numbers are little-endian. Rules:

1. `raw` is what was received; `signed` is its beginning, which signatures cover.
2. Every size is compared with what is there before anything is read by it.
3. Zeros behind the signature data are padding, which quote providers leave there.
   Anything else behind a structure is refused, and so are reserved bytes of a
   report that are not zero: whatever they say, it is not understood.
4. Only ECDSA over P-256 is known, and only the report of a quoting enclave as
   certification data of versions 4 and 5.

Collateral is the JSON of dcap-qvl: what Intel's service answers for a platform.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from struct import Struct
from typing import Any, Final, Self

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError

MAX_QUOTE: Final = 128 * 1024
"""Bytes: the largest buffer that the kernel has for one, padding included."""
MAX_COLLATERAL: Final = 1024 * 1024

REPORT_DATA_SIZE: Final = 64
REPORT_SIZE: Final = 384
"""Of an SGX enclave."""
TD_REPORT_SIZE: Final = 584
"""Of a virtual machine under TDX 1.0."""
TD_REPORT_15_SIZE: Final = 648

SGX_VERSION: Final = 3
VERSION_WITH_BODY: Final = 5
TDX_VERSIONS: Final = (4, VERSION_WITH_BODY)

ECDSA_P256: Final = 2
PCK_CHAIN: Final = 5
"""Certification data: the certificates of the platform in PEM, from the leaf to the root."""
QE_REPORT: Final = 6
"""Certification data: the quoting enclave's report, and its own certification data."""
INTEL_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER: Final = Struct("<HHIHH16s20s")
_BODY: Final = Struct("<HI")
_SIZE: Final = Struct("<I")
_CERTIFICATION: Final = Struct("<HI")
_AUTH_SIZE: Final = Struct("<H")
_REPORT: Final = Struct("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s")
_TD_REPORT: Final = Struct("<16s48s48sQQQ48s48s48s48s48s48s48s48s64s")
_TD_REPORT_15: Final = Struct("<16s48s")
_SIGNATURE_SIZE: Final = 64
_KEY_SIZE: Final = 64

Facts = dict[str, str | int | bool | list[str]]


class Tee(IntEnum):
    """What made a quote: the TEE type of its header."""

    SGX = 0x00
    TDX = 0x81


class _Body(IntEnum):
    """The body types of version 5."""

    SGX = 1
    TD_10 = 2
    TD_15 = 3


class EnclaveReport(msgspec.Struct, frozen=True, gc=False):
    """REPORTBODY of an SGX enclave, Intel SDM Vol. 3D §39.15."""

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: int
    """ATTRIBUTES.FLAGS."""
    xfrm: int
    """ATTRIBUTES.XFRM."""
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read all 384 bytes.

        Raises:
            MalformedError: another size, or reserved bytes that are not zero.
        """
        fields = _unpack(_REPORT, raw, 0, "the report of an enclave")
        reserved = [fields.pop(place) for place in (14, 9, 7, 2)]
        if len(raw) != _REPORT.size or any(any(part) for part in reserved):
            raise MalformedError("reserved bytes of an enclave's report are not zero")
        return cls(*fields)

    def facts(self) -> Facts:
        """What it says, for people and programs."""
        return _facts(self)


class TdReport(msgspec.Struct, frozen=True, gc=False):
    """TDREPORT of a virtual machine as quotes carry it; the last two of TDX 1.5 only."""

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: int
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes = b""
    mr_service_td: bytes = b""

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read all 584 or 648 bytes.

        Raises:
            MalformedError: another size.
        """
        fields = _unpack(_TD_REPORT, raw, 0, "the report of a TD")
        if len(raw) == TD_REPORT_15_SIZE:
            fields += _unpack(_TD_REPORT_15, raw, TD_REPORT_SIZE, "the report of a TD")
        elif len(raw) != TD_REPORT_SIZE:
            raise MalformedError(f"no report of a TD has {len(raw)} bytes")
        return cls(*fields)

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """The run-time measurement registers by their numbers."""
        return self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3

    def facts(self) -> Facts:
        """What it says, for people and programs."""
        return _facts(self)


class Quote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A quote: who made it, what it says, and what it is signed with."""

    raw: bytes
    """As received, without the padding."""
    signed: bytes
    version: int
    tee: Tee
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes
    report: EnclaveReport | TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification_type: int
    certification_data: bytes
    """Of type `PCK_CHAIN`: PEM, often with a zero byte at its end."""
    padding: int
    """How many zeros were behind it."""

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole quote of version 3, 4 or 5.

        Raises:
            MalformedError: cut short, or followed by something else than zeros.
            UnsupportedError: another version, TEE, body or kind of key.
        """
        raw = bytes(raw)
        if len(raw) > MAX_QUOTE:
            raise MalformedError(f"a quote of {len(raw)} bytes, {MAX_QUOTE} at most")
        version, key_type, tee_type, qe_svn, pce_svn, vendor, user = _unpack(
            _HEADER, raw, 0, "the header of a quote"
        )
        # (4): what is known.
        if key_type != ECDSA_P256:
            raise UnsupportedError(f"a quote that is signed with a key of type {key_type}")
        tee, report, end = _report(raw, version, tee_type)
        (size,) = _unpack(_SIZE, raw, end, "a quote")
        data = _slice(raw, end + _SIZE.size, size, "the signature data of a quote")
        # (3): padding.
        whole = end + _SIZE.size + size
        if any(raw[whole:]):
            raise MalformedError("a quote is followed by bytes that are no padding", offset=whole)
        signature = _slice(data, 0, _SIGNATURE_SIZE, "the signature of a quote")
        key = _slice(data, _SIGNATURE_SIZE, _KEY_SIZE, "the attestation key of a quote")
        rest = data[_SIGNATURE_SIZE + _KEY_SIZE :]
        if tee is Tee.TDX:
            nested, rest = _certification(rest)
            if nested != QE_REPORT:
                raise UnsupportedError(f"a quote with certification data of type {nested}")
        qe_report = _slice(rest, 0, REPORT_SIZE, "the report of a quoting enclave")
        at = REPORT_SIZE + _SIGNATURE_SIZE
        qe_signature = _slice(rest, REPORT_SIZE, _SIGNATURE_SIZE, "the signature of that report")
        (auth_size,) = _unpack(_AUTH_SIZE, rest, at, "the data of a quoting enclave")
        auth_data = _slice(rest, at + _AUTH_SIZE.size, auth_size, "the data of a quoting enclave")
        certification, chain = _certification(rest[at + _AUTH_SIZE.size + auth_size :])
        return cls(
            raw=raw[:whole],
            signed=raw[:end],
            version=version,
            tee=tee,
            qe_svn=qe_svn,
            pce_svn=pce_svn,
            qe_vendor_id=vendor,
            user_data=user,
            report=report,
            signature=signature,
            attestation_key=key,
            qe_report=EnclaveReport.decode(qe_report),
            qe_report_signature=qe_signature,
            qe_auth_data=auth_data,
            certification_type=certification,
            certification_data=chain,
            padding=len(raw) - whole,
        )

    def facts(self) -> Facts:
        """What it says, for people and programs."""
        return {
            "tee": self.tee.name.lower(),
            "version": self.version,
            "qe_svn": self.qe_svn,
            "pce_svn": self.pce_svn,
            "qe_vendor_id": self.qe_vendor_id.hex(),
            "user_data": self.user_data.hex(),
            **self.report.facts(),
            "qe_mr_enclave": self.qe_report.mr_enclave.hex(),
            "qe_mr_signer": self.qe_report.mr_signer.hex(),
            "qe_isv_prod_id": self.qe_report.isv_prod_id,
            "qe_isv_svn": self.qe_report.isv_svn,
            "certification_type": self.certification_type,
        }


class Collateral(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a quote is verified with, besides the root: the JSON of dcap-qvl.

    Chains are PEM from the leaf to the root, lists DER, signatures r and s. The
    platform's own chain is in the quote; one in the collateral is not looked at.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read the JSON.

        Raises:
            MalformedError: it is none, or is not collateral.
        """
        if len(raw) > MAX_COLLATERAL:
            raise MalformedError(f"collateral of {len(raw)} bytes, {MAX_COLLATERAL} at most")
        try:
            text = msgspec.json.decode(raw, type=_CollateralJson)
            return cls(
                pck_crl_issuer_chain=text.pck_crl_issuer_chain,
                root_ca_crl=bytes.fromhex(text.root_ca_crl),
                pck_crl=bytes.fromhex(text.pck_crl),
                tcb_info_issuer_chain=text.tcb_info_issuer_chain,
                tcb_info=text.tcb_info,
                tcb_info_signature=bytes.fromhex(text.tcb_info_signature),
                qe_identity_issuer_chain=text.qe_identity_issuer_chain,
                qe_identity=text.qe_identity,
                qe_identity_signature=bytes.fromhex(text.qe_identity_signature),
            )
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"the collateral of a quote cannot be read: {error}") from None

    def encode(self) -> bytes:
        """The JSON."""
        return msgspec.json.encode(
            {
                name: value.hex() if isinstance(value, bytes) else value
                for name, value in msgspec.structs.asdict(self).items()
            }
        )

    def facts(self) -> Facts:
        """What it says of itself, for people and programs."""
        return {
            **_json_facts("tcb_info", self.tcb_info),
            **_json_facts("qe_identity", self.qe_identity),
        }


class _CollateralJson(msgspec.Struct):
    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


class TcbInfo(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """What hwtrust reads itself of signed TCB info; dcap-qvl reads the levels."""

    id: str
    issue_date: str
    next_update: str
    fmspc: str
    pce_id: str
    tcb_evaluation_data_number: int

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read the JSON that is signed.

        Raises:
            MalformedError: it is none, or is no TCB info.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"TCB info cannot be read: {error}") from None


_TOLD: Final = {
    "id": "id",
    "issue_date": "issueDate",
    "next_update": "nextUpdate",
    "fmspc": "fmspc",
    "tcb_evaluation_data_number": "tcbEvaluationDataNumber",
}


def _json_facts(name: str, text: str) -> Facts:
    try:
        read = msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):
        return {name: "cannot be read"}
    return {
        f"{name}_{term}": value
        for term, key in _TOLD.items()
        if isinstance(value := read.get(key), (str, int))
    }


def _report(raw: bytes, version: int, tee_type: int) -> tuple[Tee, EnclaveReport | TdReport, int]:
    """The report behind the header, and where it ends."""
    at, size = _HEADER.size, TD_REPORT_SIZE
    if version == SGX_VERSION and tee_type == Tee.SGX:
        body = _slice(raw, at, REPORT_SIZE, "the report of an enclave")
        return Tee.SGX, EnclaveReport.decode(body), at + REPORT_SIZE
    if version not in TDX_VERSIONS or tee_type != Tee.TDX:
        raise UnsupportedError(f"a quote of version {version} by a TEE of type {tee_type:#x}")
    if version == VERSION_WITH_BODY:
        kind, size = _unpack(_BODY, raw, at, "the body of a quote")
        at += _BODY.size
        if (kind, size) not in {(_Body.TD_10, TD_REPORT_SIZE), (_Body.TD_15, TD_REPORT_15_SIZE)}:
            raise UnsupportedError(f"a quote with a body of type {kind} and {size} bytes")
    return Tee.TDX, TdReport.decode(_slice(raw, at, size, "the report of a TD")), at + size


def _certification(data: bytes) -> tuple[int, bytes]:
    """Type and content of certification data, which is all of `data`."""
    kind, size = _unpack(_CERTIFICATION, data, 0, "certification data")
    content = _slice(data, _CERTIFICATION.size, size, "certification data")
    if len(data) != _CERTIFICATION.size + size:
        raise MalformedError("certification data is followed by something")
    return kind, content


def _unpack(form: Struct, data: bytes, at: int, what: str) -> list[Any]:
    try:
        return list(form.unpack_from(data, at))
    except struct.error:
        raise MalformedError(f"{what} is cut short", offset=at) from None


def _slice(data: bytes, at: int, size: int, what: str) -> bytes:
    found = data[at : at + size]
    if len(found) != size:
        raise MalformedError(f"{what} is cut short: {size} bytes wanted", offset=at)
    return found


_FLAGS: Final = {
    "misc_select": 8,
    "attributes": 16,
    "xfrm": 16,
    "seam_attributes": 16,
    "td_attributes": 16,
    "xfam": 16,
}
"""Fields that are sets of bits, and in how many digits they are spelled."""


def _facts(report: EnclaveReport | TdReport) -> Facts:
    found: Facts = {}
    for name, value in msgspec.structs.asdict(report).items():
        if name in _FLAGS:
            found[name] = f"0x{value:0{_FLAGS[name]}x}"
        elif value != b"":
            found[name] = value.hex() if isinstance(value, bytes) else value
    return found
