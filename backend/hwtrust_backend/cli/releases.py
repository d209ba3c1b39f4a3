"""`release`: what devices may run, and what they find in the repository."""

from __future__ import annotations

from pathlib import Path

import click

from hwtrust_backend import references
from hwtrust_backend.admin import local_administrator, releases
from hwtrust_backend.cli.output import say_fields, say_json, say_state, say_table
from hwtrust_backend.cli.shared import (
    Place,
    as_json,
    file_argument,
    passphrase_file,
    placed,
    read_file,
)
from hwtrust_backend.cli.signing import key_options, online_of, signing_of
from hwtrust_backend.config import system_clock, utc_text, write_file
from hwtrust_backend.repository import Blobs

RELEASE_LIMIT = 8 * 1024 * 1024


_EPILOG = """\
\b
A release's life:
  hwtrust-backend release create ./bundle --manifest release.toml
  hwtrust-backend release publish ./bundle --key targets.pem   sign that it is there
  hwtrust-backend release accept 1.0                           devices may run it
  hwtrust-backend release retire 1.0                           they may not any more
  hwtrust-backend release revoke 1.0 --key targets.pem         nor find it

Devices that get their files by another way need no repository: `release add`.
"""


@click.group(epilog=_EPILOG)
def release() -> None:
    """Say which releases devices may run, and give them to devices."""


@release.command("add", epilog="Example: hwtrust-backend release add release.json --accept")
@file_argument
@click.option("--accept", is_flag=True, help="Accept it at once.")
@as_json
@placed
def release_add(place: Place, *, file: Path, accept: bool, as_json: bool) -> None:
    """Add a release from a JSON file; devices may run it once it is accepted."""
    content = references.decode_release(read_file(file, limit=RELEASE_LIMIT))
    by, now = local_administrator(), system_clock()
    with place.session() as (session, _):
        stored = releases.add_release(session, content, by=by, now=now)
        if accept:
            stored = releases.accept_release(session, stored.name, by=by, now=now)
    say_state("release", stored.name, stored.state, as_json=as_json)


@release.command("accept", epilog="Example: hwtrust-backend release accept 1.0")
@click.argument("name")
@as_json
@placed
def release_accept(place: Place, *, name: str, as_json: bool) -> None:
    """Let devices run a release; the one accepted last is the current one."""
    with place.session() as (session, _):
        stored = releases.accept_release(
            session, name, by=local_administrator(), now=system_clock()
        )
    say_state("release", name, stored.state, as_json=as_json)


@release.command("retire", epilog="Example: hwtrust-backend release retire 0.9")
@click.argument("name")
@as_json
@placed
def release_retire(place: Place, *, name: str, as_json: bool) -> None:
    """Refuse a release from now on: devices that run it fail."""
    with place.session() as (session, _):
        stored = releases.retire_release(
            session, name, by=local_administrator(), now=system_clock()
        )
    say_state("release", name, stored.state, as_json=as_json)


@release.command("list", epilog="Example: hwtrust-backend release list")
@as_json
@placed
def release_list(place: Place, *, as_json: bool) -> None:
    """List the releases."""
    with place.reading() as (session, _):
        rows = releases.releases(session, by=local_administrator())
    if as_json:
        say_json(rows)
        return
    say_table(
        ("RELEASE", "STATE", "PUBLISHED", "CURRENT", "ADDED", "LAYERS"),
        [
            (
                row.name,
                row.state,
                "yes" if row.published else "",
                "yes" if row.current else "",
                utc_text(row.added_at),
                " ".join(row.layers),
            )
            for row in rows
        ],
    )


@release.command("show", epilog="Example: hwtrust-backend release show 1.0")
@click.argument("name")
@as_json
@placed
def release_show(place: Place, *, name: str, as_json: bool) -> None:
    """Show a release: its layers in load order, and what their vendor says of them."""
    with place.reading() as (session, _):
        shown = releases.release_detail(session, name, by=local_administrator())
    if as_json:
        say_json(shown)
        return
    report = shown.release
    times = {
        "added": report.added_at,
        "accepted": report.accepted_at,
        "retired": report.retired_at,
        "published": shown.published_at,
        "revoked": shown.revoked_at,
    }
    say_fields(
        [
            ("release", report.name),
            ("state", report.state + (", current" if report.current else "")),
            *((word, utc_text(at)) for word, at in times.items() if at is not None),
        ]
    )
    click.echo()
    say_table(
        ("LAYER", "VERSION", "KIND", "CHANGES", "SHA-256", "NOTE"),
        [
            (layer.name, layer.version, layer.kind, layer.frequency, layer.digest, layer.note)
            for layer in shown.layers
        ],
    )


@release.command(
    "create", epilog="Example: hwtrust-backend release create ./bundle --manifest release.toml"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--manifest",
    "plan",
    type=click.Path(path_type=Path, dir_okay=False),
    default="release.toml",
    show_default=True,
    help="The release's name and layers; paths in it are relative to it.",
)
@as_json
@placed
def release_create(_: Place, *, bundle: Path, plan: Path, as_json: bool) -> None:
    """Make the directory BUNDLE of a release, from its layers and a manifest in TOML.

    No backend is needed for that: `hwtrust release create` does the same on the
    vendor's machines, and its help shows what a manifest has.
    """
    from hwtrust.updates.bundle import make_bundle  # noqa: PLC0415 - measures and packs

    manifest = make_bundle(bundle, plan)
    if as_json:
        say_json({"release": manifest.name, "bundle": str(bundle), "layers": manifest.layers})
        return
    say_table(
        ("LAYER", "VERSION", "KIND", "CHANGES", "SHA-256"),
        [
            (layer.name, layer.version, layer.kind.value, layer.frequency, layer.digest.hex())
            for layer in manifest.layers
        ],
    )
    click.echo(f"next: hwtrust-backend release publish {bundle} --key KEY", err=True)


@release.command(
    "publish", epilog="Example: hwtrust-backend release publish ./bundle --key targets.pem --accept"
)
@click.argument("bundle", type=click.Path(path_type=Path, file_okay=False))
@key_options
@click.option("--accept", is_flag=True, help="Let devices run it at once.")
@passphrase_file
@as_json
@placed
def release_publish(
    place: Place,
    *,
    bundle: Path,
    key: tuple[Path, ...],
    signed: Path | None,
    key_passphrase_file: Path | None,
    accept: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Publish the release in BUNDLE, which `release create` makes.

    The list of releases is signed with the targets key: by --key here, or elsewhere
    (release propose, repository sign) and given by --signed.
    """
    from hwtrust_backend.admin import repository  # noqa: PLC0415 - loads the TUF library
    from hwtrust_backend.repository.bundle import take_bundle  # noqa: PLC0415

    signing = signing_of(key, signed, key_passphrase_file)
    with place.backend(passphrase_file) as backend:
        blobs = Blobs(backend.settings.targets)
        taken = take_bundle(bundle, blobs)
        with backend.database.transaction() as session:
            report = repository.publish_release(
                session,
                taken,
                blobs=blobs,
                online=online_of(backend),
                signing=signing,
                accept=accept,
                by=local_administrator(),
                now=system_clock(),
            )
    _say_release(report.name, report.state, as_json=as_json, published=report.published)


@release.command("revoke", epilog="Example: hwtrust-backend release revoke 1.0 --key targets.pem")
@click.argument("name")
@key_options
@passphrase_file
@as_json
@placed
def release_revoke(
    place: Place,
    *,
    name: str,
    key: tuple[Path, ...],
    signed: Path | None,
    key_passphrase_file: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Take a release out of the repository, and refuse devices that run it."""
    from hwtrust_backend.admin import repository  # noqa: PLC0415 - loads the TUF library

    signing = signing_of(key, signed, key_passphrase_file)
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        report = repository.revoke_release(
            session,
            name,
            online=online_of(backend),
            signing=signing,
            by=local_administrator(),
            now=system_clock(),
        )
    _say_release(report.name, report.state, as_json=as_json, published=report.published)


@release.command(
    "propose", epilog="Example: hwtrust-backend release propose targets.json --bundle ./bundle"
)
@file_argument
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False),
    help="A release to be published.",
)
@click.option("--revoke", "name", help="The name of a release to be revoked.")
@passphrase_file
@as_json
@placed
def release_propose(
    place: Place,
    *,
    file: Path,
    bundle: Path | None,
    name: str | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write the next list of releases to FILE, to be signed where the targets key is.

    It counts until somebody else publishes.
    """
    from hwtrust_backend.repository import publishing  # noqa: PLC0415 - loads the TUF library
    from hwtrust_backend.repository.bundle import take_bundle  # noqa: PLC0415

    if (bundle is None) == (name is None):
        raise click.UsageError("give either --bundle or --revoke")
    with place.backend(passphrase_file) as backend, backend.database.reading() as session:
        online, now = online_of(backend), system_clock()
        if bundle is not None:
            taken = take_bundle(bundle, Blobs(backend.settings.targets))
            content = publishing.propose_publication(session, taken, online=online, now=now)
        else:
            content = publishing.propose_revocation(session, name or "", online=online, now=now)
    write_file(file, content, mode=0o644, replace=True)
    if as_json:
        say_json({"file": str(file)})
        return
    click.echo(f"{file}: to be signed")
    click.echo(f"next: hwtrust-backend repository sign {file} --key KEY", err=True)


def _say_release(name: str, state: str, *, as_json: bool, published: bool) -> None:
    if as_json:
        say_json({"release": name, "state": state, "published": published})
        return
    click.echo(f"{name}: {state}, {'published' if published else 'not published'}")
    if published and state != "accepted":
        click.echo(f"next: hwtrust-backend release accept {name}, to let devices run it", err=True)
