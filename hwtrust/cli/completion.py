"""`hwtrust completion`: a script that teaches the shell to complete."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    Example:
      hwtrust completion bash > ~/.local/share/bash-completion/completions/hwtrust
    """
    from hwtrust.cli import cli  # noqa: PLC0415 - it imports this module

    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - the choices are the ones that click has
    click.echo(script(cli, {}, "hwtrust", "_HWTRUST_COMPLETE").source())
