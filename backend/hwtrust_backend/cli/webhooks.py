"""`webhook`: who is told of what changes."""

from __future__ import annotations

from pathlib import Path

import click

from hwtrust.errors import WebhookDeliveryError
from hwtrust_backend.admin.hooks import add_webhook
from hwtrust_backend.admin.principals import local_administrator
from hwtrust_backend.cli.output import say_json, say_state, say_table
from hwtrust_backend.cli.shared import Place, as_json, passphrase_file, placed
from hwtrust_backend.config import system_clock, utc_text
from hwtrust_backend.webhooks import (
    DeliveryReport,
    DeliveryState,
    Topic,
    enable_webhook,
    find_delivery,
    list_deliveries,
    list_webhooks,
    put_test,
    remove_webhook,
)

_TOPICS = [topic.value for topic in Topic if topic is not Topic.TEST]
_LIST = "\n".join(f"  {topic}" for topic in _TOPICS)


@click.group()
def webhook() -> None:
    """Tell other programs of what changes, by signed requests to their URLs."""


@webhook.command(
    "add",
    epilog=f"""\b
Topics:
{_LIST}

Example: hwtrust-backend webhook add https://ops.example.org/hwtrust --topic device.silent
""",
)
@click.argument("url")
@click.option(
    "--topic",
    "topics",
    multiple=True,
    required=True,
    type=click.Choice([*_TOPICS, "all"]),
    metavar="TOPIC",
    help="What to tell of; may be given more than once. `all` are the topics of today.",
)
@click.option("--group", default="", help="Tell of this group's devices alone [default: of all].")
@passphrase_file
@as_json
@placed
def add_command(
    place: Place,
    *,
    url: str,
    topics: tuple[str, ...],
    group: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Add a receiver, and print the secret that its requests are signed with, this once."""
    chosen = {Topic(name) for name in (_TOPICS if "all" in topics else topics)}
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        report, secret = add_webhook(
            session,
            backend.webhooks,
            url=url,
            topics=chosen,
            group=group,
            by=local_administrator(),
            now=system_clock(),
        )
    _say_secret(report.id, secret, as_json=as_json)


@webhook.command("list", epilog="Example: hwtrust-backend webhook list")
@as_json
@placed
def list_command(place: Place, *, as_json: bool) -> None:
    """List the receivers."""
    with place.session() as (session, _):
        found = list_webhooks(session)
    if as_json:
        say_json(found)
        return
    rows = [
        (
            one.id,
            _state(one.disabled_at, one.failing_since),
            one.group or "(all)",
            one.url,
            " ".join(one.topics),
        )
        for one in found
    ]
    say_table(("ID", "STATE", "GROUP", "URL", "TOPICS"), rows)


@webhook.command("remove", epilog="Example: hwtrust-backend webhook remove wh_0123456789abcdef")
@click.argument("identifier", metavar="ID")
@as_json
@placed
def remove_command(place: Place, *, identifier: str, as_json: bool) -> None:
    """Remove a receiver, and what was still to be sent to it."""
    with place.session() as (session, _):
        remove_webhook(session, identifier, by=_by(), now=system_clock())
    say_state("id", identifier, "removed", as_json=as_json)


@webhook.command("enable", epilog="Example: hwtrust-backend webhook enable wh_0123456789abcdef")
@click.argument("identifier", metavar="ID")
@as_json
@placed
def enable_command(place: Place, *, identifier: str, as_json: bool) -> None:
    """Send to a receiver again that was disabled because it failed for days."""
    with place.session() as (session, _):
        enable_webhook(session, identifier, by=_by(), now=system_clock())
    say_state("id", identifier, "enabled", as_json=as_json)


@webhook.command(
    "rotate-secret", epilog="Example: hwtrust-backend webhook rotate-secret wh_0123456789abcdef"
)
@click.argument("identifier", metavar="ID")
@passphrase_file
@as_json
@placed
def rotate_secret_command(
    place: Place, *, identifier: str, passphrase_file: Path | None, as_json: bool
) -> None:
    """Give a receiver a new secret and print it; the old one signs too for another day."""
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        secret = backend.webhooks.rotate_secret(session, identifier, by=_by(), now=system_clock())
    _say_secret(identifier, secret, as_json=as_json)


@webhook.command("test", epilog="Example: hwtrust-backend webhook test wh_0123456789abcdef")
@click.argument("identifier", metavar="ID")
@passphrase_file
@as_json
@placed
def test_command(
    place: Place, *, identifier: str, passphrase_file: Path | None, as_json: bool
) -> None:
    """Send a test event to a receiver now, and say what it answered."""
    with place.backend(passphrase_file) as backend:
        with backend.database.transaction() as session:
            event = put_test(session, identifier, by=_by(), now=system_clock())
        backend.courier.deliver(event)
        with backend.database.reading() as session:
            report = find_delivery(session, event)
    if as_json:
        say_json(report)
    if report.state != DeliveryState.DELIVERED.value:
        reason = report.last_error or "another process is sending it"
        raise WebhookDeliveryError(f"the test was not delivered: {reason}")
    if not as_json:
        click.echo(f"{identifier}: delivered, the receiver answered {report.last_status}")


@webhook.command(
    "deliveries", epilog="Example: hwtrust-backend webhook deliveries wh_0123456789abcdef"
)
@click.argument("identifier", metavar="[ID]", default="")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json
@placed
def deliveries_command(place: Place, *, identifier: str, limit: int, as_json: bool) -> None:
    """List the newest deliveries, of one receiver or of all."""
    with place.session() as (session, _):
        found = list_deliveries(session, identifier, limit=limit)
    if as_json:
        say_json(found)
        return
    heads = ("EVENT", "TOPIC", "DEVICE", "MADE", "STATE", "TRIES", "NEXT", "ANSWER")
    say_table(heads, [_row(one) for one in found])


def _row(one: DeliveryReport) -> tuple[str, ...]:
    answer = one.last_error or (str(one.last_status) if one.last_status else "-")
    return (
        one.id,
        one.topic,
        one.device[:16] or "-",
        utc_text(one.created_at),
        one.state,
        str(one.attempts),
        "-" if one.next_at is None else utc_text(one.next_at),
        answer,
    )


def _state(disabled_at: int | None, failing_since: int | None) -> str:
    if disabled_at is not None:
        return f"disabled since {utc_text(disabled_at)}"
    return "good" if failing_since is None else f"failing since {utc_text(failing_since)}"


def _by() -> str:
    return local_administrator().name


def _say_secret(identifier: str, secret: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"id": identifier, "secret": secret})
        return
    click.echo(f"{identifier}\n{secret}")
    click.echo("give the secret to the receiver; it is not shown again", err=True)
