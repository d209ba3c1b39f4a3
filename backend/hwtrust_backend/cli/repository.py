"""`repository`: the ceremony of the keys that releases are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hwtrust.errors import ConfigError
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.app.setup import write_trust
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import (
    Place,
    as_json,
    as_span,
    file_argument,
    passphrase_file,
    placed,
    read_file,
)
from hwtrust_backend.cli.signing import PROPOSAL_LIMIT, key_file, online_of, signers_of
from hwtrust_backend.config import spell_span, system_clock, utc_text, write_file
from hwtrust_backend.repository import Blobs, role_reports

if TYPE_CHECKING:
    from hwtrust_backend.repository.roots import RootChange

_PUBLIC = click.Path(path_type=Path, dir_okay=False)
_root_keys = click.option(
    "--root-key",
    multiple=True,
    type=_PUBLIC,
    help="A public key that signs roots, PEM; all of them are given.",
)
_targets_keys = click.option(
    "--targets-key",
    multiple=True,
    type=_PUBLIC,
    help="A public key that signs releases, PEM; all of them are given.",
)
_threshold = click.option(
    "--threshold", type=click.IntRange(min=1), help="How many root keys have to sign."
)
_targets_threshold = click.option(
    "--targets-threshold", type=click.IntRange(min=1), help="How many targets keys have to sign."
)
_expires = click.option(
    "--expires",
    callback=as_span,
    default="365d",
    show_default=True,
    metavar="SPAN",
    help="How long the root is good.",
)
_grace = click.option(
    "--grace",
    callback=as_span,
    default="7d",
    show_default=True,
    metavar="SPAN",
    help="What was needed so lately stays, for devices that are at it.",
)
_output = click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="root.json",
    show_default=True,
    help="The file to write.",
)


_EPILOG = """\
\b
The first root, signed by enough of the holders of its keys:
  hwtrust-backend repository init --root-key a.pub --root-key b.pub \\
      --threshold 2 --targets-key targets.pub --output root-1.json
  hwtrust-backend repository sign root-1.json --key a.pem
  hwtrust-backend repository sign root-1.json --key b.pem
  hwtrust-backend repository root publish root-1.json
"""


@click.group(epilog=_EPILOG)
def repository() -> None:
    """Say who signs releases, and keep what devices believe them by."""


@repository.command(
    "init",
    epilog="Example: hwtrust-backend repository init --root-key a.pub --root-key b.pub "
    "--root-key c.pub --threshold 2 --targets-key targets.pub",
)
@_root_keys
@_threshold
@_targets_keys
@_targets_threshold
@_expires
@_output
@passphrase_file
@as_json
@placed
def repository_init(
    place: Place,
    *,
    root_key: tuple[Path, ...],
    threshold: int | None,
    targets_key: tuple[Path, ...],
    targets_threshold: int | None,
    expires: int,
    output: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write the first root, for the holders of the root keys to sign.

    Nothing is in force until it is published.
    """
    if not root_key or not targets_key or threshold is None:
        raise click.UsageError("give --root-key, --threshold and --targets-key")
    change = _change(root_key, threshold, targets_key, targets_threshold, new_online_key=False)
    _propose(place, change, first=True, expires=expires, output=output, passphrase=passphrase_file)
    _say_proposal(output, as_json=as_json)


@repository.command("sign", epilog="Example: hwtrust-backend repository sign root.json --key a.pem")
@file_argument
@key_file
@as_json
@placed
def repository_sign(
    _: Place,
    *,
    file: Path,
    key: tuple[Path, ...],
    key_passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Add a signature to a proposal in FILE. No backend is needed on this machine.

    What is signed is shown: compare it with what was agreed upon.
    """
    from hwtrust_backend.repository.offline import sign_proposal  # noqa: PLC0415 - loads TUF

    if not key:
        raise click.UsageError("give --key")
    signers = signers_of(key, key_passphrase_file)
    content, told = sign_proposal(read_file(file, limit=PROPOSAL_LIMIT), signers)
    write_file(file, content, mode=0o644, replace=True)
    if as_json:
        say_json(told)
        return
    say_fields(
        [
            ("role", told.role),
            ("version", str(told.version)),
            ("expires", utc_text(told.expires_at)),
            *((f"{name} keys", keys) for name, keys in told.keys.items()),
            *(("target", target) for target in told.targets),
            *(("signed by", keyid) for keyid in told.signed_by),
        ]
    )
    for keyid in told.strangers:
        message = f"note: {keyid} is none of this root's root keys"
        click.echo(f"{message}; it counts only if the root before has it", err=True)


@repository.command("key", epilog="Example: hwtrust-backend repository key a.pub b.pub")
@click.argument("files", nargs=-1, required=True, type=_PUBLIC)
@as_json
@placed
def repository_key(_: Place, *, files: tuple[Path, ...], as_json: bool) -> None:
    """Show the ids that roots and signatures give to public keys. No backend is needed."""
    from hwtrust_backend.repository.signers import load_public  # noqa: PLC0415 - loads TUF

    found = {str(path): load_public(path).keyid for path in files}
    if as_json:
        say_json(found)
        return
    for name, keyid in found.items():
        click.echo(f"{keyid}  {name}")


@repository.command("export", epilog="Example: hwtrust-backend repository export /srv/www/releases")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@_grace
@as_json
@placed
def repository_export(place: Place, *, directory: Path, grace: int, as_json: bool) -> None:
    """Write what is published into DIRECTORY, for a static host to serve.

    It is this command's alone. Again, it writes what has changed: often enough that the
    timestamp, which the backend signs anew while it runs, does not expire there.
    """
    from hwtrust_backend.repository.exporting import export, published_state  # noqa: PLC0415

    now = system_clock()
    with place.reading() as (session, settings):
        state = published_state(session, grace_ms=grace, now=now)
        blobs = Blobs(settings.targets)
    done = export(state, blobs, directory)
    if as_json:
        say_json(done)
        return
    click.echo(f"{directory}: {done.written} files written, {done.removed} removed")
    if done.expires_at <= now:
        click.echo("note: the timestamp is expired; does the backend run?", err=True)
    else:
        click.echo(f"next: export again before {utc_text(done.expires_at)}", err=True)


@repository.command("prune", epilog="Example: hwtrust-backend repository prune --dry-run")
@_grace
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@as_json
@placed
def repository_prune(place: Place, *, grace: int, dry_run: bool, as_json: bool) -> None:
    """Remove the files of releases that no published release needs any more."""
    from hwtrust_backend.admin.repository import prune_files  # noqa: PLC0415 - loads TUF

    with place.session() as (session, settings):
        pruned = prune_files(
            session,
            Blobs(settings.targets),
            grace_ms=grace,
            dry_run=dry_run,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json(pruned)
        return
    for name in pruned.files:
        click.echo(name)
    done = "would be removed" if dry_run else "removed"
    click.echo(f"{len(pruned.files)} files of {pruned.size} bytes {done}", err=True)


@repository.command("status", epilog="Example: hwtrust-backend repository status")
@as_json
@placed
def repository_status(place: Place, *, as_json: bool) -> None:
    """Show what is in force of each role, and for how long."""
    now = system_clock()
    with place.reading() as (session, _):
        rows = role_reports(session)
    if as_json:
        say_json(rows)
        return
    say_table(
        ("ROLE", "VERSION", "SIGNED", "EXPIRES", "LEFT"),
        [
            (
                row.role,
                str(row.version),
                utc_text(row.made_at),
                utc_text(row.expires_at),
                spell_span(row.expires_at - now) if row.expires_at > now else "expired",
            )
            for row in rows
        ],
    )


@repository.group(
    "root", epilog="Example: hwtrust-backend repository root propose --new-online-key"
)
def root() -> None:
    """Change who signs."""


@root.command(
    "propose", epilog="Example: hwtrust-backend repository root propose --targets-key new.pub"
)
@_root_keys
@_threshold
@_targets_keys
@_targets_threshold
@click.option("--new-online-key", is_flag=True, help="Replace the key of snapshot and timestamp.")
@_expires
@_output
@passphrase_file
@as_json
@placed
def root_propose(
    place: Place,
    *,
    root_key: tuple[Path, ...],
    threshold: int | None,
    targets_key: tuple[Path, ...],
    targets_threshold: int | None,
    new_online_key: bool,
    expires: int,
    output: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Write the next root, for holders of old and of new root keys to sign.

    What is not said stays as it is: without options the root is only good for longer.
    """
    change = _change(
        root_key, threshold, targets_key, targets_threshold, new_online_key=new_online_key
    )
    _propose(place, change, first=False, expires=expires, output=output, passphrase=passphrase_file)
    _say_proposal(output, as_json=as_json)


@root.command("publish", epilog="Example: hwtrust-backend repository root publish root.json")
@file_argument
@key_file
@passphrase_file
@as_json
@placed
def root_publish(
    place: Place,
    *,
    file: Path,
    key: tuple[Path, ...],
    key_passphrase_file: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Put a signed root into force, and write it into trust.json.

    Where it names other targets keys, --key gives them: what is published is signed
    anew. The same file again changes nothing but trust.json.
    """
    from hwtrust_backend.admin.repository import publish_root  # noqa: PLC0415 - loads TUF

    signers = signers_of(key, key_passphrase_file)
    content = read_file(file, limit=PROPOSAL_LIMIT)
    with place.backend(passphrase_file) as backend:
        with backend.database.transaction() as session:
            row = publish_root(
                session,
                content,
                online=online_of(backend),
                signers=signers,
                by=local_administrator(),
                now=system_clock(),
            )
        trust = write_trust(backend.settings, backend.vault, backend.database, replace=True)
    if as_json:
        say_json({"version": row.version, "expires_at": row.expires_at, "trust": str(trust)})
        return
    click.echo(f"root {row.version}: in force until {utc_text(row.expires_at)}")
    click.echo(f"next: give {trust} to new devices; the others find the root", err=True)


def _change(
    root_key: tuple[Path, ...],
    threshold: int | None,
    targets_key: tuple[Path, ...],
    targets_threshold: int | None,
    *,
    new_online_key: bool,
) -> RootChange:
    from hwtrust_backend.repository.roots import RootChange  # noqa: PLC0415 - loads TUF
    from hwtrust_backend.repository.signers import load_public  # noqa: PLC0415

    return RootChange(
        root_keys=[load_public(path) for path in root_key],
        threshold=threshold,
        targets_keys=[load_public(path) for path in targets_key],
        targets_threshold=targets_threshold,
        new_online_key=new_online_key,
    )


def _propose(
    place: Place,
    change: RootChange,
    *,
    first: bool,
    expires: int,
    output: Path,
    passphrase: Path | None,
) -> None:
    from hwtrust_backend.repository.roots import propose_root  # noqa: PLC0415 - loads TUF

    with place.backend(passphrase) as backend, backend.database.transaction() as session:
        if first == bool(role_reports(session)):
            other = "repository root propose" if first else "repository init"
            message = f"there is {'a' if first else 'no'} root; see hwtrust-backend {other}"
            raise ConfigError(message)
        content = propose_root(
            session,
            change,
            online=online_of(backend),
            lifetime_ms=expires,
            now=system_clock(),
        )
    write_file(output, content, mode=0o644, replace=False)


def _say_proposal(output: Path, *, as_json: bool) -> None:
    if as_json:
        say_json({"file": str(output)})
        return
    click.echo(f"{output}: to be signed")
    click.echo(f"next: hwtrust-backend repository sign {output} --key KEY", err=True)
