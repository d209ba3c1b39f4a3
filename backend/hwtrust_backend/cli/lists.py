"""`release`, `token`, `ek` and `ek-ca`: who may come, and with what."""

from __future__ import annotations

from pathlib import Path

import click
from sqlalchemy.orm import Session

from hwtrust.errors import ConfigError
from hwtrust_backend import references
from hwtrust_backend.audit import Event, record
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, as_span, placed
from hwtrust_backend.config import spell_span, system_clock, utc_text
from hwtrust_backend.enrolment import EnrolmentToken
from hwtrust_backend.enrolment import tokens as enrolment_tokens
from hwtrust_backend.enrolment import trust as ek_trust

HOUR_TEXT = "1h"
_FILE_LIMIT = 4 * 1024 * 1024


# --- releases --------------------------------------------------------------------


@click.group()
def release() -> None:
    """Say which releases devices may run."""


@release.command("add", epilog="Example: hwtrust-backend release add release.json --accept")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--accept", is_flag=True, help="Accept it at once.")
@as_json
@placed
def release_add(place: Place, *, file: Path, accept: bool, as_json: bool) -> None:
    """Add a release from a JSON file; devices may run it once it is accepted."""
    content = references.decode_release(_read(file))
    with place.session() as (session, _):
        now = system_clock()
        stored = references.add_release(session, content, now=now)
        if accept:
            stored = references.accept_release(session, stored.name, now=now)
        name, state = stored.name, stored.state
    _say_release(name, state, as_json=as_json)


@release.command("accept", epilog="Example: hwtrust-backend release accept 1.0")
@click.argument("name")
@as_json
@placed
def release_accept(place: Place, *, name: str, as_json: bool) -> None:
    """Let devices run a release; the one accepted last is the current one."""
    with place.session() as (session, _):
        state = references.accept_release(session, name, now=system_clock()).state
    _say_release(name, state, as_json=as_json)


@release.command("retire", epilog="Example: hwtrust-backend release retire 0.9")
@click.argument("name")
@as_json
@placed
def release_retire(place: Place, *, name: str, as_json: bool) -> None:
    """Refuse a release from now on: devices that run it fail."""
    with place.session() as (session, _):
        state = references.retire_release(session, name, now=system_clock()).state
    _say_release(name, state, as_json=as_json)


@release.command("list", epilog="Example: hwtrust-backend release list")
@as_json
@placed
def release_list(place: Place, *, as_json: bool) -> None:
    """List the releases."""
    with place.session() as (session, _):
        current = references.current_release(session)
        rows = [
            {
                "name": row.name,
                "state": row.state,
                "current": current is not None and row.name == current.name,
                "added_at": row.added_at,
                "layers": [layer.name for layer in references.decode_release(row.content).layers],
            }
            for row in references.list_releases(session)
        ]
    if as_json:
        say_json(rows)
        return
    say_table(
        ("RELEASE", "STATE", "CURRENT", "ADDED", "LAYERS"),
        [
            (
                str(row["name"]),
                str(row["state"]),
                "yes" if row["current"] else "",
                utc_text(int(str(row["added_at"]))),
                " ".join(map(str, row["layers"] if isinstance(row["layers"], list) else [])),
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
    help="How long it is good: 30d, 24h, 15m.",
)
@click.option("--label", default="", help="A note for the list, such as whom it is for.")
@as_json
@placed
def token_create(place: Place, *, expires: int, label: str, as_json: bool) -> None:
    """Make a token for one enrolment. It is printed once and cannot be shown again."""
    now = system_clock()
    with place.session() as (session, _):
        made = enrolment_tokens.create_token(session, label=label, lifetime_ms=expires, now=now)
    if as_json:
        say_json({"token": made, "expires_at": now + expires})
        return
    click.echo(made)
    click.echo(f"good for one enrolment in the next {spell_span(expires)}", err=True)


@token.command("list", epilog="Example: hwtrust-backend token list")
@as_json
@placed
def token_list(place: Place, *, as_json: bool) -> None:
    """List the tokens by their ids; the tokens themselves are not stored."""
    now = system_clock()
    with place.session() as (session, _):
        rows = [_token_row(row, now) for row in enrolment_tokens.list_tokens(session)]
    if as_json:
        say_json(rows)
        return
    heads = ("ID", "STATE", "EXPIRES", "USED BY", "LABEL")
    say_table(
        heads,
        [
            (row["id"], row["state"], row["expires"], row["used_by"][:16], row["label"])
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
        revoked = enrolment_tokens.revoke_token(session, token_id, now=system_clock())
    if as_json:
        say_json({"id": revoked, "state": "revoked"})
        return
    click.echo(f"{revoked}: revoked")


def _token_row(row: EnrolmentToken, now: int) -> dict[str, str]:
    state = "open"
    if row.used_at is not None:
        state = "used"
    elif row.revoked:
        state = "revoked"
    elif row.expires_at <= now:
        state = "expired"
    return {
        "id": enrolment_tokens.token_id(row),
        "state": state,
        "expires": utc_text(row.expires_at),
        "used_by": row.used_by,
        "label": row.label,
    }


# --- endorsement keys --------------------------------------------------------------


@click.group()
def ek() -> None:
    """Trust TPMs by the names of their endorsement keys."""


@ek.command("allow", epilog='Example: hwtrust-backend ek allow 000b4ff1… --label "lab board"')
@click.argument("name")
@click.option("--label", default="", help="A note for the list.")
@as_json
@placed
def ek_allow(place: Place, *, name: str, label: str, as_json: bool) -> None:
    """Let the TPM whose EK has this NAME enrol, with no certificate and no token.

    NAME is in hexadecimal; `hwtrust device info` shows it on the device.
    """
    with place.session() as (session, _):
        ek_trust.allow_ek(session, name, label=label, now=system_clock())
    _say_ek(name, "allowed", as_json=as_json)


@ek.command("remove", epilog="Example: hwtrust-backend ek remove 000b4ff1…")
@click.argument("name")
@as_json
@placed
def ek_remove(place: Place, *, name: str, as_json: bool) -> None:
    """Take an EK off the list; a device that is enrolled stays enrolled."""
    with place.session() as (session, _):
        ek_trust.remove_ek(session, name, now=system_clock())
    _say_ek(name, "removed", as_json=as_json)


@ek.command("list", epilog="Example: hwtrust-backend ek list")
@as_json
@placed
def ek_list(place: Place, *, as_json: bool) -> None:
    """List the EKs that are trusted by name."""
    with place.session() as (session, _):
        rows = [(row.name, row.label, row.added_at) for row in ek_trust.list_eks(session)]
    if as_json:
        say_json([{"name": name, "label": label, "added_at": at} for name, label, at in rows])
        return
    say_table(("NAME", "ADDED", "LABEL"), [(name, utc_text(at), label) for name, label, at in rows])


@click.group("ek-ca")
def ek_ca() -> None:
    """Trust TPM vendors by their CA certificates."""


@ek_ca.command("add", epilog="Example: hwtrust-backend ek-ca add vendor-root.pem")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
@placed
def ek_ca_add(place: Place, *, file: Path, as_json: bool) -> None:
    """Add a vendor's CA certificates, PEM or DER, one or a bundle."""
    content = _read(file)
    with place.session() as (session, settings):
        name, found = ek_trust.add_authority(settings.ek_authorities, content)
        reason = f"{name}: {len(found.roots)} roots, {len(found.intermediates)} intermediates"
        _note(session, reason)
    result = {
        "file": name,
        "roots": len(found.roots),
        "intermediates": len(found.intermediates),
        "refused": [item.reason for item in found.refused],
    }
    if as_json:
        say_json(result)
        return
    say_fields([(key, str(value)) for key, value in result.items() if value != []])


def _note(session: Session, reason: str) -> None:
    record(session, Event.EK_AUTHORITY_ADDED, now=system_clock(), reason=reason)


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


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_FILE_LIMIT)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", path=str(file)) from error
