"""A release as its vendor hands it in: made from a plan, without a TPM and without any key.

    release.toml ──▶ BUNDLE/releases/NAME.json      the manifest
                     BUNDLE/layers/LAYER/VERSION…   a file as it is, a tree packed

Rules:
1. The digest of a layer is what a device measures, by the same code.
2. The same layers give the same bundle, to the last byte where $SOURCE_DATE_EPOCH
   is set (reproducible-builds.org).
3. A bundle is there whole or not at all; a layer that changes meanwhile is refused.
4. How often a layer changes is said in one of a few words, so that a slip of the pen
   is found here. Devices read any word: a later version may know more of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import ConfigError, LayerUnreadableError
from hwtrust.files import state_error
from hwtrust.layers import measure
from hwtrust.updates.archive import pack
from hwtrust.wire.release import (
    LayerEntry,
    LayerKind,
    ReleaseManifest,
    encode_manifest,
    layer_target,
    release_target,
)

FREQUENCIES: Final = ("daily", "weekly", "monthly", "quarterly", "yearly", "rarely")
"""How often a layer is expected to change."""

_EPOCH: Final = "SOURCE_DATE_EPOCH"
_LIMIT: Final = 256 * 1024


class _Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    path: str
    version: str
    frequency: str
    note: str = ""


class _Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    layer: Annotated[tuple[_Layer, ...], Meta(min_length=1, max_length=64)]


def make_bundle(bundle: Path, plan: Path) -> ReleaseManifest:
    """Make the directory `bundle` as the file `plan` says; paths in it are relative to it.

    Raises:
        ConfigError: the bundle is there already, or the plan cannot be read or followed.
        ManifestError: a name or version in it is none, or two layers have one.
        LayerUnreadableError: a layer is missing or unreadable, or changes meanwhile.
        ArchiveError: a layer holds what no device unpacks.
        StateError: the disk is full, read-only or failing.
    """
    found = _read(plan)
    if os.path.lexists(bundle):
        raise ConfigError(f"{bundle} is there already", path=str(bundle))
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{bundle.name}.", dir=bundle.absolute().parent
        ) as temporary:
            made = Path(temporary) / "bundle"
            manifest = ReleaseManifest(
                name=found.name,
                created_at=_made_at(),
                layers=tuple(_take(layer, plan.parent, made) for layer in found.layer),
            )
            path = made / release_target(manifest.name)
            path.parent.mkdir(parents=True)
            path.write_bytes(encode_manifest(manifest))
            made.rename(bundle)
    except OSError as error:
        raise state_error(error, bundle) from error
    return manifest


def _take(layer: _Layer, base: Path, bundle: Path) -> LayerEntry:
    """Put a layer into the bundle, and describe it."""
    source = base / layer.path
    kind = LayerKind.TREE if source.is_dir() else LayerKind.FILE
    digest = measure(source)
    entry = LayerEntry(
        name=layer.name,
        version=layer.version,
        digest=digest,
        kind=kind,
        target=layer_target(layer.name, layer.version, kind),
        note=layer.note,
        frequency=layer.frequency,
    )
    target = bundle / entry.target
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind is LayerKind.TREE:
        with target.open("xb") as file:
            pack(source, file)
        taken = measure(source)
    else:
        shutil.copyfile(source, target)
        taken = measure(target)
    if taken != digest:
        raise LayerUnreadableError(f"{source} changes while it is read", path=str(source))
    return entry


def _read(plan: Path) -> _Plan:
    try:
        with plan.open("rb") as file:
            content = file.read(_LIMIT + 1)
        if len(content) > _LIMIT:
            raise ConfigError(f"{plan} is longer than {_LIMIT} bytes", path=str(plan))
        found = msgspec.convert(tomllib.loads(content.decode()), _Plan)
    except OSError as error:
        raise ConfigError(f"{plan} cannot be read: {error.strerror}", path=str(plan)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{plan} is no TOML: {error}", path=str(plan)) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{plan}: {error}", path=str(plan)) from error
    for layer in found.layer:
        if layer.frequency not in FREQUENCIES:
            message = f"{plan}: the frequency of layer {layer.name!r} is {layer.frequency!r}"
            raise ConfigError(f"{message}, and may be {', '.join(FREQUENCIES)}", path=str(plan))
    return found


def _made_at() -> int:
    given = os.environ.get(_EPOCH)
    if given is None:
        return time.time_ns() // 1_000_000
    if not (given.isascii() and given.isdigit()):
        raise ConfigError(f"{_EPOCH} is a number of seconds, not {given!r}")
    return int(given[:18]) * 1000
