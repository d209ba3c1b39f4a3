"""`hwtrust enrol`, `boot`, `attest`, `status` and `eventlog`: a device's life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from hwtrust.agent.client import AgentClient
from hwtrust.cli.output import (
    config_option,
    device_or_agent,
    echo_json,
    echo_table,
    json_option,
    opened_device,
    step_printer,
    trace_option,
    utc,
)
from hwtrust.errors import AlreadyEnrolledError, HwTrustError
from hwtrust.wire.messages import Finding, Mode, Standing

if TYPE_CHECKING:
    from hwtrust.agent.protocol import Condition
    from hwtrust.device import AttestResult, Device, DeviceStatus
    from hwtrust.device import Condition as DeviceCondition

UNTRUSTED = 3
TOKEN_LIMIT = 4096


@click.command()
@click.option(
    "--token-file",
    type=click.File("rb"),
    help="File with the enrolment token; - for standard input.",
)
@click.option("--again", is_flag=True, help="Give up what the device is, and enrol it anew.")
@config_option
@trace_option
@json_option
def enrol(
    *,
    token_file: BinaryIO | None,
    again: bool,
    config_path: Path | None,
    trace: bool,
    as_json: bool,
) -> None:
    """Join the backend with an enrolment token.

    The TPM proves which one it is by its endorsement key (EK), which its vendor
    has certified; the backend sends the first root. A device whose EK is on the
    backend's allow-list needs no token.

    Enrolling again makes new keys in the TPM. The old key store is set aside,
    and nothing opens it any more.

    \b
    Example:
      hwtrust enrol --token-file token
    """
    token = _token(token_file)
    with opened_device(config_path, trace=trace) as device:
        if device.enrolled and not again:
            raise AlreadyEnrolledError("this device is enrolled")
        identity = device.enrol(token=token, on_step=step_printer(quiet=as_json))
    if as_json:
        echo_json({"device": identity.device, "tls_key": identity.tls_kind})
        return
    click.echo(f"enrolled as {identity.device.hex()}, TLS key: {identity.tls_kind}")
    click.echo("next: hwtrust boot")


@click.command()
@click.option("--attest/--no-attest", "then_attest", default=True, help="Attest afterwards.")
@config_option
@trace_option
@json_option
def boot(*, then_attest: bool, config_path: Path | None, trace: bool, as_json: bool) -> int:
    """Measure the layers, open the key store, and attest.

    The TPM releases the root, and so the key store's key, only if every layer is
    what its release says. A load that fails is told to the backend, at once or by
    the next attestation.
    """
    with opened_device(config_path, trace=trace) as device:
        try:
            store = device.boot(on_step=step_printer(quiet=as_json))
        except HwTrustError:
            _tell(device, now=then_attest)
            raise
        epoch, entries = store.epoch, len(store)
        result = device.attest(on_step=step_printer(quiet=as_json)) if then_attest else None
    if as_json:
        document: dict[str, object] = {"epoch": epoch, "entries": entries}
        echo_json(document | ({"attestation": _document(result)} if result else {}))
    else:
        click.echo(f"booted: root of epoch {epoch}, key store with {entries} entries")
        if result:
            _show(result)
    return UNTRUSTED if result and result.standing is Standing.FAILED else 0


@click.command()
@config_option
@trace_option
@json_option
def attest(*, config_path: Path | None, trace: bool, as_json: bool) -> int:
    """Prove the device's state to the backend.

    The root is rotated where that is due; the device boots for it if it has to.
    """
    with opened_device(config_path, trace=trace) as device:
        steps = step_printer(quiet=as_json)
        result = device.attest(on_step=steps)
        if result.root_waits:
            device.boot(on_step=steps)
            result = device.attest(on_step=steps)
    if as_json:
        echo_json(_document(result))
    else:
        _show(result)
    return UNTRUSTED if result.standing is Standing.FAILED else 0


@click.command()
@config_option
@json_option
def status(*, config_path: Path | None, as_json: bool) -> None:
    """Show what the device knows of itself.

    The backend is not asked. While an agent runs, it says what the device may do.
    """
    with device_or_agent(config_path) as found:
        if isinstance(found, AgentClient):
            _show_condition(found.state(), as_json=as_json)
            return
        known, told = found.status(), found.condition
    left = known.not_after - known.clock.clock
    if as_json:
        echo_json(
            {
                "device": known.device,
                "manufacturer": known.tpm.manufacturer,
                "epoch": known.epoch,
                "counter": known.counter,
                "release": known.release,
                "clock_ms": known.clock.clock,
                "clock_safe": known.clock.safe,
                "not_after_ms": known.not_after,
                "expires_in_ms": left,
                "events": len(known.log.records),
                "tls_key": known.tls_kind,
                "heard": known.heard,
                "failure": known.failure,
                "refused": known.refused,
                "update": told.update,
                "restart": told.restart,
            }
        )
        return
    events = len(known.log.records)
    revoked = "" if known.counter <= known.epoch else " (revoked: attest to get the next)"
    expiry = f"in {left / 3_600_000:.1f} h" if left > 0 else "EXPIRED: attest to renew"
    echo_table(
        [
            ("device", known.device.hex()),
            ("TPM", f"{known.tpm.manufacturer} ({known.tpm.vendor})"),
            ("release", known.release),
            ("root", f"epoch {known.epoch}, counter {known.counter}{revoked}"),
            ("TPM clock", utc(known.clock.clock) + ("" if known.clock.safe else ", not safe")),
            ("root opens until", f"{utc(known.not_after)}, {expiry}"),
            ("measured", f"{events} events" if events else "nothing yet"),
            ("TLS key", known.tls_kind),
            ("backend", _heard(known)),
            *_untold(known),
            *_given_up(known),
            *_waiting(told),
        ]
    )


@click.command()
@config_option
@json_option
def eventlog(*, config_path: Path | None, as_json: bool) -> None:
    """Show what was measured since the reset.

    The log is held against the PCR first, the register of the TPM that explains it.
    """
    with opened_device(config_path) as device:
        log = device.event_log()
    if as_json:
        echo_json(
            [
                {
                    "record": record.number,
                    "pcr": record.pcr,
                    "event": record.event.kind.name.lower(),
                    "name": record.event.name,
                    "version": record.event.version,
                    "digest": record.event.digest,
                }
                for record in log.records
            ]
        )
        return
    rows = [
        (
            str(record.number),
            str(record.pcr),
            record.event.kind.name.lower(),
            f"{record.event.name} {record.event.version}".strip(),
            record.event.digest.hex(),
        )
        for record in log.records
    ]
    if not rows:
        click.echo("nothing has been measured since the reset")
        return
    echo_table(rows, header=("#", "PCR", "EVENT", "LAYER", "SHA-256"))


def _tell(device: Device, *, now: bool) -> None:
    """After a load that failed: what the device is, and whether its backend knows."""
    if not device.enrolled:
        return
    known = "the backend has not been told yet"
    if now:
        try:
            result = device.attest()
            known = f"the backend has been told, and finds the device {result.standing}"
        except HwTrustError as error:
            known += f": {error.message} [{error.code}]"
    condition = device.condition
    where = " ".join(filter(None, [condition.step, condition.layer]))
    click.echo(f"{condition.state}: the load failed at {where}; {known}", err=True)


def _heard(known: DeviceStatus) -> str:
    if known.heard is None:
        return "not heard yet"
    return f"{known.heard.mode}, as heard {utc(known.heard.at_ms)}"


def _untold(known: DeviceStatus) -> list[tuple[str, str]]:
    failure = known.failure
    if failure is None:
        return []
    where = " ".join(filter(None, [failure.step, failure.layer]))
    said = f"{utc(failure.at_ms)}, {where}: {failure.detail} [{failure.code}]"
    return [("failed", f"{said}, not told to the backend yet")]


def _given_up(known: DeviceStatus) -> list[tuple[str, str]]:
    refused = known.refused
    if refused is None:
        return []
    said = f"{refused.release}, {utc(refused.at)}: {refused.message} [{refused.code}]"
    return [("given up", said)]


def _waiting(told: Condition | DeviceCondition) -> list[tuple[str, str]]:
    if not told.update:
        return []
    what = "in place, and comes up with the next restart" if told.restart else "not brought in yet"
    return [("to run", f"{told.update}, {what}")]


def _show_condition(condition: Condition, *, as_json: bool) -> None:
    if as_json:
        echo_json({"agent": True, "condition": condition})
        return
    where = " ".join(filter(None, [condition.step, condition.layer]))
    rows = [
        ("agent", "runs, and has the device to itself"),
        ("state", f"{condition.state} since {utc(condition.since_ms)}"),
        ("release", condition.release),
        ("failed", where),
        ("because", f"{condition.message} [{condition.code}]" if condition.code else ""),
        *_waiting(condition),
    ]
    echo_table([row for row in rows if row[1]])


def _token(file: BinaryIO | None) -> str:
    if file is None:
        return ""
    content = file.read(TOKEN_LIMIT + 1).strip()
    if len(content) > TOKEN_LIMIT or not content.isascii():
        raise click.BadParameter("this is no enrolment token", param_hint="--token-file")
    return content.decode("ascii")


def _show(result: AttestResult) -> None:
    click.echo(f"standing: {result.standing}")
    if result.mode is not Mode.NORMAL:
        click.echo(f"mode: {result.mode}")
    for finding in result.findings:
        click.echo(f"  {finding.severity}: {finding.message} [{finding.code}]")
    if result.rotated_to is not None:
        click.echo(f"root rotated: epoch {result.rotated_to}")
    if result.update is not None:
        forced = ", and at once" if result.update.forced else ""
        click.echo(f"to run: {result.update.release}{forced} (hwtrust update)")


def _document(result: AttestResult) -> dict[str, object]:
    return {
        "standing": result.standing,
        "mode": result.mode,
        "findings": [_finding(finding) for finding in result.findings],
        "rotated_to": result.rotated_to,
        "update": result.update,
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {"code": finding.code, "severity": finding.severity, "message": finding.message}
