"""A release as the vendor publishes it: a signed target that names the layers' targets.

    releases/<name>.json          a ReleaseManifest
    layers/<name>/<version>       a layer that is a file
    layers/<name>/<version>.tar   a layer that is a tree, packed

Rules:
1. Who published a manifest is for TUF to say; this module says whether it is one.
2. Names of releases and layers, and versions, become names of files and parts of
   URLs. So they are plain words: letters, digits and `._+~-`, none of `._+~-` first.
3. No two layers have one name or one target, and none may take the place of the
   release's own file.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import ManifestError
from hwtrust.wire.messages import Digest, Label, LayerReference, Release

MANIFEST_LIMIT: Final = 256 * 1024
"""How many bytes a manifest may have."""
RELEASE_FILE: Final = "release.json"
"""The name beside the layers that none of them may have."""

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")
_TARGET: Final = re.compile(rf"layers(/{_WORD.pattern})+")
_TAR: Final = ".tar"


class LayerKind(StrEnum):
    """What a layer is on a device."""

    FILE = "file"
    TREE = "tree"


class LayerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer of a release, and the TUF target to make it from.

    `digest` is what `hwtrust.layers` measures; of a tree it is not the digest of
    the target. `note` says how the layer resists tampering, `frequency` how often
    it is expected to change; both are for people.

    Raises:
        ManifestError: the name, version or target is not what rule 2 allows.
    """

    name: Label
    version: Label
    digest: Digest
    kind: LayerKind
    target: Annotated[str, Meta(min_length=1, max_length=600)]
    note: Annotated[str, Meta(max_length=200)] = ""
    frequency: Label

    def __post_init__(self) -> None:
        _require_word("a layer's name", self.name)
        _require_word("a layer's version", self.version)
        if self.name == RELEASE_FILE:
            raise ManifestError(f"no layer may be named {RELEASE_FILE}", layer=self.name)
        if not _TARGET.fullmatch(self.target):
            message = f"{self.target!r} is not a target path below layers/"
            raise ManifestError(message, layer=self.name)
        if self.kind is LayerKind.TREE and not self.target.endswith(_TAR):
            message = f"the target of tree {self.name} does not end in {_TAR}"
            raise ManifestError(message, layer=self.name)

    def reference(self) -> LayerReference:
        """The layer as it should be measured."""
        return LayerReference(name=self.name, version=self.version, digest=self.digest)


class ReleaseManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The layers of a release in load order; `created_at` in UTC milliseconds.

    Raises:
        ManifestError: the name is not a word, or two layers share a name or target.
    """

    name: Label
    created_at: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    layers: Annotated[tuple[LayerEntry, ...], Meta(min_length=1, max_length=64)]

    def __post_init__(self) -> None:
        _require_word("a release's name", self.name)
        for shared in ("name", "target"):
            values = [getattr(layer, shared) for layer in self.layers]
            if len(set(values)) != len(values):
                message = f"two layers of release {self.name} have one {shared}"
                raise ManifestError(message, release=self.name)

    def release(self) -> Release:
        """The release as a device is appraised against it."""
        references = tuple(layer.reference() for layer in self.layers)
        return Release(name=self.name, layers=references)


def release_target(name: str) -> str:
    """The target path of the manifest of release `name`.

    Raises:
        ManifestError: no release can have that name.
    """
    _require_word("a release's name", name)
    return f"releases/{name}.json"


def released(target: str) -> str | None:
    """The name of the release whose manifest has the target path `target`, or None."""
    name = target.removeprefix("releases/").removesuffix(".json")
    if _WORD.fullmatch(name) and target == release_target(name):
        return name
    return None


def layer_target(name: str, version: str, kind: LayerKind) -> str:
    """The target path of a layer.

    Raises:
        ManifestError: no layer can have that name or version.
    """
    _require_word("a layer's name", name)
    _require_word("a layer's version", version)
    return f"layers/{name}/{version}{_TAR if kind is LayerKind.TREE else ''}"


def encode_manifest(manifest: ReleaseManifest) -> bytes:
    """`manifest` as it is published.

    Raises:
        ManifestError: a device would not read it.
    """
    data = msgspec.json.encode(manifest)
    decode_manifest(data)
    return data


def decode_manifest(data: bytes) -> ReleaseManifest:
    """Read a manifest.

    Raises:
        ManifestError: it is not one.
    """
    if len(data) > MANIFEST_LIMIT:
        raise ManifestError("a release manifest is too long", size=len(data), limit=MANIFEST_LIMIT)
    try:
        return msgspec.json.decode(data, type=ReleaseManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ManifestError(f"not a release manifest: {error}") from error


def _require_word(what: str, value: str) -> None:
    if not _WORD.fullmatch(value):
        raise ManifestError(f"{what} cannot be {value!r}")
