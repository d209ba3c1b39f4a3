"""Each fault does what it says, to commands of a running TPM."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CC,
    TPM2_NT,
    TPM2_SE,
    TPM2B_DIGEST,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPM2B_SENSITIVE_DATA,
    TPMA_NV,
    TPMA_SESSION,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_SYM_DEF,
)
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.types import TPMS_NV_PUBLIC, TPMS_SENSITIVE_CREATE, TPMU_HA

from hwtrust.errors import FaultPlanError
from hwtrust.testing.faults import (
    RC_FAILURE,
    RC_LOCKOUT,
    RC_NV_RATE,
    RC_RETRY,
    Alter,
    At,
    CountingTcti,
    Cut,
    Delay,
    Fault,
    FaultPlan,
    FaultyTcti,
    Kill,
    Respond,
    Swallow,
    WiretapTcti,
    kill_at,
)
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm.tcti import RelayTcti

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tpm2_pytss.TCTI import TCTI

GENERAL_FAILURE = 0x000A_0001
TCTI_BAD_CONTEXT = 0x000A_0003
TCTI_BAD_SEQUENCE = 0x000A_0007
IO_ERROR = 0x000A_000A
ESYS_RSP_AUTH_FAILED = 0x0007_001B
RC_BAD_AUTH_SESSION_1 = 0x9A2

MEASURED = hashlib.sha256(b"measured").digest()
SECRET = b"thirty-two bytes of dynamic root"


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    """A TPM without anything of a vendor."""
    with Swtpm.start(tmp_path, banks=("sha256",)) as tpm:
        yield tpm


def folded(times: int) -> bytes:
    """PCR 16 after `times` extensions by MEASURED."""
    value = bytes(32)
    for _ in range(times):
        value = hashlib.sha256(value + MEASURED).digest()
    return value


def pcr_16(tcti: TCTI | str) -> bytes:
    """The SHA-256 value of PCR 16."""
    with ESAPI(tcti) as esapi:
        return bytes(esapi.pcr_read("sha256:16")[2][0])


def extend(esapi: ESAPI, session: ESYS_TR = ESYS_TR.PASSWORD) -> None:
    """Extend PCR 16 by MEASURED."""
    digests = TPML_DIGEST_VALUES(
        [TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=MEASURED))]
    )
    esapi.pcr_extend(ESYS_TR.PCR16, digests, session1=session)


def salted_session(esapi: ESAPI, key: ESYS_TR) -> ESYS_TR:
    """An HMAC session whose key nobody on the bus knows, with parameter encryption."""
    session = esapi.start_auth_session(
        key,
        ESYS_TR.NONE,
        TPM2_SE.HMAC,
        TPMT_SYM_DEF.parse("aes128cfb"),
        TPM2_ALG.SHA256,
    )
    esapi.trsess_set_attributes(
        session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.ENCRYPT, TPMA_SESSION(0xFF)
    )
    return session


def storage_key(esapi: ESAPI) -> ESYS_TR:
    """A storage key, loaded."""
    return esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "ecc")[0]


def sealed_object(esapi: ESAPI, parent: ESYS_TR) -> ESYS_TR:
    """SECRET, sealed under `parent` and loaded."""
    sensitive = TPM2B_SENSITIVE_CREATE(
        sensitive=TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(SECRET))
    )
    template = TPM2B_PUBLIC.parse("keyedhash", objectAttributes="fixedtpm|fixedparent|userwithauth")
    private, public, *_ = esapi.create(parent, sensitive, template)
    return esapi.load(parent, private, public)


def plan_of(fault: Fault, command: str, nth: int = 1) -> FaultPlan:
    """One fault at one command."""
    return FaultPlan(At(fault, command=command, nth=nth))


# --- cut ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "executed"),
    [
        pytest.param(Cut("before"), 0, id="before the TPM has the command"),
        pytest.param(Cut("after"), 1, id="after the TPM has executed it"),
    ],
)
def test_a_cut_connection_stays_cut(swtpm: Swtpm, fault: Cut, executed: int) -> None:
    """The program sees the same error; only the TPM knows whether it executed the command."""
    plan = plan_of(fault, "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti:
        with ESAPI(tcti) as esapi:
            esapi.get_random(4)
            with pytest.raises(TSS2_Exception) as caught:
                extend(esapi)
            assert caught.value.rc == IO_ERROR
        with ESAPI(tcti) as esapi:
            with pytest.raises(TSS2_Exception) as caught:
                esapi.get_random(4)
            assert caught.value.rc == IO_ERROR
        assert tcti.failure is None
    assert plan.done
    assert pcr_16(swtpm.tcti) == folded(executed)


@pytest.mark.parametrize("command_is_sent", [False, True])
def test_a_cut_shows_where_it_happens(swtpm: Swtpm, *, command_is_sent: bool) -> None:
    """A command that arrived was sent without an error; its response is what fails."""
    random = bytes.fromhex("8001 0000000c 0000017b 0004")
    plan = plan_of(Cut("after" if command_is_sent else "before"), "TPM2_GetRandom")
    with FaultyTcti(swtpm.tcti, plan) as tcti:
        if command_is_sent:
            tcti.transmit(random)
        with pytest.raises(TSS2_Exception) as caught:
            tcti.receive() if command_is_sent else tcti.transmit(random)
    assert caught.value.rc == IO_ERROR


def test_a_cut_closes_the_connection_beneath(swtpm: Swtpm) -> None:
    """A TPM device is closed by the cut, so that its resource manager flushes."""
    inner = RelayTcti(swtpm.tcti)
    with FaultyTcti(inner, plan_of(Cut("before"), "TPM2_GetRandom")) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception):
            esapi.get_random(4)
        with pytest.raises(TSS2_Exception) as caught:
            inner.transmit(bytes.fromhex("8001 0000000c 0000017b 0004"))
    assert caught.value.rc == TCTI_BAD_CONTEXT


def test_a_response_is_given_once(swtpm: Swtpm) -> None:
    """Whoever asks again, or has not sent anything, is told so as by a native TCTI."""
    with FaultyTcti(swtpm.tcti, FaultPlan()) as tcti:
        tcti.transmit(bytes.fromhex("8001 0000000c 0000017b 0004"))
        assert len(tcti.receive()) == 16
        with pytest.raises(TSS2_Exception) as caught:
            tcti.receive()
    assert caught.value.rc == TCTI_BAD_SEQUENCE


def test_a_new_connection_goes_on_with_the_plan(swtpm: Swtpm) -> None:
    """Commands are counted over connections: the second extend is hit, not each first."""
    plan = plan_of(Cut("after"), "TPM2_PCR_Extend", nth=2)
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
        with pytest.raises(TSS2_Exception):
            extend(esapi)
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
    assert plan.done
    assert pcr_16(swtpm.tcti) == folded(3)


# --- kill -------------------------------------------------------------------------

MEASURE_TWICE = """
import sys
from tpm2_pytss import ESAPI, ESYS_TR
from hwtrust.testing.faults import FaultPlan, FaultyTcti, kill_at
tcti, nth, moment = sys.argv[1:]
plan = FaultPlan(kill_at(int(nth), moment))
with FaultyTcti(tcti, plan) as faulty, ESAPI(faulty) as esapi:
    for _ in range(2):
        esapi.pcr_event(ESYS_TR.PCR16, b"measured")
"""


@pytest.mark.parametrize(
    ("nth", "moment", "executed", "ending"),
    [
        pytest.param(1, "before", 0, -signal.SIGKILL, id="before the first command"),
        pytest.param(1, "after", 1, -signal.SIGKILL, id="after the first command"),
        pytest.param(2, "before", 1, -signal.SIGKILL, id="before the second command"),
        pytest.param(2, "after", 2, -signal.SIGKILL, id="after the second command"),
        pytest.param(3, "before", 2, 0, id="after the end"),
    ],
)
def test_a_process_dies_at_the_planned_command(
    swtpm: Swtpm, nth: int, moment: str, executed: int, ending: int
) -> None:
    """SIGKILL comes where it was planned: the TPM executed what came before and no more."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_TWICE, swtpm.tcti, str(nth), moment],
        timeout=60,
        check=False,
    )
    assert done.returncode == ending
    assert pcr_16(swtpm.tcti) == folded(executed)


# --- delay ------------------------------------------------------------------------


def test_a_delay_sleeps_as_the_test_says(swtpm: Swtpm) -> None:
    """The wait is the test's own function, called once, before the TPM executes."""
    slept: list[tuple[float, bytes]] = []
    fault = Delay(2.5, lambda seconds: slept.append((seconds, pcr_16(swtpm.tcti))))
    plan = plan_of(fault, "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
    assert slept == [(2.5, folded(0))]
    assert pcr_16(swtpm.tcti) == folded(1)


def test_what_a_fault_raises_comes_back(swtpm: Swtpm) -> None:
    """An interrupt during a delay is not lost between Python and C."""

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    plan = plan_of(Delay(1, interrupted), "TPM2_GetRandom")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            esapi.get_random(4)
        assert caught.value.rc == GENERAL_FAILURE
        with pytest.raises(KeyboardInterrupt):
            tcti.raise_failure()


# --- alter ------------------------------------------------------------------------


def test_an_altered_response_goes_unnoticed_in_a_password_session(swtpm: Swtpm) -> None:
    """The fault is what an interposer can do: without an HMAC nobody notices."""
    # header 10, parameter size 4, TPM2B size 2: the secret's first byte is at 16
    plan = plan_of(Alter("response", 16, mask=0x80), "TPM2_Unseal")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        unsealed = bytes(esapi.unseal(sealed_object(esapi, storage_key(esapi))))
    assert plan.done
    assert unsealed == bytes([SECRET[0] ^ 0x80]) + SECRET[1:]


@pytest.mark.parametrize("offset", [16, -1])
def test_an_altered_response_is_noticed_in_a_salted_session(swtpm: Swtpm, offset: int) -> None:
    """The HMAC covers the secret, and is itself covered."""
    plan = plan_of(Alter("response", offset), "TPM2_Unseal")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        key = storage_key(esapi)
        sealed = sealed_object(esapi, key)
        session = salted_session(esapi, key)
        with pytest.raises(TSS2_Exception) as caught:
            esapi.unseal(sealed, session1=session)
    assert caught.value.rc == ESYS_RSP_AUTH_FAILED
    assert plan.done


def test_an_altered_request_reaches_the_tpm_altered(swtpm: Swtpm) -> None:
    """The TPM executes what the interposer made of the command."""
    plan = plan_of(Alter("request", -1), "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
    altered = MEASURED[:-1] + bytes([MEASURED[-1] ^ 1])
    assert pcr_16(swtpm.tcti) == hashlib.sha256(bytes(32) + altered).digest()


def test_an_altered_request_in_a_salted_session_is_refused_by_the_tpm(swtpm: Swtpm) -> None:
    """The TPM checks the command's HMAC and does not execute it."""
    plan = plan_of(Alter("request", -1), "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        session = salted_session(esapi, storage_key(esapi))
        esapi.trsess_set_attributes(session, TPMA_SESSION(0), TPMA_SESSION.ENCRYPT)
        with pytest.raises(TSS2_Exception) as caught:
            extend(esapi, session)
    assert caught.value.rc == RC_BAD_AUTH_SESSION_1
    assert pcr_16(swtpm.tcti) == folded(0)


def test_an_alteration_beyond_the_buffer_is_an_error_of_the_plan(swtpm: Swtpm) -> None:
    """An alteration that cannot happen is not passed over."""
    plan = plan_of(Alter("response", 4000), "TPM2_GetRandom")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception):
            esapi.get_random(4)
        with pytest.raises(FaultPlanError) as caught:
            tcti.raise_failure()
    assert caught.value.code == "testing:fault-plan"


# --- swallow ----------------------------------------------------------------------


def test_a_swallowed_extend_goes_unnoticed_in_a_password_session(swtpm: Swtpm) -> None:
    """The program sees success, and the PCR has not moved."""
    plan = plan_of(Swallow(), "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
        assert plan.done
        assert pcr_16(swtpm.tcti) == folded(0)
        extend(esapi)
    assert pcr_16(swtpm.tcti) == folded(1)


def test_a_swallowed_extend_is_noticed_in_a_salted_session(swtpm: Swtpm) -> None:
    """The response of an interposer that does not know the session's key is refused."""
    plan = plan_of(Swallow(), "TPM2_PCR_Extend")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        session = salted_session(esapi, storage_key(esapi))
        esapi.trsess_set_attributes(session, TPMA_SESSION(0), TPMA_SESSION.ENCRYPT)
        with pytest.raises(TSS2_Exception) as caught:
            extend(esapi, session)
    assert caught.value.rc == ESYS_RSP_AUTH_FAILED
    assert pcr_16(swtpm.tcti) == folded(0)


def test_a_swallowed_increment_leaves_the_counter(swtpm: Swtpm) -> None:
    """Commands with two handles are swallowed as well."""
    public = TPM2B_NV_PUBLIC(
        nvPublic=TPMS_NV_PUBLIC(
            nvIndex=0x0180_0001,
            nameAlg=TPM2_ALG.SHA256,
            attributes=TPMA_NV.OWNERWRITE | TPMA_NV.OWNERREAD | (TPM2_NT.COUNTER << 4),
            dataSize=8,
        )
    )
    plan = plan_of(Swallow(), "TPM2_NV_Increment", nth=2)
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        index = esapi.nv_define_space(b"", public)
        values = []
        for _ in range(3):
            esapi.nv_increment(index, auth_handle=ESYS_TR.OWNER)
            value = bytes(esapi.nv_read(index, 8, auth_handle=ESYS_TR.OWNER))
            values.append(int.from_bytes(value, "big"))
    assert [value - values[0] for value in values] == [0, 0, 1]


def test_a_command_with_an_answer_cannot_be_swallowed(swtpm: Swtpm) -> None:
    """There is no success to make up for a command that returns something."""
    plan = plan_of(Swallow(), "TPM2_GetRandom")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception):
            esapi.get_random(4)
        with pytest.raises(FaultPlanError):
            tcti.raise_failure()


# --- respond ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "rc",
    [
        pytest.param(RC_LOCKOUT, id="lockout"),
        pytest.param(RC_FAILURE, id="failure mode"),
        pytest.param(RC_NV_RATE, id="NV rate"),
    ],
)
def test_a_refused_command_is_not_executed(swtpm: Swtpm, rc: int) -> None:
    """The program gets the code, as often as planned; the TPM gets nothing."""
    plan = FaultPlan(At(Respond(rc), command="TPM2_PCR_Extend", times=2))
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        for _ in range(2):
            assert not plan.done
            with pytest.raises(TSS2_Exception) as caught:
                extend(esapi)
            assert caught.value.rc == rc
        assert plan.done
        assert pcr_16(swtpm.tcti) == folded(0)
        extend(esapi)
    assert pcr_16(swtpm.tcti) == folded(1)


def test_esapi_resubmits_what_the_tpm_asks_to_retry(swtpm: Swtpm) -> None:
    """RC_RETRY is answered by sending again, and each submission counts."""
    plan = FaultPlan(At(Respond(RC_RETRY), command="TPM2_PCR_Extend", times=2))
    with CountingTcti(FaultyTcti(swtpm.tcti, plan)) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
        assert tcti.by_name == {"TPM2_PCR_Extend": 3}
    assert plan.done
    assert pcr_16(swtpm.tcti) == folded(1)


def test_esapi_gives_up_when_the_tpm_asks_for_ever(swtpm: Swtpm) -> None:
    """A TPM that always asks to retry ends in RC_RETRY, and the context still works."""
    plan = FaultPlan(At(Respond(RC_RETRY), command="TPM2_PCR_Extend", times=None))
    with CountingTcti(FaultyTcti(swtpm.tcti, plan)) as tcti, ESAPI(tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            extend(esapi)
        assert caught.value.rc == RC_RETRY
        assert tcti.total == 5
        assert len(bytes(esapi.get_random(4))) == 4


# --- plans ------------------------------------------------------------------------


def test_faults_at_one_command_are_combined(swtpm: Swtpm) -> None:
    """The first is outermost: the response is altered, then the connection's user waits."""
    slept: list[float] = []
    plan = FaultPlan(
        At(Delay(1, slept.append), nth=1),
        At(Alter("request", -1), command="TPM2_PCR_Extend"),
        At(Alter("request", -1, mask=0x02), command="TPM2_PCR_Extend"),
    )
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
    assert slept == [1]
    altered = MEASURED[:-1] + bytes([MEASURED[-1] ^ 3])
    assert pcr_16(swtpm.tcti) == hashlib.sha256(bytes(32) + altered).digest()


def test_a_plan_hits_the_nth_command_and_no_other(swtpm: Swtpm) -> None:
    """Counting by name passes over other commands; counting all does not."""
    slept: list[float] = []
    plan = FaultPlan(
        At(Delay(1, slept.append), command="TPM2_GetRandom", nth=2),
        At(Delay(2, slept.append), nth=2, times=2),
    )
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        esapi.get_random(4)
        assert slept == []
        extend(esapi)
        assert slept == [2]
        esapi.get_random(4)
        assert slept == [2, 1, 2]
        assert plan.done
        esapi.get_random(4)
        extend(esapi)
    assert slept == [2, 1, 2]


def test_an_empty_plan_changes_nothing(swtpm: Swtpm) -> None:
    """Without faults the TCTI is a wire."""
    plan = FaultPlan()
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        extend(esapi)
        assert pcr_16(tcti) == folded(1)
    assert plan.done


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: At(Cut("before"), command="TPM2_Unsea1"), id="a misspelt command"),
        pytest.param(lambda: At(Cut("before"), command="Unseal"), id="a command without prefix"),
        pytest.param(lambda: At(Cut("before"), nth=0), id="counting from 0"),
        pytest.param(lambda: At(Cut("before"), times=0), id="a fault that never happens"),
        pytest.param(lambda: Alter("request", 0, mask=0), id="an alteration that changes nothing"),
        pytest.param(lambda: Alter("request", 0, mask=0x100), id="a mask of more than a byte"),
        pytest.param(lambda: Respond(0), id="success as a refusal"),
    ],
)
def test_a_plan_that_cannot_come_true_is_refused(make: Callable[[], object]) -> None:
    """A slip in a plan is an error at once, not a test that passes."""
    with pytest.raises(FaultPlanError) as caught:
        make()
    assert caught.value.code == "testing:fault-plan"


def test_a_plan_that_did_not_happen_is_not_done(swtpm: Swtpm) -> None:
    """`done` tells a fault that was survived from one that never was."""
    plan = plan_of(Cut("before"), "TPM2_Unseal")
    with FaultyTcti(swtpm.tcti, plan) as tcti, ESAPI(tcti) as esapi:
        esapi.get_random(4)
    assert not plan.done


def test_kill_at_counts_all_commands() -> None:
    """The short form is a kill at the nth command of any name."""
    assert kill_at(3, "after") == At(Kill("after"), nth=3)


# --- counting and listening -----------------------------------------------------------


def test_counting_is_exact(swtpm: Swtpm) -> None:
    """Opening a context costs nothing, each command counts one, refused ones too."""
    with CountingTcti(swtpm.tcti) as tcti:
        with ESAPI(tcti) as esapi:
            assert tcti.total == 0
            session = esapi.start_auth_session(
                ESYS_TR.NONE,
                ESYS_TR.NONE,
                TPM2_SE.POLICY,
                TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
                TPM2_ALG.SHA256,
            )
            esapi.policy_pcr(session, TPM2B_DIGEST(), TPML_PCR_SELECTION.parse("sha256:16"))
            esapi.policy_command_code(session, TPM2_CC.Unseal)
            with pytest.raises(TSS2_Exception):
                esapi.policy_command_code(session, TPM2_CC.Sign)
            esapi.flush_context(session)
        assert tcti.total == 5
        assert tcti.by_name == {
            "TPM2_StartAuthSession": 1,
            "TPM2_PolicyPCR": 1,
            "TPM2_PolicyCommandCode": 2,
            "TPM2_FlushContext": 1,
        }
        assert tcti.sequence[0] == "TPM2_StartAuthSession"
        assert tcti.sequence[-1] == "TPM2_FlushContext"
        tcti.reset()
        assert tcti.total == 0
        assert tcti.by_name == {}


def test_a_wiretap_hears_what_a_password_session_unseals(swtpm: Swtpm) -> None:
    """What is not encrypted is on the bus."""
    with WiretapTcti(swtpm.tcti) as tcti, ESAPI(tcti) as esapi:
        sealed = sealed_object(esapi, storage_key(esapi))
        before = tcti.buffers
        assert bytes(esapi.unseal(sealed)) == SECRET
        assert tcti.buffers == before + 2
        assert tcti.heard(SECRET)


def test_a_wiretap_does_not_hear_what_a_salted_session_encrypts(swtpm: Swtpm) -> None:
    """The same secret through parameter encryption is not."""
    with ESAPI(swtpm.tcti) as esapi:
        handle = storage_key(esapi)
        persistent = esapi.evict_control(ESYS_TR.OWNER, handle, 0x8101_0001)
        esapi.flush_context(handle)
        sealed = sealed_object(esapi, persistent)
        esapi.evict_control(ESYS_TR.OWNER, sealed, 0x8101_0002)
        esapi.flush_context(sealed)
    with WiretapTcti(swtpm.tcti) as tcti, ESAPI(tcti) as esapi:
        key, sealed = (esapi.tr_from_tpmpublic(at) for at in (0x8101_0001, 0x8101_0002))
        session = salted_session(esapi, key)
        assert bytes(esapi.unseal(sealed, session1=session)) == SECRET
        assert tcti.buffers > 0
        assert not tcti.heard(SECRET)
        assert SECRET.decode() not in repr(vars(tcti))
