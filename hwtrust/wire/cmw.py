"""Evidence of several kinds in one file: the RATS Conceptual Message Wrapper.

    record      [type, value, indicator?]
    collection  {"__cmwc_t": type?, label: record or collection, …}

draft-ietf-rats-msg-wrap-23: record §3.1, collection §3.3, in JSON and in CBOR. Its
CBOR tags, its signed forms, and one encoding tunnelled in the other are refused.
Nothing here is believed: what a record says of itself only chooses the decoder.

Rules:
1. Size, parts and levels are bounded, by `MAX_SIZE`, `MAX_RECORDS` and `MAX_DEPTH`.
2. A label stands once in its collection. A wrapper with nothing in it is refused:
   no value is empty, and no collection.
3. One message has one encoding: base64url has no padding and no spare bits, CBOR
   lengths are definite and as short as they can be.
4. A type is a media type (RFC 6838) or the number of a CoAP content format. What
   those are, and what the indicator means, is told and not judged.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from types import MappingProxyType
from typing import Any, Final, NoReturn

from hwtrust.errors.cmw import CmwError, CmwLabelError, CmwLimitError, CmwTypeError
from hwtrust.wire import cmw_cbor
from hwtrust.wire.cmw_cbor import Pairs

MAX_SIZE: Final = 32 * 1024 * 1024
"""Bytes of a wrapper: several logs of some MiB, in base64."""
MAX_DEPTH: Final = 4
"""Collections within one another."""
MAX_RECORDS: Final = 64
"""Records and collections in a wrapper, all levels together."""
MAX_LABEL: Final = 200

COLLECTION_TYPE: Final = "__cmwc_t"
COMPOSITE: Final = "urn:x-hwtrust:composite-evidence:1"
"""The type of a collection of evidence of one device, a part for each of its anchors."""

_MAX_TYPE: Final = 255
_MAX_CONTENT_FORMAT: Final = 0xFFFF
_MAX_INDICATOR: Final = 0xFFFF_FFFF
_MAX_NUMBER: Final = 20
"""Digits of an integer in JSON; all that are taken are below 2^64."""
_RECORD_SIZES: Final = (2, 3)
_SPACE: Final = b" \t\r\n"
_MARKS: Final = (b"[", b"{", b",", b":", b'"')
_MAX_MARKS: Final = 32 * MAX_RECORDS

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE: Final = re.compile(
    rf"{_NAME}/{_NAME}(?: *; *[A-Za-z0-9!#$&^_.+-]{{1,64}}="
    r'(?:[A-Za-z0-9!#$&^_.+-]+|"[\x20\x21\x23-\x5b\x5d-\x7e]*"))*'
)
_COLLECTION_TYPE: Final = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:[!-~]+|[0-2](?:\.(?:0|[1-9][0-9]*))+)"
)
"""A URI or an object identifier."""
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class MediaType(StrEnum):
    """The types of the messages that hwtrust wraps; registered ones where there are any."""

    EAT_CWT = "application/eat+cwt"
    EAT_JWT = "application/eat+jwt"
    CERTIFICATE = "application/pkix-cert"
    CERTIFICATE_CHAIN = "application/pem-certificate-chain"
    CRL = "application/pkix-crl"
    JSON = "application/json"
    TPM = "application/vnd.hwtrust.tpm"
    """Evidence of a TPM, as `hwtrust.wire.messages.Evidence`, JSON."""
    TPM_QUOTE = "application/vnd.hwtrust.tpm-quote"
    """TPMS_ATTEST and TPMT_SIGNATURE, each behind its size."""
    FIRMWARE_LOG = "application/vnd.hwtrust.firmware-log"
    IMA_LOG = "application/vnd.hwtrust.ima-log"
    SNP = "application/vnd.hwtrust.sev-snp"
    TDX = "application/vnd.hwtrust.tdx"
    SGX = "application/vnd.hwtrust.sgx"
    NITRO = "application/vnd.hwtrust.nitro"
    CCA = "application/vnd.hwtrust.cca"
    AZURE = "application/vnd.hwtrust.azure-hcl"
    NVIDIA = "application/vnd.hwtrust.nvidia-gpu"


class Indicator(IntFlag):
    """What a message is in the RATS architecture: cm-type, §3.1."""

    REFERENCE_VALUES = 1
    ENDORSEMENTS = 2
    EVIDENCE = 4
    ATTESTATION_RESULTS = 8
    APPRAISAL_POLICY = 16


Label = str | int
"""A part's name in a collection; JSON has text alone."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message: its type (a media type, or a content format's number), and its bytes.

    Raises:
        CmwError: no such type, an empty value, an indicator out of range.
    """

    type: str | int
    value: bytes = field(repr=False)
    indicator: int = 0
    """Bits of `Indicator`, and such as are not known here; 0 says nothing."""

    def __post_init__(self) -> None:
        if isinstance(self.type, str):
            if len(self.type) > _MAX_TYPE or not _MEDIA_TYPE.fullmatch(self.type):
                raise CmwError("the type of a record is no media type")
        elif not 0 <= self.type <= _MAX_CONTENT_FORMAT:
            raise CmwError("the type of a record is no CoAP content format")
        if not self.value:
            raise CmwError("the value of a record is empty")
        if not 0 <= self.indicator <= _MAX_INDICATOR:
            raise CmwError("the indicator of a record is out of range")

    def require(self, media_type: str) -> bytes:
        """The value, if the record is of this type; parameters behind it do not matter.

        Raises:
            CmwTypeError: it is of another.
        """
        found = str(self.type).split(";")[0].strip().lower()
        if found != media_type.lower():
            raise CmwTypeError(
                f"a message of type {found!r} is where one of type {media_type!r} should be",
                expected=media_type,
                found=found,
            )
        return self.value

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What there is to tell of it without looking into the message."""
        known = [str(bit.name).lower() for bit in Indicator if bit & self.indicator]
        return {"type": self.type, "size": len(self.value), "indicator": known}


@dataclass(frozen=True, slots=True)
class Collection:
    """Messages by label, in the order in which they stand there.

    Raises:
        CmwLabelError: no part, or a label that is too long, empty or reserved.
        CmwError: `type` is neither a URI nor an object identifier.
    """

    items: Mapping[Label, Record | Collection]
    type: str | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise CmwLabelError("a collection has no part")
        for label in self.items:
            if label == COLLECTION_TYPE:
                raise CmwLabelError(f"the label {COLLECTION_TYPE} is no part's")
            if isinstance(label, str) and not (0 < len(label) <= MAX_LABEL and label.isprintable()):
                raise CmwLabelError(
                    f"a label has 1 to {MAX_LABEL} characters, all of them printable"
                )
        if self.type is not None and (
            len(self.type) > _MAX_TYPE or not _COLLECTION_TYPE.fullmatch(self.type)
        ):
            raise CmwError("the type of a collection is neither a URI nor an object identifier")
        object.__setattr__(self, "items", MappingProxyType(dict(self.items)))

    def record(self, label: Label) -> Record:
        """The record under `label`.

        Raises:
            CmwLabelError: there is none.
        """
        found = self.items.get(label)
        if not isinstance(found, Record):
            raise CmwLabelError(f"the collection has no message under {str(label)[:MAX_LABEL]!r}")
        return found

    def records(self) -> Iterator[tuple[tuple[Label, ...], Record]]:
        """Every record with the labels that lead to it, in order."""
        for label, item in self.items.items():
            if isinstance(item, Record):
                yield (label,), item
            else:
                for path, record in item.records():
                    yield (label, *path), record


Cmw = Record | Collection


def decode(data: bytes) -> Cmw:
    """Read one wrapper, JSON or CBOR, whichever `data` starts like.

    Raises:
        CmwError: it is none, or goes on behind its end.
        CmwLabelError: a label twice, reserved, or too long; an empty collection.
        CmwLimitError: more bytes, parts or levels than are taken.
    """
    if len(data) > MAX_SIZE:
        raise CmwLimitError(f"a wrapper of {len(data)} bytes; {MAX_SIZE} are taken", size=len(data))
    if data.lstrip(_SPACE)[:1] in {b"[", b"{"}:
        return _Parts(is_json=True).read(_json(data), 1)
    found = cmw_cbor.decode(data, most=MAX_RECORDS, depth=MAX_DEPTH + 1)
    return _Parts(is_json=False).read(found, 1)


def encode_json(cmw: Cmw) -> bytes:
    """The wrapper as JSON.

    Raises:
        CmwLabelError: a label is a number, which only CBOR has.
    """
    return json.dumps(_to_json(cmw), ensure_ascii=False, separators=(",", ":")).encode()


def encode_cbor(cmw: Cmw) -> bytes:
    """The wrapper as CBOR, in the order of its parts."""
    return cmw_cbor.encode(_to_cbor(cmw))


def _to_json(cmw: Cmw) -> object:
    if isinstance(cmw, Record):
        return [cmw.type, _to_base64url(cmw.value), *([cmw.indicator] if cmw.indicator else [])]
    found: dict[str, object] = {} if cmw.type is None else {COLLECTION_TYPE: cmw.type}
    for label, item in cmw.items.items():
        if not isinstance(label, str):
            raise CmwLabelError(
                f"the label {label} is a number, which a JSON collection cannot have"
            )
        found[label] = _to_json(item)
    return found


def _to_cbor(cmw: Cmw) -> object:
    if isinstance(cmw, Record):
        return [cmw.type, cmw.value, *([cmw.indicator] if cmw.indicator else [])]
    head: list[tuple[object, object]] = [] if cmw.type is None else [(COLLECTION_TYPE, cmw.type)]
    return Pairs([*head, *((label, _to_cbor(item)) for label, item in cmw.items.items())])


class _Parts:
    """Plain values to records and collections, counted."""

    def __init__(self, *, is_json: bool) -> None:
        self._count = 0
        self._is_json = is_json

    def read(self, value: object, depth: int) -> Cmw:
        self._count += 1
        if self._count > MAX_RECORDS:
            raise CmwLimitError(f"a wrapper has more than {MAX_RECORDS} parts")
        if isinstance(value, Pairs):
            if depth > MAX_DEPTH:
                raise CmwLimitError(f"collections are more than {MAX_DEPTH} levels deep")
            return self._collection(value, depth)
        if isinstance(value, list) and len(value) in _RECORD_SIZES:
            return _record(value, is_json=self._is_json)
        raise CmwError("a wrapper is neither a record of two or three fields nor a collection")

    def _collection(self, pairs: Pairs, depth: int) -> Collection:
        type_ = None
        items: dict[Label, Cmw] = {}
        for label, value in pairs:
            if not isinstance(label, str | int):
                raise CmwLabelError("a label is neither text nor a number")
            if label in items or (label == COLLECTION_TYPE and type_ is not None):
                raise CmwLabelError("a label stands twice in a collection")
            if label == COLLECTION_TYPE:
                if not isinstance(value, str):
                    raise CmwError("the type of a collection is not text")
                type_ = value
            else:
                items[label] = self.read(value, depth + 1)
        return Collection(items, type_)


def _record(fields: list[Any], *, is_json: bool) -> Record:
    type_, value = fields[:2]
    indicator = fields[2] if fields[2:] else 0
    if not (_is_number(type_) or isinstance(type_, str)) or not _is_number(indicator):
        raise CmwError("a field of a record is of the wrong kind")
    if fields[2:] and not indicator:
        raise CmwError("the indicator of a record is zero, and should rather be absent")
    if is_json and isinstance(value, str):
        value = _from_base64url(value)
    if not isinstance(value, bytes):
        raise CmwError("the value of a record is not made of bytes")
    return Record(type_, value, indicator)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _json(data: bytes) -> object:
    # What is bounded here bounds what the parser allocates: neither types nor base64
    # hold any of these, and labels hardly.
    if sum(map(data.count, _MARKS)) > _MAX_MARKS:
        raise CmwLimitError(f"a wrapper has more than {MAX_RECORDS} parts")
    try:
        found: object = json.loads(
            data.decode(),
            object_pairs_hook=Pairs,
            parse_int=_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        raise CmwError("a wrapper that starts like JSON is none") from None
    return found


def _number(text: str) -> int:
    return int(text) if len(text) <= _MAX_NUMBER else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise CmwError(f"a number in a wrapper is no small integer: {text[:_MAX_NUMBER]}")


def _from_base64url(text: str) -> bytes:
    try:
        if not _BASE64URL.fullmatch(text):
            raise CmwError("the value of a record is not base64url, or is empty")
        found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise CmwError("the value of a record is not base64url") from None
    if _to_base64url(found) != text:
        raise CmwError("the value of a record is not the base64url of any bytes")
    return found


def _to_base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
