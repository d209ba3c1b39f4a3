"""Faults on the wire reach whoever uses the TPM, and nobody else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from tpm2_pytss import ESAPI, TPM2B_SENSITIVE_CREATE
from tpm2_pytss.TSS2_Exception import TSS2_Exception

from hwtrust.errors import FaultPlanError, SoftwareTpmError
from hwtrust.testing.bus import GET_CAPABILITY, Bus
from hwtrust.testing.faults import RC_FAILURE, Alter, At, Cut, Respond
from hwtrust.testing.rsa_only import RC_COMMAND_CODE, RC_TYPE_1, RC_TYPE_2, TEST_PARMS
from hwtrust.testing.swtpm import Swtpm
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import u16, u32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RC_IO_ERROR = 0x000A_000A
ECC_PARAMETERS = 0x178


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Swtpm]:
    """A TPM without anything of a vendor."""
    with Swtpm.start(tmp_path) as tpm:
        yield tpm


def refusal(esapi: ESAPI) -> int:
    """The code with which a command ends that has to fail."""
    with pytest.raises(TSS2_Exception) as caught:
        esapi.get_random(4)
    return int(caught.value.rc)


def entries(tpm: Swtpm, capability: int) -> int:
    """How many entries the TPM's users are told of."""
    bus = Bus(tpm.state_dir / "tpm.sock")
    answer = bus.run(GET_CAPABILITY, u32(capability) + u32(0) + u32(256))
    answer.take(5)
    return answer.u32()


def test_a_fault_reaches_a_program_that_has_the_tpm_open(running: Swtpm) -> None:
    """At the command that was planned, as often as planned, and no other."""
    with ESAPI(running.tcti) as esapi:
        esapi.get_random(4)
        plan = running.inject(At(Respond(RC_FAILURE), command="TPM2_GetRandom", nth=2))
        esapi.get_random(4)
        before = plan.done
        assert refusal(esapi) == RC_FAILURE
        assert (before, plan.done) == (False, True)
        assert len(bytes(esapi.get_random(4))) == 4


def test_set_up_meets_no_fault(running: Swtpm) -> None:
    """What `bus` sends is neither hit nor counted."""
    plan = running.inject(At(Respond(RC_FAILURE)))
    running.lock_out()
    assert not plan.done


def test_no_step_ends_all_faults(running: Swtpm) -> None:
    """`inject()` takes back what was planned."""
    running.inject(At(Respond(RC_FAILURE), times=None))
    running.inject()
    with ESAPI(running.tcti) as esapi:
        assert len(bytes(esapi.get_random(4))) == 4


@pytest.mark.parametrize("fault", [Cut("before"), Cut("after")], ids=["before", "after"])
def test_a_cut_breaks_one_connection(running: Swtpm, fault: Cut) -> None:
    """The command ends as on a broken wire; a new program finds the TPM."""
    plan = running.inject(At(fault))
    with ESAPI(running.tcti) as esapi:
        assert refusal(esapi) == RC_IO_ERROR
    assert plan.done
    with ESAPI(running.tcti) as esapi:
        assert len(bytes(esapi.get_random(4))) == 4


def test_faults_outlast_a_reboot(running: Swtpm) -> None:
    """A plan belongs to the TPM, not to one start of it."""
    plan = running.inject(At(Respond(RC_FAILURE), command="TPM2_GetRandom"))
    running.reboot()
    with ESAPI(running.tcti) as esapi:
        assert refusal(esapi) == RC_FAILURE
    assert plan.done


def test_a_fault_that_cannot_happen_is_told(running: Swtpm) -> None:
    """A thread has nobody to raise it to, so `check` does."""
    running.inject(At(Alter("request", 5000)))
    with ESAPI(running.tcti) as esapi:
        assert refusal(esapi) == RC_IO_ERROR
    with pytest.raises(FaultPlanError) as caught:
        running.check()
    assert caught.value.code == "testing:fault-plan"


@pytest.mark.parametrize("interposed", [False, True])
def test_a_tpm_that_is_gone_answers_nobody_until_it_is_back(
    running: Swtpm, *, interposed: bool
) -> None:
    """With and without somebody on the wire."""
    if interposed:
        running.inject()
    running.go_away()
    running.go_away()
    with pytest.raises(SoftwareTpmError) as caught:
        entries(running, 0)
    assert caught.value.code == "testing:swtpm"
    running.come_back()
    assert entries(running, 0) > 0


def test_each_command_takes_the_latency(running: Swtpm) -> None:
    """Every one of them, from the call on, until it is taken back."""
    running.slow_down(0.05)
    with ESAPI(running.tcti) as esapi:
        start = time.monotonic()
        for _ in range(3):
            esapi.get_random(4)
        assert time.monotonic() - start >= 3 * 0.05
        running.slow_down(0)
        assert len(bytes(esapi.get_random(4))) == 4


def test_a_tpm_without_curves_names_none(running: Swtpm) -> None:
    """Algorithms and commands are fewer, curves there are none."""
    before = [entries(running, capability) for capability in (0, 2, 8)]
    running.forget_curves()
    algorithms, commands, curves = (entries(running, capability) for capability in (0, 2, 8))
    assert before[2] > 0
    assert curves == 0
    assert algorithms < before[0]
    assert commands < before[1]


def test_a_tpm_without_curves_refuses_them(running: Swtpm) -> None:
    """Keys, parameters and commands, each with the code of Part 3; RSA goes on."""
    running.forget_curves()
    with ESAPI(running.tcti) as esapi:
        with pytest.raises(TSS2_Exception) as caught:
            esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "ecc256")
        assert caught.value.rc == RC_TYPE_2
        assert esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "rsa2048")[0]
    bus = Bus(running.state_dir / "tpm.sock")
    for command, parameters, rc in (
        (TEST_PARMS, u16(Alg.ECC) + u16(Alg.NULL) * 2 + u16(3) + u16(Alg.NULL), RC_TYPE_1),
        (ECC_PARAMETERS, u16(3), RC_COMMAND_CODE),
    ):
        with pytest.raises(SoftwareTpmError) as refused:
            bus.run(command, parameters)
        assert refused.value.data["rc"] == rc


def test_nothing_is_left_on_the_disk(tmp_path: Path) -> None:
    """Neither of the two sockets, once the TPM is stopped."""
    with Swtpm.start(tmp_path) as tpm:
        tpm.inject()
        assert list(tmp_path.glob("tpm.sock.*"))
    assert list(tmp_path.glob("tpm.sock*")) == []
