"""`hwtrust verify-quote`: check a quote made with tpm2-tools or by any TPM 2.0.

Reads files and prints; all judgement is in `hwtrust.verify`. A refusal is raised
as a `HwTrustError`. Rules:

1. What is not checked is said, in the output, every time.
2. Nonce and selection must be given; going without is spelled `--unsafe-…`.
3. A key that comes with its attributes (TPM2B_PUBLIC) must be an attestation key.
   A PEM key comes without: whoever passes it vouches for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import msgspec

from hwtrust.cli.files import read_file
from hwtrust.cli.output import echo_json, json_option
from hwtrust.errors import MalformedError, UnextendedBankError, WireError
from hwtrust.verify.attestation import Nonce, Signer
from hwtrust.verify.quote import (
    ENDORSEMENT,
    OWNER,
    PLATFORM,
    QuoteClaims,
    Selection,
    Unsafe,
    qualified_name,
    require_extended,
)
from hwtrust.verify.quote import verify_quote as check_quote
from hwtrust.verify.roles import require_attestation_key
from hwtrust.verify.tools_files import (
    read_key,
    read_message,
    read_pcrs,
    read_selection,
    read_signature,
)
from hwtrust.wire.algorithms import Alg, alg_name
from hwtrust.wire.structures import PcrSelection, Public, Signature

_HIERARCHIES: Final = {"endorsement": ENDORSEMENT, "owner": OWNER, "platform": PLATFORM}
_MAX_FILE: Final = 1 << 20
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class Checked(msgspec.Struct, frozen=True):
    """Which checks were made; what was not checked is the word of the device."""

    signature: bool
    attributes: bool
    signer: bool
    nonce: bool
    selection: bool
    pcrs: bool


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints: an authentic quote, all byte strings in hex."""

    authentic: bool
    checked: Checked
    signature: str
    qualified_signer: str
    nonce: str
    selection: str
    clock: int
    """Milliseconds."""
    safe: bool
    resets: int
    restarts: int
    firmware_version: str
    pcrs: dict[str, dict[str, str]]
    unextended_banks: list[str]


@click.command("verify-quote")
@click.option(
    "-m",
    "--message",
    "message_file",
    type=_FILE,
    required=True,
    help="TPMS_ATTEST (tpm2_quote -m).",
)
@click.option(
    "-s",
    "--signature",
    "signature_file",
    type=_FILE,
    required=True,
    help="TPMT_SIGNATURE, or plain: DER for ECDSA, bare bytes for RSA (tpm2_quote -s).",
)
@click.option(
    "-p",
    "--pcrs",
    "pcrs_file",
    type=_FILE,
    required=True,
    help='PCR values: from tpm2_quote -o, or JSON {"sha256": {"0": "hex"}}.',
)
@click.option(
    "-k",
    "--key",
    "key_file",
    type=_FILE,
    required=True,
    help="Attestation key: PEM, TPM2B_PUBLIC or TPMT_PUBLIC.",
)
@click.option(
    "-n",
    "--nonce",
    "nonce_text",
    metavar="HEX|@FILE",
    help="The nonce that the quote was asked for with, in hex, or @ and a file that holds the hex.",
)
@click.option("--nonce-file", type=_FILE, help="The same, from a file of raw bytes.")
@click.option(
    "--selection",
    "selection_text",
    metavar="PCRS",
    help="The PCRs that must be quoted, such as sha256:0,1,7+sha1:all; the order of banks counts.",
)
@click.option(
    "--hierarchy",
    type=click.Choice(sorted(_HIERARCHIES)),
    help="Where the key is a primary key; its qualified name must be the quote's signer.",
)
@click.option(
    "--signer", "signer_text", metavar="HEX", help="The key's qualified name, if you know it."
)
@click.option("--unsafe-no-nonce", is_flag=True, help="Accept a quote of any age.")
@click.option("--unsafe-any-selection", is_flag=True, help="Accept whatever PCRs are quoted.")
@click.option(
    "--unsafe-allow-sha1", is_flag=True, help="Accept signatures over SHA-1, and SHA-1 banks."
)
@json_option
def verify_quote(
    *,
    message_file: Path,
    signature_file: Path,
    pcrs_file: Path,
    key_file: Path,
    nonce_text: str | None,
    nonce_file: Path | None,
    selection_text: str | None,
    hierarchy: str | None,
    signer_text: str | None,
    unsafe_no_nonce: bool,
    unsafe_any_selection: bool,
    unsafe_allow_sha1: bool,
    as_json: bool,
) -> None:
    """Check a TPM quote, offline, in files as tpm2_quote writes them.

    Who signed it, that it answers your nonce, and which PCR values it proves. The
    exit code is 0 if all that was asked for holds, 3 if the quote is refused, and 1
    if one of the files is not what it should be.

    \b
    Example:
      hwtrust verify-quote -m msg -s sig -p pcrs -k ak.pub -n 5f1c0d2e --selection sha256:0,7
    """
    nonce = _nonce(nonce_text, nonce_file, unsafe_no_nonce=unsafe_no_nonce)
    selection = _selection(selection_text, unsafe_any_selection=unsafe_any_selection)
    key = read_key(_read(key_file))
    if isinstance(key, Public):
        require_attestation_key(key, unsafe_allow_sha1=unsafe_allow_sha1)
    signer = _signer(signer_text, hierarchy, key if isinstance(key, Public) else None)
    message = read_message(_read(message_file))
    signature = read_signature(_read(signature_file), key=key, message=message)
    claims = check_quote(
        message,
        signature,
        key=key,
        nonce=nonce,
        selection=selection,
        pcrs=read_pcrs(_read(pcrs_file), selection=read_selection(message)),
        signer=signer,
        unsafe_allow_sha1=unsafe_allow_sha1,
    )
    report = _report(
        claims,
        signature,
        nonce=nonce,
        selection=selection,
        signer=signer,
        has_attributes=isinstance(key, Public),
    )
    if as_json:
        echo_json(report)
    else:
        click.echo(_spell(report))


def _read(path: Path) -> bytes:
    data = read_file(path, most=_MAX_FILE)
    if len(data) > _MAX_FILE:
        raise MalformedError(f"{path} is larger than anything that belongs to a quote")
    return data


def _from_hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter("not hexadecimal", param_hint=option) from None


def _nonce(text: str | None, file: Path | None, *, unsafe_no_nonce: bool) -> Nonce:
    if (text is not None) + (file is not None) + unsafe_no_nonce != 1:
        raise click.UsageError("give one of --nonce, --nonce-file and --unsafe-no-nonce")
    if file is not None:
        return _read(file)
    if text is None:
        return Unsafe.NO_NONCE
    if text.startswith("@"):
        path = Path(text[1:])
        try:
            text = _read(path).decode("ascii")
        except UnicodeDecodeError:
            raise click.BadParameter(
                f"{path} does not hold hexadecimal; use --nonce-file for raw bytes",
                param_hint="--nonce",
            ) from None
    return _from_hex(text.strip(), "--nonce")


def _selection(text: str | None, *, unsafe_any_selection: bool) -> Selection:
    if (text is not None) + unsafe_any_selection != 1:
        raise click.UsageError("give one of --selection and --unsafe-any-selection")
    if text is None:
        return Unsafe.ANY_SELECTION
    try:
        return PcrSelection.parse(text)
    except WireError as error:
        raise click.BadParameter(error.message, param_hint="--selection") from None


def _signer(text: str | None, hierarchy: str | None, public: Public | None) -> Signer:
    if text is not None and hierarchy is not None:
        raise click.UsageError("give one of --signer and --hierarchy")
    if text is not None:
        return _from_hex(text, "--signer")
    if hierarchy is None:
        return Unsafe.ANY_SIGNER
    if public is None:
        raise click.UsageError("--hierarchy needs the key as TPM2B_PUBLIC: a PEM key has no name")
    return qualified_name(public.name, hierarchy=_HIERARCHIES[hierarchy])


def _report(
    claims: QuoteClaims,
    signature: Signature,
    *,
    nonce: Nonce,
    selection: Selection,
    signer: Signer,
    has_attributes: bool,
) -> Report:
    return Report(
        authentic=True,
        checked=Checked(
            signature=True,
            attributes=has_attributes,
            signer=signer is not Unsafe.ANY_SIGNER,
            nonce=nonce is not Unsafe.NO_NONCE,
            selection=selection is not Unsafe.ANY_SELECTION,
            pcrs=True,
        ),
        signature=f"{signature.alg.name.lower()}-{alg_name(signature.hash)}",
        qualified_signer=claims.qualified_signer.hex(),
        nonce=claims.nonce.hex(),
        selection=str(claims.selection),
        clock=claims.clock.clock,
        safe=claims.clock.safe,
        resets=claims.clock.reset_count,
        restarts=claims.clock.restart_count,
        firmware_version=f"{claims.firmware_version:016x}",
        pcrs={
            alg_name(bank): {str(number): value.hex() for number, value in values.items()}
            for bank, values in claims.pcrs.items()
        },
        unextended_banks=[alg_name(bank) for bank in claims.pcrs if not _is_extended(claims, bank)],
    )


def _is_extended(claims: QuoteClaims, bank: Alg) -> bool:
    try:
        require_extended(claims, bank=bank)
    except UnextendedBankError:
        return False
    return True


def _spell(report: Report) -> str:
    checked = report.checked
    facts = {
        "signature": f"valid, {report.signature}",
        "key attributes": "those of an attestation key"
        if checked.attributes
        else "not checked: a PEM key comes without them",
        "signer": "the key's qualified name"
        if checked.signer
        else f"not checked: {report.qualified_signer}",
        "nonce": f"as given, {len(report.nonce) // 2} bytes"
        if checked.nonce
        else "NOT CHECKED: the quote may be of any age",
        "selection": f"{report.selection}, as asked for"
        if checked.selection
        else f"{report.selection}, NOT CHECKED: the device chose it",
        "PCR values": "match the signed digest",
        "clock": f"{report.clock} ms, safe"
        if report.safe
        else f"{report.clock} ms, NOT SAFE: it may have shown a later time before",
        "resets, restarts": f"{report.resets}, {report.restarts}",
        "firmware version": report.firmware_version,
    }
    lines = ["The quote is authentic.", *(f"  {name:<16}  {fact}" for name, fact in facts.items())]
    lines += [
        f"  {'warning':<16}  no measurement was made into {bank}: any program can set it"
        for bank in report.unextended_banks
    ]
    for bank, values in report.pcrs.items():
        lines += [f"{bank}:", *(f"  {number:>2}  {value}" for number, value in values.items())]
    return "\n".join(lines)
