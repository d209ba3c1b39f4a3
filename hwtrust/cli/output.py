"""How commands print, and how they find and open the device."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hwtrust.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hwtrust.device import Device, Step

CONFIG_PLACES = (Path("hwtrust.toml"), Path("/etc/hwtrust/hwtrust.toml"))

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="HWTRUST_CONFIG",
    help="Configuration file. Default: ./hwtrust.toml, then /etc/hwtrust/hwtrust.toml.",
)
trace_option = click.option("--trace", is_flag=True, help="Show each TPM command, on stderr.")


def echo_json(value: object) -> None:
    """Print a JSON document; bytes as hexadecimal."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
    click.echo(text.decode())


def echo_table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...] = ()) -> None:
    """Print rows in aligned columns."""
    lines = [header, *rows] if header else rows
    if not lines:
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def utc(milliseconds: int) -> str:
    """A time as people read it, UTC."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def find_config(path: Path | None) -> Path:
    """The configuration file.

    Raises:
        ConfigError: there is none.
    """
    for place in (path,) if path else CONFIG_PLACES:
        if place.exists():
            return place
    if path:
        raise ConfigError(f"there is no configuration at {path}", path=str(path))
    error = ConfigError("there is no configuration file", hint="run hwtrust init, or give --config")
    raise error


@contextlib.contextmanager
def opened_device(config_path: Path | None, *, trace: bool = False) -> Iterator[Device]:
    """The device of a configuration, open."""
    from hwtrust.device import Device, DeviceConfig  # noqa: PLC0415 - the TPM stack loads slowly

    config = DeviceConfig.load(find_config(config_path))
    observe = _trace if trace else None
    with Device.open(config, on_command=observe) as device:
        yield device


def step_printer(*, quiet: bool) -> Callable[[Step], None]:
    """Print each step as it is done."""

    def show(step: Step) -> None:
        if not quiet:
            what = f"{step.name} {step.detail}".rstrip()
            click.echo(f"  {what:<44} {step.milliseconds:8.1f} ms")

    return show


def _trace(exchange: Any) -> None:  # noqa: ANN401 - hwtrust.tpm is not loaded here
    outcome = "ok" if exchange.rc == 0 else f"rc {exchange.rc:#x}"
    line = f"  {exchange.command:<28} {exchange.milliseconds:8.2f} ms  {outcome}"
    click.echo(line, err=True)


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return bytes(value).hex()
    if isinstance(value, Path | os.PathLike):
        return str(value)
    raise NotImplementedError
