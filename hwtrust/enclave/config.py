"""An enclave's configuration: one TOML file, or the same fields in code.

    state_dir = "state"        # relative to this file; sealed state and key store, if any
    trust = "trust.json"       # what ships of the backend: CA and public keys
    release = "release.json"   # the layers as they should be

    [layers]                   # where each layer of the release lies
    app = "/opt/app"

Rules:
1. Unknown keys are refused: a misspelt option is not a default.
2. Trust file and release must be in what the platform measures at launch (the image of
   the enclave), or in a layer: whoever can change `trust` says who the backend is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hwtrust.errors import ConfigError, StateError
from hwtrust.files import read_limited
from hwtrust.wire.messages import Release, TrustAnchor

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

CONFIG_LIMIT: Final = 1024 * 1024


class EnclaveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An enclave's configuration. Paths are absolute once loaded from a file."""

    state_dir: str
    trust: str
    release: str
    layers: dict[str, str]
    register: str = ""
    """Into which layers are measured, where the anchor has registers; by default its last
    (TDX: rtmr3), or its first free one (Nitro: pcr16).
    """
    memory_only: bool = False
    """Keep nothing, even where the anchor can seal: each start is a new device."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a configuration file.

        Raises:
            ConfigError: unreadable, or not a configuration; says where.
        """
        path = Path(path).absolute()
        config = _decode(path, lambda data: msgspec.toml.decode(data, type=cls))
        here = path.parent
        return msgspec.structs.replace(
            config,
            state_dir=str(here / config.state_dir),
            trust=str(here / config.trust),
            release=str(here / config.release),
            layers={name: str(here / place) for name, place in config.layers.items()},
        )

    def read_trust(self) -> TrustAnchor:
        """The trust file.

        Raises:
            ConfigError: there is none, or it is none.
        """
        return _json(Path(self.trust), TrustAnchor)

    def read_release(self) -> Release:
        """The release, each of whose layers has a place.

        Raises:
            ConfigError: a layer of the release has no place in `layers`.
        """
        release = _json(Path(self.release), Release)
        missing = [layer.name for layer in release.layers if layer.name not in self.layers]
        if missing:
            raise ConfigError(f"layers: no path for layer {missing[0]!r} of {release.name}")
        return release


def metadata_key(trust: TrustAnchor) -> ec.EllipticCurvePublicKey:
    """The key by which roots and times are believed.

    Raises:
        ConfigError: the trust file holds something else.
    """
    try:
        key = load_pem_public_key(trust.metadata_key.encode())
    except ValueError as error:
        raise ConfigError("the trust file's metadata_key is not a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("the trust file's metadata_key is not a P-256 key")
    return key


def _json(path: Path, kind: type[T]) -> T:
    return _decode(path, lambda data: msgspec.json.decode(data, type=kind))


def _decode(path: Path, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(read_limited(path, limit=CONFIG_LIMIT))
    except StateError as error:
        raise ConfigError(error.message, path=str(path)) from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error
