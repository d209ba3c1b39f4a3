"""`hwtrust release`: a release as its vendor hands it to the backend. No TPM needed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Annotated, Final

import click
import msgspec
from msgspec import Meta

from hwtrust.cli.output import echo_json, echo_table, json_option
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

_EPOCH: Final = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 that a build is said to be made at (reproducible-builds.org)."""
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


@click.group()
def release() -> None:
    """Make releases for hwtrust-backend to publish."""


@release.command()
@click.argument("bundle", type=click.Path(path_type=Path), metavar="PATH")
@click.option(
    "--manifest",
    "plan",
    type=click.Path(path_type=Path, dir_okay=False),
    default="release.toml",
    show_default=True,
    help="The release's name and layers; paths in it are relative to it.",
)
@json_option
def create(*, bundle: Path, plan: Path, as_json: bool) -> None:
    """Make a bundle, the directory PATH: the layers' files, and the manifest that names them.

    A file is copied, a directory packed. The same layers give the same bundle, and
    with $SOURCE_DATE_EPOCH to the last byte. `hwtrust-backend release publish` takes it.

    \b
    release.toml:
      name = "2026.11"
      [[layer]]                       # in load order
      name = "kernel"
      path = "build/kernel"
      version = "6.1"
      frequency = "monthly"           # how often it changes
      note = "signed, read-only"      # how it resists tampering

    \b
    Example:
      hwtrust release create ./bundle --manifest release.toml
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
    if as_json:
        echo_json({"release": manifest.name, "bundle": str(bundle), "layers": manifest.layers})
        return
    echo_table([(layer.name, layer.version, layer.digest.hex()) for layer in manifest.layers])
    click.echo(f"next: hwtrust-backend release publish {bundle} --key KEY", err=True)


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
        return msgspec.convert(tomllib.loads(content.decode()), _Plan)
    except OSError as error:
        raise ConfigError(f"{plan} cannot be read: {error.strerror}", path=str(plan)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{plan} is no TOML: {error}", path=str(plan)) from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{plan}: {error}", path=str(plan)) from error


def _made_at() -> int:
    given = os.environ.get(_EPOCH)
    if given is None:
        return time.time_ns() // 1_000_000
    if not (given.isascii() and given.isdigit()):
        raise ConfigError(f"{_EPOCH} is a number of seconds, not {given!r}")
    return int(given[:18]) * 1000
