"""`hwtrust tpm`: which TPMs are there, and what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hwtrust.cli.output import echo_json, echo_table, json_option
from hwtrust.errors import TpmError
from hwtrust.wire.algorithms import alg_name

if TYPE_CHECKING:
    from hwtrust.tpm.discover import Candidate


@click.group()
def tpm() -> None:
    """Find TPMs and look at them. Nothing is changed."""


@tpm.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List the TPM devices that udev knows, the preferred first.

    \b
    Example:
      hwtrust tpm list
    """
    from hwtrust.tpm import discover  # noqa: PLC0415 - the TPM stack loads slowly

    found = discover.discover()
    makers = [_manufacturer(item) for item in found]
    if as_json:
        echo_json(
            [
                {
                    "path": item.path,
                    "tcti": item.tcti,
                    "resource_managed": item.resource_managed,
                    "version": item.major_version,
                    "manufacturer": maker,
                    "problem": item.problem.code if item.problem else None,
                }
                for item, maker in zip(found, makers, strict=True)
            ]
        )
        return
    if not found:
        click.echo("no TPM found: udev knows no device of the subsystems tpm and tpmrm")
        return
    rows = [
        (
            item.path,
            f"TPM {item.major_version}.x" if item.major_version else "unknown",
            maker or "unknown",
            "resource-managed" if item.resource_managed else "raw",
            str(item.problem) if item.problem else "ready",
        )
        for item, maker in zip(found, makers, strict=True)
    ]
    echo_table(rows, header=("DEVICE", "VERSION", "MANUFACTURER", "KIND", "STATE"))


def _manufacturer(candidate: Candidate) -> str | None:
    """Who made a TPM, as it says itself; it must be one that can be opened."""
    from hwtrust.tpm import discover  # noqa: PLC0415 - the TPM stack loads slowly

    if candidate.problem is not None or candidate.major_version == 1:
        return None
    try:
        with discover.open_tpm(candidate.tcti) as opened:
            identity = discover.identify(opened)
    except TpmError:
        return None
    return f"{identity.manufacturer} {identity.vendor}".strip()


@tpm.command()
@click.option("--tcti", help="How to reach the TPM, such as swtpm:path=SOCKET.")
@json_option
def info(*, tcti: str | None, as_json: bool) -> None:
    """Show manufacturer, firmware, PCR banks and lockout of a TPM, and its libraries.

    A warning names the published advisories that hold for a library's version.
    Without --tcti the TPM is the first that `hwtrust tpm list` shows as ready.

    \b
    Example:
      hwtrust tpm info --tcti device:/dev/tpmrm0
    """
    # The TPM stack loads slowly.
    from hwtrust.tpm import discover, installed, provision  # noqa: PLC0415

    with discover.open_tpm(tcti) as opened:
        identity = discover.identify(opened)
        libraries = installed.libraries(identity, tcti=opened.name)
        banks = [alg_name(bank) for bank in provision.active_banks(opened)]
        p256 = provision.has_p256(opened)
    firmware = f"{identity.firmware_version >> 32:08x}.{identity.firmware_version & 2**32 - 1:08x}"
    if as_json:
        echo_json(
            {
                "tcti": opened.name,
                "manufacturer": identity.manufacturer,
                "vendor": identity.vendor,
                "specification": identity.revision,
                "firmware": firmware,
                "banks": banks,
                "p256": p256,
                "owner_auth_set": identity.owner_auth_set,
                "lockout_auth_set": identity.lockout_auth_set,
                "in_lockout": identity.in_lockout,
                "lockout_counter": identity.lockout_counter,
                "libraries": libraries,
                "advisories": installed.exposures(libraries),
            }
        )
        return
    lockout = f"{identity.lockout_counter} failed tries"
    echo_table(
        [
            ("TPM", opened.name),
            ("manufacturer", f"{identity.manufacturer} ({identity.vendor})"),
            ("specification", f"TPM 2.0 revision {identity.revision}"),
            ("firmware", firmware),
            ("PCR banks", ", ".join(banks)),
            ("P-256", "yes" if p256 else "no: RSA-2048 keys will be used"),
            ("owner password", "set" if identity.owner_auth_set else "not set"),
            ("lockout password", "set" if identity.lockout_auth_set else "not set"),
            ("lockout", "IN LOCKOUT" if identity.in_lockout else lockout),
            *(
                (item.library, item.package or item.version or "version unknown")
                for item in libraries
            ),
        ]
    )
    for exposure in installed.exposures(libraries):
        click.echo(f"hwtrust: warning: {exposure.words}", err=True)
