"""The event log and the PCR say the same, whatever happens between the two."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    HwTrustError,
    StateDamagedError,
    StateDiskError,
    StateError,
    TpmError,
    TpmPcrConflictError,
    TpmTamperedError,
    TpmTransportError,
)
from hwtrust.measure import MeasuredLog, application_selection
from hwtrust.testing.faults import RC_FAILURE, At, Cut, Moment, Respond, Swallow
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.sessions import hmac_session
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, LOG_LIMIT, RELOAD, RESET_VALUE, Event, EventKind, EventLog
from hwtrust.wire.structures import PcrSelection
from simulators.anchored_tpm import PCR, AnchoredTpm, loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hwtrust.testing.swtpm import Swtpm

BANKS = (Alg.SHA1, Alg.SHA256)
LAYERS = tuple(
    Event(EventKind.LAYER, name, "1.0", bytes([number]) * 32) for number, name in enumerate("abc")
)


@pytest.fixture
def anchored(tpm: Swtpm) -> Iterator[AnchoredTpm]:
    """A TPM as enrolment leaves it."""
    with AnchoredTpm(tpm) as made:
        yield made
        assert loaded(tpm) == {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is kept."""
    return tmp_path / "eventlog.cel"


def values(anchored: AnchoredTpm) -> Mapping[int, bytes]:
    """The application PCR, as a device reads it."""
    with Tpm(anchored.swtpm.tcti) as tpm:
        return commands.pcr_read(tpm, application_selection(PCR, ()))[Alg.SHA256]


def new(path: Path) -> MeasuredLog:
    """A log that has not been held against its PCR yet, as at a program's start."""
    return MeasuredLog(path, pcr=PCR, banks=BANKS)


def started(anchored: AnchoredTpm, path: Path) -> MeasuredLog:
    """A log that agrees with its PCR."""
    log = new(path)
    log.synchronise(values(anchored))
    return log


def extend(anchored: AnchoredTpm, log: MeasuredLog, *events: Event) -> None:
    """Extend events through one session."""
    with (
        Tpm(anchored.swtpm.tcti) as tpm,
        hmac_session(tpm, anchored.storage) as session,
    ):
        for event in events:
            log.extend(tpm, event, session)


def agree(anchored: AnchoredTpm, path: Path, *events: Event) -> None:
    """A program that starts now finds `events`, and the PCR holds them in every bank."""
    log = new(path)
    log.synchronise(values(anchored))
    assert log.log.events == events
    assert values(anchored)[PCR] == log.log.value()
    with Tpm(anchored.swtpm.tcti) as tpm:
        sha1 = commands.pcr_read(tpm, PcrSelection.parse("sha1:8"))[Alg.SHA1][PCR]
    assert any(sha1) is bool(events)


# --- as it should be -------------------------------------------------------------


def test_the_log_explains_the_pcr(anchored: AnchoredTpm, path: Path) -> None:
    """Every event is extended into every bank and stands in the log, in order."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS, CAP, RELOAD)
    assert EventLog.decode(path.read_bytes()) == log.log
    assert path.stat().st_mode & 0o777 == 0o600
    agree(anchored, path, *LAYERS, CAP, RELOAD)


def test_an_extend_writes_its_own_record_and_no_other(
    anchored: AnchoredTpm, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the log is, one more event costs one record."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    before, inode = path.read_bytes(), path.stat().st_ino
    real = os.write
    written: list[bytes] = []

    def counted(descriptor: int, data: bytes) -> int:
        if os.fstat(descriptor).st_ino == inode:
            written.append(data)
        return real(descriptor, data)

    monkeypatch.setattr("hwtrust.measure.os.write", counted)
    extend(anchored, log, RELOAD, CAP)
    assert path.stat().st_ino == inode
    assert written == [record.encode() for record in log.log.records[-2:]]
    assert path.read_bytes() == before + b"".join(written)


def test_an_extend_is_one_command(anchored: AnchoredTpm, path: Path) -> None:
    """Nothing is read back: the session's HMAC says that the TPM has done it."""
    log = started(anchored, path)
    with anchored.counted() as (tpm, heard), hmac_session(tpm, anchored.storage) as session:
        log.extend(tpm, LAYERS[0], session)
        log.extend(tpm, CAP, session, last=True)
    assert heard.sequence == ["TPM2_StartAuthSession", "TPM2_PCR_Extend", "TPM2_PCR_Extend"]


def test_a_pcr_at_its_reset_value_is_a_cold_start(anchored: AnchoredTpm, path: Path) -> None:
    """Nothing was measured since the reset: that is said, and the log is empty."""
    log = new(path)
    assert log.synchronise(values(anchored)) is True
    assert log.log == EventLog()
    extend(anchored, log, LAYERS[0])
    assert new(path).synchronise(values(anchored)) is False


def test_a_reboot_sets_the_log_aside(anchored: AnchoredTpm, path: Path) -> None:
    """The last boot's log stays readable for people, and explains nothing any more."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    old = path.read_bytes()
    anchored.swtpm.reboot()
    log = new(path)
    assert log.synchronise(values(anchored)) is True
    assert log.log == EventLog()
    assert not path.exists()
    assert path.with_suffix(".previous").read_bytes() == old
    extend(anchored, log, LAYERS[0])
    agree(anchored, path, LAYERS[0])


def test_a_second_reboot_replaces_the_log_that_was_set_aside(
    anchored: AnchoredTpm, path: Path
) -> None:
    """One log is kept, the last one's."""
    for event in LAYERS:
        log = new(path)
        assert log.synchronise(values(anchored)) is True
        extend(anchored, log, event)
        anchored.swtpm.reboot()
    assert new(path).synchronise(values(anchored)) is True
    kept = EventLog.decode(path.with_suffix(".previous").read_bytes())
    assert kept.events == (LAYERS[-1],)


def test_a_power_cut_is_a_reboot(anchored: AnchoredTpm, path: Path) -> None:
    """The PCR is at its reset value after it, and that decides."""
    extend(anchored, started(anchored, path), *LAYERS)
    anchored.swtpm.power_cut()
    assert new(path).synchronise(values(anchored)) is True


def test_a_suspend_is_no_reboot(anchored: AnchoredTpm, path: Path) -> None:
    """The PCR is kept through it, and so is the log."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    anchored.swtpm.suspend()
    agree(anchored, path, *LAYERS)
    extend(anchored, log, CAP)
    agree(anchored, path, *LAYERS, CAP)


def test_the_selection_is_the_application_pcr_and_the_platforms() -> None:
    """Sorted, each once, in the SHA-256 bank."""
    assert str(application_selection(11, (7, 0, 7))) == "sha256:0,7,11"
    assert str(application_selection(8, ())) == "sha256:8"


# --- killed between the two ------------------------------------------------------


def test_a_log_that_is_one_record_ahead_is_cut_back(anchored: AnchoredTpm, path: Path) -> None:
    """Killed after writing and before extending: the record goes, nothing else is lost (64)."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    ahead = log.log.appended(CAP, pcr=PCR, banks=BANKS)
    path.write_bytes(ahead.encode())
    agree(anchored, path, *LAYERS)
    assert path.read_bytes() == log.log.encode()


def test_a_log_that_is_ahead_of_a_cold_pcr_is_set_aside(anchored: AnchoredTpm, path: Path) -> None:
    """Killed before the very first extend: a cold start all the same."""
    path.write_bytes(EventLog().appended(CAP, pcr=PCR, banks=BANKS).encode())
    assert new(path).synchronise(values(anchored)) is True


def test_a_torn_last_record_is_cut_off_at_every_byte(anchored: AnchoredTpm, path: Path) -> None:
    """A power cut in the middle of writing a record costs that record alone (75)."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    whole, at_pcr = log.log.encode(), values(anchored)
    record = log.log.appended(CAP, pcr=PCR, banks=BANKS).encode()[len(whole) :]
    again = new(path)
    for size in range(len(record)):
        path.write_bytes(whole + record[:size])
        again = new(path)
        assert again.synchronise(at_pcr) is False
        assert again.log == log.log
        assert path.read_bytes() == whole
    extend(anchored, again, CAP)
    agree(anchored, path, *LAYERS, CAP)


def test_two_records_ahead_is_a_conflict(anchored: AnchoredTpm, path: Path) -> None:
    """No crash leaves that behind."""
    log = started(anchored, path)
    extend(anchored, log, LAYERS[0])
    ahead = log.log.appended(CAP, pcr=PCR, banks=BANKS).appended(RELOAD, pcr=PCR, banks=BANKS)
    path.write_bytes(ahead.encode())
    conflict(anchored, path)
    assert path.read_bytes() == ahead.encode(), "what is not understood is left for people"


def conflict(anchored: AnchoredTpm, path: Path) -> None:
    """Synchronising, and extending without it, are refused alike."""
    before = values(anchored)
    with pytest.raises(TpmPcrConflictError) as caught:
        new(path).synchronise(before)
    assert caught.value.code == "tpm:pcr:conflict"
    assert caught.value.data["pcr"] == PCR
    with pytest.raises(TpmPcrConflictError):
        extend(anchored, new(path), CAP)
    assert values(anchored) == before


def foreign(anchored: AnchoredTpm) -> None:
    """Extend the PCR as another program does."""
    digests = {Alg.SHA1: b"x" * 20, Alg.SHA256: b"x" * 32}
    with Tpm(anchored.swtpm.tcti) as tpm, hmac_session(tpm, anchored.storage) as session:
        commands.pcr_extend(tpm, PCR, digests, session)


def test_a_foreign_extend_is_a_conflict(anchored: AnchoredTpm, path: Path) -> None:
    """Another program uses the PCR: a clear error, and nothing is extended on top of it."""
    extend(anchored, started(anchored, path), *LAYERS)
    foreign(anchored)
    conflict(anchored, path)


def test_a_foreign_extend_before_the_first_of_ours_is_a_conflict(
    anchored: AnchoredTpm, path: Path
) -> None:
    """A PCR that is not at its reset value, and no log."""
    foreign(anchored)
    conflict(anchored, path)


LOGS: dict[str, Callable[[bytes], bytes]] = {
    "gone": lambda _: b"",
    "one record short": lambda whole: whole[: len(whole) * 2 // 3],
    "a digest changed": lambda whole: whole.replace(b"\x01" * 32, b"\x09" * 32),
    "a name changed": lambda whole: whole.replace(b"\x00\x00\x00\x01b", b"\x00\x00\x00\x01z"),
    "a bit of the first record flipped": lambda whole: bytes([whole[0] ^ 1, *whole[1:]]),
    "noise": lambda _: b"\xff" * 500,
}


@pytest.mark.parametrize("case", LOGS)
def test_a_log_that_was_tampered_with_explains_nothing(
    anchored: AnchoredTpm, path: Path, case: str
) -> None:
    """The file is nobody's to trust: the PCR decides (44, 47)."""
    extend(anchored, started(anchored, path), *LAYERS)
    path.write_bytes(LOGS[case](path.read_bytes()))
    conflict(anchored, path)


def test_a_log_without_end_is_damaged(anchored: AnchoredTpm, path: Path) -> None:
    """A swapped file does not fill the memory (53)."""
    extend(anchored, started(anchored, path), *LAYERS)
    with path.open("wb") as file:
        file.truncate(LOG_LIMIT + 1)
    with pytest.raises(StateDamagedError) as caught:
        new(path).synchronise(values(anchored))
    assert caught.value.code == "state:damaged"


# --- the outcome of an extend is not known ---------------------------------------

MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("first", [True, False])
def test_after_a_cut_the_same_program_goes_on_with_what_the_tpm_did(
    anchored: AnchoredTpm, path: Path, moment: Moment, first: bool
) -> None:
    """Whether the event was extended is found out, not guessed; the log stays whole (75, 79)."""
    log = started(anchored, path)
    done: tuple[Event, ...] = ()
    if not first:
        extend(anchored, log, *LAYERS)
        done = LAYERS
    with anchored.through(At(Cut(moment), command="TPM2_PCR_Extend")) as tpm:
        with hmac_session(tpm, anchored.storage) as session:
            with pytest.raises(TpmTransportError):
                log.extend(tpm, RELOAD, session)
            log.extend(tpm, CAP, session)
        assert loaded(anchored.swtpm) == {}
    happened = (RELOAD,) if moment == "after" else ()
    assert log.log.events == (*done, *happened, CAP)
    agree(anchored, path, *done, *happened, CAP)


def test_after_a_swallowed_extend_the_log_says_what_the_pcr_holds(
    anchored: AnchoredTpm, path: Path
) -> None:
    """What the bus pretended is not in the log, and the next event is extended (79)."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    with (
        anchored.through(At(Swallow(), command="TPM2_PCR_Extend")) as tpm,
        hmac_session(tpm, anchored.storage) as session,
    ):
        with pytest.raises(TpmTamperedError) as caught:
            log.extend(tpm, RELOAD, session)
        assert caught.value.code == "tpm:response:tampered"
        log.extend(tpm, CAP, session, last=True)
    agree(anchored, path, *LAYERS, CAP)


def test_settling_takes_no_command_when_nothing_is_open(anchored: AnchoredTpm, path: Path) -> None:
    """It may be called before every use of the log."""
    log = started(anchored, path)
    extend(anchored, log, *LAYERS)
    with anchored.counted() as (tpm, heard):
        log.settle(tpm)
    assert heard.total == 0


def test_a_refused_extend_is_taken_out_of_the_log(anchored: AnchoredTpm, path: Path) -> None:
    """The TPM said no; the next event follows on what is there."""
    log = started(anchored, path)
    extend(anchored, log, LAYERS[0])
    with anchored.through(At(Respond(RC_FAILURE), command="TPM2_PCR_Extend")) as tpm:
        with hmac_session(tpm, anchored.storage) as session, pytest.raises(TpmError):
            log.extend(tpm, LAYERS[1], session)
        log.settle(tpm)
    assert log.log.events == (LAYERS[0],)
    extend(anchored, log, LAYERS[2])
    agree(anchored, path, LAYERS[0], LAYERS[2])


def test_while_it_cannot_be_settled_nothing_is_extended(anchored: AnchoredTpm, path: Path) -> None:
    """An unknown outcome and a foreign extend on top: a conflict, and it stays one."""
    log = started(anchored, path)
    extend(anchored, log, LAYERS[0])
    with (
        anchored.through(At(Cut("before"), command="TPM2_PCR_Extend")) as tpm,
        hmac_session(tpm, anchored.storage) as session,
        pytest.raises(TpmTransportError),
    ):
        log.extend(tpm, LAYERS[1], session)
    foreign(anchored)
    before = values(anchored)
    for _ in range(2):
        with pytest.raises(TpmPcrConflictError):
            extend(anchored, log, CAP)
    assert values(anchored) == before


def test_a_log_that_was_never_held_against_its_pcr_is_before_it_is_used(
    anchored: AnchoredTpm, path: Path
) -> None:
    """Nobody has to remember to."""
    extend(anchored, started(anchored, path), *LAYERS)
    fresh = new(path)
    extend(anchored, fresh, CAP)
    agree(anchored, path, *LAYERS, CAP)


# --- the disk --------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 1, 40])
@pytest.mark.parametrize("first", [True, False])
def test_nothing_is_extended_that_cannot_be_recorded(
    anchored: AnchoredTpm, path: Path, left: int, first: bool
) -> None:
    """The disk is full in the middle of a record: the PCR stays, and the log is whole (75)."""
    log = started(anchored, path)
    done: tuple[Event, ...] = ()
    if not first:
        extend(anchored, log, *LAYERS)
        done = LAYERS
    before = values(anchored)
    size = path.stat().st_size if path.exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + left, hard))
    try:
        with pytest.raises(StateDiskError) as caught:
            extend(anchored, log, CAP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.code == "state:disk"
    assert caught.value.data["reason"] == "full"
    assert values(anchored) == before
    assert log.log.events == done
    assert (path.read_bytes() if path.exists() else b"") == log.log.encode()
    extend(anchored, log, CAP)
    agree(anchored, path, *done, CAP)


def test_a_log_that_cannot_be_written_is_an_error_of_the_tree(
    anchored: AnchoredTpm, path: Path
) -> None:
    """A directory in the log's place, or none at all: typed, and nothing is extended."""
    log = started(anchored, path)
    before = values(anchored)
    path.mkdir()
    with pytest.raises(StateError):
        extend(anchored, log, CAP)
    path.rmdir()
    lost = new(path.parent / "missing" / "eventlog.cel")
    lost.synchronise(before)
    with pytest.raises(StateError):
        extend(anchored, lost, CAP)
    assert values(anchored) == before


def test_a_failing_disk_is_an_error_of_the_tree(
    anchored: AnchoredTpm, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fsync that fails means that the record may be lost: nothing is extended."""
    log = started(anchored, path)
    extend(anchored, log, LAYERS[0])
    before = values(anchored)

    def broken(descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr("hwtrust.measure.os.fsync", broken)
        with pytest.raises(StateDiskError) as caught:
            extend(anchored, log, CAP)
    assert caught.value.code == "state:disk"
    assert values(anchored) == before
    agree(anchored, path, LAYERS[0])


def test_setting_aside_a_log_that_cannot_be_moved_is_an_error_of_the_tree(
    anchored: AnchoredTpm, path: Path
) -> None:
    """Something stands in the way of `eventlog.previous`."""
    extend(anchored, started(anchored, path), CAP)
    anchored.swtpm.reboot()
    path.with_suffix(".previous").mkdir()
    with pytest.raises(HwTrustError) as caught:
        new(path).synchronise(values(anchored))
    assert isinstance(caught.value, StateError)


def test_a_killed_process_leaves_log_and_pcr_that_agree(
    anchored: AnchoredTpm, path: Path, tmp_path: Path
) -> None:
    """SIGKILL before and after the extend, in a process of its own (64)."""
    storage = anchored.storage
    (tmp_path / "pin").write_bytes(storage.blob)
    program = f"""
        import sys
        from pathlib import Path
        from hwtrust.measure import MeasuredLog, application_selection
        from hwtrust.testing.faults import At, FaultPlan, FaultyTcti, Kill
        from hwtrust.tpm import commands
        from hwtrust.tpm.connection import Pinned, Tpm
        from hwtrust.tpm.sessions import hmac_session
        from hwtrust.wire.algorithms import Alg
        from hwtrust.wire.cel import CAP

        plan = FaultPlan(At(Kill(sys.argv[1]), command="TPM2_PCR_Extend", nth=2))
        tpm = Tpm("{anchored.swtpm.tcti}", wrap=lambda inner: FaultyTcti(inner, plan))
        pin = Pinned({storage.handle}, bytes.fromhex("{storage.name.hex()}"))
        log = MeasuredLog(Path("{path}"), pcr={PCR}, banks=(Alg.SHA1, Alg.SHA256))
        log.synchronise(commands.pcr_read(tpm, application_selection({PCR}, ()))[Alg.SHA256])
        with hmac_session(tpm, pin) as session:
            log.extend(tpm, CAP, session)
            log.extend(tpm, CAP, session)
    """
    expected = 0
    for moment in MOMENTS:
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), moment],
            capture_output=True,
            check=False,
        )
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        expected += 2 if moment == "after" else 1
        with Tpm(anchored.swtpm.tcti) as tpm:
            for handle in loaded(anchored.swtpm).get("loaded sessions", []):
                tpm.flush_handle(handle)
        agree(anchored, path, *[CAP] * expected)


def test_every_bank_of_the_tpm_is_extended(anchored: AnchoredTpm, path: Path) -> None:
    """What the configuration says is what the TPM has."""
    assert provision.active_banks(anchored.tpm) == BANKS
    assert values(anchored)[PCR] == RESET_VALUE
    assert not path.exists()
