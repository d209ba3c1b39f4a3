"""What the commands share: where the backend is, and how it is opened."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError, VaultMissingError
from hwtrust_backend.app.backend import Backend
from hwtrust_backend.app.setup import TRUST_NAME, open_backend
from hwtrust_backend.config import Settings, load_settings, parse_span, system_clock
from hwtrust_backend.db import Database, migrate
from hwtrust_backend.keys import Passphrase, find_passphrase
from hwtrust_backend.policies import DEFAULT_GROUP

DATA_VARIABLE: Final = "HWTRUST_BACKEND_DATA_DIR"
CONFIG_VARIABLE: Final = "HWTRUST_BACKEND_CONFIG"
DEFAULT_DATA: Final = Path("/var/lib/hwtrust-backend")

Function = TypeVar("Function", bound=Callable[..., Any])

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
group_option = click.option(
    "--group", default=DEFAULT_GROUP, show_default=True, help="Where the devices go."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the backend's data and settings are."""

    data: Path
    config: Path | None

    @classmethod
    def from_environment(cls) -> Place:
        """Where the variables say that it is."""
        config = os.environ.get(CONFIG_VARIABLE)
        return cls(
            Path(os.environ.get(DATA_VARIABLE) or DEFAULT_DATA), Path(config) if config else None
        )

    def moved(self, data: Path | None, config: Path | None) -> Place:
        """The same place, unless an option says another."""
        return Place(data or self.data, config or self.config)

    def settings(self) -> Settings:
        """The settings as they are in force."""
        return load_settings(self.data.absolute(), file=self.config, environ=os.environ)

    @contextmanager
    def session(self) -> Iterator[tuple[Session, Settings]]:
        """A unit of work on the database of an installed backend; no key is needed."""
        with self.database() as (database, settings), database.transaction() as session:
            yield session, settings

    @contextmanager
    def reading(self) -> Iterator[tuple[Session, Settings]]:
        """The database of an installed backend, to read for however long it takes."""
        with self.database() as (database, settings), database.reading() as session:
            yield session, settings

    @contextmanager
    def database(self) -> Iterator[tuple[Database, Settings]]:
        """The database of an installed backend, brought up to date."""
        settings = self.settings()
        if not (settings.directory / TRUST_NAME).exists():
            message = f"there is no backend in {settings.directory}"
            raise VaultMissingError(message, path=str(settings.directory))
        database = Database(settings.database_url)
        try:
            migrate(database)
            yield database, settings
        finally:
            database.close()

    @contextmanager
    def backend(self, passphrase: Path | None) -> Iterator[Backend]:
        """The whole backend, with its keys: for what has to be signed or unsealed."""
        secret = ask_passphrase(passphrase, new=False)
        backend = open_backend(self.settings(), passphrase=secret, clock=system_clock)
        try:
            yield backend
        finally:
            backend.courier.close()
            backend.database.close()


class Page(Protocol):
    """A part of a list."""

    @property
    def next(self) -> str | None:
        """Where the next page begins; None: this is the last."""


SomePage = TypeVar("SomePage", bound=Page)


def every_page(fetch: Callable[[str | None], SomePage]) -> Iterator[SomePage]:
    """All pages of a list; `fetch` gives the one that begins at a cursor."""
    cursor = None
    while True:
        page = fetch(cursor)
        yield page
        cursor = page.next
        if cursor is None:
            return


def read_file(file: Path, *, limit: int) -> bytes:
    """The first `limit` bytes of a file that was named on the command line.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(limit)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", path=str(file)) from error


def place_options(function: Function) -> Function:
    """Add `--data` and `--config`; the group has them, and every command too."""
    data = click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"The backend's data directory [default: {DATA_VARIABLE}, or {DEFAULT_DATA}].",
    )
    config = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The settings file [default: config.toml in the data directory].",
    )
    return data(config(function))


def placed(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command its `Place`, and let it be said before or after the command's name."""

    def run(*, data: Path | None, config: Path | None, **options: object) -> None:
        place = click.get_current_context().obj
        if not isinstance(place, Place):
            raise TypeError("the command was not called through its group")
        for name, value in options.items():
            _check_text(name, value)
        function(place.moved(data, config), **options)

    return place_options(functools.update_wrapper(run, function))


def _check_text(name: str, value: object) -> None:
    """Refuse bytes that are no UTF-8: no database keeps what Python makes of them."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise click.UsageError(f"{name.replace('_', '-')} is no UTF-8") from error


def as_json(function: Function) -> Function:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON.")(function)


def passphrase_file(function: Function) -> Function:
    """Add `--passphrase-file`."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The file that holds the passphrase [default: the systemd credential "
        "hwtrust-backend-passphrase, else a prompt].",
    )(function)


def ask_passphrase(file: Path | None, *, new: bool) -> Passphrase:
    """The passphrase, from wherever it comes; a new one is asked for twice."""

    def prompt() -> str:
        answer: str = click.prompt("passphrase", hide_input=True, confirmation_prompt=new, err=True)
        return answer

    interactive = sys.stdin.isatty()
    return find_passphrase(file=file, environ=os.environ, prompt=prompt if interactive else None)


def as_span(_: click.Context, __: click.Parameter, value: str) -> int:
    """An option's callback: 30d, 24h, 15m or 30s in milliseconds."""
    try:
        return parse_span(value)
    except ConfigError as error:
        raise click.BadParameter(error.message) from error
