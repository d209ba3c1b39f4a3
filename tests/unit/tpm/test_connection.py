"""A connection leaves nothing behind, believes no other object, and comes back after a break."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESYS_TR
from tpm2_pytss.constants import TPM2_RH

from hwtrust.errors import (
    HwTrustError,
    TpmError,
    TpmFailureModeError,
    TpmGoneError,
    TpmLockoutError,
    TpmObjectConflictError,
    TpmTamperedError,
    TpmTransportError,
)
from hwtrust.testing.faults import (
    RC_FAILURE,
    RC_LOCKOUT,
    RC_NV_RATE,
    RC_RETRY,
    Alter,
    At,
    Cut,
    Delay,
    Fault,
    FaultPlan,
    FaultyTcti,
    Moment,
    Respond,
)
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Pinned, Tpm
from hwtrust.tpm.discover import open_tpm
from hwtrust.tpm.sessions import hmac_session, policy_session
from hwtrust.tpm.tcti import RelayTcti, command_code, command_name
from hwtrust.tpm.templates import STORAGE_KEY
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import u16, u32
from hwtrust.wire.structures import EccPoint, Public
from simulators.anchored_tpm import AnchoredTpm, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpm2_pytss.TCTI import TCTI

    from hwtrust.testing.swtpm import Swtpm

DIGESTS = {Alg.SHA1: bytes(20), Alg.SHA256: bytes(32)}
RC_TESTING = 0x90A
RC_YIELDED = 0x908


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, in seconds, and not waited for."""
    made: list[float] = []
    monkeypatch.setattr("hwtrust.tpm.connection.time", SimpleNamespace(sleep=made.append))
    return made


def extend(tpm: Tpm, salt: Pinned) -> None:
    """Extend PCR 8 through a salted session."""
    with hmac_session(tpm, salt) as session:
        commands.pcr_extend(tpm, 8, DIGESTS, session)


# --- nothing left behind ---------------------------------------------------------


def test_an_object_is_flushed_at_the_end_of_its_with(anchored: AnchoredTpm) -> None:
    """What is loaded for a block is loaded within it and not after it."""
    tpm = anchored.tpm
    handle, _ = commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
    with tpm.flushing(handle):
        assert loaded(anchored.swtpm) == {"objects": [0x80000000]}
    assert loaded(anchored.swtpm) == {}


def test_an_object_is_flushed_when_its_block_fails(anchored: AnchoredTpm) -> None:
    """An error in the block, of any kind, leaves no object behind and comes out as itself."""
    tpm = anchored.tpm
    handle, _ = commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
    with pytest.raises(KeyboardInterrupt), tpm.flushing(handle):
        raise KeyboardInterrupt
    assert loaded(anchored.swtpm) == {}


def test_closing_flushes_what_is_still_loaded(tpm: Swtpm) -> None:
    """A program that gives up in the middle leaves the TPM's slots free."""
    opened = Tpm(tpm.tcti)
    handle, _ = commands.create_primary(opened, TPM2_RH.OWNER, STORAGE_KEY)
    opened.track(handle)
    opened.close()
    assert loaded(tpm) == {}


def test_closing_twice_is_harmless_and_a_closed_connection_stays_closed(tpm: Swtpm) -> None:
    """Nothing reopens a connection behind the back of whoever closed it."""
    opened = Tpm(tpm.tcti)
    opened.close()
    opened.close()
    with pytest.raises(TpmTransportError) as caught:
        commands.read_clock(opened)
    assert caught.value.code == "tpm:transport"


def test_flushing_what_the_tpm_has_flushed_itself_sends_no_command(anchored: AnchoredTpm) -> None:
    """A session that ended with its last command costs no flush."""
    with anchored.counted() as (tpm, heard):
        with hmac_session(tpm, anchored.storage) as session:
            commands.pcr_extend(tpm, 8, DIGESTS, session, last=True)
        assert heard.sequence == ["TPM2_StartAuthSession", "TPM2_PCR_Extend"]
        assert loaded(anchored.swtpm) == {}


def test_a_connection_shows_nothing_but_its_name(tpm: Swtpm) -> None:
    """The owner password is not in a repr, hence in no traceback or log (104)."""
    with Tpm(tpm.tcti, owner_auth=b"owner password") as opened:
        assert repr(opened) == f"Tpm({tpm.tcti!r})"


def test_a_tpm_that_is_not_there_is_a_transport_error() -> None:
    """What cannot be opened is an error of the tree."""
    with pytest.raises(TpmTransportError) as caught:
        Tpm("swtpm:path=/nonexistent/tpm.sock")
    assert caught.value.code == "tpm:gone"


def test_a_tpm_that_goes_while_in_use_is_gone_and_one_that_comes_back_is_used(
    anchored: AnchoredTpm,
) -> None:
    """Told from a connection that broke once; when the TPM is back, the same `Tpm` works."""
    with Tpm(anchored.swtpm.tcti) as tpm:
        before = commands.read_clock(tpm).reset_count
        pid = anchored.swtpm.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(TpmGoneError) as caught:
                commands.read_clock(tpm)
            assert caught.value.code == "tpm:gone"
        anchored.swtpm.power_cut()
        assert commands.read_clock(tpm).reset_count == before + 1


def test_a_tpm_that_takes_connections_and_answers_none_is_gone(anchored: AnchoredTpm) -> None:
    """A device file can outlive its TPM: opening it works, and every command fails."""

    def dead(inner: TCTI) -> TCTI:
        return FaultyTcti(inner, FaultPlan(At(Cut("before"), nth=1, times=None)))

    with Tpm(anchored.swtpm.tcti, wrap=dead) as tpm, pytest.raises(TpmGoneError):
        commands.read_clock(tpm)


# --- breaks ----------------------------------------------------------------------

MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "command",
    ["TPM2_StartAuthSession", "TPM2_PCR_Extend", "TPM2_FlushContext"],
)
def test_after_a_cut_a_new_connection_works_and_nothing_is_loaded(
    anchored: AnchoredTpm, command: str, moment: Moment
) -> None:
    """A cut is a transport error; what the unanswered command loaded is found and flushed."""
    with anchored.through(At(Cut(moment), command=command)) as tpm:
        with pytest.raises(TpmTransportError) as caught:
            extend(tpm, anchored.storage)
        assert caught.value.code == "tpm:transport"
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cut_while_an_object_is_made_leaves_no_object(
    anchored: AnchoredTpm, moment: Moment
) -> None:
    """An object whose handle never arrived is flushed all the same."""
    with anchored.through(At(Cut(moment), command="TPM2_CreatePrimary")) as tpm:
        with pytest.raises(TpmTransportError):
            commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
        assert loaded(anchored.swtpm) == {}


def test_after_a_cut_all_that_was_loaded_before_is_gone(anchored: AnchoredTpm) -> None:
    """Objects and sessions of the enclosing blocks do not survive the connection either."""
    with anchored.through(At(Cut("before"), command="TPM2_ReadClock")) as tpm:
        handle, _ = commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
        with (
            tpm.flushing(handle),
            hmac_session(tpm, anchored.storage),
            policy_session(tpm, anchored.storage),
        ):
            assert len(loaded(anchored.swtpm)["objects"]) == 1
            with pytest.raises(TpmTransportError):
                commands.read_clock(tpm)
            assert loaded(anchored.swtpm) == {}


def test_a_block_of_a_dropped_connection_flushes_nothing_of_the_next(
    anchored: AnchoredTpm,
) -> None:
    """ESAPI numbers its objects anew; the old number is not taken for the new object."""
    with anchored.through(At(Cut("before"), command="TPM2_ReadClock")) as tpm:
        old, _ = commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
        with tpm.flushing(old):
            with pytest.raises(TpmTransportError):
                commands.read_clock(tpm)
            new, _ = commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
            tpm.track(new)
            # ESAPI starts to number at random, so that this happens once in a while.
            tpm._live.add(int(old))
        assert loaded(anchored.swtpm) == {"objects": [0x80000000]}
        assert int(old) in tpm._live
        tpm._live.remove(int(old))
        tpm.flush(new)


def test_a_tpm_that_stays_away_is_a_transport_error_until_it_is_back(tpm: Swtpm) -> None:
    """No hang and no other error while the TPM is away; the connection works once it is back."""
    away = At(Cut("before"), nth=2, times=30)
    plan = FaultPlan(away)
    with Tpm(tpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as opened:
        commands.read_clock(opened)
        for _ in range(5):
            with pytest.raises(TpmTransportError):
                commands.read_clock(opened)
        for _ in range(40):
            if plan.done:
                break
            with pytest.raises(TpmTransportError):
                commands.read_clock(opened)
        assert commands.read_clock(opened).clock > 0


def test_a_sweep_that_failed_is_made_up_for(anchored: AnchoredTpm) -> None:
    """A TPM that cannot be swept after a break is swept before it is used again."""
    steps = (
        At(Cut("after"), command="TPM2_CreatePrimary"),
        At(Respond(RC_FAILURE), command="TPM2_GetCapability"),
    )
    with anchored.through(*steps) as tpm:
        with pytest.raises(TpmTransportError):
            commands.create_primary(tpm, TPM2_RH.OWNER, STORAGE_KEY)
        assert len(loaded(anchored.swtpm)["objects"]) == 1
        commands.read_clock(tpm)
        assert loaded(anchored.swtpm) == {}


def test_an_interrupt_comes_out_as_itself_and_leaves_nothing(anchored: AnchoredTpm) -> None:
    """Ctrl-C in the middle of a command ends it, frees the TPM, and is not swallowed."""

    class Interrupt:
        def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
            forward(request)
            raise KeyboardInterrupt

    with anchored.through(At(Interrupt(), command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(KeyboardInterrupt):
            extend(tpm, anchored.storage)
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


def test_a_delayed_answer_is_waited_for(anchored: AnchoredTpm) -> None:
    """A slow TPM is no broken one."""
    waited: list[float] = []
    delay = Delay(3.5, sleep=waited.append)
    with anchored.through(At(delay, command="TPM2_PCR_Extend")) as tpm:
        extend(tpm, anchored.storage)
    assert waited == [3.5]


def test_a_long_life_does_not_grow_the_tpms_load(anchored: AnchoredTpm) -> None:
    """A hundred sessions and objects pass through three slots of each kind."""
    for _ in range(100):
        handle, _ = commands.create_primary(anchored.tpm, TPM2_RH.OWNER, STORAGE_KEY)
        with anchored.tpm.flushing(handle), policy_session(anchored.tpm, anchored.storage):
            pass
        extend(anchored.tpm, anchored.storage)


# --- refusals --------------------------------------------------------------------

REFUSALS: dict[str, tuple[int, type[TpmError], str]] = {
    "a lockout is its own error": (RC_LOCKOUT, TpmLockoutError, "tpm:lockout"),
    "failure mode is its own error": (RC_FAILURE, TpmFailureModeError, "tpm:failure-mode"),
    "any other refusal is a command that failed": (0x184, TpmError, "tpm:command:failed"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_typed_and_leaves_nothing(anchored: AnchoredTpm, case: str) -> None:
    """What the TPM refuses ends in the error that names the cause, with its response code."""
    rc, expected, code = REFUSALS[case]
    with anchored.through(At(Respond(rc), command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmError) as caught:
            extend(tpm, anchored.storage)
        assert type(caught.value) is expected
        assert caught.value.code == code
        assert caught.value.data["rc"] == rc
        assert caught.value.data["command"] == "TPM2_PCR_Extend"
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


@pytest.mark.parametrize("rc", [RC_RETRY, RC_YIELDED, RC_TESTING, RC_NV_RATE])
@pytest.mark.parametrize("times", [1, 4, 7])
def test_what_asks_to_be_asked_again_is_asked_again(
    anchored: AnchoredTpm, pauses: list[float], rc: int, times: int
) -> None:
    """RETRY, YIELDED, TESTING and NV_RATE succeed in the end, and extend once."""
    before = anchored.pcr()
    tries = min(times, 4) if rc == RC_NV_RATE else times
    with anchored.through(At(Respond(rc), command="TPM2_PCR_Extend", times=tries)) as tpm:
        extend(tpm, anchored.storage)
    assert anchored.pcr() == hashlib.sha256(before + bytes(32)).digest()
    assert all(pause > 0 for pause in pauses)


def test_a_tpm_that_never_stops_asking_is_given_up(
    anchored: AnchoredTpm, pauses: list[float]
) -> None:
    """Retries end: a few seconds, then the refusal."""
    with anchored.through(At(Respond(RC_NV_RATE), command="TPM2_PCR_Extend", times=None)) as tpm:
        with pytest.raises(TpmError) as caught:
            extend(tpm, anchored.storage)
        assert caught.value.data["rc"] == RC_NV_RATE
    assert 1 < len(pauses) < 10
    assert 1 < sum(pauses) < 10
    assert pauses == sorted(pauses)


# --- pinned objects --------------------------------------------------------------


def test_a_pinned_object_costs_no_command(anchored: AnchoredTpm) -> None:
    """The serialised handle spares reading the public area at each start."""
    with anchored.counted() as (tpm, heard):
        tpm.at(anchored.storage)
        tpm.at(anchored.counter)
        tpm.at(anchored.ak)
        assert heard.total == 0


def test_without_its_serialised_handle_a_pinned_object_is_read_once(
    anchored: AnchoredTpm,
) -> None:
    """The blob is a convenience: the Name is what counts."""
    bare = Pinned(anchored.storage.handle, anchored.storage.name)
    with anchored.counted() as (tpm, heard):
        extend(tpm, bare)
        extend(tpm, bare)
        assert heard.by_name["TPM2_ReadPublic"] == 1


def wrong_pins(anchored: AnchoredTpm) -> dict[str, Pinned]:
    """Pins that do not describe what the TPM holds."""
    storage, ak = anchored.storage, anchored.ak
    name = bytearray(storage.name)
    name[-1] ^= 1
    return {
        "another Name, blob of the object": Pinned(storage.handle, bytes(name), storage.blob),
        "another Name, no blob": Pinned(storage.handle, bytes(name)),
        "another object's Name and blob": Pinned(storage.handle, ak.name, ak.blob),
        "no Name": Pinned(storage.handle, b"", storage.blob),
        "an empty handle": Pinned(0x81018099, storage.name),
        "an empty handle, blob of the object": Pinned(0x81018099, storage.name, storage.blob),
        "an empty NV index": Pinned(0x01804899, storage.name),
    }


@pytest.mark.parametrize(
    "case",
    [
        "another Name, blob of the object",
        "another Name, no blob",
        "another object's Name and blob",
        "no Name",
        "an empty handle",
        "an empty handle, blob of the object",
        "an empty NV index",
    ],
)
def test_no_session_is_salted_to_an_object_of_another_name(
    anchored: AnchoredTpm, case: str
) -> None:
    """A handle that does not hold the pinned object is a conflict, and no session opens (77)."""
    wrong = wrong_pins(anchored)[case]
    with anchored.counted() as (tpm, heard):
        with pytest.raises(TpmObjectConflictError) as caught, hmac_session(tpm, wrong):
            pytest.fail("a session is open")
        assert caught.value.code == "tpm:object:conflict"
        assert heard.by_name["TPM2_StartAuthSession"] == 0
        assert loaded(anchored.swtpm) == {}


class InterposedKey(RelayTcti):
    """An interposer that shows its own storage key wherever one is read."""

    def __init__(self, inner: TCTI, public: Public) -> None:
        super().__init__(inner)
        self._public = public
        self._read = False

    def send(self, request: bytes) -> None:
        """Take note of what is read."""
        self._read = command_name(command_code(request)) == "TPM2_ReadPublic"
        super().send(request)

    def fetch(self, timeout: int) -> bytes:
        """Answer with the interposer's key."""
        response = super().fetch(timeout)
        if not self._read:
            return response
        name = u16(len(self._public.name)) + self._public.name
        body = self._public.encode_sized() + name + name
        return u16(0x8001) + u32(10 + len(body)) + u32(0) + body


def test_an_interposers_storage_key_is_no_salt(
    anchored: AnchoredTpm, tpm_factory: Callable[[], Swtpm]
) -> None:
    """A key that only the bus claims to be ours opens no session (77)."""
    with Tpm(tpm_factory().tcti) as elsewhere:
        _, theirs = provision.make_storage_key(elsewhere, anchored.handles.storage_key)
    bare = Pinned(anchored.storage.handle, anchored.storage.name)
    with Tpm(anchored.swtpm.tcti, wrap=lambda inner: InterposedKey(inner, theirs)) as tpm:
        with pytest.raises(TpmObjectConflictError) as caught, hmac_session(tpm, bare):
            pytest.fail("a session is open")
        assert caught.value.code == "tpm:object:conflict"


def test_an_altered_blob_never_moves_the_salt_to_another_key(anchored: AnchoredTpm) -> None:
    """Each byte of a pin's blob may be altered on disk: the salt key stays the pinned one (77)."""
    storage = anchored.storage
    opened = 0
    for at in range(len(storage.blob)):
        blob = bytearray(storage.blob)
        blob[at] ^= 0x01
        with Tpm(anchored.swtpm.tcti) as tpm:
            try:
                known = tpm.at(Pinned(storage.handle, storage.name, bytes(blob)))
            except HwTrustError:
                continue
            assert bytes(tpm.esapi.tr_get_name(known)) == storage.name
            assert int(tpm.esapi.tr_get_tpm_handle(known)) == storage.handle
            opened += 1
    assert opened, "no altered blob was ever set right from the TPM"


def test_a_truncated_blob_is_as_good_as_none(anchored: AnchoredTpm) -> None:
    """Another TSS may have written it; then the TPM is asked."""
    storage = anchored.storage
    for size in (0, 1, len(storage.blob) // 2, len(storage.blob) - 1):
        with Tpm(anchored.swtpm.tcti) as tpm:
            extend(tpm, Pinned(storage.handle, storage.name, storage.blob[:size]))


def test_an_object_that_was_replaced_at_its_handle_is_noticed(anchored: AnchoredTpm) -> None:
    """The serialised handle hides no replacement: the TPM's HMACs are not those of the pinned key.

    Somebody with the owner's password puts another key at the handle (77).
    """
    tpm, handle = anchored.tpm, anchored.storage.handle
    commands.evict_control(tpm, tpm.at(anchored.storage), handle)
    tpm.unpin(handle)
    provision.make_attestation_key(tpm, handle, unique=b"other")
    with Tpm(anchored.swtpm.tcti) as fresh:
        with pytest.raises(TpmObjectConflictError) as caught:
            extend(fresh, anchored.storage)
        assert caught.value.code == "tpm:object:conflict"
        assert loaded(anchored.swtpm) == {}
    assert anchored.pcr() == bytes(32)


def test_a_storage_key_that_another_has_replaced_computes_no_session(
    anchored: AnchoredTpm,
) -> None:
    """Where the replacement is a storage key too, the session opens and serves nobody (77)."""
    tpm, handle = anchored.tpm, anchored.storage.handle
    commands.evict_control(tpm, tpm.at(anchored.storage), handle)
    tpm.unpin(handle)
    other = replace(STORAGE_KEY, unique=EccPoint(b"other", b""))
    made, _ = commands.create_primary(tpm, TPM2_RH.OWNER, other)
    with tpm.flushing(made):
        commands.evict_control(tpm, made, handle)
    with Tpm(anchored.swtpm.tcti) as fresh:
        with pytest.raises(TpmError):
            extend(fresh, anchored.storage)
        assert loaded(anchored.swtpm) == {}
    assert anchored.pcr() == bytes(32)


def test_a_refusal_while_reading_is_not_taken_for_an_empty_handle(anchored: AnchoredTpm) -> None:
    """A TPM in failure mode has not said that the key is gone."""
    bare = Pinned(anchored.storage.handle, anchored.storage.name)
    with anchored.through(At(Respond(RC_FAILURE), command="TPM2_ReadPublic")) as tpm:
        with pytest.raises(TpmFailureModeError) as caught:
            tpm.at(bare)
        assert caught.value.code == "tpm:failure-mode"


def test_a_pin_made_by_hand_names_what_the_tpm_holds(anchored: AnchoredTpm) -> None:
    """Pinning asks the TPM, and gives the same as the maker of the object got."""
    with Tpm(anchored.swtpm.tcti) as tpm:
        assert tpm.pin(anchored.storage.handle).name == anchored.storage_public.name


# --- tampering -------------------------------------------------------------------

ALTERED: dict[str, Fault] = {
    "the tag": Alter("response", 1),
    "the size": Alter("response", 5),
    "the nonce": Alter("response", 20),
    "the HMAC": Alter("response", -1),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_answer_to_an_extend_is_noticed(anchored: AnchoredTpm, case: str) -> None:
    """A response that is not as the TPM sent it is no success, and nothing stays loaded."""
    with anchored.through(At(ALTERED[case], command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmError) as caught:
            extend(tpm, anchored.storage)
        assert caught.value.code in {"tpm:response:tampered", "tpm:transport"}
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


class Forged:
    """Answers with bytes made up on the bus; the TPM never sees the command."""

    def __init__(self, response: bytes) -> None:
        self.response = response

    def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
        """Answer."""
        del request, forward
        return self.response


def forged(tag: int, body: bytes = b"") -> Forged:
    """A success with `body`."""
    return Forged(u16(tag) + u32(10 + len(body)) + u32(0) + body)


NONCE = u16(32) + bytes(32)
FORGERIES: dict[str, Forged] = {
    "a success without sessions": forged(0x8001),
    "a success that says sessions and has none": forged(0x8002),
    "a success with an empty parameter area": forged(0x8002, u32(0)),
    "a session without nonce and HMAC": forged(0x8002, u32(0) + u16(0) + b"\x01" + u16(0)),
    "a session without HMAC": forged(0x8002, u32(0) + NONCE + b"\x01" + u16(0)),
    "a session with an HMAC of zeros": forged(0x8002, u32(0) + NONCE + b"\x01" + NONCE),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_an_extend_is_not_believed_without_the_tpms_hmac(anchored: AnchoredTpm, case: str) -> None:
    """Success that an interposer makes up is tampering, whatever form it takes (79)."""
    with anchored.through(At(FORGERIES[case], command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmTamperedError) as caught:
            extend(tpm, anchored.storage)
        assert caught.value.code == "tpm:response:tampered"
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


@pytest.mark.parametrize("response", [b"", b"\x80", b"\x80\x01\x00\x00\x00\x0a\x00\x07\x00\x07"])
def test_a_garbled_answer_is_an_error_and_the_connection_works_on(
    anchored: AnchoredTpm, response: bytes
) -> None:
    """Too few bytes, or a code of the TSS's own: no crash, no hang, no dead connection."""
    with anchored.through(At(Forged(response), command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmError):
            extend(tpm, anchored.storage)
        assert loaded(anchored.swtpm) == {}
        extend(tpm, anchored.storage)


def test_no_single_altered_byte_makes_a_start_of_a_session_useful(anchored: AnchoredTpm) -> None:
    """StartAuthSession's answer is not authenticated: altered, it is an error or changes nothing.

    Either way the PCR holds what this program believes, and nothing stays loaded.
    Bytes 8 and 9 make a refusal of the TPM's own kind; see the next test.
    """
    value, refused = anchored.pcr(), 0
    for offset in (*range(8), *range(10, 10 + 4 + 2 + 32)):
        fault = Alter("response", offset)
        with anchored.through(At(fault, command="TPM2_StartAuthSession")) as tpm:
            try:
                extend(tpm, anchored.storage)
            except TpmError:
                refused += 1
            else:
                value = hashlib.sha256(value + bytes(32)).digest()
        assert anchored.pcr() == value
    assert refused > 32, "every byte of the nonce counts"


def test_what_an_invented_refusal_left_loaded_goes_with_the_next_start(tpm: Swtpm) -> None:
    """The bus says that the TPM refused, and it did not: the next open finds and flushes it."""
    with AnchoredTpm(tpm) as anchored:
        plan = FaultPlan(At(Alter("response", 9), command="TPM2_StartAuthSession"))
        with Tpm(tpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as opened:
            with pytest.raises(TpmError):
                extend(opened, anchored.storage)
            assert len(loaded(tpm)["loaded sessions"]) == 1
    with open_tpm(tpm.tcti):
        assert loaded(tpm) == {}


def test_a_wrong_handle_is_an_error_of_the_tree(anchored: AnchoredTpm) -> None:
    """What ESAPI itself refuses comes out as a TpmError too."""
    with pytest.raises(TpmError):
        anchored.tpm.call(
            "TPM2_FlushContext", anchored.tpm.esapi.flush_context, ESYS_TR(0x0FFFFFFF)
        )
    extend(anchored.tpm, anchored.storage)
