"""`result`: attestation results, and the keys that sign them."""

from __future__ import annotations

import base64
import binascii
import ssl
from pathlib import Path
from typing import BinaryIO, Final

import click
import httpx

from hwtrust.errors import JwksError
from hwtrust_backend.admin.principals import local_administrator
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, passphrase_file, placed
from hwtrust_backend.config import system_clock, utc_text
from hwtrust_backend.config.clock import SECOND
from hwtrust_backend.enrolment import find_device
from hwtrust_backend.results import PublicKeys, ResultClaims, read_jwks, verify_result
from hwtrust_backend.results.claims import SUBMODULE
from hwtrust_backend.results.jwks import SIZE_LIMIT
from hwtrust_backend.results.verify import TOKEN_LIMIT

_FETCH_SECONDS: Final = 10.0


@click.group()
def result() -> None:
    """Attestation results (EAR) for relying parties."""


def as_nonce(_: click.Context, __: click.Parameter, value: str | None) -> bytes | None:
    """An option's callback: base64 or base64url."""
    if value is None:
        return None
    text = value.replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise click.BadParameter("not base64") from error


_NONCE = click.option(
    "--nonce", callback=as_nonce, help="The relying party's nonce, 8 to 64 bytes in base64."
)
_AUDIENCE = click.option("--audience", help="Whom the result is for.")


@result.command(
    "verify",
    epilog="Example: hwtrust-backend result verify result.jwt "
    "--jwks https://trust.example.org:8443/.well-known/jwks.json",
)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--jwks", required=True, metavar="FILE|URL", help="The keys to believe.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The CA of the URL's server, PEM [default: the system's CAs].",
)
@_NONCE
@_AUDIENCE
@click.option("--any-status", is_flag=True, help="Take whatever is genuine and in force.")
@as_json
@placed
def verify_command(
    _: Place,
    *,
    file: BinaryIO,
    jwks: str,
    ca: Path | None,
    nonce: bytes | None,
    audience: str | None,
    any_status: bool,
    as_json: bool,
) -> None:
    """Verify a result: signature, profile, times, audience, nonce, and that it affirms.

    FILE holds the token; without it the token is read from standard input. No backend
    is needed on this machine.
    """
    token = file.read(TOKEN_LIMIT + 1).decode("ascii", errors="replace").strip()
    claims = verify_result(
        token,
        keys=_keys(jwks, ca),
        nonce=nonce,
        audience=audience,
        any_status=any_status,
        now=system_clock(),
    )
    if as_json:
        say_json(claims)
    else:
        _show(claims)


@result.command("issue", epilog="Example: hwtrust-backend result issue 000b5e1f")
@click.argument("device_id", metavar="ID")
@_NONCE
@_AUDIENCE
@passphrase_file
@as_json
@placed
def issue_command(
    place: Place,
    *,
    device_id: str,
    nonce: bytes | None,
    audience: str | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Issue a result about a device: what its last attestation came to."""
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        issued = backend.results.issue(
            session,
            find_device(session, device_id).id,
            nonce=nonce or b"",
            audience=audience or "",
            by=local_administrator().name,
            now=system_clock(),
        )
    if as_json:
        say_json(issued)
    else:
        click.echo(issued.result)


@result.command("keys", epilog="Example: hwtrust-backend result keys")
@passphrase_file
@click.option("--jwks", "as_jwks", is_flag=True, help="Write the set of public keys.")
@as_json
@placed
def keys_command(
    place: Place, *, passphrase_file: Path | None, as_jwks: bool, as_json: bool
) -> None:
    """List the keys that sign results, or write the set that relying parties need."""
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        backend.results.keys.keep(session, now=system_clock())
        found = backend.results.keys.report(session)
        jwks = backend.results.keys.published(session)
    if as_jwks or as_json:
        say_json(jwks if as_jwks else found)
        return
    rows = [
        (
            key.kid,
            key.state,
            utc_text(key.made_at),
            "-" if key.current_at is None else utc_text(key.current_at),
            "-" if key.retired_at is None else utc_text(key.retired_at),
        )
        for key in found
    ]
    say_table(("KEY", "STATE", "MADE", "SIGNS SINCE", "UNTIL"), rows)


@result.command("rotate-key", epilog="Example: hwtrust-backend result rotate-key")
@click.option(
    "--compromised",
    is_flag=True,
    help="Withdraw every present key at once: what it has signed is refused from now on.",
)
@passphrase_file
@as_json
@placed
def rotate_command(
    place: Place, *, compromised: bool, passphrase_file: Path | None, as_json: bool
) -> None:
    """Let the next key sign results, before its time."""
    by, now = local_administrator().name, system_clock()
    with place.backend(passphrase_file) as backend, backend.database.transaction() as session:
        turn = backend.results.keys.withdraw if compromised else backend.results.keys.rotate
        kid = turn(session, by=by, now=now)
    if as_json:
        say_json({"key": kid, "state": "current"})
    else:
        click.echo(f"{kid}: signs from now on")


def _keys(place: str, ca: Path | None) -> PublicKeys:
    if place.startswith("https://"):
        return read_jwks(_fetched(place, ca))
    if "://" in place:
        raise JwksError("a set of keys is fetched over https, or read from a file")
    try:
        with Path(place).open("rb") as file:
            return read_jwks(file.read(SIZE_LIMIT + 1))
    except OSError as error:
        raise JwksError(f"{place} cannot be read: {error.strerror}") from error


def _fetched(url: str, ca: Path | None) -> bytes:
    content = b""
    try:
        trusted = ssl.create_default_context(cafile=None if ca is None else str(ca))
        with (
            httpx.Client(verify=trusted, timeout=_FETCH_SECONDS, trust_env=False) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise JwksError(f"{url} answered {answer.status_code}")
            for piece in answer.iter_raw():
                content += piece
                if len(content) > SIZE_LIMIT:
                    break
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise JwksError(f"{url} cannot be fetched: {error}") from error
    return content


def _show(claims: ResultClaims) -> None:
    ours = claims.device
    parts = [
        (
            "vector" if name == SUBMODULE else f"{name} ({part.ear_status.value})",
            ", ".join(
                f"{claim} {value}" for claim, value in part.ear_trustworthiness_vector.items()
            ),
        )
        for name, part in claims.submods.items()
    ]
    say_fields(
        [
            ("status", claims.ear_status.value),
            ("device", claims.sub),
            ("kind", ours.hwtrust_kind),
            ("standing", ours.hwtrust_standing),
            ("mode", ours.hwtrust_mode),
            ("findings", ", ".join(ours.hwtrust_findings) or "none"),
            ("release", ours.hwtrust_release),
            ("epoch", str(ours.hwtrust_epoch)),
            ("attested", utc_text(ours.hwtrust_attested_at * SECOND)),
            ("issued", f"{utc_text(claims.iat * SECOND)} by {claims.iss}"),
            ("expires", utc_text(claims.exp * SECOND)),
            *parts,
        ]
    )
