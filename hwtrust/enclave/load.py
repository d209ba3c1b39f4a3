"""All of a start: measure, enrol or attest, open the root, open the key store.

    reopen what is sealed ─▶ layers ─▶ enrol | attest ─▶ root ─▶ key store ─▶ attest, if rotated

Rules:
1. Nothing is opened before the backend has answered: there is no counter here that would
   say which root is the present one, and no clock that would say whether it has expired.
2. A start is whole or leaves nothing open.
3. Who was cut off while it enrolled asks first whether the backend knows it: its token
   may be used up.
4. An expired root opens nothing but the next one's way in, where the same answer has it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from hwtrust.device.failures import failure_of
from hwtrust.device.results import State
from hwtrust.enclave.attest import (
    Answered,
    ask,
    challenge,
    evidence,
    first_reason,
    follow,
    known,
    result_of,
)
from hwtrust.enclave.roots import NO_EPOCH
from hwtrust.enclave.rotate import hold, open_keystore, rotate, take, usable
from hwtrust.errors import (
    ChannelError,
    DeviceLockedError,
    EnclaveUntrustedError,
    HwTrustError,
    NotEnrolledError,
    RefusedError,
    RootExpiredError,
    RootMissingError,
)
from hwtrust.roots import accept_time
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.enclave import EnclaveEnrol, EnclaveEnrolled
from hwtrust.wire.messages import Mode, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.device.results import AttestResult
    from hwtrust.enclave.context import EnclaveContext
    from hwtrust.wire.messages import LayerReference

ENROL: Final = "/v1/enclaves/enrol"

_UNKNOWN: Final = "device:unknown"
_TOLD: Final = (ChannelError, DeviceLockedError, EnclaveUntrustedError)
"""What the backend knows, or would not hear."""


def start(enclave: EnclaveContext, *, token: str, again: bool) -> None:
    """Open the key store; afterwards `enclave.keystore` is open.

    Raises:
        LayerError: a layer is missing, or not what its release says.
        EnclaveError: what was sealed does not open, a register is in conflict, or the
            backend does not trust the enclave.
        DeviceLockedError: the backend has locked it.
        ChannelError: the backend is away, or refuses.
        RootError, KeyStoreError: the root is refused, or the key store does not open.
        AnchorError, StateError: the hardware or the disk fails.
    """
    enclave.lock()
    enclave.become(State.LOADING)
    with _noted(enclave):
        enclave.doing = "unseal", ""
        _reopen(enclave, again=again)
        enclave.measured.load(
            enclave.release,
            enclave.config.layers,
            on_layer=lambda step, layer: _doing(enclave, step, layer),
        )
        enclave.doing = "verify", ""
        identity = known(enclave)
        if identity.enrolled or (identity.asked and _is_known(enclave)):
            _attest_first(enclave)
        else:
            _enrol(enclave, token)
    if enclave.condition.state is State.LOADING:
        enclave.become(State.NORMAL)


def attest(enclave: EnclaveContext) -> AttestResult:
    """Attest once, and rotate where the backend sends the next root and the key store is open.

    Raises:
        NotEnrolledError: the enclave was not started, or its start did not come so far.
        ChannelError: the backend is away, or refuses.
        RootError, KeyStoreError, StateError, AnchorError: a rotation failed; the current
            root stays.
    """
    if not known(enclave).enrolled:
        raise NotEnrolledError("the enclave has not enrolled")
    answered = ask(enclave)
    follow(enclave, answered)
    rotated_to = None
    waits = answered.reply.root is not None and enclave.keystore is None
    if answered.reply.root is not None and enclave.keystore is not None:
        root = take(enclave, answered.reply.root, now_ms=answered.utc_ms)
        rotated_to = rotate(enclave, root)
        answered = ask(enclave)
        follow(enclave, answered)
    enclave.expire()
    return result_of(answered.reply, rotated_to=rotated_to, root_waits=waits)


def _reopen(enclave: EnclaveContext, *, again: bool) -> None:
    if again:
        enclave.channel.anonymous()
        enclave.challenge = b""
        enclave.identity = enclave.state.anew()
    elif enclave.state.sealing or enclave.identity is None:
        enclave.identity = enclave.state.identity()
    if enclave.state.sealing:
        enclave.epoch = usable(enclave)


def _is_known(enclave: EnclaveContext) -> bool:
    """Rule 3."""
    try:
        challenge(enclave, Purpose.SESSION)
    except RefusedError as error:
        if error.data.get("problem") != _UNKNOWN:
            raise
        return False
    return True


def _enrol(enclave: EnclaveContext, token: str) -> None:
    identity = known(enclave)
    nonce = challenge(enclave, Purpose.ENROL)
    request = EnclaveEnrol(
        evidence=evidence(enclave, purpose=Purpose.ENROL, nonce=nonce),
        csr=identity.tls_key.csr(),
        token=token,
    )
    identity.asked = True
    asked = enclave.clock.elapsed()
    enrolled = enclave.channel.post(ENROL, request, EnclaveEnrolled)
    now_ms = accept_time(
        enrolled.time, metadata_key=enclave.metadata_key, device=identity.name, nonce=nonce
    )
    enclave.clock.follow(now_ms, asked=asked)
    root = take(enclave, enrolled.root, now_ms=now_ms)
    identity.enrolled, identity.certificate = True, enrolled.certificate
    enclave.channel.authenticate(identity.tls_key, enrolled.certificate)
    enclave.challenge = enrolled.challenge
    enclave.doing = "open", ""
    grace = enrolled.offline_grace_ms
    enclave.grace_until = now_ms + grace if grace else None
    hold(enclave, root)
    open_keystore(enclave)


def _attest_first(enclave: EnclaveContext) -> None:
    answered = ask(enclave)
    follow(enclave, answered)
    _require_trusted(answered)
    identity, delivery = known(enclave), answered.reply.root
    root = take(enclave, delivery, now_ms=answered.utc_ms) if delivery is not None else None
    enclave.doing = "open", ""
    if enclave.epoch == NO_EPOCH:
        if root is None:
            raise RootMissingError("the enclave holds no root, and the backend gives it none")
        identity.enrolled = True
        hold(enclave, root)
        open_keystore(enclave)
    else:
        not_after = identity.roots[enclave.epoch].metadata.not_after
        if root is None and answered.utc_ms >= not_after:
            raise RootExpiredError("the root has expired", not_after=not_after)
        open_keystore(enclave)
        if root is not None:
            rotate(enclave, root)
    if answered.reply.root is not None:
        # The backend waits to hear which root the enclave holds now.
        answered = ask(enclave)
    follow(enclave, answered)
    _require_trusted(answered)


def _require_trusted(answered: Answered) -> None:
    reply = answered.reply
    reason = first_reason(reply)
    if reply.mode is Mode.LOCKED:
        message = "the backend has locked this enclave"
        raise DeviceLockedError(message + (f": {reason.message}" if reason else ""))
    if reply.standing is not Standing.TRUSTED:
        # Nothing but this verdict keeps a root that is held from being opened.
        raise EnclaveUntrustedError(
            reason.message if reason else "the backend does not trust the enclave",
            finding=reason.code if reason else "",
        )


def _doing(enclave: EnclaveContext, step: str, layer: LayerReference) -> None:
    enclave.doing = step, layer.name


@contextlib.contextmanager
def _noted(enclave: EnclaveContext) -> Iterator[None]:
    """Rule 2; and what failed is kept for the backend."""
    try:
        yield
    except HwTrustError as error:
        step, layer = enclave.doing
        enclave.lock()
        if not isinstance(error, _TOLD):
            failure = failure_of(error, step=step, layer=layer, release=enclave.release.name)
            enclave.note_failure(failure)
        enclave.become(State.LOCKED, step=step, layer=layer, code=error.code, message=error.message)
        raise
    except BaseException:
        enclave.lock()
        enclave.become(State.LOCKED, step=enclave.doing[0], message="the start was interrupted")
        raise
