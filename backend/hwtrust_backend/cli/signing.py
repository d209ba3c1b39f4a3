"""Keys of people on the command line: which files, and what opens them.

Everything that needs the TUF library is loaded by the command that signs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hwtrust.errors import RepositoryKeyError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.cli.shared import read_file
from hwtrust_backend.keys import Secret

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from hwtrust_backend.repository.online import Online
    from hwtrust_backend.repository.publishing import Signing

PROPOSAL_LIMIT = 8 * 1024 * 1024
_PASSPHRASE_LIMIT = 4096

Function = TypeVar("Function", bound=Callable[..., Any])


def key_file(function: Function) -> Function:
    """Add `--key` and `--key-passphrase-file`."""
    key = click.option(
        "--key",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="A private key, PEM; may stand several times.",
    )
    passphrase = click.option(
        "--key-passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="What opens the keys [default: a prompt where a key needs it].",
    )
    return key(passphrase(function))


def key_options(function: Function) -> Function:
    """Add the options of who signs targets: here, or elsewhere."""
    signed = click.option(
        "--signed",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The list of releases, signed elsewhere.",
    )
    return signed(key_file(function))


def signers_of(keys: tuple[Path, ...], passphrase: Path | None) -> list[Signer]:
    """Open private keys."""
    from hwtrust_backend.repository.signers import load_signer  # noqa: PLC0415 - loads TUF

    return [load_signer(key, passphrase=partial(_passphrase, key, passphrase)) for key in keys]


def signing_of(keys: tuple[Path, ...], signed: Path | None, passphrase: Path | None) -> Signing:
    """By whom targets are signed."""
    from hwtrust_backend.repository.publishing import Signing  # noqa: PLC0415 - loads TUF

    if bool(keys) == (signed is not None):
        raise click.UsageError("give either --key or --signed")
    if signed is not None:
        return Signing(signed=read_file(signed, limit=PROPOSAL_LIMIT))
    return Signing(signers_of(keys, passphrase))


def online_of(backend: Backend) -> Online:
    """The key that signs snapshots and timestamps."""
    from hwtrust_backend.repository.online import Online  # noqa: PLC0415 - loads TUF

    return Online(backend.settings, backend.vault)


def _passphrase(key: Path, file: Path | None) -> Secret:
    if file is not None:
        content = read_file(file, limit=_PASSPHRASE_LIMIT)
        return Secret(content.removesuffix(b"\n").removesuffix(b"\r"))
    if not sys.stdin.isatty():
        raise RepositoryKeyError(f"{key} needs a passphrase, and nobody is there to ask")
    answer: str = click.prompt(f"passphrase of {key}", hide_input=True, err=True)
    return Secret(answer.encode())
