"""`hwtrust measure`: the reference values of a release, from its files. No TPM needed."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hwtrust.layers import reference
from hwtrust.wire.messages import Release


@click.command()
@click.argument("layers", nargs=-1, required=True, metavar="NAME[@VERSION]=PATH…")
@click.option("--release", "name", required=True, help="The release's name.")
def measure(*, layers: tuple[str, ...], name: str) -> None:
    """Print the reference values of layers, in load order, as a release.

    A path is a file or a directory. The output is what
    `hwtrust-backend release add` and `hwtrust init --release` take.

    \b
    Example:
      hwtrust measure --release 2026.11 kernel@6.1=/opt/app/kernel www=/opt/app/www
    """
    references = []
    for layer in layers:
        title, separator, place = layer.partition("=")
        if not separator or not title or not place:
            raise click.BadParameter(f"{layer!r} is not NAME[@VERSION]=PATH")
        title, _, version = title.partition("@")
        references.append(reference(title, version or name, Path(place)))
    release = Release(name=name, layers=tuple(references))
    click.echo(msgspec.json.format(msgspec.json.encode(release), indent=2).decode())
