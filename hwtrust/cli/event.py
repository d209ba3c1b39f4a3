"""`hwtrust event`: something that the application has met, told through the agent."""

from __future__ import annotations

from pathlib import Path

import click

from hwtrust.cli.output import agent_client, config_option, echo_json, json_option


@click.command()
@click.argument("kind")
@click.option("--detail", default="", help="What else is to be known; at most 200 characters.")
@config_option
@json_option
def event(*, kind: str, detail: str, config_path: Path | None, as_json: bool) -> None:
    """Report an event of the application, such as a transaction, to the backend.

    It goes through the agent, whose rules say who may. The policy of the device's
    group says for which kinds the root is replaced; then the agent attests.

    \b
    Example:
      hwtrust event transaction --detail "order 1042"
    """
    with agent_client(config_path) as agent:
        wanted = agent.event(kind, detail=detail)
    if as_json:
        echo_json({"attest": wanted})
    else:
        click.echo("reported" + ("; the agent attests" if wanted else ""))
