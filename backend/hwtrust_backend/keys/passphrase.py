"""Where the passphrase of the key file comes from; never from the command line.

In this order: a file that is named (`--passphrase-file`, or the variable
HWTRUST_BACKEND_PASSPHRASE_FILE), the systemd credential
`hwtrust-backend-passphrase`, a prompt.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hwtrust.errors import VaultPassphraseError
from hwtrust_backend.keys.signing import Secret

CREDENTIAL: Final = "hwtrust-backend-passphrase"
VARIABLE: Final = "HWTRUST_BACKEND_PASSPHRASE_FILE"

Passphrase = Secret


def new_passphrase() -> Passphrase:
    """A passphrase of 256 random bits."""
    return Secret(secrets.token_urlsafe(32).encode())


def find_passphrase(
    *,
    file: Path | None,
    environ: Mapping[str, str],
    prompt: Callable[[], str] | None,
) -> Passphrase:
    """The passphrase, without the newline that ends its file.

    Raises:
        VaultPassphraseError: there is none, or it is empty.
    """
    named = file or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        return _read(named)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / CREDENTIAL).exists():
        return _read(Path(directory) / CREDENTIAL)
    if prompt is None:
        raise VaultPassphraseError("there is no passphrase, and nobody to ask for it")
    return _checked(prompt().encode(), "the passphrase")


def _read(path: Path) -> Passphrase:
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"the passphrase file {path} cannot be read: {error.strerror}"
        raise VaultPassphraseError(message, path=str(path)) from error
    return _checked(content.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def _checked(content: bytes, what: str) -> Passphrase:
    if not content:
        raise VaultPassphraseError(f"{what} is empty")
    return Secret(content)
