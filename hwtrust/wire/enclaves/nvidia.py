"""A GPU's attestation report: an SPDM GET_MEASUREMENTS request and its signed response.

    request   37 bytes: version, 0xE0, what is asked for, nonce, slot
    response  version, 0x60, …, measurement blocks, nonce, opaque data, signature

DMTF DSP0274 1.1 §10.11; the opaque data are NVIDIA's, a list of typed fields. All
numbers are little-endian. Decoding believes nothing.

Rules:
1. SPDM 1.1 alone: what later versions sign starts with a context of their own.
2. The request asks for a signature, and request and response are of one slot.
3. An index stands once among the measurements, a type once among the fields.
4. The opaque data end where the response's signature begins, with nothing between.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from types import MappingProxyType
from typing import Final, Self

from hwtrust.errors import MalformedError, UnsupportedError

MAX_REPORT: Final = 64 * 1024
"""Bytes; reports of an H100 have some 4 KiB."""
SIGNATURE_SIZE: Final = 96
"""r and s of ECDSA over P-384."""
NONCE_SIZE: Final = 32

_VERSION: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_SIGNED: Final = 0x01
_SLOT: Final = 0x0F
_DMTF: Final = 0x01

_REQUEST: Final = Struct("<BBBB32sB")
_RESPONSE: Final = Struct("<BBBBB3s")
_BLOCK: Final = Struct("<BBHBH")
_TAIL: Final = Struct("<32sH")
_FIELD: Final = Struct("<HH")
_VALUE_HEAD: Final = 3
"""Of a block's size, what stands before its value."""

_DRIVER_VERSION: Final = 3
_VBIOS_VERSION: Final = 6
_CHIP_SKU: Final = 15
_PROJECT: Final = 17
_PROJECT_SKU: Final = 18
_FWID: Final = 20
_VBIOS_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class GpuReport:
    """What the report says, believed by nobody yet.

    Attributes:
        signed: what the signature covers: all of it but the signature.
        nonce: of the request; the GPU's own is `gpu_nonce`.
        measurements: the values by their index, which counts from 1.
        fields: the opaque data by their type.
    """

    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    nonce: bytes
    gpu_nonce: bytes
    slot: int
    measurements: Mapping[int, bytes] = field(repr=False)
    fields: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole report.

        Raises:
            MalformedError: cut short, followed by something, something twice.
            UnsupportedError: not SPDM 1.1, no signature asked for, or measurements
                that are not in the form of the DMTF.
        """
        if len(raw) > MAX_REPORT:
            raise MalformedError(
                f"a GPU's report of {len(raw)} bytes; {MAX_REPORT} are taken", size=len(raw)
            )
        raw = bytes(raw)
        signed = raw[:-SIGNATURE_SIZE]
        try:
            slot, nonce = _request(signed)
            blocks_at = _REQUEST.size + _RESPONSE.size
            count, blocks_end = _response(signed, slot)
            gpu_nonce, size = _TAIL.unpack_from(signed, blocks_end)
        except struct.error:
            raise MalformedError("a GPU's report is cut short", size=len(raw)) from None
        fields_at = blocks_end + _TAIL.size
        if len(signed) != fields_at + size:
            raise MalformedError("a GPU's report is cut short, or goes on behind its signature")
        return cls(
            signed,
            raw[-SIGNATURE_SIZE:],
            nonce,
            gpu_nonce,
            slot,
            _measurements(signed[blocks_at:blocks_end], count),
            _fields(signed[fields_at:]),
        )

    @property
    def driver_version(self) -> str:
        """Of the driver, such as `550.90.07`; empty where it is not told."""
        return self._text(_DRIVER_VERSION)

    @property
    def vbios_version(self) -> str:
        """Of the VBIOS as NVIDIA's tools write it: `96.00.9F.00.01`; empty where not told."""
        raw = self.fields.get(_VBIOS_VERSION, b"")
        if len(raw) != _VBIOS_SIZE:
            return ""
        return ".".join(f"{byte:02X}" for byte in (*raw[3::-1], raw[4]))

    @property
    def firmware_id(self) -> bytes:
        """FWID: the digest of the firmware that the GPU's certificate is for; or empty."""
        return self.fields.get(_FWID, b"")

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """All of it in words, by the names of NVIDIA's tools."""
        return {
            "nonce": self.nonce.hex(),
            "driver_version": self.driver_version,
            "vbios_version": self.vbios_version,
            "project": self._text(_PROJECT),
            "project_sku": self._text(_PROJECT_SKU),
            "chip_sku": self._text(_CHIP_SKU),
            "firmware_id": self.firmware_id.hex(),
            "measurements": [f"{at}:{value.hex()}" for at, value in self.measurements.items()],
        }

    def _text(self, type_: int) -> str:
        text = self.fields.get(type_, b"").rstrip(b"\0").decode("ascii", "replace").strip()
        return text if text.isprintable() else ""


def _request(signed: bytes) -> tuple[int, bytes]:
    version, code, wanted, _, nonce, slot = _REQUEST.unpack_from(signed)
    # (1): version.
    if version != _VERSION:
        raise UnsupportedError(f"a GPU's report of SPDM version 0x{version:02x}", version=version)
    if code != _GET_MEASUREMENTS:
        raise MalformedError("a GPU's report does not start with a request for measurements")
    # (2): request.
    if not wanted & _SIGNED:
        raise UnsupportedError("a GPU's report that was asked for without a signature")
    return slot & _SLOT, nonce


def _response(signed: bytes, slot: int) -> tuple[int, int]:
    """How many blocks there are, and where they end."""
    version, code, _, answered, count, size = _RESPONSE.unpack_from(signed, _REQUEST.size)
    if version != _VERSION or code != _MEASUREMENTS:
        raise MalformedError("the response in a GPU's report is no response with measurements")
    if answered & _SLOT != slot:
        raise MalformedError("request and response of a GPU's report are of different slots")
    return count, _REQUEST.size + _RESPONSE.size + int.from_bytes(size, "little")


def _measurements(blocks: bytes, count: int) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    for _ in range(count):
        try:
            index, form, size, _, value_size = _BLOCK.unpack_from(blocks, at)
        except struct.error:
            raise MalformedError("a measurement in a GPU's report is cut short") from None
        if form != _DMTF:
            raise UnsupportedError("a measurement that is not in the form of the DMTF", form=form)
        at += _BLOCK.size
        value = blocks[at : at + value_size]
        at += value_size
        if size != value_size + _VALUE_HEAD or len(value) != value_size:
            raise MalformedError("the sizes of a measurement do not agree")
        # (3): once.
        if index in found:
            raise MalformedError(f"the measurement {index} stands twice in a GPU's report")
        found[index] = value
    if at != len(blocks):
        raise MalformedError("a GPU's report has more measurements than it says")
    return MappingProxyType(found)


def _fields(data: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        try:
            type_, size = _FIELD.unpack_from(data, at)
        except struct.error:
            raise MalformedError("the opaque data of a GPU's report are cut short") from None
        at += _FIELD.size
        value = data[at : at + size]
        at += size
        if len(value) != size:
            raise MalformedError("the opaque data of a GPU's report are cut short")
        # (3): once.
        if type_ in found:
            raise MalformedError(f"the field {type_} stands twice in a GPU's report")
        found[type_] = value
    return MappingProxyType(found)
