"""`enclaves trust`: what the evidence of enclaves is verified by."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from hwtrust_backend.admin import enclave_trust, local_administrator
from hwtrust_backend.cli.output import say_fields, say_json, say_state, say_table
from hwtrust_backend.cli.shared import Place, as_json, file_argument, placed, read_file
from hwtrust_backend.config import system_clock, utc_text
from hwtrust_backend.enclaves import TrustKind

_KINDS: Final = """\
\b
Kinds of files:
  certificates   of SEV-SNP: VCEK or VLEK, ASK or ASVK, ARK; PEM or DER
  revocations    revocation lists of AMD and NVIDIA; PEM or DER
  collateral     of TDX and SGX platforms; the JSON of dcap-qvl
  endorsements   of Arm CCA platforms; the JSON list of their keys
  unsafe-roots   for tests: roots of nobody's hardware; JSON

Example: hwtrust-backend enclaves trust add ask_ark_milan.pem --kind certificates
"""


@click.group()
def enclaves() -> None:
    """Verify enclaves and confidential VMs."""


@enclaves.group(epilog=_KINDS)
def trust() -> None:
    """What their evidence is verified by, beside the makers' roots."""


@trust.command(
    "add", epilog="Example: hwtrust-backend enclaves trust add tdx.json --kind collateral"
)
@file_argument
@click.option(
    "--kind",
    required=True,
    type=click.Choice([kind.value for kind in TrustKind]),
    help="What the file holds.",
)
@click.option("--label", default="", help="A note for the list.")
@as_json
@placed
def trust_add(place: Place, *, file: Path, kind: str, label: str, as_json: bool) -> None:
    """Verify enclaves by FILE too.

    With unsafe-roots, whoever has such a root's key makes evidence of any enclave.
    """
    content = read_file(file, limit=enclave_trust.FILE_LIMIT + 1)
    with place.session() as (session, _):
        added = enclave_trust.add_enclave_trust(
            session,
            content,
            kind=TrustKind(kind),
            label=label,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json(added)
        return
    say_fields([("id", added.id), ("kind", added.kind.value)])


@trust.command("list", epilog="Example: hwtrust-backend enclaves trust list")
@as_json
@placed
def trust_list(place: Place, *, as_json: bool) -> None:
    """List what was added."""
    with place.reading() as (session, _):
        found = enclave_trust.list_enclave_trust(session, by=local_administrator())
    if as_json:
        say_json(found)
        return
    say_table(
        ("ID", "KIND", "ADDED", "BY", "LABEL"),
        [
            (row.id, row.kind.value, utc_text(row.added_at), row.added_by, row.label)
            for row in found
        ],
    )


@trust.command("remove", epilog="Example: hwtrust-backend enclaves trust remove 4f1c…")
@click.argument("identifier", metavar="ID")
@as_json
@placed
def trust_remove(place: Place, *, identifier: str, as_json: bool) -> None:
    """Verify by it no longer; what cannot be verified without it is refused from now on."""
    with place.session() as (session, _):
        enclave_trust.drop_enclave_trust(
            session, identifier, by=local_administrator(), now=system_clock()
        )
    say_state("id", identifier, "removed", as_json=as_json)
