"""COSE messages and attestation documents of Nitro enclaves: decoding, and the chain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cbor2

from fuzz.target import Target
from hwtrust.verify.enclaves.nitro import Unsafe, verify_nitro
from hwtrust.verify.enclaves.nitro_chain import require_chain
from hwtrust.wire.enclaves import cbor
from hwtrust.wire.enclaves.cose import MAX_SIZE, CoseSign1
from hwtrust.wire.enclaves.nitro import NitroDocument
from simulators.cose_signer import key_named, sign1
from simulators.nitro_signer import NOW, PCRS, NitroSigner

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).resolve().parents[2]
_PUBLIC: Final = (
    Path(os.environ.get("HWTRUST_VECTORS", _ROOT.parent / "shared" / "vectors")) / "nitro"
)
_SIGNER: Final = NitroSigner()
_TRUST: Final = _SIGNER.trust


def _values() -> Iterator[bytes]:
    yield cbor2.dumps(_SIGNER.fields())
    for value in ({1: -35}, [1, [2, {"x": None}]], b"x" * 300, "text", -(2**64), True):
        yield cbor2.dumps(value)


def _messages() -> Iterator[bytes]:
    yield sign1(b"payload", key=key_named("fuzz"), tagged=True)
    yield sign1(b"", key=key_named("fuzz"), tagged=True)


def _documents() -> Iterator[bytes]:
    yield from _own_documents()
    for file in sorted(_PUBLIC.glob("*.cbor")):
        yield file.read_bytes()


def _own_documents() -> Iterator[bytes]:
    yield _SIGNER.document()
    yield _SIGNER.document(nonce=..., public_key=b"x", pcrs=PCRS | {31: bytes(48)})


def _value(data: bytes) -> object:
    return cbor.decode(data, "a value", most=MAX_SIZE, depth=4)


def _message(data: bytes) -> object:
    return CoseSign1.decode(data, tagged=True)


def _document(data: bytes) -> object:
    return NitroDocument.decode(data).facts()


def _verified(data: bytes) -> object:
    return verify_nitro(
        data, nonce=Unsafe.NO_NONCE, user_data=Unsafe.ANY_USER_DATA, now=NOW, trust=_TRUST
    )


def _leaf(data: bytes) -> object:
    bundle = _SIGNER.certificates[:-1]
    return require_chain(bundle, data, roots=_TRUST.roots, times=(NOW,))


TARGETS: Final[dict[str, Target]] = {
    "cbor": Target(_value, _values),
    "cose": Target(_message, _messages),
    "nitro": Target(_document, _documents),
    "nitro-verify": Target(_verified, _own_documents),
    "nitro-leaf": Target(_leaf, lambda: iter(_SIGNER.certificates[-1:])),
}
