"""The `hwtrust` command.

Rules of what it prints:
1. Results go to standard output, in words, or as one JSON document with `--json`.
2. An error is one line on standard error, `hwtrust: message [code]`, lower case
   and without a full stop, and a `hint:` line where there is something to do.
3. The exit code says what kind of thing went wrong; `EXIT_CODES` is the table.
4. A secret is printed only by `keystore get`, and taken only from standard
   input or a file, never from the command line.
5. The command's process leaves no core dump, and no debugger of the same user
   looks into it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from hwtrust.cli.output import printable
from hwtrust.errors import (
    AgentError,
    ChannelError,
    ConfigError,
    DeviceSoftwareError,
    EvidenceError,
    HwTrustError,
    KeyStoreError,
    LayerError,
    RootError,
    StateError,
    TpmError,
    UpdateError,
)
from hwtrust.errors.anchors import AnchorError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED, USAGE = 1, 2

EXIT_CODES: dict[type[HwTrustError], tuple[int, str]] = {
    EvidenceError: (3, "evidence is not authentic, or not accepted"),
    TpmError: (4, "the TPM is missing, busy, locked out or refuses"),
    ChannelError: (5, "the backend is away, or refuses"),
    RootError: (6, "the dynamic root is expired, revoked, or not for this state"),
    KeyStoreError: (7, "the key store is missing, damaged, or has no such entry"),
    LayerError: (8, "a layer is missing, or is not what its release says"),
    ConfigError: (9, "the configuration is wrong"),
    StateError: (10, "the device is not enrolled, or its state is busy or damaged"),
    UpdateError: (11, "a release is not to be had, or was given up"),
    AgentError: (12, "the agent is away, or refuses"),
    AnchorError: (13, "the enclave's or confidential VM's hardware refuses, or is not there"),
}

_PLAIN_EXIT_CODES = (
    (0, "done"),
    (FAILED, "failed in another way"),
    (USAGE, "the command line is wrong"),
)

_TPM_STACK = frozenset({"tpm2_pytss", "pyudev"})

_COMMANDS = {
    "agent": "hwtrust.cli.agent:agent",
    "anchors": "hwtrust.cli.anchors:anchors",
    "attest": "hwtrust.cli.device:attest",
    "boot": "hwtrust.cli.device:boot",
    "enrol": "hwtrust.cli.device:enrol",
    "event": "hwtrust.cli.event:event",
    "eventlog": "hwtrust.cli.device:eventlog",
    "evidence": "hwtrust.cli.evidence:evidence",
    "init": "hwtrust.cli.init:init",
    "keystore": "hwtrust.cli.keystore:keystore",
    "measure": "hwtrust.cli.measure:measure",
    "reference": "hwtrust.cli.reference:reference",
    "release": "hwtrust.cli.release:release",
    "completion": "hwtrust.cli.completion:completion",
    "status": "hwtrust.cli.device:status",
    "tpm": "hwtrust.cli.tpm:tpm",
    "update": "hwtrust.cli.update:update",
    "verify-quote": "hwtrust.cli.verify_quote:verify_quote",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in alphabetical order."""
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name; the TPM stack is loaded only when it runs."""
        del ctx
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, attribute = place.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is ours
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of exit codes."""
        del ctx
        table = [*_PLAIN_EXIT_CODES, *EXIT_CODES.values()]
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in sorted(table)])


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
      hwtrust update                                     run what is ordered
      hwtrust agent                                      have all that done, watched

    \b
    Words:
      layer     a file or directory of the application, measured in load order
      release   the layers as they should be, by name, version and digest
      slot      room for a whole release; the next one comes into the other slot
      root      the secret from the backend that opens the key store; only this
                TPM releases it, until it expires, and only for the release
      epoch     the number of a root; the next root revokes it
      PCR       a register of the TPM that measurements are added to
      EK        the key by which a TPM proves which one it is
      IMA       the Linux kernel's log of the files that it has run or read
      CMW       several parts of evidence in one file, as RATS wraps them
    """


def exit_code(error: HwTrustError) -> int:
    """The exit code of the command for an error."""
    for kind, (code, _) in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    return 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    # Not at the top: completion and `--help` of the library's users pay for nothing.
    from hwtrust.agent.hardening import keep_memory_private  # noqa: PLC0415

    try:
        keep_memory_private()
    except HwTrustError as error:
        report(error)
        sys.exit(exit_code(error))
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
        return _report_usage(error)
    except (click.ClickException, click.Abort, OSError) as error:
        # An OSError is standard output's; for everything else there are errors of ours.
        click.echo(f"hwtrust: {_spell(error)}", err=True)
        if isinstance(error, OSError):
            _give_up_output()
        return FAILED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _TPM_STACK:
            raise
        report(missing := DeviceSoftwareError("this command needs the TPM stack"))
        return exit_code(missing)
    return result if isinstance(result, int) else 0


def report(error: HwTrustError) -> None:
    """Print an error as rule 2 says; what the backend refused for has its own code beside."""
    codes = [error.code, *filter(None, [error.data.get("problem")])]
    click.echo(f"hwtrust: {_plain(error.message)} [{', '.join(map(str, codes))}]", err=True)
    hint = error.data.get("hint") or error.hint
    if hint:
        click.echo(f"hint: {hint}", err=True)


def _report_usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    click.echo(f"hwtrust: {_plain(error.format_message())} [usage]", err=True)
    if error.ctx is not None:
        click.echo(f"hint: {error.ctx.command_path} --help", err=True)
    return USAGE


def _give_up_output() -> None:
    # What is still buffered would fail again when the interpreter ends, with its own exit code.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _spell(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return f"{_plain(error.format_message())} [failed]"
    if isinstance(error, click.Abort):
        return "interrupted [interrupted]"
    return f"cannot write: {error.strerror or error} [output]"  # type: ignore[attr-defined]


def _plain(message: str) -> str:
    """A message in one line, without a full stop, that begins in lower case if with a word.

    What it quotes may be anybody's text: nothing in it steers the terminal.
    """
    text = printable(" ".join(message.split())).rstrip(".")
    first, _, _ = text.partition(" ")
    return text[:1].lower() + text[1:] if first[1:].islower() else text
