"""Does the firmware's log explain what was quoted, and what does it then say?

    FirmwareLog + quoted values ── verify_firmware_log ──▶ FirmwareClaims
    FirmwareLog (CCEL) + RTMRs  ── verify_cc_log ────────▶ FirmwareClaims

Rules, in the order in which they are checked (the code carries their numbers):

1. kind      a log of PCRs is replayed into PCRs, one of measurement registers into
             RTMRs.
2. bank      one bank counts: its digests are the ones that claims hold. SHA-1 is
             refused unless that is spelled out.
3. numbers   every register that the log is to explain was quoted.
4. start     each register starts at its reset value; PCR 0 at the locality that the
             log says TPM2_Startup came from, or at 4 after an H-CRTM sequence. What
             the log says wrongly leads to another value, and is refused.
5. replay    the longest beginning of the log that comes to all quoted values at
             once is what the quote saw. What follows is left out of the claims. A
             register without events must hold its reset value.

The log is believed where its digests lead to what was quoted. Types and data are not
measured: a type decides only whether an event is extended (EV_NO_ACTION is not), and
if that is altered the replay fails.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hwtrust.errors.evidence import WeakBankError
from hwtrust.errors.logs import (
    FirmwareBankError,
    FirmwareKindError,
    FirmwareLocalityError,
    FirmwareOrderError,
    FirmwarePcrError,
    FirmwareReplayError,
    FirmwareUnloggedError,
)
from hwtrust.verify.attestation import VERIFIED
from hwtrust.verify.logs.firmware_claims import FirmwareClaims
from hwtrust.wire.algorithms import Alg, alg_name, digest_size
from hwtrust.wire.logs.firmware import STARTUP_LOCALITY, EventType, FirmwareEvent, FirmwareLog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hwtrust.verify.quote import PcrValues

LOCALITIES: Final = (0, 3, 4)
"""Where PCR 0 can start: TPM2_Startup from locality 0 or 3, or an H-CRTM sequence."""

_NO_ACTION: Final = int(EventType.NO_ACTION)
_HCRTM: Final = int(EventType.EFI_HCRTM_EVENT)
_DYNAMIC: Final = range(17, 23)
"""PCRs that hold ones until a dynamic launch."""


def verify_firmware_log(
    log: FirmwareLog,
    *,
    pcrs: PcrValues,
    bank: Alg,
    numbers: Collection[int],
    unsafe_allow_sha1: bool = False,
) -> FirmwareClaims:
    """Replay `log` into the quoted values `pcrs` of the PCRs `numbers` in `bank`.

    `pcrs` are those of an authentic quote (`QuoteClaims.pcrs`). `numbers` are the PCRs
    that nothing but firmware and boot loaders extend: 0 to 7, often 8, 9 and 14.

    Raises:
        FirmwareKindError: the log is one of measurement registers.
        FirmwareBankError, WeakBankError: the bank is not in log or quote, or SHA-1.
        FirmwarePcrError: one of `numbers` was not quoted.
        LogError: the log does not explain the values; the class says why.
    """
    # (1): kind.
    if log.is_confidential:
        raise FirmwareKindError("the log is one of measurement registers, not of PCRs")
    # (2): bank.
    if bank is Alg.SHA1 and not unsafe_allow_sha1:
        raise WeakBankError("the SHA-1 bank proves nothing: two logs can come to one value")
    quoted = pcrs.get(bank)
    if quoted is None:
        raise FirmwareBankError(
            f"the quote does not cover the bank {alg_name(bank)}", bank=alg_name(bank)
        )
    # (3): numbers.
    wanted = _wanted(quoted, numbers, bank)
    # (4): start.
    locality = _locality(log) if 0 in wanted else 0
    start = {number: reset_value(number, bank, locality=locality) for number in wanted}
    seen = _replay(log, bank, wanted, start)
    return FirmwareClaims.of(
        log,
        seen=seen,
        bank=bank,
        numbers=frozenset(wanted),
        shift=0,
        locality=locality if 0 in wanted else None,
        verified=VERIFIED,
    )


def verify_cc_log(log: FirmwareLog, *, rtmrs: Mapping[int, bytes]) -> FirmwareClaims:
    """Replay the log of a confidential VM into its registers `rtmrs`, by number from 0.

    The digests are those of SHA-384; a register of the log is an RTMR + 1.

    Raises:
        FirmwareKindError: the log is one of PCRs.
        FirmwareBankError: it has no SHA-384 digests.
        FirmwarePcrError: `rtmrs` is empty.
        LogError: the log does not explain the values; the class says why.
    """
    # (1): kind.
    if not log.is_confidential:
        raise FirmwareKindError("the log is one of PCRs, not of measurement registers")
    # (3): numbers.
    wanted = _wanted(rtmrs, tuple(rtmrs), Alg.SHA384)
    wanted = {number + 1: value for number, value in wanted.items()}
    # (4): start.
    start = {number: bytes(digest_size(Alg.SHA384)) for number in wanted}
    seen = _replay(log, Alg.SHA384, wanted, start)
    return FirmwareClaims.of(
        log,
        seen=seen,
        bank=Alg.SHA384,
        numbers=frozenset(wanted),
        shift=1,
        locality=None,
        verified=VERIFIED,
    )


def reset_value(number: int, bank: Alg, *, locality: int) -> bytes:
    """What the PCR `number` holds before the first measurement (PC Client PTP §4.6.2)."""
    size = digest_size(bank)
    if number == 0:
        return locality.to_bytes(size, "big")
    return (b"\xff" if number in _DYNAMIC else b"\0") * size


def _wanted(quoted: Mapping[int, bytes], numbers: Collection[int], bank: Alg) -> dict[int, bytes]:
    if not numbers:
        raise FirmwarePcrError("there is no register that the firmware's log is to explain")
    size = digest_size(bank)
    wanted = {}
    for number in sorted(numbers):
        value = quoted.get(number)
        if value is None or len(value) != size:
            raise FirmwarePcrError(
                f"the quote leaves out PCR {number} of the bank {alg_name(bank)}",
                pcr=number,
                bank=alg_name(bank),
            )
        wanted[number] = value
    return wanted


def _locality(log: FirmwareLog) -> int:
    """Where PCR 0 starts, as the log says first (PFP §10.4.5.3); the replay tells a lie."""
    said: list[int] = []
    for event in log.events:
        if event.register != 0:
            continue
        if event.type == _HCRTM:
            return 4
        if event.type == _NO_ACTION and event.data.startswith(STARTUP_LOCALITY):
            said += event.data[len(STARTUP_LOCALITY) : len(STARTUP_LOCALITY) + 1]
    return said[0] if said else 0


def _hash(bank: Alg) -> Callable[[bytes], Any]:
    name = "sm3" if bank is Alg.SM3_256 else alg_name(bank)
    try:
        hashlib.new(name, usedforsecurity=False)
    except ValueError:
        raise FirmwareBankError(f"this Python cannot compute {name}", bank=name) from None
    return getattr(hashlib, name, None) or partial(hashlib.new, name)


def _replay(
    log: FirmwareLog, bank: Alg, wanted: Mapping[int, bytes], start: Mapping[int, bytes]
) -> int:
    """How many events of `log` come to `wanted`, the most of them.

    Raises:
        FirmwareBankError: the log has not that bank.
        LogError: no beginning of the log comes to it.
    """
    # (2): bank.
    if bank not in dict(log.banks):
        raise FirmwareBankError(
            f"the firmware's log has no digests of the bank {alg_name(bank)}", bank=alg_name(bank)
        )
    # (5): replay.
    number, hash_, values = int(bank), _hash(bank), dict(start)
    met = {register for register, value in wanted.items() if value == start[register]}
    ever = set(met)
    count = len(wanted)
    seen = 0 if len(met) == count else -1
    for position, event in enumerate(log.events, 1):
        register = event.register
        digest = event.digests.get(number)
        # An event without a digest of the bank was not extended into it.
        if digest is not None and register in wanted and event.type != _NO_ACTION:
            value = values[register] = hash_(values[register] + digest).digest()
            if value == wanted[register]:
                met.add(register)
                ever.add(register)
            else:
                met.discard(register)
        if len(met) == count:
            seen = position
    if seen < 0:
        _refuse(log, bank, wanted, ever)
    return seen


def _refuse(log: FirmwareLog, bank: Alg, wanted: Mapping[int, bytes], ever: set[int]) -> NoReturn:
    """Say why no beginning of `log` comes to `wanted`; `ever` came to their value once."""
    shift = int(log.is_confidential)
    missing = sorted(set(wanted) - ever)
    name = alg_name(bank)
    if not missing:
        raise FirmwareOrderError(
            "each quoted value is explained by the firmware's log, all of them together by none "
            "of its beginnings",
            bank=name,
        )
    extended = {event.register for event in log.events if event.type != _NO_ACTION}
    for register in missing:
        if register not in extended:
            raise FirmwareUnloggedError(
                f"register {register - shift} was extended, and the firmware's log has no event "
                f"for it",
                pcr=register - shift,
                bank=name,
            )
    if 0 in missing:
        _require_same_locality(log.events, bank, wanted[0])
    raise FirmwareReplayError(
        f"the firmware's log does not explain what register {missing[0] - shift} holds in the "
        f"bank {name}",
        pcr=missing[0] - shift,
        bank=name,
    )


def _require_same_locality(events: tuple[FirmwareEvent, ...], bank: Alg, quoted: bytes) -> None:
    """Refuse with its own error what another start of PCR 0 would explain."""
    hash_ = _hash(bank)
    values = {at: reset_value(0, bank, locality=at) for at in LOCALITIES}
    for event in events:
        if event.register != 0 or event.type == _NO_ACTION:
            continue
        digest = event.digests.get(bank)
        if digest is None:
            continue
        for locality, value in values.items():
            values[locality] = hash_(value + digest).digest()
            if values[locality] == quoted:
                raise FirmwareLocalityError(
                    f"PCR 0 started at locality {locality}, the firmware's log says another",
                    locality=locality,
                )
