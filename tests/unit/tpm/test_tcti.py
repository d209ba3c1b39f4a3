"""Observing the TPM's bus changes nothing, loses nothing and keeps no secret."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_CC,
    TPM2_SE,
    TPM2B_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_SYM_DEF,
)
from tpm2_pytss.TCTI import PollData, PyTCTI
from tpm2_pytss.TCTILdr import TCTILdr
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hwtrust.errors import MalformedError, TpmTransportError
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm.tcti import (
    COMMAND_NAMES,
    Exchange,
    ObservedTcti,
    RelayTcti,
    command_code,
    command_name,
    exchange,
    open_tcti,
    response_code,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GENERAL_FAILURE = 0x000A_0001
BAD_CONTEXT = 0x000A_0003
TRY_AGAIN = 0x000A_0009
IO_ERROR = 0x000A_000A
ESYS_BAD_SEQUENCE = 0x0007_0007
RC_VALUE_HANDLE_1 = 0x184

GET_RANDOM = bytes.fromhex("8001 0000000c 0000017b 0010")
FLUSH = "8001 0000000e 00000165"


@pytest.fixture(scope="module")
def swtpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    """A TPM that these tests share and leave as they found it."""
    with Swtpm.start(tmp_path_factory.mktemp("tpm")) as tpm:
        yield tpm


@pytest.fixture
def seen() -> list[Exchange]:
    """What an observer was told."""
    return []


class FailingTcti(RelayTcti):
    """Raises `error` where it is told to."""

    def __init__(self, inner: str, where: str, error: BaseException) -> None:
        super().__init__(inner)
        self.where = where
        self.error = error

    def send(self, request: bytes) -> None:
        """Fail, or hand on."""
        if self.where == "send":
            raise self.error
        super().send(request)

    def fetch(self, timeout: int) -> bytes:
        """Fail, or hand on."""
        response = super().fetch(timeout)
        if self.where == "fetch":
            raise self.error
        return response


class ScriptedTcti(PyTCTI):  # type: ignore[misc]  # tpm2-pytss has no type hints
    """Answers with what it was given, and remembers how it was closed."""

    def __init__(self, *answers: bytes | TSS2_Exception) -> None:
        super().__init__()
        self.answers = list(answers)
        self.closed = 0

    def do_transmit(self, command: bytes) -> None:
        """Take any command."""

    def do_receive(self, timeout: int) -> bytes:  # noqa: ARG002
        """Give the next answer."""
        answer = self.answers.pop(0)
        if isinstance(answer, TSS2_Exception):
            raise answer
        return answer

    def do_finalize(self) -> None:
        """Count the closing."""
        self.closed += 1


# --- names ------------------------------------------------------------------------


def test_every_command_of_a_tpm_has_a_name(swtpm: Swtpm) -> None:
    """No command that swtpm implements is shown as a number."""
    with ESAPI(swtpm.tcti) as esapi:
        # The list reads memory of the whole answer, which must be kept.
        capability = esapi.get_capability(TPM2_CAP.COMMANDS, 0, 256)[1]
        codes = [int(attributes) & 0xFFFF for attributes in capability.data.command]
    assert len(codes) > 90
    assert [code for code in codes if code not in COMMAND_NAMES] == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        pytest.param(0x158, "TPM2_Quote", id="a plain one"),
        pytest.param(0x182, "TPM2_PCR_Extend", id="one with an underscore"),
        pytest.param(0x11F, "TPM2_NV_UndefineSpaceSpecial", id="the first"),
        pytest.param(0x155, "TPM2_HMAC", id="one that was renamed to TPM2_MAC"),
        pytest.param(0x2000_0001, "TPM2_CC_0x20000001", id="a vendor's own"),
    ],
)
def test_a_command_is_called_by_its_name_in_the_specification(code: int, name: str) -> None:
    """Names are those of Part 2 §6.5.2; a command without one keeps its number."""
    assert command_name(code) == name


def test_bounds_are_no_names() -> None:
    """TPM_CC_FIRST and TPM_CC_LAST name no command."""
    assert "TPM2_FIRST" not in COMMAND_NAMES.values()
    assert "TPM2_LAST" not in COMMAND_NAMES.values()
    assert len(COMMAND_NAMES) == len(set(COMMAND_NAMES.values()))


@pytest.mark.parametrize("parse", [command_code, response_code])
@pytest.mark.parametrize("size", range(10))
def test_a_buffer_shorter_than_a_header_is_malformed(
    parse: Callable[[bytes], int], size: int
) -> None:
    """No code is read from beyond the end."""
    with pytest.raises(MalformedError) as caught:
        parse(GET_RANDOM[:size])
    assert caught.value.code == "wire:malformed"


# --- observing ----------------------------------------------------------------------


def test_an_observer_is_told_of_every_exchange(swtpm: Swtpm, seen: list[Exchange]) -> None:
    """Each command is reported once, in order, with its sizes and outcome."""
    with ObservedTcti(swtpm.tcti, seen.append) as tcti, ESAPI(tcti) as esapi:
        assert seen == []
        assert len(bytes(esapi.get_random(16))) == 16
        with pytest.raises(TSS2_Exception):
            esapi.tr_from_tpmpublic(0x8101_0001)
    assert [(made.command, made.code, made.rc) for made in seen] == [
        ("TPM2_GetRandom", 0x17B, 0),
        ("TPM2_ReadPublic", 0x173, 0x18B),
    ]
    assert [made.succeeded for made in seen] == [True, False]
    assert [(made.request_size, made.response_size) for made in seen] == [(12, 28), (14, 10)]


def test_times_come_from_the_given_clock(swtpm: Swtpm, seen: list[Exchange]) -> None:
    """Milliseconds are from sending the command to having the response."""
    ticks = iter([100.0, 100.25, 200.0, 200.001])
    with ObservedTcti(swtpm.tcti, seen.append, clock=lambda: next(ticks)) as tcti:
        exchange(tcti, GET_RANDOM)
        exchange(tcti, GET_RANDOM)
    assert [made.milliseconds for made in seen] == pytest.approx([250.0, 1.0])


def test_an_exchange_holds_no_bytes(swtpm: Swtpm, seen: list[Exchange]) -> None:
    """Passwords in a request and secrets in a response are not in what is reported."""
    with ObservedTcti(swtpm.tcti, seen.append) as tcti, ESAPI(tcti) as esapi:
        esapi.hierarchy_change_auth(ESYS_TR.OWNER, b"correct horse")
        esapi.tr_set_auth(ESYS_TR.OWNER, b"correct horse")
        esapi.hierarchy_change_auth(ESYS_TR.OWNER, b"")
    assert len(seen) == 2
    for made in seen:
        values = [getattr(made, name) for name in Exchange.__struct_fields__]
        assert {type(value) for value in values} <= {str, int, float}
        assert "correct horse" not in repr(made)
        assert b"correct horse".hex() not in repr(made)


def test_an_exchange_without_a_response_is_reported(tmp_path: Path, seen: list[Exchange]) -> None:
    """A TPM that is gone shows as the TCTI's response code."""
    with Swtpm.start(tmp_path) as tpm, ObservedTcti(tpm.tcti, seen.append) as tcti:
        tpm.stop()
        with pytest.raises(TpmTransportError):
            exchange(tcti, GET_RANDOM)
    assert [(made.command, made.rc, made.response_size) for made in seen] == [
        ("TPM2_GetRandom", IO_ERROR, 0)
    ]


def test_a_timeout_is_not_reported_as_an_outcome(seen: list[Exchange]) -> None:
    """A response that is still to come is reported when it has come."""
    response = bytes.fromhex("8001 0000000a 00000000")
    scripted = ScriptedTcti(TSS2_Exception(TRY_AGAIN), response)
    with ObservedTcti(scripted, seen.append) as tcti:
        tcti.transmit(GET_RANDOM)
        with pytest.raises(TSS2_Exception) as caught:
            tcti.receive(timeout=0)
        assert caught.value.rc == TRY_AGAIN
        assert seen == []
        assert tcti.receive() == response
    assert [made.rc for made in seen] == [0]


def test_a_response_that_is_too_short_is_handed_on(seen: list[Exchange]) -> None:
    """What is wrong with a response is for ESAPI to say."""
    with ObservedTcti(ScriptedTcti(b"\x80\x01"), seen.append) as tcti:
        tcti.transmit(GET_RANDOM)
        assert tcti.receive() == b"\x80\x01"
    assert not seen[0].succeeded
    assert seen[0].response_size == 2


def test_an_observer_s_error_reaches_nobody_before_closing(swtpm: Swtpm) -> None:
    """An observer that fails stops observing; the TPM's user notices at `close`."""
    calls = []

    def broken(made: Exchange) -> None:
        calls.append(made)
        message = "the terminal is gone"
        raise BrokenPipeError(message)

    tcti = ObservedTcti(swtpm.tcti, broken)
    with ESAPI(tcti) as esapi:
        esapi.get_random(4)
        esapi.get_random(4)
    assert len(calls) == 1
    with pytest.raises(BrokenPipeError):
        tcti.close()
    tcti.close()


# --- exceptions between Python and C --------------------------------------------------


@pytest.mark.parametrize("where", ["send", "fetch"])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("a bug"), id="an exception of Python's"),
        pytest.param(KeyboardInterrupt(), id="an interrupt"),
        pytest.param(SystemExit(3), id="an exit"),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_in_a_callback_is_kept(
    swtpm: Swtpm, where: str, error: BaseException, depth: int
) -> None:
    """ESAPI reports a general failure; `raise_failure` gives back what was raised."""
    tcti: RelayTcti = FailingTcti(swtpm.tcti, where, error)
    for _ in range(depth):
        tcti = RelayTcti(tcti)
    with tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            esapi.get_random(4)
        assert caught.value.rc == GENERAL_FAILURE
        kept = tcti.failure
        assert kept is error
        with pytest.raises(type(error)) as given_back:
            tcti.raise_failure()
        assert given_back.value is error
        assert tcti.failure is None
        tcti.raise_failure()


@pytest.mark.parametrize("where", ["send", "fetch"])
def test_a_tss_exception_in_a_callback_keeps_its_code(swtpm: Swtpm, where: str) -> None:
    """The response code that a TCTI raises is the one that ESAPI raises."""
    with FailingTcti(swtpm.tcti, where, TSS2_Exception(IO_ERROR)) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            esapi.get_random(4)
        assert caught.value.rc == IO_ERROR
        assert tcti.failure is None


@pytest.mark.parametrize("where", ["send", "fetch"])
def test_after_a_failure_a_new_context_works_and_the_old_one_does_not(
    swtpm: Swtpm, where: str
) -> None:
    """An ESAPI context is dropped after a failure; its TCTI goes on."""
    with FailingTcti(swtpm.tcti, where, ValueError()) as tcti:
        with ESAPI(tcti) as broken:
            with pytest.raises(TSS2_Exception):
                broken.get_random(4)
            tcti.where = "nowhere"
            with pytest.raises(TSS2_Exception) as caught:
                broken.get_random(4)
            assert caught.value.rc == ESYS_BAD_SEQUENCE
        with ESAPI(tcti) as fresh:
            assert len(bytes(fresh.get_random(4))) == 4
        assert tcti.failure is None


# --- closing --------------------------------------------------------------------------


def test_closing_closes_the_inner_tcti_once() -> None:
    """The wrapper owns what it wraps; closing twice is harmless."""
    scripted = ScriptedTcti()
    tcti = RelayTcti(scripted)
    tcti.close()
    tcti.close()
    assert scripted.closed == 1


def test_a_command_after_closing_is_refused(swtpm: Swtpm) -> None:
    """A context that outlives its TCTI gets an error, not freed memory."""
    tcti = RelayTcti(swtpm.tcti)
    with ESAPI(tcti) as esapi:
        tcti.close()
        with pytest.raises(TSS2_Exception) as caught:
            esapi.get_random(4)
    assert caught.value.rc == BAD_CONTEXT


def test_a_forgotten_tcti_is_closed_and_freed() -> None:
    """Neither the wrapper nor what it wraps leaks when nobody closes it."""
    scripted = ScriptedTcti()
    tcti = RelayTcti(scripted)
    gone = weakref.ref(tcti)
    del tcti
    gc.collect()
    assert gone() is None
    assert scripted.closed == 1


def test_a_native_tcti_may_be_closed_by_its_maker_too(swtpm: Swtpm) -> None:
    """A TCTI that was made elsewhere can be closed there, before or after."""
    with TCTILdr.parse(swtpm.tcti) as native:
        with RelayTcti(native) as tcti:
            assert response_code(exchange(tcti, GET_RANDOM)) == 0
        assert tcti.failure is None


FINALISE_IN_ANY_ORDER = """
import gc, sys
from tpm2_pytss import ESAPI
from hwtrust.tpm.tcti import ObservedTcti, RelayTcti

def make():
    tcti = ObservedTcti(RelayTcti(sys.argv[1]), lambda made: None)
    esapi = ESAPI(tcti)
    esapi.get_random(4)
    return tcti, esapi

tcti, esapi = make()
del tcti
gc.collect()
esapi.get_random(4)         # the context keeps its TCTI
esapi.close()
del esapi

tcti, esapi = make()
del esapi                   # a context that nobody closed
gc.collect()
tcti.close()
del tcti
gc.collect()

tcti, esapi = make()
tcti.close()
esapi.close()

tcti, esapi = make()
esapi.tcti.cycle = (tcti, esapi)
del tcti, esapi
gc.collect()

tcti, esapi = make()        # both alive when the interpreter ends
print("end", flush=True)
"""


def test_no_order_of_closing_crashes(swtpm: Swtpm) -> None:
    """Contexts and TCTIs may go in any order, at the interpreter's end too."""
    done = subprocess.run(
        [sys.executable, "-c", FINALISE_IN_ANY_ORDER, swtpm.tcti],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "Traceback" not in done.stderr


# --- the rest of the interface ----------------------------------------------------------


def test_what_the_inner_tcti_lacks_the_wrapper_lacks(swtpm: Swtpm) -> None:
    """Calls other than commands reach the inner TCTI, and so does its refusal."""
    not_implemented = 0x000A_0002
    with RelayTcti(swtpm.tcti) as tcti:
        tcti.set_locality(0)
        sticky = partial(tcti.make_sticky, 1, sticky=True)
        for call in (tcti.cancel, tcti.get_poll_handles, sticky):
            with pytest.raises(TSS2_Exception) as caught:
                call()
            assert caught.value.rc == not_implemented


def test_locality_and_handles_reach_the_inner_tcti() -> None:
    """What is not a command is handed on with its values, and its result comes back."""
    calls: list[tuple[str, int]] = []

    class Capable(ScriptedTcti):
        def do_set_locality(self, locality: int) -> None:
            calls.append(("locality", locality))

        def do_cancel(self) -> None:
            calls.append(("cancel", 0))

        def do_make_sticky(self, handle: Any, is_sticky: bool) -> None:  # noqa: ANN401
            calls.append(("sticky", handle[0] if is_sticky else 0))
            handle[0] = 0x8100_0001

        def do_get_poll_handles(self) -> tuple[PollData, ...]:
            return (PollData(fd=7, events=1),)

    with RelayTcti(RelayTcti(Capable())) as tcti:
        tcti.set_locality(3)
        tcti.cancel()
        assert tcti.make_sticky(0x8000_0001, sticky=True) == 0x8100_0001
        assert [(polled.fd, polled.events) for polled in tcti.get_poll_handles()] == [(7, 1)]
    assert calls == [("locality", 3), ("cancel", 0), ("sticky", 0x8000_0001)]


def test_a_tcti_that_cannot_be_opened_is_a_transport_error(tmp_path: Path) -> None:
    """No TPM at the other end, which may come back, is told from a TCTI that never works."""
    for conf, code in {
        f"swtpm:path={tmp_path}/none": "tpm:gone",
        f"device:{tmp_path}/none": "tpm:gone",
        "no-such-tcti:x": "tpm:transport",
        "swtpm:no-such-option=1": "tpm:transport",
    }.items():
        with pytest.raises(TpmTransportError) as caught:
            open_tcti(conf)
        assert caught.value.code == code
        assert isinstance(caught.value.data["rc"], int)
        with pytest.raises(TpmTransportError):
            RelayTcti(conf)


# --- commands past ESAPI ------------------------------------------------------------------


def test_exchange_flushes_what_a_dropped_context_left(swtpm: Swtpm) -> None:
    """A session of a context that is gone can be flushed by its handle."""

    def loaded() -> list[int]:
        with ESAPI(swtpm.tcti) as esapi:
            capability = esapi.get_capability(TPM2_CAP.HANDLES, 0x0200_0000, 16)[1]
            return [int(handle) for handle in capability.data.handles]

    with ESAPI(swtpm.tcti) as esapi:
        esapi.start_auth_session(
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            TPM2_SE.POLICY,
            TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            TPM2_ALG.SHA256,
        )
    (left,) = loaded()
    # The capability lists HMAC and policy sessions alike under 0x02.
    handle = 0x0300_0000 | (left & 0x00FF_FFFF)
    with open_tcti(swtpm.tcti) as tcti:
        flushed = exchange(tcti, bytes.fromhex(FLUSH) + handle.to_bytes(4, "big"))
        assert response_code(flushed) == 0
        again = exchange(tcti, bytes.fromhex(FLUSH) + handle.to_bytes(4, "big"))
        assert response_code(again) != 0
    assert loaded() == []


@pytest.mark.parametrize("wrapped", [False, True])
def test_exchange_first_fetches_what_nobody_fetched(swtpm: Swtpm, *, wrapped: bool) -> None:
    """A response of an abandoned command is not taken for the next one's."""
    made: list[Exchange] = []
    tcti = ObservedTcti(swtpm.tcti, made.append) if wrapped else open_tcti(swtpm.tcti)
    with tcti:
        tcti.transmit(GET_RANDOM)
        response = exchange(
            tcti, bytes.fromhex("8001 00000016 0000017a 00000006 00000100 00000001")
        )
    assert response_code(response) == 0
    assert b"2.0\x00" in response
    if wrapped:
        assert [(one.command, one.rc) for one in made if one.response_size] == [
            ("TPM2_GetRandom", 0),
            ("TPM2_GetCapability", 0),
        ]


def test_exchange_with_a_tpm_that_is_gone_is_a_transport_error(tmp_path: Path) -> None:
    """A broken connection says that it is not known what the TPM did."""
    with Swtpm.start(tmp_path) as tpm, open_tcti(tpm.tcti) as tcti:
        tpm.stop()
        with pytest.raises(TpmTransportError) as caught:
            exchange(tcti, GET_RANDOM)
    assert caught.value.code == "tpm:transport"
    assert caught.value.data["rc"] == IO_ERROR


def test_exchange_gives_an_interrupt_back(swtpm: Swtpm) -> None:
    """An interrupt in a callback is not turned into an error of the TPM."""
    with (
        FailingTcti(swtpm.tcti, "fetch", KeyboardInterrupt()) as tcti,
        pytest.raises(KeyboardInterrupt),
    ):
        exchange(tcti, GET_RANDOM)


def test_a_policy_runs_the_same_through_an_observer(swtpm: Swtpm, seen: list[Exchange]) -> None:
    """Two contexts, one observed: the TPM computes the same policy digest."""

    def digest(tcti: object) -> bytes:
        with ESAPI(tcti) as esapi:
            session = esapi.start_auth_session(
                ESYS_TR.NONE,
                ESYS_TR.NONE,
                TPM2_SE.TRIAL,
                TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
                TPM2_ALG.SHA256,
            )
            esapi.policy_pcr(session, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse("sha256:16"))
            esapi.policy_command_code(session, TPM2_CC.Unseal)
            value = bytes(esapi.policy_get_digest(session))
            esapi.flush_context(session)
            return value

    with ObservedTcti(swtpm.tcti, seen.append) as tcti:
        assert digest(tcti) == digest(swtpm.tcti) != bytes(32)
    assert [made.command for made in seen] == [
        "TPM2_StartAuthSession",
        "TPM2_PolicyPCR",
        "TPM2_PolicyCommandCode",
        "TPM2_PolicyGetDigest",
        "TPM2_FlushContext",
    ]
