"""Attest: evidence to the backend, and everything that its answer asks for.

    challenge ─▶ quote + counter ─▶ verdict · time · approval · next root · certificate

Rules:
1. One round trip where a challenge is at hand: every answer brings the next. One
   that has grown old meanwhile is replaced.
2. An attested TLS key first gets its certificate, by a quote that binds it
   (purpose `session`); only then is there a channel that both sides trust.
3. The TPM clock is set from the backend's signed time alone, and only forward.
   An approval is reckoned in that clock, so after it was set the device attests
   once more, before it uses anything of the first answer.
4. What an answer wants beside the evidence, logs of firmware and kernel, comes with
   one more attestation at once, and with others until nothing is wanted: without them
   there is neither approval nor root.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hwtrust.attest.tpm import gather
from hwtrust.channel import AttestedKey
from hwtrust.device.conditions import hear, told
from hwtrust.device.failures import failure_of, stated
from hwtrust.device.wanted import Wanted
from hwtrust.errors import (
    ChannelTlsError,
    RefusedError,
    RootStateError,
    SlotError,
    StateError,
    TpmOwnerAuthError,
    TpmResetError,
)
from hwtrust.measure import application_selection
from hwtrust.roots import FIRST, accept_approval, accept_root, accept_time
from hwtrust.tpm import commands
from hwtrust.tpm.provision import read_counter
from hwtrust.tpm.tls_key import TpmTlsKey
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import RESET_VALUE, EventKind
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import (
    AttestReply,
    AttestRequest,
    Binding,
    ChallengeReply,
    ChallengeRequest,
    Evidence,
    Release,
    Severity,
    TlsKeyKind,
)
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.states import layer_events
from hwtrust.wire.structures import Attest, NvCertifyInfo, Public, QuoteInfo

if TYPE_CHECKING:
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.state import StoredRoot
    from hwtrust.roots import AcceptedRoot
    from hwtrust.tls import ClientKey
    from hwtrust.wire.cel import Event, EventLog

_UNAUTHORIZED = 401
_TOO_LARGE = 413
_OF_EVIDENCE = ("evidence:", "wire:")
_WEIGHTS = tuple(Severity)
_CHALLENGE_OVER = frozenset({"challenge:expired", "challenge:forged", "challenge:used"})


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of the backend with what it answers."""

    reply: AttestReply
    evidence: Evidence
    utc_ms: int
    clock_ms: int
    """The TPM's clock as quoted."""
    counter: int
    """The epoch counter as certified."""


def attest_once(device: DeviceContext) -> tuple[Answered, AcceptedRoot | None]:
    """Attest, follow the clock, keep the renewed approval; gives the next root, checked.

    Raises:
        ChannelError: the backend is away, or refuses.
        RootError: what it sends is not for this device.
    """
    answered = _ask(device)
    if _follow_clock(device, answered):
        answered = _ask(device)
    if answered.reply.wants:
        answered = _show_logs(device, answered)
    reply = answered.reply
    held = device.state.root_at(answered.counter)
    if reply.approval is not None and held is not None:
        accept_approval(
            reply.approval,
            policy_key=device.policy_key,
            device=device.known().device,
            epoch=held.epoch,
            clock_ms=answered.clock_ms,
        )
        held = msgspec.structs.replace(held, approval=reply.approval, ticket=b"")
        device.state.save_root(held)
    if reply.root is None:
        return answered, None
    accepted = accept_root(
        reply.root,
        metadata_key=device.metadata_key,
        policy_key=device.policy_key,
        device=device.known().device,
        storage_key=device.known().storage_key.name,
        held=Public.decode_sized(held.public).name if held is not None else FIRST,
        counter=answered.counter,
        release=_claimed_release(device),
        now_ms=answered.utc_ms,
        clock_ms=answered.clock_ms,
    )
    return answered, accepted


def renew_approval(device: DeviceContext, root: StoredRoot) -> StoredRoot:
    """Fetch an approval for the state that the device is in; gives the root with it.

    Raises:
        RootStateError: the backend grants none; `data["finding"]` is the code of the finding
            that weighs most.
        ChannelError: the backend is away, or refuses.
    """
    with device.step("attest", "for a new approval"):
        answered, _ = attest_once(device)
    renewed = device.state.roots().get(root.epoch, root)
    if answered.reply.approval is None:
        worst = min(
            answered.reply.findings, key=lambda one: _WEIGHTS.index(one.severity), default=None
        )
        reason, code = (worst.message, worst.code) if worst else ("no reason", "")
        message = f"the backend grants no approval: {reason}"
        raise RootStateError(message, epoch=root.epoch, finding=code)
    return renewed


def present_certificate(device: DeviceContext) -> ClientKey:
    """Have the channel present the certificate that the device holds, if any; gives its key."""
    key = device.client_key
    if key is None:
        key = device.client_key = _client_key(device)
    if not device.channel.authenticated and isinstance(key, TpmTlsKey):
        kept = device.state.certificate()
        if kept:
            device.channel.authenticate(key, kept)
    return key


def bound_evidence(
    device: DeviceContext, *, purpose: Purpose, nonce: bytes, key: ClientKey
) -> Evidence:
    """Evidence over a binding of everything that the backend is to believe."""
    identity = device.known()
    device.measured.settle(device.tpm)
    release = _claimed_release(device)
    other = device.other if release == device.release.name else device.release.name
    binding = Binding(
        purpose=purpose,
        nonce=nonce,
        tls_key=key.spki,
        epoch=_claimed_epoch(device),
        release=release,
        log_digest=device.measured.log.digest(),
        statement=stated(other=other, failure=device.failure),
    )
    return gather(
        device.tpm,
        ak=identity.ak,
        counter=identity.counter,
        selection=device.quoted,
        pcr=device.measured.pcr,
        log=device.measured.log,
        binding=binding,
    )


def _claimed_epoch(device: DeviceContext) -> int:
    roots = device.state.roots()
    if len(roots) == 1:
        return max(roots)
    # A root that is not counted to yet may be one that its backend has lost.
    return read_counter(device.tpm, device.known().counter)


def _claimed_release(device: DeviceContext) -> str:
    """The name of the release that the log tells of.

    Between the switch of an update and its load that is the one in the other slot:
    to claim the one that comes next would be a deviation.
    """
    loaded = _last_load(device.measured.log)
    if device.config.updates is None or _begins(device.release, loaded):
        return device.release.name
    from hwtrust.updates.slots import Slots  # noqa: PLC0415 - rarely needed

    slots = Slots(Path(device.config.updates.slots))
    with contextlib.suppress(StateError, SlotError, msgspec.MsgspecError, UnicodeDecodeError):
        other = msgspec.json.decode(slots.release(slots.inactive) or b"", type=Release)
        if _begins(other, loaded):
            return other.name
    return device.release.name


def _last_load(log: EventLog) -> list[Event]:
    layers: list[Event] = []
    for event in log.events:
        if event.kind is EventKind.RELOAD:
            layers.clear()
        elif event.kind is EventKind.LAYER:
            layers.append(event)
    return layers


def _begins(release: Release, loaded: list[Event]) -> bool:
    return list(layer_events(release)[: len(loaded)]) == loaded


def _ask(device: DeviceContext) -> Answered:
    """Attest over a channel that both sides trust; make that channel first where it is missing.

    A device that has failed gets no certificate; then the answer to its session
    is the answer.
    """
    key = present_certificate(device)
    if not device.channel.authenticated:
        return _session_first(device, key)
    try:
        return _exchange(device, Purpose.ATTEST, key)
    except (ChannelTlsError, RefusedError) as error:
        if isinstance(error, RefusedError) and error.data.get("status") != _UNAUTHORIZED:
            raise
        # The certificate has expired, or the CA is a new one: prove the key again.
        return _session_first(device, key)


def _session_first(device: DeviceContext, key: ClientKey) -> Answered:
    device.channel.anonymous()
    device.challenge = b""
    with device.step("open session", "a certificate for the TLS key"):
        answered = _exchange(device, Purpose.SESSION, key)
    if not answered.reply.certificate:
        return answered
    _take_certificate(device, key, answered.reply.certificate)
    return _exchange(device, Purpose.ATTEST, key)


def _exchange(device: DeviceContext, purpose: Purpose, key: ClientKey) -> Answered:
    nonce, device.challenge = device.challenge, b""
    if nonce:
        try:
            return _answer(device, purpose, key, nonce)
        except RefusedError as error:
            if error.data.get("problem") not in _CHALLENGE_OVER:
                raise
    asked = ChallengeRequest(device=device.known().device, purpose=purpose)
    nonce = device.channel.post("/v1/challenges", asked, ChallengeReply).nonce
    return _answer(device, purpose, key, nonce)


def _answer(device: DeviceContext, purpose: Purpose, key: ClientKey, nonce: bytes) -> Answered:
    identity = device.known()
    failure = device.failure
    evidence = bound_evidence(device, purpose=purpose, nonce=nonce, key=key)
    _require_no_reset(device, evidence)
    carries = bool(device.wanted.names) and purpose is Purpose.ATTEST
    if carries:
        from hwtrust.device.logs import with_logs  # noqa: PLC0415 - rarely needed

        evidence = with_logs(device, evidence)
    csr = key.csr() if purpose is Purpose.SESSION else b""
    request = AttestRequest(device=identity.device, evidence=evidence, csr=csr)
    reply = device.channel.post("/v1/attest", request, AttestReply)
    device.challenge, device.wanted = reply.challenge, Wanted.by(reply)
    device.afresh = device.afresh and not carries
    utc_ms = accept_time(
        reply.time, metadata_key=device.metadata_key, device=identity.device, nonce=nonce
    )
    hear(device, reply, utc_ms=utc_ms)
    told(device, failure)
    quote = Attest.decode(evidence.quote.message)
    certified = Attest.decode(evidence.counter.message).attested
    assert isinstance(certified, NvCertifyInfo)  # noqa: S101 - our own TPM made it a moment ago
    counter = int.from_bytes(certified.contents, "big")
    device.utc_ahead_ms = utc_ms - quote.clock.clock
    return Answered(reply, evidence, utc_ms, quote.clock.clock, counter)


def _show_logs(device: DeviceContext, answered: Answered) -> Answered:
    """Attest with what is wanted, for as long as that leads on; gives the last answer."""
    from hwtrust.device.logs import has_logs  # noqa: PLC0415 - rarely needed

    before = Wanted()
    while device.wanted.names and device.wanted != before and has_logs(device):
        before = device.wanted
        try:
            with device.step("attest", f"with {', '.join(before.names)}"):
                answered = _ask(device)
        except RefusedError as error:
            if not _is_of_logs(error):
                raise
            # It stands where it stood: the next attestation begins without them.
            device.wanted, device.challenge, device.afresh = Wanted(), b"", True
            failed = failure_of(error, step="attest", layer="", release=device.release.name)
            problem = str(error.data.get("problem") or failed.code)
            device.note_failure(msgspec.structs.replace(failed, code=problem))
    return answered


def _is_of_logs(error: RefusedError) -> bool:
    problem = str(error.data.get("problem", ""))
    return error.data.get("status") == _TOO_LARGE or problem.startswith(_OF_EVIDENCE)


def _require_no_reset(device: DeviceContext, evidence: Evidence) -> None:
    """Refuse to go on with a TPM that was reset under the open device.

    A command is sent only where the quote contradicts the log.

    Raises:
        TpmResetError: the TPM has forgotten the layers, which run on.
    """
    quoted = Attest.decode(evidence.quote.message).attested
    assert isinstance(quoted, QuoteInfo)  # noqa: S101 - our own TPM made it a moment ago
    if quoted.digest == pcr_digest(value for _, value in sorted(evidence.pcrs.items())):
        return
    pcr = device.measured.pcr
    values = commands.pcr_read(device.tpm, application_selection(pcr, ()))[Alg.SHA256]
    if values[pcr] == RESET_VALUE and device.measured.log.records:
        device.measured.synchronise(values)
        message = "the TPM was reset while the device was open, and knows nothing of its layers"
        raise TpmResetError(message, pcr=pcr)


def _follow_clock(device: DeviceContext, answered: Answered) -> bool:
    lag_ms = answered.utc_ms - answered.clock_ms
    if lag_ms <= device.config.tpm.clock_threshold_s * 1000:
        return False
    try:
        with device.step("set clock", f"{lag_ms / 1000:.0f} s forward"):
            commands.clock_set(device.tpm, answered.utc_ms)
    except TpmOwnerAuthError:
        return False  # The backend reckons in the device's own clock; it only stays behind.
    return True


def _take_certificate(device: DeviceContext, key: ClientKey, certificate: str) -> None:
    device.channel.authenticate(key, certificate)
    if isinstance(key, TpmTlsKey):
        device.state.save_certificate(certificate)


def _client_key(device: DeviceContext) -> ClientKey:
    identity = device.known()
    if identity.tls_kind is TlsKeyKind.TPM:
        return TpmTlsKey.from_pem(device.tpm, identity.storage_key, device.state.tls_pem())
    return AttestedKey()
