"""`release`, `token`, `ek` and `ek-ca`: who may come, and with what."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from hwtrust_backend import references
from hwtrust_backend.admin import authorities, eks, local_administrator, releases, tokens
from hwtrust_backend.admin.export import ExportFormat, ExportKind
from hwtrust_backend.admin.export import export as lines_of
from hwtrust_backend.admin.paging import LONGEST_PAGE
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, as_span, every_page, placed, read_file
from hwtrust_backend.config import spell_span, system_clock, utc_text
from hwtrust_backend.enrolment import EkAuthorities
from hwtrust_backend.enrolment.authorities import AuthorityKind
from hwtrust_backend.policies import DEFAULT_GROUP

HOUR_TEXT = "1h"
_FILE_LIMIT = eks.FILE_LIMIT + 1

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
group_option = click.option(
    "--group", default=DEFAULT_GROUP, show_default=True, help="Where the devices go."
)


# --- releases --------------------------------------------------------------------


@click.group()
def release() -> None:
    """Say which releases devices may run."""


@release.command("add", epilog="Example: hwtrust-backend release add release.json --accept")
@file_argument
@click.option("--accept", is_flag=True, help="Accept it at once.")
@as_json
@placed
def release_add(place: Place, *, file: Path, accept: bool, as_json: bool) -> None:
    """Add a release from a JSON file; devices may run it once it is accepted."""
    content = references.decode_release(read_file(file, limit=_FILE_LIMIT))
    by, now = local_administrator(), system_clock()
    with place.session() as (session, _):
        stored = releases.add_release(session, content, by=by, now=now)
        if accept:
            stored = releases.accept_release(session, stored.name, by=by, now=now)
    _say_release(stored.name, stored.state, as_json=as_json)


@release.command("accept", epilog="Example: hwtrust-backend release accept 1.0")
@click.argument("name")
@as_json
@placed
def release_accept(place: Place, *, name: str, as_json: bool) -> None:
    """Let devices run a release; the one accepted last is the current one."""
    with place.session() as (session, _):
        stored = releases.accept_release(
            session, name, by=local_administrator(), now=system_clock()
        )
    _say_release(name, stored.state, as_json=as_json)


@release.command("retire", epilog="Example: hwtrust-backend release retire 0.9")
@click.argument("name")
@as_json
@placed
def release_retire(place: Place, *, name: str, as_json: bool) -> None:
    """Refuse a release from now on: devices that run it fail."""
    with place.session() as (session, _):
        stored = releases.retire_release(
            session, name, by=local_administrator(), now=system_clock()
        )
    _say_release(name, stored.state, as_json=as_json)


@release.command("list", epilog="Example: hwtrust-backend release list")
@as_json
@placed
def release_list(place: Place, *, as_json: bool) -> None:
    """List the releases."""
    with place.reading() as (session, _):
        rows = releases.releases(session, by=local_administrator())
    if as_json:
        say_json(rows)
        return
    say_table(
        ("RELEASE", "STATE", "CURRENT", "ADDED", "LAYERS"),
        [
            (
                row.name,
                row.state,
                "yes" if row.current else "",
                utc_text(row.added_at),
                " ".join(row.layers),
            )
            for row in rows
        ],
    )


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
    if as_json:
        say_json({"id": revoked.id, "state": revoked.state})
        return
    click.echo(f"{revoked.id}: {revoked.state}")


# --- endorsement keys --------------------------------------------------------------


@click.group()
def ek() -> None:
    """Trust TPMs by the names of their endorsement keys."""


@ek.command("allow", epilog='Example: hwtrust-backend ek allow 000b4ff1… --label "lab board"')
@click.argument("name")
@click.option("--label", default="", help="A note for the list.")
@group_option
@as_json
@placed
def ek_allow(place: Place, *, name: str, label: str, group: str, as_json: bool) -> None:
    """Let the TPM whose EK has this NAME enrol, with no certificate and no token.

    NAME is in hexadecimal; `hwtrust device info` shows it on the device.
    """
    by, now = local_administrator(), system_clock()
    with place.session() as (session, _):
        eks.allow_ek(session, name, label=label, group=group, by=by, now=now)
    _say_ek(name, "allowed", as_json=as_json)


@ek.command("remove", epilog="Example: hwtrust-backend ek remove 000b4ff1…")
@click.argument("name")
@as_json
@placed
def ek_remove(place: Place, *, name: str, as_json: bool) -> None:
    """Take an EK off the list; a device that is enrolled stays enrolled."""
    with place.session() as (session, _):
        eks.remove_ek(session, name, by=local_administrator(), now=system_clock())
    _say_ek(name, "removed", as_json=as_json)


@ek.command("list", epilog="Example: hwtrust-backend ek list")
@as_json
@placed
def ek_list(place: Place, *, as_json: bool) -> None:
    """List the EKs that are trusted by name."""
    by = local_administrator()
    with place.reading() as (session, _):
        pages = every_page(
            lambda cursor: eks.ek_page(session, by=by, cursor=cursor, limit=LONGEST_PAGE)
        )
        rows = [row for page in pages for row in page.eks]
    if as_json:
        say_json(rows)
        return
    say_table(
        ("NAME", "ADDED", "GROUP", "LABEL"),
        [(row.name, utc_text(row.added_at), row.group, row.label) for row in rows],
    )


@ek.command("import", epilog="Example: hwtrust-backend ek import delivery.csv")
@file_argument
@as_json
@placed
def ek_import(place: Place, *, file: Path, as_json: bool) -> None:
    """Allow every EK of a CSV file, or none of them.

    Its columns are name, label and group; the last two may be absent, and so may a
    line that names them.
    """
    content = read_file(file, limit=_FILE_LIMIT)
    with place.session() as (session, _):
        result = eks.import_eks(session, content, by=local_administrator(), now=system_clock())
    if as_json:
        say_json(result)
        return
    say_fields([(key, str(value)) for key, value in msgspec.structs.asdict(result).items()])


@ek.command("export", epilog="Example: hwtrust-backend ek export > allowed.csv")
@placed
def ek_export(place: Place) -> None:
    """Write the list as CSV; it can be imported again as it is."""
    with place.reading() as (session, _):
        sys.stdout.writelines(eks.export_eks(session, by=local_administrator()))


@click.group("ek-ca")
def ek_ca() -> None:
    """Trust TPM vendors by their CA certificates."""


@ek_ca.command("add", epilog="Example: hwtrust-backend ek-ca add vendor-root.pem")
@file_argument
@click.option("--label", default="", help="A note for the list.")
@click.option(
    "--anchor", is_flag=True, help="Trust its CAs though they have not signed themselves."
)
@click.option("--crl", is_flag=True, help="It holds revocation lists.")
@as_json
@placed
def ek_ca_add(
    place: Place, *, file: Path, label: str, anchor: bool, crl: bool, as_json: bool
) -> None:
    """Add a vendor's CA certificates, PEM or DER, one or a bundle."""
    if anchor and crl:
        raise click.UsageError("--anchor and --crl exclude each other")
    kind = AuthorityKind.ANCHORS if anchor else AuthorityKind.CERTIFICATES
    content = read_file(file, limit=_FILE_LIMIT)
    with place.session() as (session, settings):
        result = authorities.import_authority(
            session,
            content,
            authorities=EkAuthorities(settings.ek_authorities),
            kind=AuthorityKind.REVOCATIONS if crl else kind,
            label=label,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json(
            {
                "id": result.authority.id,
                "roots": result.roots,
                "intermediates": result.intermediates,
                "revocation_lists": result.revocation_lists,
                "refused": result.refused,
            }
        )
        return
    say_fields(
        [
            ("id", result.authority.id),
            ("roots", str(result.roots)),
            ("intermediates", str(result.intermediates)),
            ("revocation lists", str(result.revocation_lists)),
            *(("refused", f"{item.sha256[:16]}: {item.reason}") for item in result.refused),
        ]
    )


@ek_ca.command("list", epilog="Example: hwtrust-backend ek-ca list")
@as_json
@placed
def ek_ca_list(place: Place, *, as_json: bool) -> None:
    """List what was imported, and the trust anchors in force."""
    with place.reading() as (session, settings):
        known = EkAuthorities(settings.ek_authorities)
        found = authorities.authority_list(session, authorities=known, by=local_administrator())
    if as_json:
        say_json(found)
        return
    say_table(
        ("ID", "KIND", "ADDED", "BY", "LABEL"),
        [
            (row.id, row.kind.value, utc_text(row.added_at), row.added_by, row.label)
            for row in found.authorities
        ],
    )
    click.echo(f"\nin force: {found.intermediates} intermediates below")
    for root in found.roots:
        click.echo(f"  {root}")


@ek_ca.command("remove", epilog="Example: hwtrust-backend ek-ca remove 4f1c…")
@click.argument("identifier", metavar="ID")
@as_json
@placed
def ek_ca_remove(place: Place, *, identifier: str, as_json: bool) -> None:
    """Trust a vendor no longer; devices that are enrolled stay enrolled."""
    with place.session() as (session, _):
        authorities.drop_authority(
            session, identifier, by=local_administrator(), now=system_clock()
        )
    if as_json:
        say_json({"id": identifier, "state": "removed"})
        return
    click.echo(f"{identifier}: removed")


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


def _say_release(name: str, state: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"release": name, "state": state})
        return
    click.echo(f"{name}: {state}")


def _say_ek(name: str, state: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"name": name.lower(), "state": state})
        return
    click.echo(f"{name.lower()}: {state}")
