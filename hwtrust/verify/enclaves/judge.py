"""Is this enclave in a state that its group's policy accepts? Claims, log and rules in.

    EnclaveClaims, Binding, EventLog + Rules, EnclaveRules ── judge_enclave ──▶ judgement

What hardware says is for the rules of its kind; here the rest is as it is for a TPM's
device: the release and its layers, the epoch, the policy, an administrator's lock.

1. Evidence is of a kind that the policy accepts, by the rules that it has for it.
2. The event log is that of the release that is claimed. The enclave's own code vouches
   for it; where the policy names a register, and the kind has any, so does the hardware:
   the log explains what the register holds, from zeros on.
3. No hardware counts an enclave's epochs. What it names is one of those that are
   accepted, or 0: it has no root.
4. What a policy does not say of clock, firmware and PCRs is said of TPMs alone.

`ENCLAVE_FINDINGS` documents what is found here alone.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.verify import appraise as appraisal
from hwtrust.verify import policy
from hwtrust.verify.enclaves.kinds import appraise_enclave
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.messages import Finding, Mode, Severity, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.verify.enclaves.kinds import EnclaveClaims
    from hwtrust.verify.enclaves.kinds_rules import EnclaveRules
    from hwtrust.verify.policy import Rules
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import Binding

ENCLAVE_FINDINGS: Final[Mapping[str, tuple[Severity, str]]] = MappingProxyType(
    {
        "register:missing": (Severity.FAIL, "the evidence does not hold the register"),
        "register:log": (Severity.FAIL, "the event log does not explain the register"),
    }
)
"""What each code that is found here alone means, and how it weighs."""

OF_TPMS: Final = ("clock.", "firmware.", "pcrs.", "firmware_log.", "ima.")
"""Fields of a policy that are about TPMs alone, by their beginnings."""

NO_ROOT: Final = 0
"""The epoch of an enclave that has no root."""

WITHOUT_REGISTERS: Final = frozenset({EnclaveKind.SNP, EnclaveKind.SGX})
"""Kinds whose hardware takes no measurements while they run."""

_HASHES: Final = {32: hashlib.sha256, 48: hashlib.sha384, 64: hashlib.sha512}
"""By the size of a register."""


class EnclaveJudgement(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to."""

    findings: tuple[Finding, ...]
    mode: Mode

    @property
    def standing(self) -> Standing:
        """What the findings come to."""
        return appraisal.standing_of(self.findings)


def judge_enclave(
    claims: EnclaveClaims,
    *,
    binding: Binding,
    log: EventLog,
    rules: Rules,
    enclaves: EnclaveRules,
    register: str,
    epochs: frozenset[int],
    locked: str | None,
    now_ms: int,
) -> EnclaveJudgement:
    """Appraise authentic claims; the caller knows that they answer `binding`, and it names `log`.

    `register` is what the policy has explained by the log; empty: nothing. `epochs` and
    `locked` are as of `hwtrust.verify.policy.judge`; `now_ms` is UTC.
    """
    found = list(
        appraisal.of_whole_log(
            log,
            digest=binding.log_digest,
            claimed=binding.release,
            references=rules.references,
        )
    )
    appraisal.of_release(found, binding.release, rules.references)
    _of_epoch(found, binding.epoch, epochs)
    # (4): what is absent.
    found.extend(policy.of_absent(n for n in rules.absent if not n.startswith(OF_TPMS)))
    # (1): kind.
    if claims.kind.value not in rules.evidence:
        found.append(policy.of_kind(claims.kind.value))
    found.extend(appraise_enclave(claims, rules=enclaves))
    # (2): register.
    if register and claims.kind not in WITHOUT_REGISTERS:
        _of_register(found, claims.register(register), register, log)
    policy.of_log(found, log, rules)
    policy.of_term(found, binding.release, rules, now_ms)
    if locked is not None:
        found.append(policy.of_lock(locked))
    findings, mode = policy.weighed(found, rules)
    return EnclaveJudgement(findings=findings, mode=mode)


def register_value(log: EventLog, *, size: int) -> bytes | None:
    """What a register of `size` bytes holds after a log; None if no hash has that size."""
    new_hash = _HASHES.get(size)
    if new_hash is None:
        return None
    value = bytes(size)
    for event in log.events:
        value = new_hash(value + new_hash(event.content()).digest()).digest()
    return value


def _of_epoch(found: list[Finding], claimed: int, epochs: frozenset[int]) -> None:
    # (3): epoch.
    if claimed == NO_ROOT or claimed in epochs:
        return
    accepted = ", ".join(map(str, sorted(epochs))) or "none"
    code = "epoch:revoked" if epochs and claimed < min(epochs) else "epoch:unknown"
    message = f"the enclave names epoch {claimed}, accepted is {accepted}"
    found.append(Finding(code=code, severity=appraisal.FINDINGS[code][0], message=message))


def _of_register(found: list[Finding], value: bytes | None, name: str, log: EventLog) -> None:
    if value is None:
        found.append(_finding("register:missing", f"the evidence does not hold {name}"))
    elif register_value(log, size=len(value)) != value:
        message = f"{name} holds {value.hex()}, which the event log does not explain"
        found.append(_finding("register:log", message))


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=ENCLAVE_FINDINGS[code][0], message=message)
