"""Evidence from a TPM is what the verifier believes, at two commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.attest.tpm import gather, platform_part, signed
from hwtrust.errors import TpmError, TpmObjectConflictError, TpmTransportError
from hwtrust.measure import MeasuredLog, application_selection
from hwtrust.testing.faults import RC_FAILURE, At, Cut, Respond
from hwtrust.tpm import commands
from hwtrust.tpm.connection import Pinned, Tpm
from hwtrust.tpm.sessions import hmac_session
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name
from hwtrust.verify.certify import verify_nv_certify
from hwtrust.verify.quote import verify_quote
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import CAP, Event, EventKind, EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Binding, Evidence
from hwtrust.wire.structures import PcrSelection
from simulators.anchored_tpm import PCR, AnchoredTpm, loaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.testing.swtpm import Swtpm

LAYER = Event(EventKind.LAYER, "kernel", "1.0", b"\x11" * 32)
PLATFORM = (0, 1, 2, 3, 4, 5, 6, 7, 11)


@dataclass
class Scene:
    """A device that has measured a layer."""

    anchored: AnchoredTpm
    measured: MeasuredLog

    def binding(self) -> Binding:
        """A binding over the log as it is."""
        return Binding(
            purpose=Purpose.ATTEST,
            nonce=b"n" * 56,
            tls_key=b"spki",
            epoch=self.anchored.epoch,
            release="1.0",
            log_digest=self.measured.log.digest(),
        )

    def gather(
        self,
        tpm: Tpm,
        selection: PcrSelection,
        *,
        ak: Pinned | None = None,
        counter: Pinned | None = None,
    ) -> Evidence:
        """Evidence over `selection`."""
        return gather(
            tpm,
            ak=ak or self.anchored.ak,
            counter=counter or self.anchored.counter,
            selection=selection,
            pcr=PCR,
            log=self.measured.log,
            binding=self.binding(),
        )


@pytest.fixture
def scene(tpm: Swtpm, tmp_path: Path) -> Iterator[Scene]:
    """A TPM as enrolment leaves it, with one layer and a cap in its PCR."""
    with AnchoredTpm(tpm) as anchored:
        measured = MeasuredLog(tmp_path / "log", pcr=PCR, banks=(Alg.SHA1, Alg.SHA256))
        with hmac_session(anchored.tpm, anchored.storage) as session:
            for event in (LAYER, CAP):
                measured.extend(anchored.tpm, event, session)
        yield Scene(anchored, measured)
        assert loaded(tpm) == {}


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ((), ["TPM2_Quote", "TPM2_NV_Certify"]),
        ((7,), ["TPM2_PCR_Read", "TPM2_Quote", "TPM2_NV_Certify"]),
        (PLATFORM, ["TPM2_PCR_Read", "TPM2_PCR_Read", "TPM2_Quote", "TPM2_NV_Certify"]),
    ],
)
def test_evidence_takes_two_commands_and_one_for_every_eight_platform_pcrs(
    scene: Scene, platform: tuple[int, ...], expected: list[str]
) -> None:
    """The budget of a heartbeat."""
    with scene.anchored.counted() as (tpm, heard):
        scene.gather(tpm, application_selection(PCR, platform))
    assert heard.sequence == expected


@pytest.mark.parametrize("platform", [(), (0, 7), PLATFORM])
def test_the_verifier_believes_the_evidence(scene: Scene, platform: tuple[int, ...]) -> None:
    """Quote and counter sign the binding's digest; values and log hash in."""
    anchored, selection = scene.anchored, application_selection(PCR, platform)
    evidence = scene.gather(anchored.tpm, selection)
    nonce = evidence.binding.digest()
    signer = qualified_name(anchored.ak.name, hierarchy=ENDORSEMENT)
    claims = verify_quote(
        evidence.quote.message,
        evidence.quote.signature,
        key=anchored.ak_public,
        nonce=nonce,
        selection=selection,
        pcrs={Alg.SHA256: evidence.pcrs},
        signer=signer,
    )
    assert claims.nonce == nonce
    assert sorted(evidence.pcrs) == sorted({PCR, *platform})
    counter = verify_nv_certify(
        evidence.counter.message,
        evidence.counter.signature,
        key=anchored.ak_public,
        nonce=nonce,
        index_name=anchored.counter.name,
        size=8,
        signer=signer,
    )
    assert counter.value == anchored.epoch
    log = EventLog.decode(evidence.log)
    assert log.events == (LAYER, CAP)
    assert log.value() == evidence.pcrs[PCR]
    assert log.digest() == evidence.binding.log_digest


def test_evidence_survives_the_wire(scene: Scene) -> None:
    """What is sent is what arrives."""
    evidence = scene.gather(scene.anchored.tpm, application_selection(PCR, (0,)))
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence


def test_the_application_pcr_is_not_read_but_told_by_the_log(scene: Scene) -> None:
    """A PCR that another program extended makes a quote that its own evidence contradicts (51)."""
    with hmac_session(scene.anchored.tpm, scene.anchored.storage) as session:
        digests = {Alg.SHA1: bytes(20), Alg.SHA256: bytes(32)}
        commands.pcr_extend(scene.anchored.tpm, PCR, digests, session)
    evidence = scene.gather(scene.anchored.tpm, application_selection(PCR, ()))
    assert evidence.pcrs[PCR] == scene.measured.log.value()
    assert evidence.pcrs[PCR] != scene.anchored.pcr()


PARTS: dict[str, tuple[str, str | None]] = {
    "the application PCR alone": ("sha256:8", None),
    "one more": ("sha256:0,8", "sha256:0"),
    "all others": ("sha256:0,1,8,11", "sha256:0,1,11"),
    "without the application PCR": ("sha256:0,7", "sha256:0,7"),
}


@pytest.mark.parametrize("case", PARTS)
def test_the_platform_part_is_what_is_left(case: str) -> None:
    """The selection without the application PCR, or nothing."""
    whole, rest = PARTS[case]
    found = platform_part(PcrSelection.parse(whole), 8)
    assert found == (None if rest is None else PcrSelection.parse(rest))


def test_an_attestation_travels_as_the_tpm_sent_it() -> None:
    """Signatures cover the received bytes."""
    made = signed(commands.SignedAttest(b"message", b"signature"))
    assert (made.message, made.signature) == (b"message", b"signature")


def test_another_key_at_the_aks_handle_is_a_conflict(scene: Scene) -> None:
    """Nothing is signed by a key that is not the pinned one."""
    ak = scene.anchored.ak
    wrong = Pinned(ak.handle, ak.name[:-1] + bytes([ak.name[-1] ^ 1]))
    with pytest.raises(TpmObjectConflictError) as caught:
        scene.gather(scene.anchored.tpm, application_selection(PCR, ()), ak=wrong)
    assert caught.value.code == "tpm:object:conflict"


@pytest.mark.parametrize("command", ["TPM2_PCR_Read", "TPM2_Quote", "TPM2_NV_Certify"])
def test_evidence_that_cannot_be_had_is_an_error_and_leaves_nothing(
    scene: Scene, command: str
) -> None:
    """A break or refusal at each command; the next attempt succeeds."""
    selection = application_selection(PCR, (0,))
    with scene.anchored.through(At(Cut("after"), command=command)) as tpm:
        with pytest.raises(TpmTransportError):
            scene.gather(tpm, selection)
        scene.gather(tpm, selection)
    with scene.anchored.through(At(Respond(RC_FAILURE), command=command)) as tpm:
        with pytest.raises(TpmError) as caught:
            scene.gather(tpm, selection)
        assert caught.value.code == "tpm:failure-mode"
        scene.gather(tpm, selection)
