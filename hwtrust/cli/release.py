"""`hwtrust release`: a release as its vendor hands it to the backend. No TPM needed."""

from __future__ import annotations

from pathlib import Path

import click

from hwtrust.cli.output import echo_json, echo_table, json_option
from hwtrust.updates.bundle import make_bundle


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
      frequency = "monthly"           # how often it changes: daily, weekly, monthly,
                                      #   quarterly, yearly, rarely
      note = "signed, read-only"      # how it resists tampering

    \b
    Example:
      hwtrust release create ./bundle --manifest release.toml
    """
    manifest = make_bundle(bundle, plan)
    if as_json:
        echo_json({"release": manifest.name, "bundle": str(bundle), "layers": manifest.layers})
        return
    echo_table([(layer.name, layer.version, layer.digest.hex()) for layer in manifest.layers])
    click.echo(f"next: hwtrust-backend release publish {bundle} --key KEY", err=True)
