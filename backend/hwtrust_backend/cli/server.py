"""`init` and `serve`."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import click
import msgspec

from hwtrust.errors import ConfigError
from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.app.server import listening_socket, make_server
from hwtrust_backend.app.setup import install, open_backend
from hwtrust_backend.cli.output import say_fields, say_json
from hwtrust_backend.cli.shared import Place, as_json, ask_passphrase, passphrase_file, placed
from hwtrust_backend.config import Settings, make_private_directory, system_clock, write_file
from hwtrust_backend.keys import Passphrase, new_passphrase
from hwtrust_backend.keys.vault import SCRYPT_COST


@click.command(epilog="Example: hwtrust-backend init --generate-passphrase ./passphrase")
@click.option("--url", help="How devices reach this backend: https://NAME:PORT.")
@click.option("--listen", help="Where to listen: HOST:PORT, or unix:PATH behind a TLS proxy.")
@passphrase_file
@click.option(
    "--generate-passphrase",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make a passphrase and write it to this new file, 0600.",
)
@as_json
@placed
def init(
    place: Place,
    *,
    url: str | None,
    listen: str | None,
    passphrase_file: Path | None,
    generate_passphrase: Path | None,
    as_json: bool,
) -> None:
    """Make keys, CA, database and trust.json in the data directory.

    trust.json is what devices are given before they ever connect. Existing keys
    are never replaced.
    """
    if passphrase_file and generate_passphrase:
        raise click.UsageError("--passphrase-file and --generate-passphrase exclude each other")
    settings = _chosen(place, url, listen)
    make_private_directory(settings.directory)
    passphrase = _new_or_given(passphrase_file, generate_passphrase)
    trust = install(settings, passphrase=passphrase, clock=system_clock, cost=SCRYPT_COST)
    result = {
        "data": str(settings.directory),
        "url": settings.url,
        "listen": settings.listen,
        "trust": str(trust),
    }
    if as_json:
        say_json(result)
        return
    say_fields(list(result.items()))
    click.echo("next: hwtrust-backend serve; give trust.json to the devices", err=True)


@click.command(epilog="Example: hwtrust-backend serve --passphrase-file ./passphrase")
@passphrase_file
@click.option(
    "--log-level",
    type=click.Choice(["critical", "error", "warning", "info", "debug"]),
    default="info",
    show_default=True,
    help="What to log.",
)
@placed
def serve(place: Place, *, passphrase_file: Path | None, log_level: str) -> None:
    """Serve devices until stopped by a signal.

    The database is brought up to date first. Under systemd the passphrase is
    best a credential: LoadCredential=hwtrust-backend-passphrase:FILE.
    """
    _log_to_standard_error(log_level)
    settings = place.settings()
    passphrase = ask_passphrase(passphrase_file, new=False)
    backend = open_backend(settings, passphrase=passphrase, clock=system_clock)
    try:
        with listening_socket(settings) as listener:
            server = make_server(backend, log_level=log_level)
            asyncio.run(server.serve(sockets=[listener]))
    finally:
        backend.database.close()


def _log_to_standard_error(level: str) -> None:
    """Refusals and defects go where uvicorn's own messages go."""
    logger = logging.getLogger("hwtrust_backend")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level.upper())


def _chosen(place: Place, url: str | None, listen: str | None) -> Settings:
    """The settings that `init` writes down; both kinds of TLS keys are spelled out."""
    settings = place.settings()
    changes: dict[str, object] = {}
    if url:
        changes["url"] = url
    if listen:
        changes["listen"] = listen
    if not settings.tls_keys:
        changes["tls_keys"] = frozenset(TlsKeyKind)
    return msgspec.structs.replace(settings, **changes)


def _new_or_given(file: Path | None, generate: Path | None) -> Passphrase:
    if generate is None:
        return ask_passphrase(file, new=True)
    if os.path.lexists(generate):
        raise ConfigError(f"{generate} is there already; a passphrase is never overwritten")
    passphrase = new_passphrase()
    write_file(generate, passphrase.reveal() + b"\n", mode=0o600, replace=False)
    return passphrase
