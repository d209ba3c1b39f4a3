"""`devices`, `device`, and what is done to one: `label`, `move`, `rotate`, `lock`, `retire`, …."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import click
from sqlalchemy.orm import Session

from hwtrust.wire.messages import Mode, Standing
from hwtrust_backend.admin import (
    DeviceFilter,
    DevicePage,
    DeviceReport,
    Principal,
    ask_rotation,
    change_device,
    device_page,
    device_report,
    local_administrator,
    lock,
    readmit,
    retire,
    rules,
    unlock,
)
from hwtrust_backend.admin.paging import LONGEST_PAGE
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.queries import query_device, show_answer
from hwtrust_backend.cli.shared import Place, as_json, every_page, placed
from hwtrust_backend.config import spell_span, system_clock, utc_text
from hwtrust_backend.enrolment import Device, DeviceKind, KeptFailure, spelled
from hwtrust_backend.monitor import DeviceSummary, Update
from hwtrust_backend.pages.hardware import Value, hardware_of, kind_name

SHORT = 16
"""Digits of a device's name that a list shows; `device` takes any unique beginning."""
SHOWN = 200
HEADS = (
    "DEVICE",
    "LABEL",
    "KIND",
    "GROUP",
    "STANDING",
    "FOR",
    "WHY",
    "RELEASE",
    "EPOCH",
    "ROOT AGE",
    "LAST SEEN",
    "WHAT NOW",
)

Work = Callable[[Session, Principal, int], Device]

device_argument = click.argument("device_id", metavar="ID")
must_say_why = click.option("--reason", required=True, help="Why, for the audit trail.")
may_say_why = click.option("--reason", default="", help="Why, for the audit trail.")


@click.command(epilog="Example: hwtrust-backend devices --group line-3 --standing failed")
@click.option("--search", default="", help="The beginning of a name, a part of a label, a release.")
@click.option("--group", help="Of this group only.")
@click.option("--release", help="That last showed this release.")
@click.option(
    "--kind",
    type=click.Choice([item.value for item in DeviceKind]),
    help="Whose evidence is of this kind.",
)
@click.option(
    "--standing",
    type=click.Choice([item.value for item in Standing]),
    help="What the last attestation came to.",
)
@click.option("--mode", type=click.Choice([item.value for item in Mode]), help="What it may do.")
@click.option("--overdue", "silent", flag_value=True, default=None, help="That were found missing.")
@click.option("--locked", flag_value=True, default=None, help="That an administrator has locked.")
@click.option("--retired", flag_value=True, default=None, help="That are out of service.")
@click.option(
    "--failing", flag_value=True, default=None, help="That report a failure they have not got over."
)
@click.option("--due", flag_value=True, default=None, help="Whose next root is due.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=SHOWN,
    show_default=True,
    help="Show so many at most.",
)
@click.option("--all", "everything", is_flag=True, help="Show all, however many.")
@as_json
@placed
def devices(
    place: Place,
    *,
    limit: int,
    everything: bool,
    as_json: bool,
    standing: str | None,
    mode: str | None,
    kind: str | None,
    **chosen: Any,  # noqa: ANN401 - the other filters, as they are
) -> None:
    """List the devices: standing, since when, why, epoch, root age, what to do now."""
    now = system_clock()
    wanted = DeviceFilter(
        standing=None if standing is None else Standing(standing),
        mode=None if mode is None else Mode(mode),
        kind=None if kind is None else DeviceKind(kind),
        **chosen,
    )
    with place.reading() as (session, _):
        if wanted.group is not None:
            rules.group(session, wanted.group, by=local_administrator())
        found = _found(session, wanted, now)
        summaries = list(found if everything else islice(found, limit))
        more = next(found, None) is not None
    if as_json:
        say_json(summaries)
    else:
        say_table(HEADS, [_row(summary, now) for summary in summaries])
    if more:
        click.echo(f"there are more than {limit}: --all shows them", err=True)


class DeviceGroup(click.Group):
    """`device ID` is `device show ID`: no name of a device is the name of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let what is no command and no question for help be the device to show."""
        helps = ctx.help_option_names
        if not args or (args[0] not in self.commands and args[0] not in helps):
            args.insert(0, "show")
        return super().parse_args(ctx, args)


@click.group(cls=DeviceGroup, epilog="Example: hwtrust-backend device 000b5e1f")
def device() -> None:
    """Show one device, or ask it what it runs: `device ID` is `device show ID`."""


@device.command("show", epilog="Example: hwtrust-backend device show 000b5e1f")
@device_argument
@as_json
@placed
def show_device(place: Place, *, device_id: str, as_json: bool) -> None:
    """Show all about one device: every finding, every root, the audit trail.

    ID is the device's name or any unique beginning of it.
    """
    now = system_clock()
    with place.reading() as (session, _):
        report = device_report(session, device_id, by=local_administrator(), now=now)
    if as_json:
        say_json(report)
        return
    _show(report, now)


device.add_command(query_device)
device.add_command(show_answer)


@click.command("label", epilog='Example: hwtrust-backend label 000b5e1f "hall 2, cabinet 7"')
@device_argument
@click.argument("text")
@as_json
@placed
def label_device(place: Place, *, device_id: str, text: str, as_json: bool) -> None:
    """Give a device a label; an empty one takes it away."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return change_device(session, device_id, label=text, by=by, now=now)

    _do(place, work, "labelled", as_json=as_json)


@click.command("move", epilog="Example: hwtrust-backend move 000b5e1f line-3")
@device_argument
@click.argument("group")
@as_json
@placed
def move_device(place: Place, *, device_id: str, group: str, as_json: bool) -> None:
    """Move a device to another group: its policy counts from the next attestation on."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return change_device(session, device_id, group=group, by=by, now=now)

    _do(place, work, f"now of the group {group}", as_json=as_json)


@click.command(epilog="Example: hwtrust-backend rotate 000b5e1f")
@device_argument
@may_say_why
@as_json
@placed
def rotate(place: Place, *, device_id: str, reason: str, as_json: bool) -> None:
    """Give a device its next root at its next good attestation."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return ask_rotation(session, device_id, reason=reason, by=by, now=now)

    _do(place, work, "the next root goes out with the next good attestation", as_json=as_json)


@click.command("lock", epilog='Example: hwtrust-backend lock 000b5e1f --reason "stolen"')
@device_argument
@must_say_why
@as_json
@placed
def lock_device(place: Place, *, device_id: str, reason: str, as_json: bool) -> None:
    """Lock a device: it fails from now on, and is told why."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return lock(session, device_id, reason=reason, by=by, now=now)

    _do(place, work, "locked", as_json=as_json)


@click.command("unlock", epilog="Example: hwtrust-backend unlock 000b5e1f")
@device_argument
@may_say_why
@as_json
@placed
def unlock_device(place: Place, *, device_id: str, reason: str, as_json: bool) -> None:
    """Lift a lock: the next attestation decides what the device may do."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return unlock(session, device_id, reason=reason, by=by, now=now)

    _do(place, work, "unlocked", as_json=as_json)


@click.command("retire", epilog='Example: hwtrust-backend retire 000b5e1f --reason "sold"')
@device_argument
@must_say_why
@as_json
@placed
def retire_device(place: Place, *, device_id: str, reason: str, as_json: bool) -> None:
    """Take a device out of service for good: it is refused, whatever it shows."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return retire(session, device_id, reason=reason, by=by, now=now)

    _do(place, work, "retired", as_json=as_json)


@click.command("readmit", epilog='Example: hwtrust-backend readmit 000b5e1f --reason "it is back"')
@device_argument
@must_say_why
@as_json
@placed
def readmit_device(place: Place, *, device_id: str, reason: str, as_json: bool) -> None:
    """Let a retired device enrol again; until it has, it stays refused."""

    def work(session: Session, by: Principal, now: int) -> Device:
        return readmit(session, device_id, reason=reason, by=by, now=now)

    _do(place, work, "may enrol again", as_json=as_json)


def _found(session: Session, wanted: DeviceFilter, now: int) -> Iterator[DeviceSummary]:
    """Every device that is wanted, page by page."""
    by = local_administrator()

    def fetch(cursor: str | None) -> DevicePage:
        return device_page(session, wanted, by=by, now=now, cursor=cursor, limit=LONGEST_PAGE)

    for page in every_page(fetch):
        yield from page.devices


def _do(place: Place, work: Work, done: str, *, as_json: bool) -> None:
    """Do it, and say so."""
    with place.session() as (session, _):
        changed = work(session, local_administrator(), system_clock())
    if as_json:
        say_json(
            {
                "device": changed.id,
                "group": changed.group,
                "label": changed.label,
                "mode": changed.mode.value,
                "rotation_asked_at": changed.rotation_asked_at,
                "locked_at": changed.locked_at,
                "retired_at": changed.retired_at,
            }
        )
        return
    click.echo(f"{changed.id[:SHORT]}: {done}")


def _row(summary: DeviceSummary, now: int) -> tuple[str, ...]:
    return (
        summary.device[:SHORT],
        summary.label or "-",
        summary.kind,
        summary.group,
        summary.standing,
        spell_span(now - summary.since),
        ", ".join(finding.code for finding in summary.why) or "-",
        _release(summary),
        str(summary.epoch),
        spell_span(summary.root_age_ms) if summary.root else "-",
        spell_span(now - summary.attested_at) + (" (overdue)" if summary.overdue else ""),
        summary.next_step,
    )


def _release(summary: DeviceSummary) -> str:
    """`1.0`, and what it is told to run instead: `1.0 > 2.0`, `1.0 > 2.0 (forced)`."""
    running = summary.release or "-"
    if summary.update is Update.NONE:
        return running
    forced = " (forced)" if summary.update is Update.FORCED else ""
    return f"{running} > {summary.wanted}{forced}"


def _running(summary: DeviceSummary, now: int) -> str:
    if summary.release_since is None:
        return summary.release
    return f"{summary.release}, for {spell_span(max(now - summary.release_since, 0))}"


def _wanted(summary: DeviceSummary) -> str:
    if summary.update is Update.NONE or not summary.wanted:
        return summary.wanted
    return f"{summary.wanted}, the update is {summary.update}"


def _failure(failure: KeptFailure | None, now: int) -> str:
    if failure is None:
        return ""
    ago = f"{spell_span(max(now - failure.at, 0))} ago"
    often = (
        "" if failure.times == 1 else f", {failure.times} times since {utc_text(failure.first_at)}"
    )
    past = "" if failure.over_at is None else f", past since {utc_text(failure.over_at)}"
    return f"{spelled(failure)} ({ago}{often}{past})"


def _show(report: DeviceReport, now: int) -> None:
    summary = report.summary
    seen = f"{utc_text(summary.attested_at)} ({spell_span(now - summary.attested_at)} ago)"
    since = f"{summary.standing}, since {utc_text(summary.since)}"
    version = "none in force" if report.policy_version is None else f"v{report.policy_version}"
    tpm = summary.kind == DeviceKind.TPM
    base = f"base {report.base_epoch}" if tpm else "as it named it last"
    fields = [
        ("device", summary.device),
        ("kind", f"{kind_name(summary.kind)} ({summary.kind})"),
        ("label", summary.label),
        ("standing", since),
        ("mode", summary.mode),
        ("what now", summary.next_step),
        ("last seen", seen),
        ("enrolled", utc_text(summary.enrolled_at)),
        ("group", f"{summary.group}, policy {report.policy} ({version})"),
        ("ek" if tpm else "vouched by", report.ek_source),
        ("tls key", summary.tls_key),
        ("reported", _failure(summary.failure, now)),
        ("release", _running(summary, now)),
        ("wanted", _wanted(summary)),
        ("pcrs", f"{report.selection}, application PCR {report.application_pcr}" if tpm else ""),
        ("epoch", f"{summary.epoch}, {base}"),
    ]
    moments = (
        ("locked", summary.locked_at, summary.lock_reason),
        ("retired", summary.retired_at, ""),
        ("readmitted", summary.readmitted_at, ""),
        ("missed since", summary.silent_since, ""),
        ("next root", summary.rotate_at, summary.rotation_reason),
        ("asked", summary.query_asked_at, "not answered yet"),
    )
    fields += [
        (name, ", ".join(filter(None, (utc_text(at), why))))
        for name, at, why in moments
        if at is not None
    ]
    say_fields([(name, value) for name, value in fields if value])
    _show_lists(report)


def _show_lists(report: DeviceReport) -> None:
    if report.summary.why:
        click.echo("\nfindings")
        rows = [(item.code, item.severity.value, item.message) for item in report.summary.why]
        say_table(("CODE", "WEIGHT", "MESSAGE"), rows)
    _show_hardware(report)
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
        ("NUMBER", "TIME", "EVENT", "BY", "REASON"),
        [
            (str(line.sequence), utc_text(line.at), line.event, line.actor or "-", line.reason)
            for line in report.trail
        ],
    )


def _show_hardware(report: DeviceReport) -> None:
    """What an enclave's hardware vouches for, and what its kind does not do."""
    found = hardware_of(report.summary.kind, report.facts)
    if found is None:
        return
    for group in found.groups:
        click.echo(f"\n{group.title.lower()}")
        say_fields([(row.name, ", ".join(map(_spelled, row.values)) or "-") for row in group.rows])
    if found.limits:
        click.echo("\nwhat this kind does not do")
    for line in found.limits:
        click.echo(f"  {line}")


def _spelled(value: Value) -> str:
    return value.text if value.at is None else utc_text(value.at)
