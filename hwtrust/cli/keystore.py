"""`hwtrust keystore`: names and values, once the TPM has opened them."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from hwtrust.agent.client import AgentClient
from hwtrust.cli.output import (
    config_option,
    device_or_agent,
    echo_json,
    echo_table,
    json_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.agent.client import AgentKeyStore
    from hwtrust.keys.keystore import KeyStore


@click.group()
def keystore() -> None:
    """List, read, write and delete entries of the key store.

    Each command measures the layers and has the TPM open the root first, as
    `hwtrust boot` does. While an agent runs, it asks the agent instead, which
    decides by its rules what this user may do.

    \b
    Example:
      openssl rand 32 | hwtrust keystore put payments/transport
      hwtrust keystore get payments/transport > key
    """


@keystore.command("list")
@config_option
@json_option
def list_(*, config_path: Path | None, as_json: bool) -> None:
    """List the entries: name, version, epoch, size in bytes."""
    with _opened(config_path) as store:
        entries = store.list()
    if as_json:
        echo_json(
            [
                {"name": e.name, "version": e.version, "epoch": e.epoch, "size": e.size}
                for e in entries
            ]
        )
        return
    rows = [(e.name, str(e.version), str(e.epoch), str(e.size)) for e in entries]
    echo_table(rows, header=("NAME", "VERSION", "EPOCH", "BYTES"))


@keystore.command()
@click.argument("name")
@config_option
def get(*, name: str, config_path: Path | None) -> None:
    """Write an entry's value to standard output, as it is.

    \b
    Example:
      hwtrust keystore get payments/transport > key
    """
    with _opened(config_path) as store:
        value = store[name]
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


@keystore.command()
@click.argument("name")
@click.option(
    "--file",
    "source",
    type=click.File("rb"),
    default="-",
    help="File with the value. Default: standard input.",
)
@config_option
def put(*, name: str, source: BinaryIO, config_path: Path | None) -> None:
    """Store a value, read from standard input or a file.

    The value is stored as it is, a newline at its end included.

    \b
    Example:
      openssl rand 32 | hwtrust keystore put payments/transport
    """
    value = source.read()
    with _opened(config_path) as store:
        entry = store.put(name, value)
    click.echo(f"stored {entry.name}, version {entry.version}, {entry.size} bytes")


@keystore.command()
@click.argument("name")
@config_option
def delete(*, name: str, config_path: Path | None) -> None:
    """Delete an entry.

    \b
    Example:
      hwtrust keystore delete payments/transport
    """
    with _opened(config_path) as store:
        store.delete(name)
    click.echo(f"deleted {name}")


@contextlib.contextmanager
def _opened(config_path: Path | None) -> Iterator[KeyStore | AgentKeyStore]:
    with device_or_agent(config_path) as found:
        yield found.keystore if isinstance(found, AgentClient) else found.boot()
