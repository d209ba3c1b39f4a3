"""The `hwtrust` command.

Rules of what it prints:
1. Results go to standard output, in words, or as one JSON document with `--json`.
2. An error is one line on standard error, `hwtrust: message`, lower case and
   without a full stop, and a `hint:` line where there is something to do.
3. The exit code says what kind of thing went wrong; `EXIT_CODES` is the table.
4. A secret is printed only by `keystore get`, and taken only from standard
   input or a file, never from the command line.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from hwtrust.errors import (
    ChannelError,
    ConfigError,
    EvidenceError,
    HwTrustError,
    KeyStoreError,
    LayerError,
    RootError,
    StateError,
    TpmError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODES: dict[type[HwTrustError], tuple[int, str]] = {
    EvidenceError: (3, "evidence is not authentic, or not accepted"),
    TpmError: (4, "the TPM is missing, busy, locked out or refuses"),
    ChannelError: (5, "the backend is away, or refuses"),
    RootError: (6, "the dynamic root is expired, revoked, or not for this state"),
    KeyStoreError: (7, "the key store is missing, damaged, or has no such entry"),
    LayerError: (8, "a layer is missing, or is not what its release says"),
    ConfigError: (9, "the configuration is wrong"),
    StateError: (10, "the device is not enrolled, or its state is busy or damaged"),
}

_COMMANDS = {
    "attest": "hwtrust.cli.device:attest",
    "boot": "hwtrust.cli.device:boot",
    "enrol": "hwtrust.cli.device:enrol",
    "eventlog": "hwtrust.cli.device:eventlog",
    "init": "hwtrust.cli.init:init",
    "keystore": "hwtrust.cli.keystore:keystore",
    "measure": "hwtrust.cli.measure:measure",
    "completion": "hwtrust.cli.completion:completion",
    "status": "hwtrust.cli.device:status",
    "tpm": "hwtrust.cli.tpm:tpm",
    "verify-quote": "hwtrust.cli.verify_quote:verify_quote",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in alphabetical order."""
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        del ctx
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, attribute = place.split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name not in {"tpm2_pytss", "pyudev"}:
                raise
            return _needs_device_extra(cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command


def _needs_device_extra(name: str) -> click.Command:
    @click.command(name, help="Needs the TPM stack: pip install 'hwtrust[device]'.")
    @click.argument("ignored", nargs=-1, type=click.UNPROCESSED)
    def missing(ignored: tuple[str, ...]) -> None:
        del ignored
        raise ConfigError("this command needs the TPM stack: pip install 'hwtrust[device]'")

    missing.context_settings["ignore_unknown_options"] = True
    return missing


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hwtrust")
def cli() -> None:
    """Anchor a device's dynamic root of trust in its TPM.

    \b
    A device's life:
      hwtrust tpm list                                   which TPM is there
      hwtrust init --trust trust.json --release r.json --layer kernel=/boot/app
      hwtrust enrol --token-file token                   join the backend
      hwtrust boot                                       measure, open the key store
      hwtrust attest                                     prove it; rotate when due

    \b
    Exit codes:
      0 done   1 failed   2 usage   3 evidence   4 TPM   5 backend   6 root
      7 key store   8 layer   9 configuration   10 device state
    """


def exit_code(error: HwTrustError) -> int:
    """The exit code of the command for an error."""
    for kind, (code, _) in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    return 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    # The TSS writes refusals to standard error by itself; ours say more.
    os.environ.setdefault("TSS2_LOG", "all+none")
    try:
        result = cli.main(args=arguments, prog_name="hwtrust", standalone_mode=False)
    except HwTrustError as error:
        report(error)
        return exit_code(error)
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        click.echo(f"hwtrust: {error.format_message()}", err=True)
        return 1
    except click.Abort:
        click.echo("hwtrust: interrupted", err=True)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def report(error: HwTrustError) -> None:
    """Print an error as rule 2 says."""
    message = error.message.rstrip(".")
    click.echo(f"hwtrust: {message} [{error.code}]", err=True)
    hint = error.data.get("hint") or error.hint
    if hint:
        click.echo(f"hint: {hint}", err=True)
