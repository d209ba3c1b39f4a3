"""`devices`, `device` and `rotate`."""

from __future__ import annotations

import click

from hwtrust_backend.admin import DeviceReport, ask_rotation, device_report, device_summaries
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, placed
from hwtrust_backend.config import spell_span, system_clock, utc_text
from hwtrust_backend.monitor import DeviceSummary

SHORT = 16
"""Digits of a device's name that a list shows; `device` takes any unique beginning."""


@click.command(epilog="Example: hwtrust-backend devices")
@as_json
@placed
def devices(place: Place, *, as_json: bool) -> None:
    """List the devices: standing, since when, why, epoch, root age, what to do now."""
    now = system_clock()
    with place.session() as (session, _):
        summaries = device_summaries(session, now=now)
    if as_json:
        say_json(summaries)
        return
    heads = ("DEVICE", "STANDING", "FOR", "WHY", "EPOCH", "ROOT AGE", "LAST SEEN", "WHAT NOW")
    say_table(heads, [_row(summary, now) for summary in summaries])


@click.command(epilog="Example: hwtrust-backend device 000b5e1f")
@click.argument("device_id", metavar="ID")
@as_json
@placed
def device(place: Place, *, device_id: str, as_json: bool) -> None:
    """Show all about one device: every finding, every root, the audit trail.

    ID is the device's name or any unique beginning of it.
    """
    now = system_clock()
    with place.session() as (session, _):
        report = device_report(session, device_id, now=now)
    if as_json:
        say_json(report)
        return
    _show(report, now)


@click.command(epilog="Example: hwtrust-backend rotate 000b5e1f")
@click.argument("device_id", metavar="ID")
@as_json
@placed
def rotate(place: Place, *, device_id: str, as_json: bool) -> None:
    """Give a device its next root at its next good attestation."""
    with place.session() as (session, _):
        row = ask_rotation(session, device_id, now=system_clock())
        name = row.id
    if as_json:
        say_json({"device": name, "rotation": "asked"})
        return
    click.echo(f"{name[:SHORT]}: the next root goes out with the next good attestation")


def _row(summary: DeviceSummary, now: int) -> tuple[str, ...]:
    return (
        summary.device[:SHORT],
        summary.standing,
        spell_span(now - summary.since),
        ", ".join(finding.code for finding in summary.why) or "-",
        str(summary.epoch),
        spell_span(summary.root_age_ms) if summary.root else "-",
        spell_span(now - summary.attested_at) + (" (overdue)" if summary.overdue else ""),
        summary.next_step,
    )


def _show(report: DeviceReport, now: int) -> None:
    summary = report.summary
    seen = f"{utc_text(summary.attested_at)} ({spell_span(now - summary.attested_at)} ago)"
    since = f"{summary.standing}, since {utc_text(summary.since)}"
    say_fields(
        [
            ("device", summary.device),
            ("standing", since),
            ("what now", summary.next_step),
            ("last seen", seen),
            ("enrolled", utc_text(summary.enrolled_at)),
            ("ek", report.ek_source),
            ("tls key", summary.tls_key),
            ("release", summary.release),
            ("pcrs", f"{report.selection}, application PCR {report.application_pcr}"),
            ("epoch", f"{summary.epoch}, base {report.base_epoch}"),
        ]
    )
    if summary.why:
        click.echo("\nfindings")
        rows = [(item.code, item.severity.value, item.message) for item in summary.why]
        say_table(("CODE", "WEIGHT", "MESSAGE"), rows)
    click.echo("\nroots")
    say_table(
        ("EPOCH", "STATE", "RELEASE", "WHY", "MADE", "NOT AFTER"),
        [
            (
                str(root.epoch),
                root.state,
                root.release,
                root.reason,
                utc_text(root.made_at),
                utc_text(root.not_after),
            )
            for root in report.roots
        ],
    )
    click.echo("\naudit trail, newest first")
    say_table(
        ("NUMBER", "TIME", "EVENT", "REASON"),
        [(str(line.sequence), utc_text(line.at), line.event, line.reason) for line in report.trail],
    )
