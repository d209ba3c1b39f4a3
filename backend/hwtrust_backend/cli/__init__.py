"""hwtrust-backend: the server, and its administration on the machine that it runs on.

Rules:
1. Results go to standard output; `--json` gives the same as JSON. Everything
   else goes to standard error as `hwtrust-backend: message`, in lower case and
   without a full stop, with a `hint: …` line where there is one.
2. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
3. No secret is an argument: a passphrase comes from a file, a systemd
   credential or a prompt. A new token is printed once, on standard output.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from hwtrust.errors import HwTrustError
from hwtrust_backend.cli.output import PROGRAM, complain
from hwtrust_backend.cli.shared import Place, place_options

__all__ = ["cli", "main"]

_REFUSED, _USAGE = 1, 2

_EPILOG = """\
\b
A backend in three commands:
  hwtrust-backend init --url https://trust.example.org:8443 --generate-passphrase FILE
  hwtrust-backend release add release.json --accept
  hwtrust-backend serve --passphrase-file FILE

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""


_COMMANDS = {
    "backup": "hwtrust_backend.cli.backup:backup",
    "recovered": "hwtrust_backend.cli.backup:recovered",
    "restore": "hwtrust_backend.cli.backup:restore",
    "api-token": "hwtrust_backend.cli.access:api_token",
    "audit": "hwtrust_backend.cli.audit:audit",
    "config": "hwtrust_backend.cli.operations:config",
    "device": "hwtrust_backend.cli.devices:device",
    "devices": "hwtrust_backend.cli.devices:devices",
    "ek": "hwtrust_backend.cli.endorsement:ek",
    "ek-ca": "hwtrust_backend.cli.endorsement:ek_ca",
    "enclaves": "hwtrust_backend.cli.enclaves:enclaves",
    "export": "hwtrust_backend.cli.lists:export",
    "group": "hwtrust_backend.cli.policies:group",
    "init": "hwtrust_backend.cli.server:init",
    "label": "hwtrust_backend.cli.devices:label_device",
    "lock": "hwtrust_backend.cli.devices:lock_device",
    "move": "hwtrust_backend.cli.devices:move_device",
    "policy": "hwtrust_backend.cli.policies:policy",
    "read-only": "hwtrust_backend.cli.operations:read_only",
    "readmit": "hwtrust_backend.cli.devices:readmit_device",
    "release": "hwtrust_backend.cli.releases:release",
    "repository": "hwtrust_backend.cli.repository:repository",
    "result": "hwtrust_backend.cli.results:result",
    "retire": "hwtrust_backend.cli.devices:retire_device",
    "rotate": "hwtrust_backend.cli.devices:rotate",
    "serve": "hwtrust_backend.cli.server:serve",
    "token": "hwtrust_backend.cli.lists:token",
    "unlock": "hwtrust_backend.cli.devices:unlock_device",
    "webhook": "hwtrust_backend.cli.webhooks:webhook",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for: a list needs no web server."""

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
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{place} is no command")
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@place_options
@click.version_option(package_name="hwtrust-backend")
@click.pass_context
def cli(context: click.Context, data: Path | None, config: Path | None) -> None:
    """Run and administer the server that enrols, attests and renews hwtrust devices."""
    context.obj = Place.from_environment().moved(data, config)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Whatever is made here is its owner's alone, unless it says otherwise.
    os.umask(0o077)
    try:
        cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        complain(error.format_message(), hint=_usage_hint(error))
        sys.exit(_USAGE)
    except click.ClickException as error:
        complain(error.format_message())
        sys.exit(_REFUSED)
    except (click.Abort, KeyboardInterrupt):
        complain("aborted")
        sys.exit(_REFUSED)
    except HwTrustError as error:
        complain(error.message, hint=error.hint)
        sys.exit(_REFUSED)
    except UnicodeEncodeError as error:
        message = f"cannot write: there is a character that {error.encoding} does not have"
        complain(message, hint="use a locale of UTF-8: LC_ALL=C.UTF-8")
        sys.exit(_REFUSED)
    except OSError as error:
        # Standard output's; for everything else there are errors of ours.
        complain(f"cannot write: {error.strerror or error}")
        _give_up_output()
        sys.exit(_REFUSED)
    sys.exit(0)


def _give_up_output() -> None:
    # What is still buffered would fail again when the interpreter ends, with its own exit code.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage_hint(error: click.UsageError) -> str:
    path = PROGRAM if error.ctx is None else error.ctx.command_path
    return f"{path} --help"
