"""A release as its vendor hands it in: a directory with the paths of its targets.

BUNDLE/releases/NAME.json       the manifest
BUNDLE/layers/LAYER/VERSION…    the layers' files
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtrust.errors import ManifestError, RepositoryBundleError
from hwtrust.wire.release import (
    MANIFEST_LIMIT,
    LayerKind,
    ReleaseManifest,
    decode_manifest,
    release_target,
)
from hwtrust_backend.repository.blobs import Blob, Blobs, plain_file

LONGEST_NAME: Final = 180
"""Of a file of a layer: with its hash, and while it is written, every file system takes it."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A release with its files: `targets` has each target's content by its path."""

    manifest: ReleaseManifest
    content: bytes
    targets: dict[str, Blob]


def take_bundle(directory: Path, blobs: Blobs) -> Bundle:
    """Read a bundle, and copy its files into the repository's directory.

    Nothing is published by that. Of a layer that is a tree only a device can tell
    whether it unpacks to what the manifest says.

    Raises:
        RepositoryBundleError: not one manifest, a file is missing, or a layer that is a
            file is not what the manifest says.
        ConfigError: a copy cannot be written.
    """
    content, manifest = _manifest(directory)
    for layer in manifest.layers:
        if max(map(len, layer.target.split("/"))) > LONGEST_NAME:
            message = f"the version of layer {layer.name} is longer than {LONGEST_NAME} characters"
            raise RepositoryBundleError(f"{message}, as a file's name")
    target = release_target(manifest.name)
    targets = {target: blobs.add(directory, target)}
    if targets[target].sha256 != hashlib.sha256(content).hexdigest():
        raise RepositoryBundleError(f"{directory / target} changes while it is read")
    for layer in manifest.layers:
        blob = targets[layer.target] = blobs.add(directory, layer.target)
        if layer.kind is LayerKind.FILE and blob.sha256 != layer.digest.hex():
            message = f"the layer {layer.name} is not the file that the manifest names"
            raise RepositoryBundleError(message)
    return Bundle(manifest, content, targets)


def _manifest(directory: Path) -> tuple[bytes, ReleaseManifest]:
    found = sorted((directory / "releases").glob("*.json"))
    if len(found) != 1:
        message = f"{directory} has {len(found)} manifests in releases/, and a bundle has one"
        raise RepositoryBundleError(message, path=str(directory))
    with plain_file(directory, f"releases/{found[0].name}") as file:
        content = file.read(MANIFEST_LIMIT + 1)
    try:
        manifest = decode_manifest(content)
    except ManifestError as error:
        raise RepositoryBundleError(f"{found[0]}: {error.message}") from error
    if found[0] != directory / release_target(manifest.name):
        raise RepositoryBundleError(f"{found[0]} is the manifest of release {manifest.name!r}")
    return content, manifest
