"""`hwtrust reference`: make reference values from what a machine has measured.

Reads files and prints; what is printed is for a person to read and to edit. The files
are not verified: they are to come from a machine in a known good state.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hwtrust import digests
from hwtrust.cli.files import read_file
from hwtrust.cli.output import echo_json, json_option
from hwtrust.errors.evidence import WireError
from hwtrust.wire.algorithms import alg_from_name
from hwtrust.wire.logs.firmware import MAX_SIZE, FirmwareLog
from hwtrust.wire.selection import PcrSelection

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_BANKS: Final = ("sha1", "sha256", "sha384", "sha512")
_PCRS: Final = "0,1,2,3,4,5,6,7"
_RTMRS: Final = "0,1,2,3"


@click.group("reference")
def reference() -> None:
    """Make reference values, to be edited, from a machine in a known good state."""


@reference.command("from-eventlog")
@click.argument("file", type=_FILE)
@click.option(
    "--pcrs",
    "pcrs_text",
    metavar="PCRS",
    help="The PCRs to make rules for, or RTMRs.  [default: 0 to 7; 0 to 3 of a confidential VM]",
)
@click.option(
    "--bank",
    type=click.Choice(_BANKS),
    help="The bank that is quoted.  [default: sha256; sha384 of a confidential VM]",
)
@json_option
def from_eventlog(*, file: Path, pcrs_text: str | None, bank: str | None, as_json: bool) -> None:
    """Make firmware rules from an event log, as TOML.

    FILE is the log as the kernel gives it, in
    /sys/kernel/security/tpm0/binary_bios_measurements. Each digest has what the log
    says of it beside it. With --json: what the log is, and the TOML.

    \b
    Example:
      hwtrust reference from-eventlog binary_bios_measurements --pcrs 0,2,4,7 > firmware.toml
    """
    from hwtrust.verify.logs.reference import reference_from_eventlog  # noqa: PLC0415 - when used

    log = FirmwareLog.decode(read_file(file, most=MAX_SIZE))
    bank = bank or ("sha384" if log.is_confidential else "sha256")
    pcrs_text = pcrs_text or (_RTMRS if log.is_confidential else _PCRS)
    try:
        ((_, numbers),) = PcrSelection.parse(f"{bank}:{pcrs_text}").banks
    except (WireError, ValueError):
        raise click.BadParameter(f"{pcrs_text!r} is no list of PCRs", param_hint="--pcrs") from None
    text = reference_from_eventlog(log, pcrs=numbers, bank=alg_from_name(bank))
    if as_json:
        echo_json({"log": log.facts(), "toml": text})
    else:
        click.echo(text, nl=False)


@reference.command("from-ima")
@click.argument("file", type=_FILE)
@json_option
def from_ima(*, file: Path, as_json: bool) -> None:
    """Make IMA rules from a log of the kernel's measurements, as TOML.

    FILE is binary_runtime_measurements or ascii_runtime_measurements of
    /sys/kernel/security/ima. Violations, and digests that are not believed, are
    left out and counted. With --json: what the log is, and the TOML.

    \b
    Example:
      hwtrust reference from-ima binary_runtime_measurements > ima.toml
    """
    from hwtrust.verify.logs.ima_reference import reference_from_ima  # noqa: PLC0415 - when used
    from hwtrust.wire.logs.ima import MAX_LOG, ImaLog  # noqa: PLC0415

    log = ImaLog.decode(read_file(file, most=MAX_LOG))
    text = reference_from_ima(log.entries())
    if as_json:
        echo_json({"log": log.facts(), "toml": text})
    else:
        click.echo(text, nl=False)


@reference.command("from-tree")
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--at",
    "place",
    metavar="PATH",
    default="/",
    show_default=True,
    help="Where the device has the tree.",
)
@json_option
def from_tree(*, tree: Path, place: str, as_json: bool) -> None:
    """Make IMA rules from the files below TREE, such as an image's root, as TOML.

    Links are not followed; what is neither file nor directory is passed over, since the
    kernel does not measure it. With --json: how many files, and the TOML.

    \b
    Example:
      hwtrust reference from-tree ./rootfs > ima.toml
    """
    from hwtrust.verify.logs.ima_reference import reference_from_tree  # noqa: PLC0415 - when used

    files = list(_files(tree, place.rstrip("/")))
    text = reference_from_tree(files)
    if as_json:
        echo_json({"files": len(files), "toml": text})
    else:
        click.echo(text, nl=False)


def _files(tree: Path, place: str) -> Iterator[tuple[str, bytes]]:
    """Path on the device and SHA-256 digest of each file."""
    try:
        for folder, folders, names in os.walk(tree, onerror=_raise):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                digest = _sha256(path)
                if digest is not None:
                    yield f"{place}/{path.relative_to(tree)}", digest
    except OSError as error:
        raise click.FileError(
            str(error.filename), hint=error.strerror or "it cannot be read"
        ) from error


def _raise(error: OSError) -> None:
    raise error


def _sha256(path: Path) -> bytes | None:
    """The digest of a file; None of what is none."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return None
    # Were it exchanged meanwhile: a link is not followed, a pipe not waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        return digests.sha256(descriptor)
    finally:
        os.close(descriptor)
