"""The parts of an enclave's evidence, and how they stand in one CMW collection.

    device: EnclaveParts ── wrap ──▶ text ── unwrap ──▶ EnclaveParts: backend

    tee            what the TEE made: report, quote, document, token, HCL report
    certificates   PEM, of what signed it, where the host has them (SNP, Azure)
    quote, pcrs    of a vTPM in the TEE: message and signature; the values, JSON (Azure)
    td-quote       the TDX quote made of the report in the HCL report (Azure)
    gpu, gpu-certificates   the report of an NVIDIA GPU; its certificates, its own first
    firmware-log   the log of firmware and boot loaders, as the kernel has it

Rules:
1. `tee` is of the media type of the kind that is asked for. Every part is of its
   type, and a part that is not known is refused.
2. Nothing is judged here, and nothing looked into but the host's table of
   certificates, which becomes PEM on the device.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError
from hwtrust.errors.cmw import CmwError, CmwLabelError, CmwTypeError
from hwtrust.wire import cmw
from hwtrust.wire.cmw import Collection, Indicator, MediaType, Record
from hwtrust.wire.codec import Reader, tpm2b
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclaves.snp import CertificateTable

TEE: Final = "tee"
CERTIFICATES: Final = "certificates"
QUOTE: Final = "quote"
PCRS: Final = "pcrs"
TD_QUOTE: Final = "td-quote"
GPU: Final = "gpu"
GPU_CERTIFICATES: Final = "gpu-certificates"
FIRMWARE_LOG: Final = "firmware-log"

MEDIA_TYPES: Final[Mapping[EnclaveKind, MediaType]] = MappingProxyType(
    {kind: MediaType[kind.name] for kind in EnclaveKind}
)
"""Of the part `tee`."""

_TYPES: Final[Mapping[str, MediaType]] = MappingProxyType(
    {
        CERTIFICATES: MediaType.CERTIFICATE_CHAIN,
        QUOTE: MediaType.TPM_QUOTE,
        PCRS: MediaType.JSON,
        TD_QUOTE: MediaType.TDX,
        GPU: MediaType.NVIDIA,
        GPU_CERTIFICATES: MediaType.CERTIFICATE_CHAIN,
        FIRMWARE_LOG: MediaType.FIRMWARE_LOG,
    }
)
_ENDORSEMENTS: Final = frozenset({CERTIFICATES, GPU_CERTIFICATES})
_PEM_LINE: Final = 64


class EnclaveParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts as they are; those that are not there are empty."""

    tee: bytes
    certificates: bytes = b""
    quote: bytes = b""
    pcrs: bytes = b""
    td_quote: bytes = b""
    gpu: bytes = b""
    gpu_certificates: bytes = b""
    firmware_log: bytes = b""

    def require(self, label: str) -> bytes:
        """The part under `label`.

        Raises:
            CmwLabelError: it is not there.
        """
        found: bytes = getattr(self, _attribute(label))
        if not found:
            raise CmwLabelError(f"the evidence has no part {label}", part=label)
        return found


def wrap(parts: EnclaveParts, *, kind: EnclaveKind) -> str:
    """One CMW collection of all parts that are there, JSON.

    Raises:
        CmwLabelError: the part `tee` is not there.
    """
    items: dict[cmw.Label, Record | Collection] = {
        TEE: Record(MEDIA_TYPES[kind], parts.require(TEE), Indicator.EVIDENCE)
    }
    for label, media_type in _TYPES.items():
        value: bytes = getattr(parts, _attribute(label))
        if value:
            meaning = Indicator.ENDORSEMENTS if label in _ENDORSEMENTS else Indicator.EVIDENCE
            items[label] = Record(media_type, value, meaning)
    return cmw.encode_json(Collection(items, cmw.COMPOSITE)).decode()


def unwrap(evidence: str | bytes, *, kind: EnclaveKind) -> EnclaveParts:
    """The parts of one CMW collection, JSON or CBOR.

    Raises:
        CmwTypeError: it holds evidence of another kind, or a part is of another type.
        CmwLabelError: the part `tee` is not there, or one that is not known is.
        CmwError: it is no collection.
    """
    return parts_of(_decoded(evidence), kind=kind)


def parts_of(collection: cmw.Cmw, *, kind: EnclaveKind) -> EnclaveParts:
    """The parts of a collection that has been read.

    Raises:
        CmwError: as of `unwrap`.
    """
    if not isinstance(collection, Collection):
        raise CmwError("the evidence of an enclave is a collection, and this is one record")
    if collection.type not in {None, cmw.COMPOSITE}:
        raise CmwTypeError("the collection is not one of an enclave's evidence")
    found = {TEE: collection.record(TEE).require(MEDIA_TYPES[kind])}
    for label in collection.items:
        if label == TEE:
            continue
        media_type = _TYPES.get(label) if isinstance(label, str) else None
        if media_type is None:
            raise CmwLabelError(f"an enclave's evidence has no part {str(label)[:64]!r}")
        found[_attribute(str(label))] = collection.record(label).require(media_type)
    return EnclaveParts(**found)


def kind_of(collection: Collection) -> EnclaveKind:
    """Of what kind the part `tee` says to be.

    Raises:
        CmwLabelError: there is no such part.
        UnsupportedError: it is of none that is known.
    """
    record = collection.record(TEE)
    for kind, media_type in MEDIA_TYPES.items():
        if str(record.type).partition(";")[0].strip().lower() == media_type:
            return kind
    raise UnsupportedError("evidence of an enclave of a kind that hwtrust does not know")


def join_quote(message: bytes, signature: bytes) -> bytes:
    """The part `quote`, of a TPMS_ATTEST and a TPMT_SIGNATURE."""
    return tpm2b(message) + tpm2b(signature)


def split_quote(part: bytes) -> tuple[bytes, bytes]:
    """Message and signature of the part `quote`.

    Raises:
        MalformedError: it is cut short, or followed by something.
    """
    reader = Reader(part, "the quote of a vTPM")
    message, signature = reader.sized(), reader.sized()
    reader.end()
    return message, signature


def pem_of_table(table: bytes) -> bytes:
    """The part `certificates`, of the table that the host of an SNP guest gives along.

    Raises:
        MalformedError: it is no such table.
    """
    return pem(CertificateTable.decode(table).certificates)


def pem(certificates: Iterable[bytes]) -> bytes:
    """Certificates in DER, some behind one another, as PEM."""
    return b"".join(_pem(der) for der in certificates)


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + _PEM_LINE] for at in range(0, len(text), _PEM_LINE)]
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))


def _decoded(evidence: str | bytes) -> cmw.Cmw:
    if isinstance(evidence, bytes):
        return cmw.decode(evidence)
    try:
        return cmw.decode(evidence.encode())
    except UnicodeEncodeError:
        raise MalformedError("the evidence of an enclave is no text") from None


def _attribute(label: str) -> str:
    return label.replace("-", "_")
