"""What a TPM, its vendor and its tools write, our own logs, manifests and archives."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization

from fuzz.target import Target
from hwtrust.updates.archive import pack, unpack
from hwtrust.verify import der
from hwtrust.verify.certificates import read_certificate, read_crl
from hwtrust.verify.ek_trust import EkTrust
from hwtrust.verify.tools_files import read_key, read_message, read_pcrs, read_signature
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import EventLog
from hwtrust.wire.messages import LayerReference, Release
from hwtrust.wire.nv import NvAttributes, NvPublic
from hwtrust.wire.release import (
    LayerEntry,
    LayerKind,
    ReleaseManifest,
    decode_manifest,
    encode_manifest,
    layer_target,
)
from hwtrust.wire.statement import Statement, StepFailure, decode_statement, encode_statement
from hwtrust.wire.states import layer_events
from hwtrust.wire.structures import Attest, Public, Signature
from simulators.ek_authority import EkAuthority, new_ek
from simulators.good_quote import GOOD, PCRS, SELECTION, TPM

if TYPE_CHECKING:
    from collections.abc import Iterator

_VENDOR: Final = EkAuthority.new()
_EK: Final = new_ek()
_LARGEST: Final = 1 << 20


def _publics() -> Iterator[bytes]:
    for public in (TPM.ak, _EK):
        yield public.encode()


def _keys() -> Iterator[bytes]:
    yield from _publics()
    yield TPM.ak.encode_sized()
    yield TPM.ak.key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _certificates() -> Iterator[bytes]:
    yield _VENDOR.issue(_EK)
    yield _VENDOR.root.der
    yield _VENDOR.intermediate.der


def _logs() -> Iterator[bytes]:
    layer = LayerReference(name="kernel", version="1", digest=bytes(32))
    log = EventLog()
    for event in layer_events(Release(name="r", layers=(layer, layer))):
        log = log.appended(event, pcr=11, banks=(Alg.SHA1, Alg.SHA256))
    yield log.encode()


def _statements() -> Iterator[bytes]:
    failure = StepFailure(step="boot", code="tpm:away", layer="kernel", detail="gone")
    yield encode_statement(Statement(other="2.0", failure=failure))


def _manifests() -> Iterator[bytes]:
    layer = LayerEntry(
        name="kernel",
        version="1",
        digest=bytes(32),
        kind=LayerKind.FILE,
        target=layer_target("kernel", "1", LayerKind.FILE),
        frequency="monthly",
    )
    yield encode_manifest(ReleaseManifest(name="r", created_at=1, layers=(layer,)))


def _trees() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory, "tree")
        (tree / "inside").mkdir(parents=True)
        (tree / "inside" / "file").write_bytes(b"contents")
        (tree / "link").symlink_to("inside/file")
        packed = io.BytesIO()
        pack(tree, packed)
        yield packed.getvalue()


def _unpacked(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        unpack(io.BytesIO(data), Path(directory, "tree"), limit=_LARGEST)


def _pcr_files() -> Iterator[bytes]:
    yield b"".join(PCRS[bank][number] for bank, numbers in SELECTION.banks for number in numbers)
    yield json.dumps({"sha256": {"0": bytes(32).hex()}}).encode()


TARGETS: Final[dict[str, Target]] = {
    "tpm-attest": Target(Attest.decode, lambda: [GOOD.message]),
    "tpm-message": Target(read_message, lambda: [GOOD.message]),
    "tpm-signature": Target(Signature.decode, lambda: [GOOD.signature]),
    "tpm-signature-file": Target(
        lambda data: read_signature(data, key=TPM.ak, message=GOOD.message),
        lambda: [GOOD.signature],
    ),
    "tpm-public": Target(Public.decode, _publics),
    "tpm-key-file": Target(read_key, _keys),
    "tpm-nv-public": Target(
        NvPublic.decode,
        lambda: [
            NvPublic(0x01800000, Alg.SHA256, NvAttributes.AUTHREAD, bytes(32), 8).encode(),
        ],
    ),
    "tpm-pcr-file": Target(lambda data: read_pcrs(data, selection=SELECTION), _pcr_files),
    "event-log": Target(EventLog.decode, _logs),
    "statement": Target(decode_statement, _statements),
    "release-manifest": Target(decode_manifest, _manifests),
    "layer-archive": Target(_unpacked, _trees),
    "der": Target(der.split, _certificates),
    "certificate": Target(read_certificate, _certificates),
    "revocation-list": Target(read_crl, lambda: [_VENDOR.intermediate.revoke(1, 2)]),
    "vendor-bundle": Target(lambda data: EkTrust.load([data]), lambda: _VENDOR.files),
}
