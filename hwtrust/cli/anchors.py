"""`hwtrust anchors`: which anchors this machine has, and what each can do."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

import click

from hwtrust.cli.output import echo_json, echo_table, json_option
from hwtrust.errors import TpmVersionError
from hwtrust.errors.anchors import AnchorSoftwareError
from hwtrust.wire.selection import ALL_PCRS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hwtrust.anchors.port import Port
    from hwtrust.anchors.protocols import Anchor, Capability
    from hwtrust.errors import HwTrustError
    from hwtrust.tpm.discover import Candidate

_TPM_DEVICES = ("/dev/tpmrm0", "/dev/tpm0")


@click.command()
@json_option
def anchors(*, as_json: bool) -> None:
    """Show the TPM, enclave or confidential VM that this machine is or has.

    Each anchor can measure (extend registers), attest (make evidence) or seal (encrypt
    to itself), or not. Nothing is changed.

    \b
    Example:
      hwtrust anchors
    """
    from hwtrust.anchors.port import LinuxPort  # noqa: PLC0415 - where it is used
    from hwtrust.anchors.protocols import Capability  # noqa: PLC0415
    from hwtrust.anchors.survey import find_anchors  # noqa: PLC0415

    port = LinuxPort()
    found = find_anchors(port, tpm=lambda: tpm_anchors(port))
    if as_json:
        echo_json([anchor.facts() for anchor in found])
        return
    if not found:
        click.echo("no anchor found: neither a TPM, nor an enclave, nor a confidential VM")
        return
    capabilities = tuple(Capability)
    rows = [
        (anchor.kind, anchor.name, anchor.path, *(_told(anchor, item) for item in capabilities))
        for anchor in found
    ]
    header = ("KIND", "NAME", "DEVICE", *(item.upper() for item in capabilities))
    echo_table(rows, header=header)
    for anchor in found:
        for capability, problem in anchor.problems.items():
            click.echo(f"{anchor.kind}: cannot {capability}: {problem.message} [{problem.code}]")
            if hint := problem.data.get("hint") or problem.hint:
                click.echo(f"  hint: {hint}")
        for note in anchor.notes:
            click.echo(f"{anchor.kind}: {note}")


def tpm_anchors(port: Port) -> Iterable[Anchor]:
    """The TPMs of this machine; what hwtrust does with them it does in its TPM modules."""
    from hwtrust.anchors.protocols import Anchor, Capability, Kind  # noqa: PLC0415
    from hwtrust.anchors.survey import NAMES  # noqa: PLC0415

    candidates: list[tuple[str, HwTrustError | None]]
    try:
        from hwtrust.tpm import discover  # noqa: PLC0415 - the TPM stack loads slowly

        found = discover.discover()
    except ModuleNotFoundError:
        hint = "pip install 'hwtrust[device]'"
        missing = AnchorSoftwareError("the TPM stack is not installed", hint=hint)
        candidates = [(path, missing) for path in _present(port, _TPM_DEVICES)[:1]]
    else:
        candidates = [(item.path, item.problem or _old(item)) for item in found]
    for path, problem in candidates:
        usable = problem is None
        yield Anchor(
            kind=Kind.TPM,
            name=NAMES[Kind.TPM],
            path=path,
            served=frozenset(Capability) if usable else frozenset(),
            registers=tuple(f"pcr{index}" for index in ALL_PCRS) if usable else (),
            problems={} if problem is None else dict.fromkeys(Capability, problem),
        )


def _old(candidate: Candidate) -> HwTrustError | None:
    if candidate.major_version in {2, None}:
        return None
    return TpmVersionError(f"{candidate.path} is no TPM 2.0", path=candidate.path)


def _present(port: Port, paths: Iterable[str]) -> list[str]:
    found = []
    for path in paths:
        try:
            port.probe(path)
        except FileNotFoundError:
            continue
        except OSError:
            pass
        found.append(path)
    return found


def _told(anchor: Anchor, capability: Capability) -> str:
    if not anchor.can(capability):
        return "unusable" if capability in anchor.problems else "no"
    if capability == "measure" and anchor.registers:
        return _ranges(anchor.registers)
    return "yes"


def _ranges(names: Iterable[str]) -> str:
    """Names that end in numbers, in short: pcr16-31."""
    told = []
    parts = [re.fullmatch(r"(.*?)([0-9]+)", name) for name in names]
    numbered = enumerate((match[1], int(match[2])) for match in parts if match)
    for _, run in itertools.groupby(numbered, key=lambda item: (item[1][0], item[1][1] - item[0])):
        (prefix, first), *rest = [item for _, item in run]
        told.append(f"{prefix}{first}" + (f"-{rest[-1][1]}" if rest else ""))
    return ", ".join(told)
