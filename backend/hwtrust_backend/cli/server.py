"""`init` and `serve`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click
import msgspec

from hwtrust.errors import ConfigError
from hwtrust_backend.app.server import Sockets, listening_socket, metrics_socket
from hwtrust_backend.app.setup import install, open_keys
from hwtrust_backend.app.workers import serve_alone, serve_with_workers
from hwtrust_backend.cli.output import say_fields, say_json
from hwtrust_backend.cli.shared import Place, as_json, ask_passphrase, passphrase_file, placed
from hwtrust_backend.config import (
    MOST_WORKERS,
    Settings,
    make_private_directory,
    system_clock,
    write_file,
)
from hwtrust_backend.keys import Passphrase, new_passphrase
from hwtrust_backend.keys.vault import SCRYPT_COST
from hwtrust_backend.observe import logs


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
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    help="How many processes serve [default: the setting workers, 1].",
)
@placed
def serve(
    place: Place, *, passphrase_file: Path | None, log_level: str, workers: int | None
) -> None:
    """Serve devices until stopped by a signal.

    The database is brought up to date first. Under systemd the passphrase is
    best a credential: LoadCredential=hwtrust-backend-passphrase:FILE. SIGTERM
    lets what runs end; SIGHUP reads the certificate anew, and with several
    workers all settings.
    """
    settings = place.settings()
    logs.configure(level=log_level, form=settings.log_format, access=settings.access_log)
    passphrase = ask_passphrase(passphrase_file, new=False)
    vault = open_keys(settings, passphrase=passphrase)
    with contextlib.ExitStack() as stack:
        main = stack.enter_context(listening_socket(settings))
        plain = metrics_socket(settings)
        if plain is not None:
            stack.enter_context(plain)
        sockets = Sockets(main=main, metrics=plain)
        count = workers or settings.workers
        if count == 1:
            serve_alone(settings, vault, sockets, log_level=log_level)
            return
        serve_with_workers(
            settings, vault, sockets, count=count, log_level=log_level, reload=place.settings
        )


def _chosen(place: Place, url: str | None, listen: str | None) -> Settings:
    """The settings that `init` writes down."""
    settings = place.settings()
    changes: dict[str, object] = {}
    if url:
        changes["url"] = url
    if listen:
        changes["listen"] = listen
    return msgspec.structs.replace(settings, **changes)


def _new_or_given(file: Path | None, generate: Path | None) -> Passphrase:
    if generate is None:
        return ask_passphrase(file, new=True)
    if os.path.lexists(generate):
        raise ConfigError(f"{generate} is there already; a passphrase is never overwritten")
    passphrase = new_passphrase()
    write_file(generate, passphrase.reveal() + b"\n", mode=0o600, replace=False)
    return passphrase
