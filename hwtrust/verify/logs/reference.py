"""Rules to edit, from what a machine that is believed has measured.

The text is TOML for a person: every digest has the words of the log beside it, and
whatever of these words the digest does not cover says so. The log is not verified: take
it from a machine in a known good state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.errors.logs import FirmwareBankError, FirmwarePcrError
from hwtrust.verify.logs.firmware_claims import (
    SECURE_BOOT_PCR,
    SEPARATED,
    SecureBoot,
    behind_separator,
    measure,
    secure_boot_of,
    separator_digests,
)
from hwtrust.wire.algorithms import alg_name
from hwtrust.wire.logs.firmware import EventType, bank_name, type_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from hwtrust.verify.logs.firmware_claims import Measurement
    from hwtrust.wire.algorithms import Alg
    from hwtrust.wire.logs.firmware import FirmwareLog

_NO_ACTION: Final = int(EventType.NO_ACTION)


def reference_from_eventlog(log: FirmwareLog, *, pcrs: Collection[int], bank: Alg) -> str:
    """`[firmware_log]` rules (`FirmwareLogRules`) that accept what `log` holds in `pcrs`, as TOML.

    Raises:
        FirmwarePcrError: there are no PCRs.
        FirmwareBankError: the log has no digests of `bank`.
    """
    if not pcrs:
        raise FirmwarePcrError("there is no register to make reference values of")
    if bank not in dict(log.banks):
        there = ", ".join(bank_name(has) for has, _ in log.banks)
        raise FirmwareBankError(
            f"the firmware's log has no digests of the bank {alg_name(bank)}; it has: {there}",
            bank=alg_name(bank),
        )
    shift = int(log.is_confidential)
    found: dict[int, list[Measurement]] = {number: [] for number in sorted(pcrs)}
    for number, event in enumerate(log.events):
        if event.type == _NO_ACTION or event.register - shift not in found:
            continue
        # An event without a digest of the bank was not extended into it.
        if bank not in event.digests:
            continue
        measurement = measure(event, number=number, bank=bank, shift=shift)
        found[measurement.register].append(measurement)
    return "\n".join(_lines(log, found, bank)) + "\n"


def _lines(log: FirmwareLog, found: dict[int, list[Measurement]], bank: Alg) -> Iterator[str]:
    separators = separator_digests(bank)
    policy_register = 0 if log.is_confidential else SECURE_BOOT_PCR
    policy = found.get(SECURE_BOOT_PCR, [])
    authorities = behind_separator(policy, bank)
    if authorities:
        behind = {item.number for item in authorities}
        found[SECURE_BOOT_PCR] = [item for item in policy if item.number not in behind]
    yield "# What this firmware and boot loader measured. Read it, and delete what should not be"
    yield "# accepted; the words beside the digests are the log's, not part of the rules."
    yield "[firmware_log]"
    if not log.is_confidential:
        yield f"pcrs = {list(found)}"
    yield f'bank = "{alg_name(bank)}"'
    yield from _secure_boot(secure_boot_of(log, bank), looked_at=policy_register in found)
    repeated = [
        number
        for number, items in found.items()
        if number in SEPARATED and sum(item.digest in separators for item in items) > 1
    ]
    if repeated and not log.is_confidential:
        yield f"unsafe_repeated_separators = {repeated}"
    yield "# What vouched for the images that were started: certificates, hashes, shim's state."
    yield from _array("authorities", authorities)
    yield ""
    yield "[firmware_log.digests]"
    for number, items in found.items():
        yield from _array(str(number), items)
    yield ""
    yield "# What must be measured, by register; for instance a kernel of the lists above."
    yield "[firmware_log.required]"


def _secure_boot(state: SecureBoot, *, looked_at: bool) -> Iterator[str]:
    if state is SecureBoot.UNKNOWN or not looked_at:
        yield "# The log does not tell the state of Secure Boot."
        yield "unsafe_any_secure_boot = true"
    else:
        yield f"secure_boot = {str(state is SecureBoot.ON).lower()}"


def _array(key: str, items: list[Measurement]) -> Iterator[str]:
    if not items:
        yield f"{key} = []"
        return
    yield f"{key} = ["
    told: set[bytes] = set()
    for item in items:
        if item.digest not in told:
            told.add(item.digest)
            yield f'  "{item.digest.hex()}",  # {type_name(item.type)} {item}'
    yield "]"
