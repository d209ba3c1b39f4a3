"""The decoders of firmware event logs, and of what UEFI puts into them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from fuzz.target import Target
from hwtrust.errors.evidence import EvidenceError, MalformedError
from hwtrust.verify.logs.firmware import verify_firmware_log
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.platform import FirmwareLogRules
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.describe import describe
from hwtrust.wire.logs.firmware import FirmwareLog
from hwtrust.wire.logs.uefi import (
    CERT_X509,
    ImageLoad,
    Variable,
    device_path_text,
    read_blob,
    read_gpt,
    read_signature_lists,
    read_tag,
    signature_list,
)
from simulators.firmware_log import CERTIFICATE, FILE_PATH, OWNER, Firmware, booted

_ROOT: Final = Path(__file__).resolve().parents[2]
_VECTORS: Final = Path(os.environ.get("HWTRUST_VECTORS", _ROOT.parent / "shared" / "vectors"))
_LARGEST: Final = 32 * 1024


class _Table(msgspec.Struct):
    firmware_log: FirmwareLogRules


def _log(raw: bytes) -> None:
    log = FirmwareLog.decode(raw)
    log.facts()
    for event in log.events:
        describe(event)
    for bank, _ in log.banks:
        if bank in {Alg.SHA256, Alg.SHA384}:
            text = reference_from_eventlog(log, pcrs=range(16), bank=Alg(bank))
            msgspec.toml.decode(text, type=_Table)


def _replayed(raw: bytes) -> None:
    log = FirmwareLog.decode(raw)
    values = {number: bytes(32) for number in range(16)}
    try:
        verify_firmware_log(log, pcrs={Alg.SHA256: values}, bank=Alg.SHA256, numbers=range(16))
    except EvidenceError:
        return


def _logs() -> Iterable[bytes]:
    yield booted().raw
    yield booted("sha1").raw
    yield booted("sha256", locality=3).raw + bytes(100)
    yield Firmware("sha384", confidential=True).separate(1).raw + b"\xff" * 100
    for file in sorted(_VECTORS.glob("event-logs/*/*.bin")):
        raw = file.read_bytes()
        if len(raw) <= _LARGEST:
            try:
                FirmwareLog.decode(raw)
            except MalformedError:
                continue
            yield raw


def _variables() -> Iterable[bytes]:
    yield from (event.data for event in booted().events if event.type == 0x80000001)


def _signatures() -> Iterable[bytes]:
    yield signature_list(CERT_X509, OWNER, CERTIFICATE)
    yield b""


def _images() -> Iterable[bytes]:
    yield ImageLoad(1, 2, FILE_PATH).encode()


def _path(raw: bytes) -> None:
    device_path_text(ImageLoad.decode(raw).device_path)


def _gpts() -> Iterable[bytes]:
    disk = b"EFI PART" + bytes(48) + OWNER.bytes_le + bytes(8) + b"\x01\0\0\0\x80\0\0\0\0\0\0\0"
    yield disk + b"\x01" + bytes(7) + bytes(128)


TARGETS: Final[dict[str, Target]] = {
    "firmware-log": Target(_log, _logs),
    "firmware-replay": Target(_replayed, _logs),
    "uefi-variable": Target(Variable.decode, _variables),
    "uefi-signatures": Target(read_signature_lists, _signatures),
    "uefi-image": Target(_path, _images),
    "uefi-gpt": Target(read_gpt, _gpts),
    "uefi-blob": Target(read_blob, lambda: (bytes(16), b"\x03abc" + bytes(16))),
    "tagged-event": Target(read_tag, lambda: (bytes(8), b"\x01\0\0\0\x02\0\0\0ab")),
}
