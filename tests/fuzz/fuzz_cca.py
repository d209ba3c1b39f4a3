"""CCA tokens, the keys in them, and lists of platforms' keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cbor2
import msgspec

from fuzz.target import Target
from hwtrust.verify.enclaves.cca import Unsafe, verify_cca
from hwtrust.verify.enclaves.cca_keys import CcaTrust
from hwtrust.wire.enclaves.cca import CcaToken, PlatformClaims, RealmClaims
from simulators.cca_signer import CcaSigner

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(__file__).resolve().parents[2]
_PUBLIC: Final = (
    Path(os.environ.get("HWTRUST_VECTORS", _ROOT.parent / "shared" / "vectors")) / "cca"
)
_SIGNERS: Final = (CcaSigner(), CcaSigner(legacy=True))
_TRUST: Final = _SIGNERS[0].trust


def _tokens() -> Iterator[bytes]:
    yield from _own_tokens()
    for file in sorted(_PUBLIC.glob("*.cbor")):
        yield file.read_bytes()


def _own_tokens() -> Iterator[bytes]:
    for signer in _SIGNERS:
        yield signer.token()


def _platforms() -> Iterator[bytes]:
    for signer in _SIGNERS:
        yield cbor2.dumps(signer.platform_claims())


def _realms() -> Iterator[bytes]:
    for signer in _SIGNERS:
        yield cbor2.dumps(signer.realm_claims())


def _endorsements() -> Iterator[bytes]:
    yield msgspec.json.encode([_SIGNERS[0].endorsement])


def _token(data: bytes) -> object:
    return CcaToken.decode(data).facts()


def _realm(data: bytes) -> object:
    return RealmClaims.decode(data).point


def _verified(data: bytes) -> object:
    return verify_cca(data, challenge=Unsafe.NO_CHALLENGE, trust=_TRUST)


TARGETS: Final[dict[str, Target]] = {
    "cca": Target(_token, _tokens),
    "cca-platform": Target(PlatformClaims.decode, _platforms),
    "cca-realm": Target(_realm, _realms),
    "cca-verify": Target(_verified, _own_tokens),
    "cca-endorsements": Target(CcaTrust.read, _endorsements),
}
