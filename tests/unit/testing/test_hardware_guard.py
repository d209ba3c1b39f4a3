"""A TPM that belongs to somebody is used with leave, in one range, and left as it was."""

from __future__ import annotations

import os
import pprint
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESAPI, ESYS_TR

from hwtrust.errors import (
    HardwareBusyError,
    HardwareConsentError,
    HardwareLeftoverError,
    HardwareOccupiedError,
    HardwareUnfitError,
)
from hwtrust.testing import hardware, plugin
from hwtrust.testing.faults import RC_LOCKOUT, At, Cut, Respond
from hwtrust.testing.hardware import HANDLES, INDICES, OBJECTS, PCR
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.handles import Handles
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.policy import Authorize
from hwtrust.wire.structures import NvAttributes, NvPublic

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.testing.faults import FaultPlan
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.testing.swtpm import Swtpm

pytest_plugins = ["pytester"]

ORDINARY = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
ELSEWHERE = INDICES[-1] + 1
OURS = Authorize(b"\x00\x0b" + bytes(32), b"")


def define(tpm: Swtpm, handle: int) -> None:
    """Define an NV index."""
    with Tpm(tpm.tcti) as opened:
        commands.nv_define(opened, NvPublic(handle, Alg.SHA256, ORDINARY, b"", 8))


def undefine(tpm: Swtpm, handle: int) -> None:
    """Delete an NV index."""
    with Tpm(tpm.tcti) as opened:
        commands.nv_undefine(opened, handle)


def persist(tpm: Swtpm, handle: int) -> None:
    """Put a storage key at a persistent handle."""
    with Tpm(tpm.tcti) as opened:
        provision.make_storage_key(opened, handle)


def enrol(tpm: Swtpm) -> None:
    """Have keys and counter where a device under test has them."""
    with Tpm(tpm.tcti) as opened:
        provision.make_storage_key(opened, HANDLES.storage_key)
        provision.make_attestation_key(opened, HANDLES.ak, unique=bytes(32))
        provision.define_counter(opened, HANDLES.counter, policy=(OURS,))


def extend(tpm: Swtpm) -> None:
    """Extend the tests' PCR."""
    with ESAPI(tpm.tcti) as esapi:
        esapi.pcr_event(ESYS_TR(PCR), b"somebody's")


def load(tpm: Swtpm) -> None:
    """Leave a session loaded: closing the context of a bare TPM does not flush it."""
    with ESAPI(tpm.tcti) as esapi:
        esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, session_type=1, symmetric="aes128cfb", auth_hash="sha256"
        )


def seen(tpm: Swtpm) -> hardware.Snapshot:
    """What is in the TPM."""
    with Tpm(tpm.tcti) as opened:
        return hardware.snapshot(opened)


# --- leave ----------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "no", "n", "ja?", None])
def test_without_a_yes_there_is_no_leave(answer: str | None) -> None:
    """Whatever is no yes is a no, and nobody at the terminal is a no too."""
    with pytest.raises(HardwareConsentError) as caught:
        hardware.require_leave("device:/dev/tpmrm0", {}, ask=lambda _: answer)
    assert caught.value.code == "testing:hardware:consent"


def test_who_is_asked_reads_every_number() -> None:
    """TPM, NV range, persistent handles and PCR are named before anything is sent."""
    shown: list[str] = []

    def ask(text: str) -> str:
        shown.append(text)
        return "Yes\n"

    hardware.require_leave("device:/dev/tpmrm0", {}, ask=ask)
    numbers = (INDICES[0], INDICES[-1], OBJECTS[0], OBJECTS[-1])
    named = ["/dev/tpmrm0", f"PCR                 {PCR}", *(f"{each:#010x}" for each in numbers)]
    assert [each for each in named if each not in shown[0]] == []


def test_the_environment_gives_leave_for_the_tpm_that_it_names() -> None:
    """HWTRUST_TEST_HARDWARE_OK spares the question where it is the TCTI, and nowhere else."""
    ours, other = "device:/dev/tpmrm0", "device:/dev/tpmrm1"
    for value, asked in ((ours, 0), (other, 1), ("1", 1), ("yes", 1), ("", 1)):
        questions: list[str] = []

        def ask(text: str, heard: list[str] = questions) -> str:
            heard.append(text)
            return "yes"

        hardware.require_leave(ours, {hardware.CONSENT_VARIABLE: value}, ask=ask)
        assert len(questions) == asked


def test_the_range_is_the_owner_s_and_not_the_product_s() -> None:
    """A device that is enrolled at the default handles is not in the tests' way."""
    default = Handles()
    assert {default.ak, default.storage_key}.isdisjoint(OBJECTS)
    assert default.counter not in INDICES
    assert OBJECTS[0] >= 0x81000000
    assert OBJECTS[-1] < 0x81800000
    assert INDICES[0] >= 0x01800000
    assert INDICES[-1] < 0x01C00000


def test_the_document_names_the_same_range() -> None:
    """Who reads the page before the run knows what will be touched."""
    page = (Path(__file__).parents[3] / "docs" / "testing-on-hardware.md").read_text()
    assert f"| NV indices | `{INDICES[0]:#010x}` to `{INDICES[-1]:#010x}` |" in page
    assert f"| persistent handles | `{OBJECTS[0]:#010x}` to `{OBJECTS[-1]:#010x}` |" in page
    assert f"| PCR | {PCR}," in page
    for variable in (plugin.TCTI_VARIABLE, hardware.CONSENT_VARIABLE, hardware.OWNER_AUTH_VARIABLE):
        assert f"| `{variable}` |" in page


# --- before -----------------------------------------------------------------------------

OCCUPIED: dict[str, tuple[Callable[[Swtpm], None], str]] = {
    "an NV index": (lambda tpm: define(tpm, INDICES[7]), f"{INDICES[7]:#010x}, an NV index"),
    "a persistent key": (lambda tpm: persist(tpm, OBJECTS[-1]), f"{OBJECTS[-1]:#010x}"),
    "an enrolled device": (enrol, f"{HANDLES.counter:#010x}, an epoch counter"),
    "a PCR in use": (extend, f"PCR {PCR}"),
    "a loaded session": (load, "loaded"),
}


@pytest.mark.parametrize("case", OCCUPIED)
def test_a_range_in_use_is_refused_and_not_touched(tpm: Swtpm, case: str) -> None:
    """Something of somebody's is named, and is there afterwards as it was."""
    occupy, named = OCCUPIED[case]
    occupy(tpm)
    before = seen(tpm)
    with pytest.raises(HardwareOccupiedError) as caught, hardware.guarded(tpm.tcti):
        pytest.fail("the tests went ahead")
    assert caught.value.code == "testing:hardware:occupied"
    assert named in str(caught.value.data["found"])
    assert seen(tpm) == before


def test_what_lies_elsewhere_is_nobody_s_business(tpm: Swtpm) -> None:
    """An enrolled device at other handles stays as it is."""
    define(tpm, ELSEWHERE)
    persist(tpm, OBJECTS[-1] + 1)
    before = seen(tpm)
    with hardware.guarded(tpm.tcti) as found:
        assert "IBM" in found
        enrol(tpm)
        undefine(tpm, HANDLES.counter)
        with Tpm(tpm.tcti) as opened:
            provision.remove(opened, HANDLES)
    assert seen(tpm) == before


def test_an_owner_password_is_asked_for_and_never_guessed(tpm_factory: TpmFactory) -> None:
    """Without the file, with a wrong one, or with one too many: an error, and no harm done."""
    owned, free = tpm_factory(owner_auth=b"secret"), tpm_factory()
    for tpm, password in ((owned, b""), (owned, b"wrong"), (free, b"secret")):
        before = seen(tpm)
        with (
            pytest.raises(HardwareUnfitError) as caught,
            hardware.guarded(tpm.tcti, owner_auth=password),
        ):
            pytest.fail("the tests went ahead")
        assert caught.value.code == "testing:hardware:unfit"
        assert seen(tpm) == before
    with hardware.guarded(owned.tcti, owner_auth=b"secret"):
        persist_as_owner(owned)
        with Tpm(owned.tcti, owner_auth=b"secret") as opened:
            provision.remove(opened, HANDLES)


def persist_as_owner(tpm: Swtpm) -> None:
    """Make a storage key with the owner's password."""
    with Tpm(tpm.tcti, owner_auth=b"secret") as opened:
        provision.make_storage_key(opened, HANDLES.storage_key)


def test_a_tpm_in_lockout_is_not_used(tpm_factory: TpmFactory) -> None:
    """Its owner has other worries."""
    tpm = tpm_factory(locked_out=True)
    with pytest.raises(HardwareUnfitError) as caught, hardware.guarded(tpm.tcti):
        pytest.fail("the tests went ahead")
    assert caught.value.code == "testing:hardware:unfit"


def test_the_owner_password_comes_from_a_file(tmp_path: Path) -> None:
    """One line end is not part of it; a file that cannot be read is an error."""
    file = tmp_path / "owner"
    file.write_bytes(b"secret\n")
    assert hardware.owner_password({hardware.OWNER_AUTH_VARIABLE: str(file)}) == b"secret"
    assert hardware.owner_password({}) == b""
    for content in (None, b"x" * 65):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(HardwareUnfitError) as caught:
            hardware.owner_password({hardware.OWNER_AUTH_VARIABLE: str(file)})
        assert caught.value.code == "testing:hardware:unfit"


def test_no_error_shows_the_owner_password(tmp_path: Path) -> None:
    """Whatever is made a text of it, as pytest does with arguments, has it not."""
    file = tmp_path / "owner"
    file.write_bytes(b"hunter2")
    given = hardware.owner_password({hardware.OWNER_AUTH_VARIABLE: str(file)})
    shown = (repr(given), str(given), f"{given}", f"{given!r}", pprint.pformat([given]))
    assert [each for each in shown if "hunter2" in each] == []


def test_a_tpm_is_one_run_s_at_a_time(tpm: Swtpm) -> None:
    """The second run is refused before anything is sent; the first one's end lets it in."""
    with hardware.guarded(tpm.tcti):
        with (
            pytest.raises(HardwareBusyError) as caught,
            hardware.guarded(tpm.tcti),
        ):
            pytest.fail("both went ahead")
        assert caught.value.code == "testing:hardware:busy"
    assert not hardware.lock_file(tpm.tcti).exists()
    with hardware.guarded(tpm.tcti) as found:
        assert found


def test_both_device_files_of_a_tpm_have_one_lock() -> None:
    """The raw one is the same TPM; another number is another one."""
    managed, raw, other = (
        hardware.lock_file(f"device:/dev/{name}") for name in ("tpmrm0", "tpm0", "tpmrm1")
    )
    assert managed == raw != other


def test_a_lock_that_somebody_has_put_a_link_for_is_refused(tmp_path: Path) -> None:
    """In a directory that all may write to, nothing is followed."""
    target = tmp_path / "target"
    tcti = f"swtpm:path={tmp_path}/none"
    link = hardware.lock_file(tcti)
    link.symlink_to(target)
    try:
        with pytest.raises(HardwareUnfitError) as caught, hardware.guarded(tcti):
            pytest.fail("the tests went ahead")
    finally:
        link.unlink()
    assert caught.value.code == "testing:hardware:unfit"
    assert not target.exists()


# --- after ------------------------------------------------------------------------------

LEFT: dict[str, tuple[Callable[[Swtpm], None], str]] = {
    "an NV index": (lambda tpm: define(tpm, INDICES[3]), f"{INDICES[3]:#010x} was left; removed"),
    "a key": (lambda tpm: persist(tpm, OBJECTS[4]), f"{OBJECTS[4]:#010x} was left; removed"),
    "a PCR": (extend, f"PCR {PCR} was left extended; reset"),
    "a session": (load, "was left; removed"),
    "failed authorisations": (lambda tpm: tpm.lock_out(), "failed authorisations"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_is_named_and_removed(tpm: Swtpm, case: str) -> None:
    """The run fails, and the range is empty all the same."""
    leave, named = LEFT[case]
    before = seen(tpm)
    with pytest.raises(HardwareLeftoverError) as caught, hardware.guarded(tpm.tcti):
        leave(tpm)
    assert caught.value.code == "testing:hardware:leftover"
    assert named in str(caught.value.data["left"])
    after = seen(tpm)
    assert (after.indices, after.objects) == (before.indices, before.objects)
    assert after.loaded == frozenset()
    assert not after.pcr_in_use


def test_what_is_changed_elsewhere_is_named_and_not_repaired(tpm: Swtpm) -> None:
    """Outside the range nothing is removed: it may be somebody else's, made meanwhile."""
    define(tpm, ELSEWHERE)

    def change() -> None:
        undefine(tpm, ELSEWHERE)
        define(tpm, ELSEWHERE + 1)

    with pytest.raises(HardwareLeftoverError) as caught, hardware.guarded(tpm.tcti):
        change()
    left = str(caught.value.data["left"])
    assert f"{ELSEWHERE:#010x} has gone" in left
    assert f"{ELSEWHERE + 1:#010x} was left; it is still there" in left
    assert ELSEWHERE + 1 in seen(tpm).indices


def test_another_object_under_a_known_handle_is_named(tpm: Swtpm) -> None:
    """Who evicts somebody's key and puts another there has changed the TPM; an index likewise."""
    handle = OBJECTS[-1] + 1
    persist(tpm, handle)
    define(tpm, ELSEWHERE)

    def change() -> None:
        undefine(tpm, ELSEWHERE)
        with Tpm(tpm.tcti) as opened:
            commands.evict_control(opened, opened.at(opened.pin(handle)), handle)
            opened.unpin(handle)
            provision.make_attestation_key(opened, handle, unique=bytes(32))
            commands.nv_define(opened, NvPublic(ELSEWHERE, Alg.SHA256, ORDINARY, b"", 9))

    with pytest.raises(HardwareLeftoverError) as caught, hardware.guarded(tpm.tcti):
        change()
    left = str(caught.value.data["left"])
    assert f"{handle:#010x} is not the one" in left
    assert f"{ELSEWHERE:#010x} is not the one" in left


REFUSED: dict[str, tuple[At, str]] = {
    "a key": (
        At(Respond(RC_LOCKOUT), command="TPM2_EvictControl"),
        f"persistent object {HANDLES.ak:#010x} was left; it is still there",
    ),
    "an index": (
        At(Respond(RC_LOCKOUT), command="TPM2_NV_UndefineSpace"),
        f"NV index {HANDLES.counter:#010x} was left; it is still there",
    ),
    "what is loaded": (
        At(Cut("before"), command="TPM2_FlushContext"),
        "the TPM refused to clear 0x0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_refusal_does_not_stop_the_clearing(tpm: Swtpm, case: str) -> None:
    """What the TPM does not let go is named; all else is removed."""
    fault, named = REFUSED[case]
    before = seen(tpm)

    def leave() -> None:
        enrol(tpm)
        load(tpm)
        extend(tpm)
        plans.append(tpm.inject(fault))

    plans: list[FaultPlan] = []
    with pytest.raises(HardwareLeftoverError) as caught, hardware.guarded(tpm.tcti):
        leave()
    assert plans[0].done
    left = str(caught.value.data["left"])
    assert named in left
    assert "the TPM refused to clear" in left
    after = seen(tpm)
    stays = {*after.indices, *after.objects} - {*before.indices, *before.objects}
    assert len(stays) == (case != "what is loaded")
    assert not after.pcr_in_use


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_is_cleared_up_too(tpm: Swtpm, error: type[BaseException]) -> None:
    """Ctrl-C or a failure in the middle leaves the range empty."""
    before = seen(tpm)

    def enrol_and_fail() -> None:
        enrol(tpm)
        raise error

    with pytest.raises(HardwareLeftoverError) as caught, hardware.guarded(tpm.tcti):
        enrol_and_fail()
    assert isinstance(caught.value.__context__, error)
    assert seen(tpm) == before


# --- as pytest runs it --------------------------------------------------------------------


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a body for hardware that says that it ran; it has no leave yet."""
    monkeypatch.delenv(hardware.CONSENT_VARIABLE, raising=False)
    monkeypatch.delenv(hardware.OWNER_AUTH_VARIABLE, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "hwtrust.testing.plugin")
    pytester.makepyfile(
        """
        import pathlib
        import pytest

        @pytest.mark.hardware
        def test_body(tpm):
            pathlib.Path("ran").touch()
        """
    )
    return pytester


LEAVING = f"""
import os
import signal
import pytest
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Tpm
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import NvAttributes, NvPublic

@pytest.mark.hardware
def test_body(tpm):
    attributes = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    with Tpm(tpm.tcti) as opened:
        commands.nv_define(opened, NvPublic({INDICES[5]}, Alg.SHA256, attributes, b"", 8))
    ERROR
"""


def test_without_leave_nothing_is_sent(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody at a terminal, no variable: the TPM is not even connected to."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(0)
        monkeypatch.setenv(plugin.TCTI_VARIABLE, f"swtpm:path={path}")
        outcome = project.runpytest_subprocess()
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    shown = outcome.stdout.str()
    assert "testing:hardware:consent" in shown
    assert f"{INDICES[0]:#010x} to {INDICES[-1]:#010x}" in shown
    assert not (project.path / "ran").exists()


def test_with_leave_the_body_runs_and_the_log_says_on_what(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tpm: Swtpm
) -> None:
    """Leave by the environment: what is touched and what the TPM is stand in the output."""
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.CONSENT_VARIABLE, tpm.tcti)
    outcome = project.runpytest_subprocess()
    outcome.assert_outcomes(passed=1)
    assert f"{OBJECTS[0]:#010x} to {OBJECTS[-1]:#010x}" in outcome.stdout.str()
    assert "It says: IBM" in outcome.stdout.str()


def test_a_range_in_use_stops_the_run(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tpm: Swtpm
) -> None:
    """No body runs on a TPM on which a device is enrolled there."""
    enrol(tpm)
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.CONSENT_VARIABLE, tpm.tcti)
    outcome = project.runpytest_subprocess()
    assert outcome.ret == pytest.ExitCode.USAGE_ERROR
    assert "testing:hardware:occupied" in outcome.stdout.str()
    assert not (project.path / "ran").exists()


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ("pytest.skip('done')", pytest.ExitCode.TESTS_FAILED),
        ("raise AssertionError", pytest.ExitCode.TESTS_FAILED),
        ("raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED),
        ("os.kill(os.getpid(), signal.SIGTERM)", pytest.ExitCode.INTERRUPTED),
        ("os.kill(os.getpid(), signal.SIGHUP)", pytest.ExitCode.INTERRUPTED),
    ],
)
def test_a_body_that_leaves_something_is_found_however_it_ends(
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tpm: Swtpm,
    ending: str,
    status: pytest.ExitCode,
) -> None:
    """Well, failing, by Ctrl-C or a signal: the run fails, names the index, the TPM has it not."""
    before = seen(tpm)
    project.makeconftest(
        """
        import signal

        # Whoever runs the tests may ignore it.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        """
    )
    project.makepyfile(LEAVING.replace("ERROR", ending))
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.CONSENT_VARIABLE, tpm.tcti)
    outcome = project.runpytest_subprocess()
    said = outcome.stdout.str() + outcome.stderr.str()
    assert outcome.ret == status
    assert f"{INDICES[5]:#010x} was left" in said
    assert seen(tpm) == before


@pytest.mark.parametrize(("answer", "status"), [("no", 4), ("yes", 0)])
def test_at_a_terminal_the_answer_counts(
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tpm: Swtpm,
    answer: str,
    status: int,
) -> None:
    """Who sits at the terminal is asked, although pytest has taken hold of it."""
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "pytest"],
            stdin=theirs,
            capture_output=True,
            text=True,
            cwd=project.path,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status, done.stdout
    assert "May they?" in done.stdout
    assert (project.path / "ran").exists() == (status == 0)


def test_several_processes_do_not_share_a_hardware_tpm(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tpm: Swtpm
) -> None:
    """With -n 2 there be two bodies in one range."""
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.CONSENT_VARIABLE, tpm.tcti)
    outcome = project.runpytest_subprocess("-p", "xdist.plugin", "-n", "1")
    outcome.assert_outcomes(errors=1)
    assert not (project.path / "ran").exists()


FAILING = """
import pytest

@pytest.fixture
def owner_auth(tpm):
    return tpm.owner_auth

@pytest.mark.hardware
def test_body(tpm, owner_auth):
    mine = owner_auth
    assert not owner_auth
"""


def test_a_failure_does_not_print_the_owner_password(
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tpm_factory: TpmFactory,
    tmp_path: Path,
) -> None:
    """Not with its arguments, its comparison nor its variables."""
    tpm = tpm_factory(owner_auth=b"hunter2")
    file = tmp_path / "owner"
    file.write_bytes(b"hunter2\n")
    project.makepyfile(FAILING)
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.CONSENT_VARIABLE, tpm.tcti)
    monkeypatch.setenv(hardware.OWNER_AUTH_VARIABLE, str(file))
    outcome = project.runpytest_subprocess("--showlocals", "-vv")
    outcome.assert_outcomes(failed=1)
    assert "<password>" in outcome.stdout.str()
    assert "hunter2" not in outcome.stdout.str() + outcome.stderr.str()
