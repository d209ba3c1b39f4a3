"""`config` and `read-only`: the settings in force, and the switch that stops all changes."""

from __future__ import annotations

import os

import click

from hwtrust_backend.admin.principals import local_administrator
from hwtrust_backend.admin.switches import SwitchState, read_only_state, switch_read_only
from hwtrust_backend.app.server import check_settings
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, placed
from hwtrust_backend.config import CONFIG_NAME, system_clock, utc_text
from hwtrust_backend.config.reference import settings_in_force


@click.group()
def config() -> None:
    """Show and check the settings."""


@config.command("show", epilog="Example: hwtrust-backend config show --json")
@as_json
@placed
def show(place: Place, *, as_json: bool) -> None:
    """Show every setting as it is in force, and where it comes from.

    The password in a database's URL is not shown.
    """
    found = settings_in_force(place.data.absolute(), file=place.config, environ=os.environ)
    if as_json:
        say_json(found)
        return
    say_table(
        ("SETTING", "VALUE", "SOURCE"), [(item.name, item.value, item.source) for item in found]
    )


@config.command("check", epilog="Example: hwtrust-backend config check && systemctl reload …")
@as_json
@placed
def check(place: Place, *, as_json: bool) -> None:
    """Check the settings as serve would read them, and the files that they name."""
    settings = place.settings()
    check_settings(settings)
    if as_json:
        say_json({"ok": True})
        return
    file = place.config or place.data / CONFIG_NAME
    where = str(file) if file.exists() else f"{file} is not there: defaults and the environment"
    click.echo(f"the settings can be used ({where})")


@click.group("read-only")
def read_only() -> None:
    """Stop all changes on all replicas, and allow them again.

    While it is on, attestations, enrolments and changes by administrators are
    answered with 503 and `backend:read-only`; devices try again by themselves.
    """


@read_only.command(
    "on", epilog="Example: hwtrust-backend read-only on --reason 'moving the database'"
)
@click.option("--reason", default="", help="Why; it goes into the audit trail.")
@as_json
@placed
def turn_on(place: Place, *, reason: str, as_json: bool) -> None:
    """Allow no changes; every process knows it within a second."""
    _turn(place, to=True, reason=reason, as_json=as_json)


@read_only.command("off", epilog="Example: hwtrust-backend read-only off")
@click.option("--reason", default="", help="Why; it goes into the audit trail.")
@as_json
@placed
def turn_off(place: Place, *, reason: str, as_json: bool) -> None:
    """Allow changes again."""
    _turn(place, to=False, reason=reason, as_json=as_json)


@read_only.command("status", epilog="Example: hwtrust-backend read-only status")
@as_json
@placed
def status(place: Place, *, as_json: bool) -> None:
    """Show how the switch stands; the setting `read_only` is apart from it."""
    with place.session() as (session, _):
        state = read_only_state(session)
    _show(state, as_json=as_json)


def _turn(place: Place, *, to: bool, reason: str, as_json: bool) -> None:
    with place.session() as (session, _):
        state = switch_read_only(
            session, to=to, reason=reason, by=local_administrator(), now=system_clock()
        )
    _show(state, as_json=as_json)


def _show(state: SwitchState, *, as_json: bool) -> None:
    if as_json:
        say_json(state)
        return
    fields = [("read-only", "on" if state.is_on else "off")]
    if state.changed_at:
        fields += [
            ("since", utc_text(state.changed_at)),
            ("by", state.changed_by),
            ("reason", state.reason),
        ]
    say_fields(fields)
