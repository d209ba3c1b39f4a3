"""How commands print, and how they find and open the device."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hwtrust.errors import (
    AgentUnreachableError,
    ConfigError,
    StateBusyError,
    StatePermissionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hwtrust.agent.client import AgentClient
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
    # msgspec by itself would write bytes as base64.
    plain = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_plain)
    # DEL is the one control character that JSON leaves as it is.
    click.echo(json.dumps(plain, default=bytes.hex, indent=2).replace("\x7f", "\\u007f"))


def printable(text: str) -> str:
    """`text` with every character escaped that is not for printing: it may be anybody's."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


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
    """The configuration file: `path`, or the first that is there.

    Raises:
        ConfigError: there is none.
    """
    if path:
        return path
    for place in CONFIG_PLACES:
        # Not Path.exists, which raises where it may not look.
        if os.path.exists(place):  # noqa: PTH110
            return place
    raise ConfigError("there is no configuration file", hint="run hwtrust init, or give --config")


@contextlib.contextmanager
def opened_device(config_path: Path | None, *, trace: bool = False) -> Iterator[Device]:
    """The device of a configuration, open."""
    from hwtrust.device import Device, DeviceConfig  # noqa: PLC0415 - the TPM stack loads slowly

    config = DeviceConfig.load(find_config(config_path))
    observe = _trace if trace else None
    with Device.open(config, on_command=observe) as device:
        yield device


@contextlib.contextmanager
def device_or_agent(config_path: Path | None) -> Iterator[Device | AgentClient]:
    """The device of a configuration, open, or the agent that has it to itself.

    The agent is asked only when the device is out of reach: another device's
    agent may serve at the same place.

    Raises:
        StateBusyError, StatePermissionError: it is out of reach, and no agent answers.
    """
    with contextlib.ExitStack() as cleanup:
        try:
            device = cleanup.enter_context(opened_device(config_path))
        except (StateBusyError, StatePermissionError) as error:
            agent = cleanup.enter_context(agent_client(config_path))
            try:
                agent.state()
            except AgentUnreachableError:
                raise error from None
        else:
            yield device
            return
        yield agent


def agent_client(config_path: Path | None) -> AgentClient:
    """A client of the agent that a configuration describes.

    Raises:
        AgentUnreachableError: the configuration says that it has no socket.
    """
    from hwtrust.agent.client import AgentClient  # noqa: PLC0415 - where it is used
    from hwtrust.agent.config import AgentConfig  # noqa: PLC0415
    from hwtrust.device.config import DeviceConfig  # noqa: PLC0415

    path = AgentConfig.of(DeviceConfig.load(find_config(config_path)).agent).socket_path()
    if path is None:
        hint = "set agent.socket in the configuration"
        raise AgentUnreachableError("the agent of this device has no socket", hint=hint)
    return AgentClient(path)


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
    if isinstance(value, Path | os.PathLike):
        return str(value)
    raise NotImplementedError
