"""`hwtrust agent`: the daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from hwtrust.cli.output import config_option, find_config


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
    from hwtrust.agent.service import Agent, handle_signals  # noqa: PLC0415
    from hwtrust.device.config import DeviceConfig  # noqa: PLC0415

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="hwtrust agent: %(message)s"
    )
    keep_memory_private()
    config = DeviceConfig.load(find_config(config_path))
    running = Agent(config, AgentConfig.of(config.agent))
    handle_signals(running)
    running.run()
