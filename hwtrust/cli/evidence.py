"""`hwtrust evidence`: what evidence of any kind says, and whether to believe it.

Reads files and prints; all judgement is in `hwtrust.verify`. Rules:

1. `show` verifies nothing, and says so every time.
2. What evidence says is somebody's text: characters that could steer a terminal are
   printed escaped.
3. Report data must be given to `verify`; going without is spelled `--unsafe-…`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hwtrust.cli.output import echo_json, json_option, printable
from hwtrust.errors import EvidenceError, HwTrustError, UntrustedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.cli.evidence_verify import Outcome
    from hwtrust.verify.shown import Shown

NOT_VERIFIED: Final = "NOT VERIFIED: this is what the file says of itself; anybody can write it"

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("evidence")
def evidence() -> None:
    """Look into evidence of a TPM, an enclave or a confidential VM, or verify it."""


@evidence.command("show")
@click.argument("file", type=_FILE)
@json_option
def show(*, file: Path, as_json: bool) -> None:
    """Print what a file of evidence says, without verifying it.

    FILE may be a SEV-SNP report, a TDX or SGX quote, a Nitro document, a CCA token, an
    HCL report, a GPU's report, a TPMS_ATTEST, a firmware or IMA log, certificates, or
    what wraps them; what it is, is recognised. Its bytes may be in hex or base64.

    \b
    Example:
      hwtrust evidence show report.bin
    """
    from hwtrust.cli.evidence_verify import read  # noqa: PLC0415 - what it loads is slow
    from hwtrust.verify.shown import show as look_into  # noqa: PLC0415

    shown = look_into(read(file))
    if as_json:
        echo_json({"verified": False, **_told(shown)})
    else:
        click.echo(NOT_VERIFIED)
        _print(shown, "", "")
    for problem in shown.problems():
        raise problem


def _told(shown: Shown) -> dict[str, object]:
    """What `--json` prints of evidence or of a part."""
    if shown.problem is not None:
        return {"error": shown.problem.code, "message": shown.problem.message}
    told: dict[str, object] = {"form": shown.form, "facts": shown.facts}
    if shown.parts:
        told["parts"] = {label: _told(part) for label, part in shown.parts}
    return told


def _print(shown: Shown, label: str, indent: str) -> None:
    from hwtrust.verify.forms import TITLES  # noqa: PLC0415

    if shown.problem is not None:
        message = f"cannot be read: {shown.problem.message} [{shown.problem.code}]"
        click.echo(f"{indent}{printable(label)}: {printable(message)}")
        return
    title = "JSON" if shown.form is None else TITLES[shown.form]
    click.echo(f"{indent}{printable(label)}: {title}" if label else title)
    _print_facts(shown.facts, indent + "  ")
    for name, part in shown.parts:
        _print(part, name, indent + "  ")


def _print_facts(facts: Mapping[str, str | int | bool | list[str]], indent: str) -> None:
    for name, value in facts.items():
        if isinstance(value, list):
            click.echo(f"{indent}{printable(name)}:")
            for item in value:
                click.echo(f"{indent}  {printable(str(item))}")
        else:
            told = str(value).lower() if isinstance(value, bool) else str(value)
            click.echo(f"{indent}{printable(name)}: {printable(told)}".rstrip())


@evidence.command("verify")
@click.argument("file", type=_FILE)
@click.option(
    "--policy", "policy_file", type=_FILE, required=True, help="What is accepted, as TOML."
)
@click.option(
    "--report-data",
    "report_data_text",
    metavar="HEX",
    help="What was asked for: report data, nonce or challenge, as its kind has it.",
)
@click.option(
    "--unsafe-no-report-data", is_flag=True, help="Accept evidence of any age, made for anybody."
)
@click.option(
    "--certificates",
    "certificate_files",
    type=_FILE,
    multiple=True,
    help="Certificates that the evidence does not carry, of AMD or of a GPU.",
)
@click.option("--crl", "crl_files", type=_FILE, multiple=True, help="A revocation list.")
@click.option(
    "--collateral",
    "collateral_files",
    type=_FILE,
    multiple=True,
    help="Collateral of Intel for the platform of a quote.",
)
@click.option(
    "--endorsements",
    "endorsement_files",
    type=_FILE,
    multiple=True,
    help="Keys of Arm CCA platforms.",
)
@click.option("--time", "time_text", metavar="RFC3339", help="Verify as of then.  [default: now]")
@click.option(
    "--root",
    "roots",
    metavar="SHA256",
    multiple=True,
    help="Trust the root with this fingerprint, and no longer the vendor's.",
)
@click.option("--pcrs", "pcrs_file", type=_FILE, help="Of a log: the PCR values of a quote.")
@json_option
def verify(
    *,
    file: Path,
    policy_file: Path,
    report_data_text: str | None,
    unsafe_no_report_data: bool,
    certificate_files: tuple[Path, ...],
    crl_files: tuple[Path, ...],
    collateral_files: tuple[Path, ...],
    endorsement_files: tuple[Path, ...],
    time_text: str | None,
    roots: tuple[str, ...],
    pcrs_file: Path | None,
    as_json: bool,
) -> None:
    """Verify evidence offline, and hold it against a policy.

    Whether it is authentic and answers what was asked for, what it says, and all that
    speaks against it. The exit code is 0 if it is accepted, 3 if it is not, and 1 if a
    file is not what it should be.

    \b
    Example:
      hwtrust evidence verify report.bin --policy policy.toml --report-data 5f1c…
    """
    from hwtrust.cli import evidence_verify as work  # noqa: PLC0415 - what it loads is slow

    try:
        outcome = work.verified(
            work.read(file),
            policy=work.read_policy(policy_file),
            asked=work.report_data(report_data_text, unsafe=unsafe_no_report_data),
            given=work.Given(
                certificates=tuple(map(work.read, certificate_files)),
                crls=tuple(map(work.read, crl_files)),
                collateral=tuple(map(work.read, collateral_files)),
                endorsements=tuple(map(work.read, endorsement_files)),
                roots=tuple(map(work.root, roots)),
                pcrs=None if pcrs_file is None else work.read(pcrs_file),
                now=work.moment(time_text),
            ),
        )
    except EvidenceError as error:
        if as_json:
            echo_json({"authentic": False, "accepted": False, **_refusal(error)})
        else:
            click.echo("refused: the evidence is not authentic, or not for this challenge")
        raise
    if as_json:
        echo_json(outcome)
    else:
        _print_outcome(outcome)
    if not outcome.accepted:
        raise UntrustedError("the evidence is authentic, and the policy does not accept its state")


def _refusal(error: HwTrustError) -> dict[str, object]:
    return {"error": error.code, "message": error.message}


def _print_outcome(outcome: Outcome) -> None:
    click.echo(f"authentic: {outcome.title}")
    for warning in outcome.not_checked:
        click.echo(f"not checked: {warning}")
    _print_facts(outcome.facts, "  ")
    for finding in outcome.findings:
        message = printable(finding.message)
        click.echo(f"{finding.severity}: {message} [{finding.code}]")
    click.echo("accepted" if outcome.accepted else "not accepted")
