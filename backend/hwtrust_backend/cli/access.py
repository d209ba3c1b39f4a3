"""`api-token`: who may call the administration API, and do what."""

from __future__ import annotations

import click
import msgspec

from hwtrust_backend.admin import Role, api_tokens, local_administrator
from hwtrust_backend.admin.paging import LONGEST_PAGE
from hwtrust_backend.cli.output import say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, as_span, every_page, placed
from hwtrust_backend.config import spell_span, system_clock, utc_text


@click.group("api-token")
def api_token() -> None:
    """Make and revoke tokens of the administration API."""


@api_token.command(
    "create",
    epilog="Example: hwtrust-backend api-token create --name ci --role viewer --expires 90d",
)
@click.option("--name", required=True, help="Who acts with it; no name is given twice.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    required=True,
    help="What it may do.",
)
@click.option("--group", "groups", multiple=True, help="Limit it to this group; may be repeated.")
@click.option(
    "--expires",
    callback=as_span,
    metavar="SPAN",
    required=True,
    help="How long it is good, 365d at most: 90d, 24h.",
)
@as_json
@placed
def api_token_create(
    place: Place, *, name: str, role: str, groups: tuple[str, ...], expires: int, as_json: bool
) -> None:
    """Make an API token. It is printed once and cannot be shown again."""
    with place.session() as (session, _):
        report, made = api_tokens.create_api_token(
            session,
            name=name,
            role=Role(role),
            groups=groups or None,
            lifetime_ms=expires,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json({"token": made, **msgspec.structs.asdict(report)})
        return
    click.echo(made)
    scope = "all devices" if report.groups is None else f"the groups {', '.join(report.groups)}"
    click.echo(f"{role} of {scope} for the next {spell_span(expires)}", err=True)


@api_token.command("list", epilog="Example: hwtrust-backend api-token list")
@as_json
@placed
def api_token_list(place: Place, *, as_json: bool) -> None:
    """List the API tokens by name; the tokens themselves are not stored."""
    by, now = local_administrator(), system_clock()
    with place.reading() as (session, _):
        pages = every_page(
            lambda cursor: api_tokens.api_token_page(
                session, by=by, now=now, cursor=cursor, limit=LONGEST_PAGE
            )
        )
        rows = [row for page in pages for row in page.tokens]
    if as_json:
        say_json(rows)
        return
    say_table(
        ("NAME", "ROLE", "GROUPS", "STATE", "EXPIRES", "LAST USED", "MADE BY"),
        [
            (
                row.name,
                row.role.value,
                "all" if row.groups is None else " ".join(row.groups),
                row.state,
                utc_text(row.expires_at),
                "-" if row.last_used_at is None else utc_text(row.last_used_at),
                row.created_by,
            )
            for row in rows
        ],
    )


@api_token.command("revoke", epilog="Example: hwtrust-backend api-token revoke ci")
@click.argument("name")
@as_json
@placed
def api_token_revoke(place: Place, *, name: str, as_json: bool) -> None:
    """End an API token at once."""
    with place.session() as (session, _):
        report = api_tokens.revoke_api_token(
            session, name, by=local_administrator(), now=system_clock()
        )
    if as_json:
        say_json(report)
        return
    click.echo(f"{report.name}: {report.state}")
