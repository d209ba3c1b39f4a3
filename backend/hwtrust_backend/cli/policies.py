"""`policy` and `group`: what devices are held to."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

import click
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hwtrust.errors import ConfigError, MalformedError
from hwtrust.verify.enclaves.judge import OF_TPMS
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.envelope import Envelope
from hwtrust_backend import policies
from hwtrust_backend.admin import local_administrator, rules
from hwtrust_backend.appraisal.dry_run import DryRun
from hwtrust_backend.cli.output import say_fields, say_json, say_table
from hwtrust_backend.cli.shared import Place, as_json, placed, read_file
from hwtrust_backend.config import system_clock, utc_text

_FILE_LIMIT = 1024 * 1024
_SHORT = 16

VERSION: Final = click.IntRange(min=1, max=2**31 - 1)


@click.group()
def policy() -> None:
    """Say what devices are held to: in documents, in versions, tried before they count."""


@policy.command("check", epilog="Example: hwtrust-backend policy check strict.toml")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
def policy_check(file: Path, *, as_json: bool) -> None:
    """Read a policy document and say what is wrong with it, or what it leaves unsaid.

    What is unsaid refuses: every device of the group would fail, or every TPM.
    """
    read = policies.read_policy(_read(file))
    if as_json:
        say_json({"file": str(file), "absent": read.absent})
        return
    click.echo(f"{file}: a policy")
    for name in read.absent:
        whom = "TPM" if name.startswith(OF_TPMS) else "device"
        click.echo(f"  says nothing of {name}: every {whom} fails")
    for kind in EnclaveKind:
        if kind in read.evidence and getattr(read.enclaves, kind) is msgspec.UNSET:
            click.echo(f"  has no table {kind}: every device of that kind fails")


@policy.command("schema", epilog="Example: hwtrust-backend policy schema > policy.schema.json")
def policy_print_schema() -> None:
    """Print the JSON Schema of policy documents, for editors that check while one types."""
    say_json(policies.policy_schema())


@policy.command("add", epilog="Example: hwtrust-backend policy add default strict.toml")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--note", default="", help="Why, for the list.")
@click.option(
    "--signature",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A signer's envelope, as `policy sign` writes it.",
)
@click.option("--activate", is_flag=True, help="Put it into force at once.")
@as_json
@placed
def policy_add(
    place: Place,
    *,
    name: str,
    file: Path,
    note: str,
    signature: Path | None,
    activate: bool,
    as_json: bool,
) -> None:
    """Add FILE as the next version of the policy NAME."""
    document, by = _read(file), local_administrator()
    envelope = None if signature is None else _envelope(signature)
    with place.session() as (session, settings):
        now = system_clock()
        added = rules.add_policy(
            session,
            name,
            document,
            note=note,
            signature=envelope,
            settings=settings,
            by=by,
            now=now,
        )
        if activate:
            added = rules.activate_policy(
                session, name, added.version, settings=settings, by=by, now=now
            )
    if as_json:
        say_json(added)
        return
    click.echo(f"{name}: version {added.version}{', in force' if added.active else ''}")


@policy.command("activate", epilog="Example: hwtrust-backend policy activate default 3")
@click.argument("name")
@click.argument("version", type=VERSION)
@as_json
@placed
def policy_activate(place: Place, *, name: str, version: int, as_json: bool) -> None:
    """Put a version into force, for every group that is held to the policy NAME.

    An older version can be put into force again.
    """
    with place.session() as (session, settings):
        active = rules.activate_policy(
            session,
            name,
            version,
            settings=settings,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json(active)
        return
    click.echo(f"{name}: version {version} is in force")


@policy.command("list", epilog="Example: hwtrust-backend policy list")
@as_json
@placed
def policy_list(place: Place, *, as_json: bool) -> None:
    """List every version of every policy, newest first."""
    with place.reading() as (session, _):
        rows = rules.policy_versions(session, by=local_administrator())
    if as_json:
        say_json(rows)
        return
    say_table(
        ("POLICY", "VERSION", "IN FORCE SINCE", "BY", "ADDED", "AUTHOR", "SIGNED BY", "NOTE"),
        [
            (
                row.name,
                str(row.version),
                "" if row.activated_at is None else utc_text(row.activated_at),
                row.activated_by,
                utc_text(row.added_at),
                row.author,
                row.signer or "-",
                row.note,
            )
            for row in rows
        ],
    )


@policy.command("show", epilog="Example: hwtrust-backend policy show default > default.toml")
@click.argument("name")
@click.argument("version", type=VERSION, required=False)
@placed
def policy_show(place: Place, *, name: str, version: int | None) -> None:
    """Print a version's document, as it was given [default: the version in force]."""
    with place.reading() as (session, _):
        document = rules.policy(session, name, version, by=local_administrator()).document
    click.echo(document, nl=not document.endswith("\n"))


@policy.command("diff", epilog="Example: hwtrust-backend policy diff default 2 3")
@click.argument("name")
@click.argument("old", type=VERSION)
@click.argument("new", type=VERSION)
@placed
def policy_diff(place: Place, *, name: str, old: int, new: int) -> None:
    """Print what changed from one version to another."""
    with place.reading() as (session, _):
        before, after = (
            rules.policy(session, name, version, by=local_administrator()).document.splitlines(
                keepends=True
            )
            for version in (old, new)
        )
    lines = difflib.unified_diff(before, after, f"{name} version {old}", f"{name} version {new}")
    click.echo("".join(lines), nl=False)


@policy.command("dry-run", epilog="Example: hwtrust-backend policy dry-run strict.toml")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--group", default=policies.DEFAULT_GROUP, show_default=True, help="Whose devices.")
@click.option("--limit", type=click.IntRange(min=1), help="Look at so many devices at most.")
@as_json
@placed
def policy_dry_run(
    place: Place, *, file: Path, group: str, limit: int | None, as_json: bool
) -> None:
    """Try FILE on the evidence that is kept: which devices would fail by it, and why.

    Nothing is changed.
    """
    document = _read(file)
    with place.reading() as (session, _):
        result = rules.try_policy(
            session, document, group=group, limit=limit, by=local_administrator()
        )
    if as_json:
        say_json(result)
        return
    _show_dry_run(result)


@policy.command("sign", epilog="Example: hwtrust-backend policy sign default a.toml --key key.pem")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The signer's private key, P-256, PEM; its passphrase is asked for.",
)
def policy_sign(name: str, file: Path, *, key: Path) -> None:
    """Sign FILE as a document of the policy NAME, and print the envelope.

    It needs no backend: sign where the key is.
    """
    document = _read(file)
    policies.read_policy(document)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(document.encode())
    say_json(policies.sign_policy(name, digest.finalize(), key=_private_key(key)))


@click.group()
def group() -> None:
    """Put devices into groups, each of which is held to one policy."""


@group.command("set", epilog="Example: hwtrust-backend group set line-3 --policy strict")
@click.argument("name")
@click.option("--policy", "policy_name", required=True, help="The policy's name.")
@click.option("--label", help="A note for the list [default: the one that it has].")
@as_json
@placed
def group_set(
    place: Place, *, name: str, policy_name: str, label: str | None, as_json: bool
) -> None:
    """Make a group, or hold one to another policy."""
    with place.session() as (session, _):
        made = rules.set_group(
            session,
            name,
            policy=policy_name,
            label=label,
            by=local_administrator(),
            now=system_clock(),
        )
    if as_json:
        say_json(made)
        return
    in_force = "" if made.policy_version else ", none in force: every device fails"
    click.echo(f"{name}: policy {policy_name}{in_force}")


@group.command("list", epilog="Example: hwtrust-backend group list")
@as_json
@placed
def group_list(place: Place, *, as_json: bool) -> None:
    """List the groups, with the policy that each is held to."""
    with place.reading() as (session, _):
        rows = rules.groups(session, by=local_administrator())
    if as_json:
        say_json(rows)
        return
    say_table(
        ("GROUP", "POLICY", "VERSION", "LABEL"),
        [
            (row.name, row.policy, str(row.policy_version or "none in force"), row.label)
            for row in rows
        ],
    )


def _show_dry_run(result: DryRun) -> None:
    click.echo(f"{result.summary}\n")
    say_fields(
        [
            ("group", result.group),
            ("looked at", f"{result.examined} devices"),
            ("would fail", f"{result.failing}, of which {result.newly_failing} do not fail now"),
            ("would recover", str(result.recovering)),
            ("incomplete", f"{result.incomplete}; their layers, or logs it asks for, are missing"),
            ("no evidence", f"{result.without_evidence}; {result.unreadable} not readable"),
            ("says nothing of", ", ".join(result.absent) or "-"),
        ]
    )
    if result.reasons:
        click.echo("\nwhy they would fail")
        rows = [(item.code, str(item.devices), item.message) for item in result.reasons]
        say_table(("CODE", "DEVICES", "FOR EXAMPLE"), rows)
    if result.examples:
        click.echo("\nwhat would change")
        say_table(
            ("DEVICE", "IS", "WOULD BE", "MODE", "WHY"),
            [
                (
                    item.device[:_SHORT],
                    item.standing,
                    item.would_be,
                    item.mode,
                    "; ".join(item.findings) or "-",
                )
                for item in result.examples
            ],
        )


def _read(file: Path) -> str:
    try:
        return read_file(file, limit=_FILE_LIMIT).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8", path=str(file)) from error


def _envelope(file: Path) -> Envelope:
    try:
        return msgspec.json.decode(_read(file), type=Envelope)
    except msgspec.MsgspecError as error:
        raise MalformedError(f"{file} is no envelope: {error}", structure="Envelope") from error


def _private_key(file: Path) -> ec.EllipticCurvePrivateKey:
    content = _read(file).encode()
    try:
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError:
            asked: str = click.prompt("passphrase of the key", hide_input=True, err=True)
            key = serialization.load_pem_private_key(content, password=asked.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"{file} holds no private key that can be opened"
        raise ConfigError(message, path=str(file)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{file} holds no P-256 key", path=str(file))
    return key
