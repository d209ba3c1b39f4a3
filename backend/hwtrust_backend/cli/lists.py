"""`token` and `export`: who may come, and what there is."""

from __future__ import annotations

import sys

import click
import msgspec

from hwtrust_backend.admin import local_administrator, tokens
from hwtrust_backend.admin.export import ExportFormat, ExportKind
from hwtrust_backend.admin.export import export as lines_of
from hwtrust_backend.admin.paging import LONGEST_PAGE
from hwtrust_backend.cli.output import say_json, say_state, say_table
from hwtrust_backend.cli.shared import (
    Place,
    as_json,
    as_span,
    every_page,
    group_option,
    placed,
)
from hwtrust_backend.config import spell_span, system_clock, utc_text

HOUR_TEXT = "1h"


# --- tokens ----------------------------------------------------------------------


@click.group()
def token() -> None:
    """Make and revoke enrolment tokens."""


@token.command(
    "create", epilog='Example: hwtrust-backend token create --expires 1h --label "line 3"'
)
@click.option(
    "--expires",
    callback=as_span,
    metavar="SPAN",
    default=HOUR_TEXT,
    show_default=True,
    help="How long it is good, 30d at most: 24h, 15m.",
)
@click.option("--label", default="", help="A note for the list, such as whom it is for.")
@click.option(
    "--uses",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many devices may enrol with it.",
)
@group_option
@as_json
@placed
def token_create(
    place: Place, *, expires: int, label: str, uses: int, group: str, as_json: bool
) -> None:
    """Make an enrolment token. It is printed once and cannot be shown again."""
    by, now = local_administrator(), system_clock()
    with place.session() as (session, _):
        report, made = tokens.create_token(
            session, label=label, lifetime_ms=expires, uses=uses, group=group, by=by, now=now
        )
    if as_json:
        say_json({"token": made, **msgspec.structs.asdict(report)})
        return
    click.echo(made)
    times = "one enrolment" if uses == 1 else f"{uses} enrolments"
    click.echo(f"good for {times} in the next {spell_span(expires)}", err=True)


@token.command("list", epilog="Example: hwtrust-backend token list")
@as_json
@placed
def token_list(place: Place, *, as_json: bool) -> None:
    """List the tokens by their ids; the tokens themselves are not stored."""
    by, now = local_administrator(), system_clock()
    with place.reading() as (session, _):
        pages = every_page(
            lambda cursor: tokens.token_page(
                session, by=by, now=now, cursor=cursor, limit=LONGEST_PAGE
            )
        )
        rows = [row for page in pages for row in page.tokens]
    if as_json:
        say_json(rows)
        return
    say_table(
        ("ID", "STATE", "USES", "EXPIRES", "GROUP", "USED BY", "LABEL"),
        [
            (
                row.id,
                row.state,
                f"{row.uses}/{row.uses_allowed}",
                utc_text(row.expires_at),
                row.group,
                row.used_by[:16],
                row.label,
            )
            for row in rows
        ],
    )


@token.command("revoke", epilog="Example: hwtrust-backend token revoke 3fa9c2")
@click.argument("token_id", metavar="ID")
@as_json
@placed
def token_revoke(place: Place, *, token_id: str, as_json: bool) -> None:
    """Revoke a token by its id, as `token list` shows it."""
    with place.session() as (session, _):
        revoked = tokens.revoke_token(
            session, token_id, by=local_administrator(), now=system_clock()
        )
    say_state("id", revoked.id, revoked.state, as_json=as_json)


# --- for auditors ------------------------------------------------------------------


@click.command("export", epilog="Example: hwtrust-backend export devices --format jsonl")
@click.argument("kind", type=click.Choice([item.value for item in ExportKind]))
@click.option(
    "--format",
    "form",
    type=click.Choice([item.value for item in ExportFormat]),
    default=ExportFormat.CSV.value,
    show_default=True,
    help="CSV, or one JSON object a line.",
)
@placed
def export(place: Place, *, kind: str, form: str) -> None:
    """Write devices, roots, releases or policies for an auditor."""
    by, now = local_administrator(), system_clock()
    with place.reading() as (session, _):
        lines = lines_of(session, ExportKind(kind), ExportFormat(form), by=by, now=now)
        sys.stdout.writelines(lines)
