"""What an enclave's verdict follows from, beside the rules of its kind."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from hwtrust.verify.appraise import ClockRules, References
from hwtrust.verify.enclaves.judge import (
    ENCLAVE_FINDINGS,
    EnclaveJudgement,
    judge_enclave,
    register_value,
)
from hwtrust.verify.enclaves.kinds import verify_enclave
from hwtrust.verify.enclaves.kinds_rules import FINDINGS, EnclaveRules
from hwtrust.verify.policy import Effect, LogRules, PcrRules, Rules, UpdateRules
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclave_parts import EnclaveParts, wrap
from hwtrust.wire.enclaves.dcap import TdReport
from hwtrust.wire.messages import Binding, Mode, Severity, Standing
from hwtrust.wire.states import layer_events
from simulators.attester import make_release
from simulators.dcap_signer import td_report
from simulators.enclaves import INTEL, TRUST, Machine

RELEASE = make_release()
EVENTS = (*layer_events(RELEASE), CAP)
RULES = Rules(
    references=References(releases={"1.0": RELEASE}, accepted=frozenset({"1.0"})),
    updates=UpdateRules.of({"1.0": 1}, published=(), within_ms=None),
    clock=ClockRules(max_lag_ms=0, max_ahead_ms=0, max_drift=0.0, firmware_floor=0),
    evidence=frozenset({"tdx", "snp"}),
    pcrs=PcrRules(required=frozenset(), values={}, unsafe_any=frozenset()),
    log=LogRules(max_records=100, outdated_loads=False),
    on_failure=(("", Effect.LOCKED), *((f"{kind}:", Effect.ALERT) for kind in EnclaveKind)),
    absent=(),
)
"""What the kinds' own rules find is an alert here: it is not what is looked at."""
TD = TdReport.decode(td_report())
TDX: dict[str, Any] = {
    "accepted_tcb_statuses": ["UpToDate"],
    "tcb_evaluation_data_number_floor": 18,
    "mr_td": [TD.mr_td.hex()],
    "mr_seam": [TD.mr_seam.hex()],
    "unsafe_any_rtmr": ["0", "1", "2", "3"],
    "xfam": [f"0x{TD.xfam:016x}"],
    "tee_tcb_svn_floor": TD.tee_tcb_svn.hex(),
}
TABLES = msgspec.convert({"tdx": TDX, "snp": {}}, EnclaveRules)


def log_of(*events: Any) -> EventLog:  # noqa: ANN401
    """A log of these events."""
    log = EventLog()
    for event in events or EVENTS:
        log = log.appended(event, pcr=12, banks=(Alg.SHA256,))
    return log


def judged(
    kind: EnclaveKind = EnclaveKind.TDX,
    *,
    events: EventLog | None = None,
    held: EventLog | None = None,
    register: str = "",
    epoch: int = 3,
    locked: str | None = None,
    release: str = "1.0",
    tables: EnclaveRules = TABLES,
    **rules: Any,  # noqa: ANN401
) -> EnclaveJudgement:
    """The judgement of a TD whose RTMR 3 holds what `held` gives, or of another machine."""
    log = log_of() if events is None else events
    binding = Binding(
        purpose=Purpose.ATTEST,
        nonce=b"n",
        tls_key=b"k",
        epoch=epoch,
        release=release,
        log_digest=log.digest(),
    )
    data = binding.report_data()
    machine = Machine(kind)
    evidence = machine.evidence(data)
    if kind is EnclaveKind.TDX:
        value = register_value(held or log, size=48) or b""
        report = td_report(report_data=data, rtmr3=value)
        evidence = wrap(EnclaveParts(tee=INTEL.tdx(report)), kind=kind)
    claims = verify_enclave(
        evidence, kind=kind, report_data=data, now_ms=machine.now_ms, trust=TRUST
    )
    return judge_enclave(
        claims,
        binding=binding,
        log=log,
        rules=replaced(**rules),
        enclaves=tables,
        register=register,
        epochs=frozenset({3, 4}),
        locked=locked,
        now_ms=machine.now_ms,
    )


def replaced(**changes: Any) -> Rules:  # noqa: ANN401
    """The rules with other fields."""
    return Rules(**{name: getattr(RULES, name) for name in Rules.__dataclass_fields__} | changes)


def failing(judgement: EnclaveJudgement) -> list[str]:
    """The codes of what is not the kind's own."""
    return [f.code for f in judgement.findings if f.code not in FINDINGS or "policy" in f.code]


def test_a_good_enclave_has_no_finding_of_its_own() -> None:
    """Also with the register that its log explains."""
    assert failing(judged()) == []
    assert failing(judged(register="rtmr3")) == []
    assert judged(register="rtmr3").standing is Standing.TRUSTED


def test_a_register_is_the_fold_of_the_logs_digests() -> None:
    """From zeros, by the hash of its size; of another size there is none."""
    value = bytes(48)
    for event in EVENTS:
        digest = event.digests((Alg.SHA384,))[Alg.SHA384]
        value = hashlib.sha384(value + digest).digest()
    assert register_value(log_of(), size=48) == value
    assert register_value(log_of(), size=32) == log_of().value()
    assert register_value(log_of(), size=20) is None


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "the register holds more than the log says": (
        {"held": log_of(*EVENTS, CAP), "register": "rtmr3"},
        "register:log",
    ),
    "another register is named": ({"register": "rtmr2"}, "register:log"),
    "the evidence has no such register": ({"register": "pcr16"}, "register:missing"),
    "its epoch is over": ({"epoch": 2}, "epoch:revoked"),
    "its epoch is none that was made": ({"epoch": 5}, "epoch:unknown"),
    "it is locked": ({"locked": "stolen"}, "admin:locked"),
    "its kind is not accepted": ({"evidence": frozenset({"tpm"})}, "evidence:kind"),
    "the policy leaves something out": ({"absent": ("log.max_records",)}, "policy:absent"),
    "its release is unknown": ({"release": "9"}, "release:unknown"),
    "its log is too long": (
        {"log": LogRules(max_records=1, outdated_loads=False)},
        "log:length",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_as_it_should_be_fails(case: str) -> None:
    """By its code, and the enclave is locked."""
    changes, code = CASES[case]
    found = judged(**changes)
    assert code in failing(found)
    assert (found.standing, found.mode) == (Standing.FAILED, Mode.LOCKED)


@pytest.mark.parametrize("effect", [Effect.ALERT, Effect.LIMITED])
def test_no_policy_makes_less_of_what_its_tables_do_not_say(effect: Effect) -> None:
    """A default of alerts would otherwise accept whatever an empty table says nothing of."""
    tables = msgspec.convert({"tdx": {}}, EnclaveRules)
    found = judged(tables=tables, on_failure=(("", effect), ("tdx:", effect)))
    assert (found.standing, found.mode) == (Standing.FAILED, Mode.LOCKED)
    failed = {item.code for item in found.findings if item.severity is Severity.FAIL}
    assert "tdx:absent" in failed


def test_an_incomplete_load_is_incomplete() -> None:
    """As of a TPM's device."""
    found = judged(events=log_of(EVENTS[0]))
    assert found.standing is Standing.INCOMPLETE


def test_epoch_zero_is_that_of_an_enclave_without_a_root() -> None:
    """It claims nothing that could be over."""
    assert failing(judged(epoch=0)) == []


def test_what_is_said_of_tpms_alone_may_be_absent() -> None:
    """Clock, firmware and PCRs; nothing else."""
    absent = ("clock.max_lag", "firmware.floor", "pcrs.values", "on_failure.default")
    assert failing(judged(absent=absent)) == ["policy:absent"]


def test_a_kind_that_measures_nothing_is_not_asked_for_a_register() -> None:
    """Its measured code vouches for the log."""
    assert failing(judged(EnclaveKind.SNP, register="rtmr3")) == []


def test_every_finding_is_documented() -> None:
    """With a sentence, and no code twice."""
    assert all(sentence for _, sentence in ENCLAVE_FINDINGS.values())
    assert not set(ENCLAVE_FINDINGS) & set(FINDINGS)
