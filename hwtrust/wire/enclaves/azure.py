"""What Azure's paravisor keeps in NV index 0x01400001: a TEE's report and what it is over.

    header     32 bytes: "HCLA", version, size, …
    report     1184 bytes: an SNP report, or a TDREPORT with zeros behind it
    runtime    20 bytes: size, version, kind of report, hash, length; then JSON
    padding    zeros, up to the size of the NV index

The JSON (`RuntimeData`) holds the vTPM's public keys and how the machine is configured;
its digest is the report's report_data. All numbers are little-endian.

Rules:
1. The JSON is read apart from the rest, by whoever has checked its digest.
2. Sizes are those of what is there; nothing but zeros is behind it.
3. Fields of the JSON that are not known are left alone: only what is known counts.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from hwtrust.errors import MalformedError, UnsupportedError

MAX_REPORT: Final = 64 * 1024
"""Bytes; the NV index has 2600."""
TEE_REPORT_SIZE: Final = 1184
TD_REPORT_SIZE: Final = 1024
USER_DATA_SIZE: Final = 64
REPORT_DATA_SIZE: Final = 64

_MAGIC: Final = b"HCLA"
_HEADER: Final = Struct("<4sIIII12s")
_VERSIONS: Final = (1, 2)
_RUNTIME: Final = Struct("<IIIII")
_RUNTIME_VERSION: Final = 1
_PLAIN: Final = "^[A-Za-z0-9._-]*$"
_FLAGS: Final = ("secure-boot", "tpm-enabled", "tpm-persisted", "console-enabled")
_HASHES: Final = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}


class TeeKind(IntEnum):
    """Which TEE the report is of."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True)
class HclReport:
    """The parts of an HCL report, believed by nobody yet.

    Attributes:
        tee_report: the SNP report, 1184 bytes, or the TDREPORT, 1024; the latter is
            authenticated inside its machine only, and not what is verified elsewhere.
        runtime_data: the JSON, as it was hashed.
        report_data: what the TEE's report has to hold, 64 bytes: the JSON's digest.
    """

    kind: TeeKind
    tee_report: bytes = field(repr=False)
    runtime_data: bytes = field(repr=False)
    report_data: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole HCL report, with the NV index's zeros behind it or without.

        Raises:
            MalformedError: cut short, followed by something, sizes that do not agree.
            UnsupportedError: another version, TEE or hash.
        """
        if len(raw) > MAX_REPORT:
            raise MalformedError(f"an HCL report of {len(raw)} bytes; {MAX_REPORT} are taken")
        raw = bytes(raw)
        at = _HEADER.size + TEE_REPORT_SIZE
        try:
            magic, version, *_ = _HEADER.unpack_from(raw)
            size, runtime_version, kind, hash_, length = _RUNTIME.unpack_from(raw, at)
        except struct.error:
            raise MalformedError("an HCL report is cut short", size=len(raw)) from None
        if magic != _MAGIC:
            raise MalformedError("an HCL report starts with HCLA, and this does not")
        if version not in _VERSIONS or runtime_version != _RUNTIME_VERSION:
            raise UnsupportedError(f"an HCL report of version {version}, {runtime_version}")
        if kind not in iter(TeeKind) or hash_ not in _HASHES:
            raise UnsupportedError(f"an HCL report over a TEE of kind {kind} with hash {hash_}")
        start = at + _RUNTIME.size
        data = raw[start : start + length]
        if not data or len(data) != length or size != length + _RUNTIME.size:
            raise MalformedError("the sizes of an HCL report do not agree")
        if raw[start + length :].strip(b"\0"):
            raise MalformedError("an HCL report is followed by something")
        report = raw[_HEADER.size : at]
        if kind == TeeKind.TDX:
            if report[TD_REPORT_SIZE:].strip(b"\0"):
                raise MalformedError("a TDREPORT is followed by something")
            report = report[:TD_REPORT_SIZE]
        digest = _HASHES[hash_](data).digest()
        return cls(TeeKind(kind), report, data, digest.ljust(REPORT_DATA_SIZE, b"\0"))

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What there is to tell of it; that of the JSON, if it can be read."""
        found: dict[str, str | int | bool | list[str]] = {
            "tee": self.kind.name.lower(),
            "report_data": self.report_data.hex(),
        }
        return found | RuntimeData.decode(self.runtime_data).facts()


class Jwk(msgspec.Struct, frozen=True, kw_only=True):
    """A public key, RFC 7517; RSA alone has `n` and `e`."""

    kid: Annotated[str, Meta(max_length=64, pattern=_PLAIN)]
    kty: Annotated[str, Meta(max_length=16, pattern=_PLAIN)]
    n: Annotated[str, Meta(max_length=1024)] = ""
    e: Annotated[str, Meta(max_length=16)] = ""


class RuntimeData(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The JSON of an HCL report: the vTPM's keys, and what the machine is."""

    keys: Annotated[tuple[Jwk, ...], Meta(max_length=16)]
    vm_configuration: Annotated[dict[str, Any], Meta(max_length=64)]
    user_data: Annotated[str, Meta(pattern=r"^(?:[0-9A-Fa-f]{2}){0,64}$")] = ""
    """Hex: what the machine wrote to NV index 0x01400002, with zeros behind it."""

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read all of the JSON.

        Raises:
            MalformedError: it is none, or has not these fields.
        """
        try:
            return msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise MalformedError("the runtime data of an HCL report cannot be read") from None

    @property
    def user_bytes(self) -> bytes:
        """The user data, 64 bytes."""
        return bytes.fromhex(self.user_data).ljust(USER_DATA_SIZE, b"\0")

    def flag(self, name: str) -> bool | None:
        """A yes or no of the configuration; None where it is not told, or is none."""
        value = self.vm_configuration.get(name)
        return value if isinstance(value, bool) else None

    def text(self, name: str) -> str:
        """A text of the configuration; empty where it is not told, or is no plain text."""
        value = self.vm_configuration.get(name)
        return value if isinstance(value, str) and value.isprintable() else ""

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """What the machine says of itself, by the names in the JSON."""
        found: dict[str, str | int | bool | list[str]] = {
            name.replace("-", "_"): told for name in _FLAGS if (told := self.flag(name)) is not None
        }
        return found | {
            "vm_unique_id": self.text("vmUniqueId"),
            "keys": [f"{key.kid} ({key.kty})" for key in self.keys],
            "user_data": self.user_bytes.hex(),
        }
