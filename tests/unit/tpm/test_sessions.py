"""Sessions authenticate and encrypt, and are never left behind."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss.constants import TPMA_SESSION

from hwtrust.errors import TpmError, TpmObjectConflictError, TpmTamperedError, TpmTransportError
from hwtrust.testing import bus
from hwtrust.testing.faults import Alter, At, Cut, Moment, Swallow
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.sessions import hmac_session, policy_session
from hwtrust.wire.algorithms import Alg
from simulators.anchored_tpm import loaded

if TYPE_CHECKING:
    from hwtrust.tpm.sessions import Session
    from simulators.anchored_tpm import AnchoredTpm

DIGESTS = {Alg.SHA1: bytes(20), Alg.SHA256: bytes(32)}
ONCE = hashlib.sha256(bytes(64)).digest()
CLEAR = 0x126


def extend(tpm: Tpm, session: Session, *, last: bool = False) -> None:
    """Extend PCR 8 through `session`."""
    commands.pcr_extend(tpm, 8, DIGESTS, session, last=last)


@pytest.mark.parametrize("kind", [hmac_session, policy_session])
def test_a_session_ends_with_its_block(anchored: AnchoredTpm, kind: object) -> None:
    """Whatever happens in the block, the slot is free after it."""
    assert callable(kind)
    with kind(anchored.tpm, anchored.storage):
        assert len(loaded(anchored.swtpm)["loaded sessions"]) == 1
    assert loaded(anchored.swtpm) == {}
    with pytest.raises(ValueError, match="of the block"), kind(anchored.tpm, anchored.storage):
        raise ValueError("of the block")
    assert loaded(anchored.swtpm) == {}


def test_a_session_that_ended_with_its_last_command_is_not_used_again(
    anchored: AnchoredTpm,
) -> None:
    """A command through a session that is over is an error, never one without a session."""
    with hmac_session(anchored.tpm, anchored.storage) as session:
        extend(anchored.tpm, session, last=True)
        assert loaded(anchored.swtpm) == {}
        with pytest.raises(TpmTransportError) as caught:
            extend(anchored.tpm, session)
        assert caught.value.code == "tpm:transport"
    assert anchored.pcr() == ONCE


def test_a_session_whose_last_command_failed_is_flushed(anchored: AnchoredTpm) -> None:
    """The TPM ends a session only with success; after a refusal the block does."""
    with anchored.through() as tpm, hmac_session(tpm, anchored.storage) as session:
        with pytest.raises(TpmError):
            commands.pcr_extend(tpm, 30, DIGESTS, session, last=True)
        assert len(loaded(anchored.swtpm)["loaded sessions"]) == 1


def test_every_flag_of_a_use_is_set_anew(anchored: AnchoredTpm) -> None:
    """What one command asked for does not stick to the next."""
    with hmac_session(anchored.tpm, anchored.storage) as session:
        for encrypt, decrypt, ends in [(True, False, False), (False, True, True), (False,) * 3]:
            session.use(encrypt=encrypt, decrypt=decrypt, ends_with_next=ends)
            flags = anchored.tpm.esapi.trsess_get_attributes(session.handle)
            assert bool(flags & TPMA_SESSION.ENCRYPT) is encrypt
            assert bool(flags & TPMA_SESSION.DECRYPT) is decrypt
            assert bool(flags & TPMA_SESSION.CONTINUESESSION) is not ends


def test_a_swallowed_extend_is_noticed(anchored: AnchoredTpm) -> None:
    """An interposer that answers an extend in the TPM's place cannot compute its HMAC (79)."""
    with anchored.through(At(Swallow(), command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmTamperedError) as caught, hmac_session(tpm, anchored.storage) as s:
            extend(tpm, s)
        assert caught.value.code == "tpm:response:tampered"
        assert loaded(anchored.swtpm) == {}
    assert anchored.pcr() == bytes(32), "nothing was extended, and nobody believes it was"


def test_a_swallowed_increment_is_noticed(anchored: AnchoredTpm) -> None:
    """A root is not held for revoked because somebody on the bus says so (79)."""
    leave = anchored.leave(anchored.epoch)
    with anchored.through(At(Swallow(), command="TPM2_NV_Increment")) as tpm:
        with pytest.raises(TpmTamperedError) as caught:
            anchored.count(leave, tpm=tpm)
        assert caught.value.code == "tpm:response:tampered"
        assert loaded(anchored.swtpm) == {}


def test_an_extend_that_is_altered_on_its_way_is_refused_by_the_tpm(
    anchored: AnchoredTpm,
) -> None:
    """The command's HMAC covers the digests: the bus cannot choose what is extended."""
    with anchored.through(At(Alter("request", -1), command="TPM2_PCR_Extend")) as tpm:
        with pytest.raises(TpmError), hmac_session(tpm, anchored.storage) as session:
            extend(tpm, session)
        assert loaded(anchored.swtpm) == {}
    assert anchored.pcr() == bytes(32)


MOMENTS: tuple[Moment, ...] = ("before", "after")


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_hmac_session_serves_on_after_a_break(anchored: AnchoredTpm, moment: Moment) -> None:
    """What must be extended after an error (cap, violation) is, through the same block."""
    with (
        anchored.through(At(Cut(moment), command="TPM2_ReadClock")) as tpm,
        hmac_session(tpm, anchored.storage) as session,
    ):
        with pytest.raises(TpmTransportError):
            commands.read_clock(tpm)
        assert loaded(anchored.swtpm) == {}
        extend(tpm, session)
        extend(tpm, session, last=True)
        assert loaded(anchored.swtpm) == {}
    assert anchored.pcr() == hashlib.sha256(ONCE + bytes(32)).digest()


def test_a_session_that_had_ended_is_not_revived_by_a_break(anchored: AnchoredTpm) -> None:
    """Ended is ended."""
    with (
        anchored.through(At(Cut("before"), command="TPM2_ReadClock")) as tpm,
        hmac_session(tpm, anchored.storage) as session,
    ):
        extend(tpm, session, last=True)
        with pytest.raises(TpmTransportError):
            commands.read_clock(tpm)
        with pytest.raises(TpmTransportError):
            extend(tpm, session)
    assert anchored.pcr() == ONCE


def test_a_policy_session_does_not_outlive_its_connection(anchored: AnchoredTpm) -> None:
    """Its conditions are gone with it; a new one in its place would have proved nothing."""
    with (
        anchored.through(At(Cut("before"), command="TPM2_ReadClock")) as tpm,
        policy_session(tpm, anchored.storage) as session,
    ):
        with pytest.raises(TpmTransportError):
            commands.read_clock(tpm)
        with pytest.raises(TpmTransportError) as caught:
            session.use()
        assert caught.value.code == "tpm:transport"


def test_after_a_clear_the_salt_key_is_gone_and_says_so(anchored: AnchoredTpm) -> None:
    """TPM2_Clear destroys the storage key; the error says that, not that a command failed (58)."""
    anchored.swtpm.bus.run(CLEAR, handles=(bus.PLATFORM,), passwords=(b"",))
    with Tpm(anchored.swtpm.tcti) as tpm:
        with pytest.raises(TpmObjectConflictError) as caught, hmac_session(tpm, anchored.storage):
            pytest.fail("a session is open")
        assert caught.value.code == "tpm:object:conflict"
        assert caught.value.data["handle"] == anchored.storage.handle
