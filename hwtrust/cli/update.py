"""`hwtrust update`: bring in the release that the backend has ordered."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hwtrust.cli.output import (
    config_option,
    echo_json,
    json_option,
    opened_device,
    step_printer,
    trace_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.results import UpdateResult
    from hwtrust.updates.staging import Progress

FELL_BACK: Final = 11

_WORDS: Final = {
    "current": "{0.release}: runs already",
    "confirmed": "{0.release}: runs, and is confirmed",
    "on-trial": "{0.release}: runs, and waits for the backend to confirm it",
    "restart": "{0.release}: is ready, and comes up with the next restart",
    "fell-back": "{0.release}: given up, the release before runs again: {0.message} [{0.code}]",
}


@click.command()
@click.argument("release", default="")
@config_option
@trace_option
@json_option
def update(*, release: str, config_path: Path | None, trace: bool, as_json: bool) -> int:
    """Bring in a release, by default the one that the backend has ordered.

    Layers that differ are fetched, checked and put into the second slot; an
    interrupted download goes on where it was. Then one rename switches, and the
    release runs on trial: if the backend does not trust the device with it, the
    device returns to the last one by itself.

    \b
    Example:
      hwtrust update            # what the backend has ordered
      hwtrust update 2026.11    # another one that it accepts
    """
    with (
        opened_device(config_path, trace=trace) as device,
        _bars(quiet=as_json) as on_progress,
    ):
        result = device.update(
            release, on_step=step_printer(quiet=as_json), on_progress=on_progress
        )
    if as_json:
        echo_json(_document(result))
    else:
        click.echo(_WORDS[result.outcome].format(result))
    return FELL_BACK if result.outcome == "fell-back" else 0


def _document(result: UpdateResult) -> dict[str, object]:
    standing = result.attestation.standing if result.attestation else ""
    return {
        "release": result.release,
        "outcome": result.outcome,
        "standing": standing,
        "code": result.code,
        "message": result.message,
    }


@contextlib.contextmanager
def _bars(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar for each layer that is fetched, where a person looks on."""
    with contextlib.ExitStack() as stack:
        bar: click._termui_impl.ProgressBar[int] | None = None
        shown = ""

        def show(progress: Progress) -> None:
            nonlocal bar, shown
            if quiet:
                return
            if bar is None or progress.layer != shown:
                stack.close()
                shown = progress.layer
                bar = stack.enter_context(
                    click.progressbar(length=progress.total, label=f"  {progress.layer}")
                )
            bar.update(progress.done - bar.pos)

        yield show
