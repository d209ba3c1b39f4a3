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
    """Print the reference values of layers, as a release.

    Give the layers in load order; a path is a file or a directory. The output is
    what `hwtrust-backend release add` and `hwtrust init --release` take. No TPM
    is needed.

    \b
    Example:
      hwtrust measure --release 2026.11 kernel@6.1=/opt/app/kernel www=/opt/app/www
    """
    places: dict[str, tuple[str, Path]] = {}
    for layer in layers:
        label, separator, place = layer.partition("=")
        title, _, version = label.partition("@")
        if not separator or not title or not place:
            raise click.BadParameter(f"{layer!r} is not NAME[@VERSION]=PATH")
        if title in places:
            raise click.BadParameter(f"the layer {title!r} is given twice")
        places[title] = (version or name, Path(place))
    references = [reference(title, *found) for title, found in places.items()]
    click.echo(_document(Release(name=name, layers=tuple(references))))


def _document(release: Release) -> str:
    try:
        document = msgspec.json.encode(release)
        msgspec.json.decode(document, type=Release)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise click.UsageError(f"this is no release: {error}") from error
    return msgspec.json.format(document, indent=2).decode()
