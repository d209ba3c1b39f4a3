"""`hwtrust agent`: the daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from hwtrust.cli.output import config_option, find_config


class OneLine(logging.Formatter):
    """Writes a message on one line: what others say in it makes no line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, with everything escaped that is not to be seen."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def log_to_stderr(*, verbose: bool) -> None:
    """What the agent says of its work, and of what it is made of warnings only."""
    log = logging.StreamHandler()
    log.setFormatter(OneLine("hwtrust agent: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    logging.getLogger("hwtrust").setLevel(logging.DEBUG if verbose else logging.INFO)


@click.command()
@click.option("--verbose", is_flag=True, help="Log also who asks for what at the socket.")
@config_option
def agent(*, verbose: bool, config_path: Path | None) -> None:
    """Keep the device trusted: load its layers, attest, watch, take updates.

    One agent owns a device and its TPM. It runs in the foreground until it is told
    to end, and logs to standard error; a hang-up signal makes it attest at once.
    Host applications connect to its socket (agent.socket in the configuration).

    \b
    Example:
      hwtrust agent --config /etc/hwtrust/hwtrust.toml
    """
    from hwtrust.agent.config import AgentConfig  # noqa: PLC0415 - loads much
    from hwtrust.agent.hardening import keep_memory_private  # noqa: PLC0415
    from hwtrust.agent.service import Agent  # noqa: PLC0415
    from hwtrust.device.config import DeviceConfig  # noqa: PLC0415

    log_to_stderr(verbose=verbose)
    keep_memory_private()
    config = DeviceConfig.load(find_config(config_path))
    Agent(config, AgentConfig.of(config.agent)).run(signals=True)
