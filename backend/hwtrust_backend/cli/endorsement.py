"""`ek` and `ek-ca`: whose TPMs may enrol, by name or by their vendor."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from hwtrust_backend.admin import authorities, eks, local_administrator
from hwtrust_backend.admin.paging import LONGEST_PAGE
from hwtrust_backend.cli.output import say_fields, say_json, say_state, say_table
from hwtrust_backend.cli.shared import (
    Place,
    as_json,
    every_page,
    file_argument,
    group_option,
    placed,
    read_file,
)
from hwtrust_backend.config import system_clock, utc_text
from hwtrust_backend.enrolment import EkAuthorities
from hwtrust_backend.enrolment.authorities import AuthorityKind

_FILE_LIMIT = eks.FILE_LIMIT + 1


# --- by name -----------------------------------------------------------------------


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

    NAME is in hexadecimal. `hwtrust enrol` says it on a device that is refused.
    """
    by, now = local_administrator(), system_clock()
    with place.session() as (session, _):
        eks.allow_ek(session, name, label=label, group=group, by=by, now=now)
    say_state("name", name.lower(), "allowed", as_json=as_json)


@ek.command("remove", epilog="Example: hwtrust-backend ek remove 000b4ff1…")
@click.argument("name")
@as_json
@placed
def ek_remove(place: Place, *, name: str, as_json: bool) -> None:
    """Take an EK off the list; a device that is enrolled stays enrolled."""
    with place.session() as (session, _):
        eks.remove_ek(session, name, by=local_administrator(), now=system_clock())
    say_state("name", name.lower(), "removed", as_json=as_json)


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


# --- by vendor ---------------------------------------------------------------------


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
    click.echo("\nin force, those of the directory included")
    say_fields(
        [
            *(("root", root) for root in found.roots),
            ("intermediates", str(found.intermediates)),
            ("revocation lists", str(found.revocation_lists)),
        ]
    )


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
    say_state("id", identifier, "removed", as_json=as_json)
