"""`backup`, `restore` and `recovered`.

A database may be larger than the memory: it goes from file to file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
from sqlalchemy.orm import Session

from hwtrust.errors import BackupError, ConfigError
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.recovery import Recovered
from hwtrust_backend.admin.recovery import recovered as note_recovered
from hwtrust_backend.app.backend import VAULT_NAME
from hwtrust_backend.app.setup import AUDIT_KEY_NAME, TRUST_NAME
from hwtrust_backend.cli.output import say_json
from hwtrust_backend.cli.shared import Place, as_json, placed
from hwtrust_backend.config import (
    CONFIG_NAME,
    Settings,
    make_private_directory,
    system_clock,
    written_file,
)
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.repository import Blobs
from hwtrust_backend.repository.blobs import pieces

DATABASE_NAME = "backend.sqlite"
_KEYS = (VAULT_NAME, AUDIT_KEY_NAME, TRUST_NAME)
"""The trust file comes last: it says that the rest is there."""
_FILES = (CONFIG_NAME, *_KEYS)
"""Beside the database."""
_PUBLIC = {AUDIT_KEY_NAME, TRUST_NAME}
_RELEASES = "targets/"
"""Files of releases, each named by its SHA-256."""
_RELEASE = re.compile(rf"{_RELEASES}[0-9a-f]{{64}}", re.ASCII)
_FILE_LIMIT = 16 * 1024 * 1024


@click.command(epilog="Example: hwtrust-backend backup /backup/hwtrust.tar")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--without-database",
    is_flag=True,
    help="Keys and settings only: for a database that its own tools back up.",
)
@click.option(
    "--without-releases",
    is_flag=True,
    help="Leave out the files of releases: for those whose bundles are kept elsewhere.",
)
@as_json
@placed
def backup(
    place: Place, *, file: Path, without_database: bool, without_releases: bool, as_json: bool
) -> None:
    """Write everything that the backend needs into FILE, while it runs.

    The private keys in it are encrypted under the passphrase, which is not in it.
    """
    settings = place.settings()
    if not (settings.directory / TRUST_NAME).exists():
        raise BackupError(f"there is no backend in {settings.directory}")
    if settings.database and not without_database:
        message = "the database is elsewhere: back it up with its own tools"
        raise BackupError(f"{message}, and all else with --without-database")
    target = file.absolute()
    with (
        written_file(target, mode=0o600, replace=False) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        if not without_database:
            with _database_copy(settings, beside=target) as copy:
                _pack(archive, DATABASE_NAME, copy)
        for name in _FILES:
            path = settings.directory / name
            if path.exists():
                _pack(archive, name, path)
        blobs = Blobs(settings.targets)
        # After the database, so that every file that it lists is among them.
        releases = () if without_releases else blobs.names()
        for name in releases:
            _pack(archive, f"{_RELEASES}{name}", blobs.path(name))
    if as_json:
        told = {"database": not without_database, "release_files": len(releases)}
        say_json({"file": str(file), **told})
        return
    click.echo(f"{file}: written")


@click.command(epilog="Example: hwtrust-backend restore hwtrust.tar --data ./new")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--note", default="", help="Why, for the audit trail.")
@as_json
@placed
def restore(place: Place, *, file: Path, note: str, as_json: bool) -> None:
    """Put a backup into an empty data directory, and note the recovery.

    What happened after the backup is forgotten: devices move on by themselves, and
    no epoch is given away twice. Locks, retirements and revoked API tokens since then
    have to be made again.
    """
    directory = place.data.absolute()
    make_private_directory(directory)
    if any(directory.iterdir()):
        raise BackupError(f"{directory} is not empty; a backup is restored into an empty directory")
    with _opened(file) as archive:
        entries = _checked(archive, file)
        if DATABASE_NAME in entries and place.settings().database:
            raise BackupError("the setting database names another one than would be restored")
        _put(archive, entries, directory, (CONFIG_NAME, DATABASE_NAME))
        _put_releases(archive, entries, Blobs(place.settings().targets))
        # Before the keys: without them nothing serves what has not been noted as restored.
        noted = _noted_in(place.settings(), note) if DATABASE_NAME in entries else None
        _put(archive, entries, directory, _KEYS)
    if noted is None:
        if as_json:
            say_json({"data": str(directory), "database": False})
            return
        click.echo(f"{directory}: keys and settings are back")
        click.echo("next: restore the database, then hwtrust-backend recovered", err=True)
        return
    _say(noted, as_json=as_json)


@click.command(epilog='Example: hwtrust-backend recovered --note "disk failure on 3 May"')
@click.option("--note", default="", help="Why, for the audit trail.")
@as_json
@placed
def recovered(place: Place, *, note: str, as_json: bool) -> None:
    """Say that the database was restored from a backup.

    Say so once, before the backend serves again.
    """
    with place.session() as (session, _):
        noted = _noted(session, note)
    _say(noted, as_json=as_json)


def _put(
    archive: tarfile.TarFile,
    entries: dict[str, tarfile.TarInfo],
    directory: Path,
    names: tuple[str, ...],
) -> None:
    for name in names:
        content = archive.extractfile(entries[name]) if name in entries else None
        if content is not None:
            mode = 0o644 if name in _PUBLIC else 0o600
            with written_file(directory / name, mode=mode, replace=False) as written:
                shutil.copyfileobj(content, written)


def _put_releases(
    archive: tarfile.TarFile, entries: dict[str, tarfile.TarInfo], blobs: Blobs
) -> None:
    for name, entry in entries.items():
        content = archive.extractfile(entry) if name.startswith(_RELEASES) else None
        if content is None:
            continue
        make_private_directory(blobs.directory)
        sha256, digest = name.removeprefix(_RELEASES), hashlib.sha256()
        with written_file(blobs.path(sha256), mode=0o600, replace=True) as written:
            for piece in pieces(content):
                digest.update(piece)
                written.write(piece)
            if digest.hexdigest() != sha256:
                raise BackupError(f"the backup is damaged: {name} is not what it was")


def _noted_in(settings: Settings, note: str) -> Recovered:
    database = Database(settings.database_url)
    try:
        migrate(database)
        with database.transaction() as session:
            return _noted(session, note)
    finally:
        database.close()


def _noted(session: Session, note: str) -> Recovered:
    return note_recovered(session, by=local_administrator(), note=note, now=system_clock())


def _say(result: Recovered, *, as_json: bool) -> None:
    if as_json:
        say_json(result)
        return
    click.echo("the recovery is noted: devices get new roots, no epoch twice")
    for name in result.tokens_revoked:
        click.echo(f"enrolment token {name}: revoked")
    click.echo(
        "next: lock, retire and revoke again what you have locked, retired and revoked since",
        err=True,
    )


def _pack(archive: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tarfile.TarInfo(name)
    try:
        opened = path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    with opened as content:
        entry.size, entry.mode = os.fstat(content.fileno()).st_size, 0o600
        entry.mtime = system_clock() // 1000
        archive.addfile(entry, content)


@contextmanager
def _database_copy(settings: Settings, *, beside: Path) -> Iterator[Path]:
    """The database as it is at one moment, whoever writes to it meanwhile."""
    source_file = settings.directory / DATABASE_NAME
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.", dir=beside.parent) as directory:
        copy = Path(directory) / DATABASE_NAME
        try:
            with (
                closing(
                    sqlite3.connect(f"{source_file.absolute().as_uri()}?mode=ro", uri=True)
                ) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                target.execute("PRAGMA synchronous = OFF")
                source.backup(target)
        except sqlite3.Error as error:
            raise BackupError(f"the database cannot be copied: {error}") from error
        yield copy


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, mode="r:") as archive:
            yield archive
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise ConfigError(f"{file} cannot be read: {reason}", path=str(file)) from error
    except tarfile.TarError as error:
        raise BackupError(f"{file} is no backup: {error}") from error


def _checked(archive: tarfile.TarFile, file: Path) -> dict[str, tarfile.TarInfo]:
    """What a backup holds: plain files of names that are ours, each once, and nothing else."""
    found: dict[str, tarfile.TarInfo] = {}
    for entry in archive:
        of_release = _RELEASE.fullmatch(entry.name) is not None
        known = of_release or entry.name in {*_FILES, DATABASE_NAME}
        if not known or entry.name in found or not entry.isreg():
            raise BackupError(f"{file} holds {entry.name[:80]!r}, which is part of no backup")
        if entry.name in _FILES and entry.size > _FILE_LIMIT:
            raise BackupError(f"{file} holds a {entry.name} larger than any real one")
        found[entry.name] = entry
    missing = {TRUST_NAME, VAULT_NAME} - found.keys()
    if missing:
        raise BackupError(f"{file} is no whole backup: it lacks {', '.join(sorted(missing))}")
    return found
