"""`audit`: reading, proving, exporting and checking the audit trail."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy.orm import Session

from hwtrust.errors import AuditHeadMissingError, ConfigError, DeviceUnknownError
from hwtrust_backend import audit as trail
from hwtrust_backend.app.fence import HEAD_NAME, kept_head
from hwtrust_backend.app.setup import AUDIT_KEY_NAME
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import (
    Place,
    as_json,
    as_span,
    passphrase_file,
    placed,
    read_file,
)
from hwtrust_backend.config import system_clock, utc_text, write_file
from hwtrust_backend.enrolment.devices import find_device
from hwtrust_backend.keys import KeyRole
from hwtrust_backend.publishing import recovered_at

SHORT = 16
LIMIT = 50
_FILE_LIMIT = 1024 * 1024

_file = click.Path(path_type=Path, dir_okay=False)


def _optional_span(
    context: click.Context, option: click.Parameter, value: str | None
) -> int | None:
    return None if value is None else as_span(context, option, value)


_key = click.option(
    "--key",
    type=_file,
    metavar="PEM",
    help=f"The audit public key [default: {AUDIT_KEY_NAME} in the data directory].",
)


@click.group()
def audit() -> None:
    """Read, prove, export and check the audit trail."""


@audit.command("verify", epilog="Example: hwtrust-backend audit verify --head kept-head.json")
@click.option(
    "--head",
    "heads",
    type=_file,
    multiple=True,
    help="A tree head that was kept elsewhere (`audit head --save`); may be repeated.",
)
@click.option("--export", type=_file, help="Check this export, and not the database.")
@click.option("--proof", type=_file, help="Check this proof of a record, and not the database.")
@_key
@as_json
@placed
def verify(
    place: Place,
    *,
    heads: tuple[Path, ...],
    export: Path | None,
    proof: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Find what was edited, dropped, reordered or added in the trail, by its number.

    Everything is calculated anew from the records, and compared with every signed
    tree head, stored or kept: `audit-head.json` in the data directory is one. No
    passphrase is needed; with --key, no backend either for --export and --proof.
    """
    if export is not None and proof is not None:
        raise click.UsageError("--export and --proof exclude each other")
    public = _public_key(key or place.data / AUDIT_KEY_NAME)
    kept = [trail.decode_head(read_file(file, limit=_FILE_LIMIT)) for file in heads]
    if export is not None:
        with _opened(export) as lines:
            head = trail.check_export(_lines(lines), key=public, kept=kept)
        _say({"records": head.size, "signed": head.size, **_head_fields(head)}, as_json=as_json)
        return
    if proof is not None:
        shown = trail.decode_proof(read_file(proof, limit=_FILE_LIMIT))
        head = trail.check_proof(shown, key=public)
        fields = {"record": shown.record.sequence, "event": shown.record.event}
        _say({**fields, **_head_fields(head)}, as_json=as_json)
        return
    with place.reading() as (session, settings):
        beside = kept_head(settings.directory)
        if beside is not None:
            since = recovered_at(session)
            if since > trail.open_head(beside, key=public).utc_ms:
                left_out = f"{HEAD_NAME} is from before the recovery of {utc_text(since)}"
                click.echo(f"{left_out}, and is not compared", err=True)
            else:
                kept.append(beside)
        report = trail.verify_log(session, key=public, kept=kept)
    found = {
        "records": report.size,
        "root": report.root.hex(),
        "heads": report.heads,
        "signed": report.signed,
    }
    _say(found, as_json=as_json)


@audit.command("head", epilog="Example: hwtrust-backend audit head --save head.json")
@click.option("--save", type=_file, help="Write the signed head to this new file.")
@passphrase_file
@as_json
@placed
def head_(place: Place, *, save: Path | None, passphrase_file: Path | None, as_json: bool) -> None:
    """Sign the tree over all records, if there are new ones, and show the newest signed head.

    Keep some heads where nobody who can change the database can change them:
    `audit verify --head FILE` shows later that the trail only grew.
    """
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        signer = backend.vault.signer(KeyRole.AUDIT)
        row = trail.sign_head(session, signer, origin=backend.settings.url, now=backend.clock())
    if row is None:
        raise AuditHeadMissingError("the audit trail is empty: there is nothing to sign")
    head = trail.open_head(trail.envelope_of(row), key=signer.public_key)
    if save is not None:
        write_file(save, row.envelope + b"\n", mode=0o600, replace=False)
    _say({"records": head.size, **_head_fields(head)}, as_json=as_json)


@audit.command("prove", epilog="Example: hwtrust-backend audit prove 1204 > proof.json")
@click.argument("number", type=click.IntRange(min=1))
@as_json
@placed
def prove(place: Place, *, number: int, as_json: bool) -> None:
    """Write the proof that a record is in the newest signed tree, as JSON.

    `audit verify --proof FILE --key PEM` checks it anywhere.
    """
    del as_json  # it is JSON in any case
    with place.reading() as (session, _):
        proof = trail.proof_of(session, number)
    if proof.head is None:
        message = f"no tree head has been signed since record {number} was written"
        raise AuditHeadMissingError(message, record=number)
    say_json(proof)


@audit.command("export", epilog="Example: hwtrust-backend audit export trail.jsonl")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@_key
@as_json
@placed
def export(place: Place, *, file: Path, key: Path | None, as_json: bool) -> None:
    """Write every record that is signed, and the signed head, to a new FILE; - is standard output.

    JSON Lines, checked by `audit verify --export FILE --key PEM`.
    """
    public = _public_key(key or place.data / AUDIT_KEY_NAME)
    with place.reading() as (session, _):
        lines = trail.export_log(session, key=public)
        if str(file) == "-":
            _write_lines(lines, sys.stdout.buffer)
            return
        count = _write_new(lines, file)
    _say({"file": str(file), "records": count - 2}, as_json=as_json)


@audit.command("list", epilog="Example: hwtrust-backend audit list --event 'admin:*' --since 7d")
@click.option("--device", metavar="ID", help="Only what concerns this device.")
@click.option("--event", metavar="GLOB", help="Only these events: admin:token:*.")
@click.option("--actor", help="Only what this person or token did.")
@click.option(
    "--since", callback=_optional_span, metavar="SPAN", help="Only the last 7d, 24h, 15m."
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=LIMIT,
    show_default=True,
    help="How many records.",
)
@as_json
@placed
def list_(
    place: Place,
    *,
    device: str | None,
    event: str | None,
    actor: str | None,
    since: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the newest records, newest first."""
    with place.reading() as (session, _):
        rows = trail.page_of_records(
            session,
            before=None,
            limit=limit,
            device=None if device is None else _device(session, device),
            event=event,
            actor=actor,
            since=None if since is None else system_clock() - since,
        )
        entries = [trail.entry_of(row) for row in rows]
    if as_json:
        say_json(entries)
        return
    say_table(
        ("NUMBER", "TIME", "EVENT", "DEVICE", "ACTOR", "REASON"),
        [
            (
                str(entry.sequence),
                utc_text(entry.at),
                entry.event,
                entry.device[:SHORT],
                entry.actor,
                entry.reason,
            )
            for entry in entries
        ],
    )


def _device(session: Session, prefix: str) -> str:
    """The name of an enrolled device that begins so; of one that is not, the name itself."""
    try:
        return find_device(session, prefix).id
    except DeviceUnknownError:
        return prefix.lower()


def _head_fields(head: trail.TreeHead) -> dict[str, object]:
    return {"root": head.root.hex(), "origin": head.origin, "signed_at": utc_text(head.utc_ms)}


def _say(found: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        say_json(found)
        return
    say_fields([(name.replace("_", " "), str(value)) for name, value in found.items()])


def _public_key(file: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(read_file(file, limit=_FILE_LIMIT))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{file} is no public key in PEM", path=str(file)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{file} is no P-256 key", path=str(file))
    return key


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", path=str(file)) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file, none longer than what a check would refuse anyway."""
    while line := file.readline(trail.LINE_LIMIT + 1):
        yield line


def _write_lines(lines: Iterable[bytes], file: BinaryIO) -> int:
    count = 0
    for line in lines:
        file.write(line)
        count += 1
    file.flush()
    return count


def _write_new(lines: Iterable[bytes], file: Path) -> int:
    """Write a new file, or leave none."""
    try:
        with file.open("xb") as opened:
            try:
                return _write_lines(lines, opened)
            except BaseException:
                file.unlink()
                raise
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already", path=str(file)) from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", path=str(file)) from error
