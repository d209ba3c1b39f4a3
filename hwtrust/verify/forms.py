"""Of what form is this evidence? Recognised by its first bytes, and by nothing else.

    bytes ── recognise ──▶ Form, bytes (out of hex or base64)

Rules:
1. A form is recognised by what no other form has at that place. What fits none, or
   several, is refused with the list of what is understood.
2. That a form is recognised says nothing about whether its decoder will take it.
3. Text that is all hex or all base64 stands for its bytes, one level deep.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.errors.forms import EvidenceFormError
from hwtrust.verify import der
from hwtrust.wire.enclaves import dcap, snp
from hwtrust.wire.logs.firmware import EventType
from hwtrust.wire.logs.ima import MAX_LOG
from hwtrust.wire.logs.ima_binary import binary_form

MAX_SIZE: Final = MAX_LOG
"""Bytes: nothing that is taken is longer than an IMA log."""


class Form(StrEnum):
    """What a file of evidence may be; kinds of enclaves by their names everywhere."""

    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    AZURE = "azure"
    AZURE_EVIDENCE = "azure-evidence"
    NVIDIA = "nvidia"
    CMW = "cmw"
    ENCLAVE = "enclave-evidence"
    TPM = "tpm-evidence"
    TPM_QUOTE = "tpm-quote"
    FIRMWARE_LOG = "firmware-log"
    IMA_LOG = "ima-log"
    CERTIFICATES = "certificates"
    CRL = "crl"
    COLLATERAL = "collateral"


TITLES: Final[Mapping[Form, str]] = MappingProxyType(
    {
        Form.SNP: "AMD SEV-SNP attestation report",
        Form.TDX: "Intel TDX quote",
        Form.SGX: "Intel SGX quote",
        Form.NITRO: "AWS Nitro attestation document",
        Form.CCA: "Arm CCA token",
        Form.AZURE: "HCL report of a vTPM in a TEE (Azure)",
        Form.AZURE_EVIDENCE: "evidence of an Azure machine, as Confidential Containers sends it",
        Form.NVIDIA: "NVIDIA GPU attestation report",
        Form.CMW: "RATS conceptual message wrapper",
        Form.ENCLAVE: "evidence of an enclave, as hwtrust sends it",
        Form.TPM: "evidence of a TPM, as hwtrust sends it",
        Form.TPM_QUOTE: "TPM attestation (TPMS_ATTEST)",
        Form.FIRMWARE_LOG: "firmware event log (TCG)",
        Form.IMA_LOG: "IMA log of the Linux kernel",
        Form.CERTIFICATES: "X.509 certificates",
        Form.CRL: "X.509 revocation list",
        Form.COLLATERAL: "collateral of TDX and SGX quotes",
    }
)

_TEXT: Final = re.compile(rb"[A-Za-z0-9+/_=\r\n-]+")
_HEX: Final = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_SHORTEST_TEXT: Final = 64
_IMA_LINE: Final = re.compile(rb" {0,2}[0-9]{1,2} [0-9A-Fa-f]{32,128} [a-z][a-z0-9|-]* ")
_HEAD: Final = 4096
_PEM_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_CRL: Final = b"-----BEGIN X509 CRL-----"
_LONG: Final = (b"\x81", b"\x82", b"\x83")
"""A length of one byte behind this, of two, of three."""
_TIMES: Final = (b"\x17", b"\x18")
_GENERATED: Final = b"\xffTCG"
_COSE_SIGN1: Final = (b"\x84", b"\xd2\x84")
_LONG_MAP: Final = b"\xb8"
_CMW_CBOR: Final = (*(bytes([0xA1 + count]) for count in range(23)), b"\x82", b"\x83", _LONG_MAP)
_CCA: Final = b"\xd9\x01\x8f"
_SPDM_GET_MEASUREMENTS: Final = b"\x11\xe0"
_SNP_VERSIONS: Final = range(1, 17)
_MOST_PCRS: Final = 32
_FIRST_EVENT: Final = 32
_FIRST_RECORD: Final = 4 + 16 + 4
"""Bytes: PCR, the shortest template hash, and the size of a name."""
_CMW_RECORD: Final = re.compile(rb"\[\s*(?:\"[^\"]*\"|[0-9]+)\s*,\s*\"")
_EVENT_TYPES: Final = frozenset(int(type_) for type_ in EventType)


def recognise(data: bytes) -> tuple[Form, bytes]:
    """The form of `data`, and the bytes that are of it.

    Raises:
        EvidenceFormError: it is of none, or looks like several.
    """
    if not data:
        raise _refused("the file is empty")
    fitting = _fitting(data)
    if not fitting and (plain := _from_text(data)) is not None:
        data = plain
        fitting = _fitting(data)
    if len(fitting) == 1:
        return fitting[0], data
    if fitting:
        raise _refused(f"the bytes look like {' and like '.join(fitting)}")
    raise _refused("the bytes are no evidence that hwtrust knows")


def _refused(message: str) -> EvidenceFormError:
    known = ", ".join(TITLES.values())
    return EvidenceFormError(message, hint=f"what is understood: {known}")


def _fitting(data: bytes) -> list[Form]:
    return [form for form, fits in _SIGNS.items() if fits(data)]


def _from_text(data: bytes) -> bytes | None:
    if len(data) < _SHORTEST_TEXT or not _TEXT.fullmatch(data):
        return None
    text = b"".join(data.split())
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode("ascii"))
    if b"-" in text or b"_" in text:
        text = text.translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        text += b"=" * (-len(text) % 4)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def _dcap(data: bytes, tee: int) -> bool:
    version = int.from_bytes(data[:2], "little")
    return (
        data[4:8] == tee.to_bytes(4, "little")
        and version in range(1, 17)
        and data[12:28] == dcap.INTEL_VENDOR
    )


def _is_cca(data: bytes) -> bool:
    return data.startswith(_CCA)


def _is_json(data: bytes, *keys: bytes) -> bool:
    """A JSON object with these members; which they are is all that is looked at here."""
    return data.lstrip()[:1] == b"{" and all(b'"' + key + b'"' in data for key in keys)


def _is_enclave(data: bytes) -> bool:
    return _is_json(data, b"binding", b"evidence", b"kind") and not _is_collection(data)


def _is_azure_evidence(data: bytes) -> bool:
    return _is_json(data, b"hcl_report", b"tpm_quote") and not _is_collection(data)


def _is_tpm(data: bytes) -> bool:
    return _is_json(data, b"binding", b"quote", b"counter") and not _is_collection(data)


def _is_collateral(data: bytes) -> bool:
    return _is_json(data, b"tcb_info", b"qe_identity") and not _is_collection(data)


def _is_collection(data: bytes) -> bool:
    """An object whose first member is a collection's type, a record, or a collection."""
    return _COLLECTION.match(data) is not None


_COLLECTION: Final = re.compile(
    rb'\s*\{\s*"(?:__cmwc_t"|[^"\\]{1,200}"\s*:\s*(?:\[\s*(?:"[^"]*"|[0-9]+)\s*,\s*"|\{\s*"__cmwc_t"))'
)


def _is_cmw(data: bytes) -> bool:
    first = data.lstrip()[:1]
    if first == b"[":
        return _CMW_RECORD.match(data.lstrip()) is not None
    if first == b"{":
        return _is_collection(data)
    return data.startswith(_CMW_CBOR) and _is_cbor_wrapper(data)


def _is_cbor_wrapper(data: bytes) -> bool:
    """A collection, whose first label is text or a number, or a record of a type."""
    at = 2 if data.startswith(_LONG_MAP) else 1
    major, of_record = data[at] >> 5 if data[at:] else -1, data[0] in {0x82, 0x83}
    return major in {0, 3} and (not of_record or b"/" in data[:300] or major == 0)


def _is_tpm_attest(data: bytes) -> bool:
    return data.startswith(_GENERATED) or data[2:6] == _GENERATED


def _is_firmware_log(data: bytes) -> bool:
    """The first event has a PCR and a type that there are; a firmware log is little-endian."""
    if len(data) < _FIRST_EVENT or _is_ima_log(data) or _is_snp(data):
        return False
    pcr, type_ = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
    return pcr < _MOST_PCRS and type_ in _EVENT_TYPES


def _is_ima_log(data: bytes) -> bool:
    if _IMA_LINE.match(data):
        return True
    if len(data) < _FIRST_RECORD or b"\0" not in data[:4] or data[1:3] != b"\0\0":
        return False
    if max(data[0], data[3]) >= _MOST_PCRS:
        return False
    try:
        binary_form(data)
    except UnsupportedError:
        return True
    except MalformedError:
        return False
    return True


def _is_snp(data: bytes) -> bool:
    version = int.from_bytes(data[:4], "little")
    return len(data) == snp.SIZE and version in _SNP_VERSIONS


def _is_certificate(data: bytes) -> bool:
    return _is_pem(data, _PEM_CERTIFICATE) or _signed_part(data) == Form.CERTIFICATES


def _is_crl(data: bytes) -> bool:
    return _is_pem(data, _PEM_CRL) or _signed_part(data) == Form.CRL


def _is_pem(data: bytes, begin: bytes) -> bool:
    """Text with such a block near its beginning; quotes and collateral have some inside."""
    head = data[:_HEAD]
    return begin in head and head.isascii() and b"\0" not in head and head.lstrip()[:1] != b"{"


def _signed_part(data: bytes) -> Form | None:
    """What a SEQUENCE of signed part, algorithm and signature is.

    A list has a time behind its issuer; there a certificate has two times, in a SEQUENCE.
    """
    if data[:1] != b"\x30" or data[1:2] not in _LONG:
        return None
    try:
        signed, *_ = der.children(der.split(data)[0])
        tags = [part[:1] for part in der.children(signed)]
    except (MalformedError, ValueError):
        # Certificates that are not DER are in use, lists are not.
        return Form.CERTIFICATES
    is_list = any(tag in _TIMES for tag in tags[2:4])
    return Form.CRL if is_list else Form.CERTIFICATES


_SIGNS: Final[Mapping[Form, Callable[[bytes], bool]]] = MappingProxyType(
    {
        Form.SNP: _is_snp,
        Form.TDX: lambda data: _dcap(data, dcap.Tee.TDX),
        Form.SGX: lambda data: _dcap(data, dcap.Tee.SGX),
        Form.NITRO: lambda data: data.startswith(_COSE_SIGN1),
        Form.CCA: _is_cca,
        Form.AZURE: lambda data: data.startswith(b"HCLA"),
        Form.AZURE_EVIDENCE: _is_azure_evidence,
        Form.NVIDIA: lambda data: data.startswith(_SPDM_GET_MEASUREMENTS),
        Form.CMW: _is_cmw,
        Form.ENCLAVE: _is_enclave,
        Form.TPM: _is_tpm,
        Form.TPM_QUOTE: _is_tpm_attest,
        Form.FIRMWARE_LOG: _is_firmware_log,
        Form.IMA_LOG: _is_ima_log,
        Form.CERTIFICATES: _is_certificate,
        Form.CRL: _is_crl,
        Form.COLLATERAL: _is_collateral,
    }
)
