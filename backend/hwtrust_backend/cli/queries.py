"""`device query` and `device answer`: asking a device what it runs, and what it answered last."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import msgspec

from hwtrust.errors import DeviceAnswerMissingError, DeviceSilentError
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.queries import (
    QueryReport,
    answer_evidence,
    answered_since,
    have_signed,
    query,
    query_report,
    silence,
)
from hwtrust_backend.appraisal.queries import Answer, Fact, QuotedClock
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, as_span, passphrase_file, placed
from hwtrust_backend.config import clock_text, spell_span, system_clock, utc_text, write_file
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.db import Database
from hwtrust_backend.enrolment import plain, spelled
from hwtrust_backend.monitor import Update, clock_skew

LOOK_SECONDS: Final = 0.25

_device = click.argument("device_id", metavar="ID")
_evidence = click.option(
    "--evidence",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the evidence of the answer into this file.",
)


@click.command("query", epilog="Example: hwtrust-backend device query 000b5e1f --wait 30s")
@_device
@click.option(
    "--wait",
    "wait_ms",
    default="30s",
    show_default=True,
    callback=lambda ctx, parameter, value: 0 if value == "0" else as_span(ctx, parameter, value),
    help="How long to wait for the answer; 0 asks and goes on.",
)
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--sign", is_flag=True, help="Sign an attestation result of it; asks for the keys.")
@passphrase_file
@_evidence
@as_json
@placed
def query_device(
    place: Place,
    *,
    device_id: str,
    wait_ms: int,
    reason: str,
    sign: bool,
    passphrase_file: Path | None,
    evidence: Path | None,
    as_json: bool,
) -> None:
    """Ask a device now which versions it runs, and show what its TPM signs.

    The device is woken, and its next attestation, by a challenge no older than the
    question, is the answer. Where it does not come in time, the exit code is 1 and
    the question stays open: the next attestation answers it.
    """
    by = local_administrator()
    with place.database() as (database, _):
        # Nobody watches this machine's clock. By one that is off, evidence that was made
        # before the question could answer it: it is asked by the clock that replicas share.
        now = system_clock() - clock_skew(database, system_clock)
        with database.transaction() as session:
            asked_at = query(session, device_id, by=by, now=now, reason=reason)
            name = query_report(session, device_id, by=by, now=asked_at).device
        answered = wait_ms > 0 and wait_for(
            lambda: _answered(database, name, asked_at), seconds=wait_ms / SECOND
        )
    if answered and sign:
        with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
            have_signed(session, name, results=backend.results, by=by, now=system_clock())
    report = _report(place, name, evidence if answered else None)
    if wait_ms and not answered:
        message = f"no answer within {spell_span(wait_ms)}: {silence(report, now=system_clock())}"
        raise DeviceSilentError(message, device=name, attested_at=report.attested_at)
    if as_json:
        say_json(report)
    elif answered:
        show(report)
    else:
        click.echo(f"{name[:16]}: asked; {silence(report, now=system_clock())}")


@click.command("answer", epilog="Example: hwtrust-backend device answer 000b5e1f")
@_device
@_evidence
@as_json
@placed
def show_answer(place: Place, *, device_id: str, evidence: Path | None, as_json: bool) -> None:
    """Show what a device last answered when it was asked what it runs."""
    report = _report(place, device_id, evidence)
    if as_json:
        say_json(report)
        return
    if report.answer is None:
        raise DeviceAnswerMissingError("this device has not answered a question yet")
    show(report)


def wait_for(answered: Callable[[], bool], *, seconds: float) -> bool:
    """Look until there is an answer, or the time is over."""
    ends = time.monotonic() + seconds
    while not answered():
        left = ends - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, LOOK_SECONDS))
    return True


def _answered(database: Database, device: str, asked_at: int) -> bool:
    with database.reading() as session:
        return answered_since(session, device, asked_at)


def _report(place: Place, device: str, evidence: Path | None) -> QueryReport:
    by = local_administrator()
    with place.reading() as (session, _):
        report = query_report(session, device, by=by, now=system_clock())
        content = b""
        if evidence is not None:
            content = msgspec.json.encode(answer_evidence(session, device, by=by))
    if evidence is not None:
        write_file(evidence, content, mode=0o600, replace=False)
    return report


def show(report: QueryReport) -> None:
    """The answer, for people."""
    answer = report.answer
    if answer is None:
        return
    say_fields([(name, value) for name, value in _fields(report, answer) if value])
    if answer.findings:
        click.echo("\nfindings")
        rows = [(one.code, one.severity.value, one.message) for one in answer.findings]
        say_table(("CODE", "WEIGHT", "MESSAGE"), rows)
    click.echo("\nlayers, as measured")
    say_table(
        ("LAYER", "VERSION", "SHA-256", ""),
        [
            (layer.name, layer.version, layer.digest, "changed" if layer.changed else "")
            for layer in answer.layers
        ],
    )
    if answer.layers_left_out:
        click.echo(f"and {answer.layers_left_out} more")
    if answer.pcrs:
        click.echo("\nPCRs, as quoted")
        say_table(("PCR", "SHA-256"), [(str(pcr.number), pcr.value) for pcr in answer.pcrs])
    if answer.facts:
        click.echo(f"\nwhat the hardware says ({answer.kind})")
        say_fields([(name, _fact_text(fact)) for name, fact in answer.facts.items()])
    if report.result:
        click.echo(f"\nattestation result\n{report.result}")


def _fact_text(fact: Fact) -> str:
    return ", ".join(fact) if isinstance(fact, list) else plain(str(fact))


def _clock_fields(clock: QuotedClock | None) -> list[tuple[str, str]]:
    if clock is None:
        return []
    unsure = "" if clock.safe else ", not sure of it since a power cut"
    return [
        ("tpm clock", f"{clock_text(clock.clock)}{unsure}"),
        ("tpm resets", f"{clock.reset_count}, restarts {clock.restart_count}"),
    ]


def _fields(report: QueryReport, answer: Answer) -> list[tuple[str, str]]:
    order = answer.order
    told = "" if order is None else f"{order.release}{' (forced)' if order.forced else ''}"
    failure = report.failure
    past = "" if failure is None or failure.over_at is None else ", past"
    return [
        ("device", report.device),
        ("asked", f"{utc_text(answer.asked_at)} by {answer.asked_by}"),
        ("challenge", utc_text(answer.challenged_at)),
        ("verdict", f"{utc_text(answer.answered_at)}: {answer.standing}, {answer.mode}"),
        ("still asked", "" if report.answered else utc_text(report.asked_at or 0)),
        ("release", answer.release or "none"),
        ("wanted", report.wanted),
        ("told to take", told),
        ("update now", "" if report.update is Update.NONE else report.update.value),
        ("epoch", f"{answer.epoch}, counter {answer.counter}"),
        *_clock_fields(answer.clock),
        ("firmware", answer.firmware),
        ("reported", "" if failure is None else f"{spelled(failure)}{past}"),
        ("evidence", f"sha256 {answer.evidence}"),
        ("signed time", f"{utc_text(answer.answered_at)} for the challenge (--json has it)"),
    ]
