"""The API of an enclave, in one class; the work is done by the modules beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.anchors.protocols import Capability
from hwtrust.channel import Channel
from hwtrust.device.results import unwatched
from hwtrust.enclave import load
from hwtrust.enclave.clock import SignedClock, boot_time_ms
from hwtrust.enclave.config import metadata_key
from hwtrust.enclave.context import EnclaveContext
from hwtrust.enclave.kept import EnclaveState
from hwtrust.enclave.measured import Measured
from hwtrust.errors import EnclaveAnchorError, NotEnrolledError
from hwtrust.wire.enclave import EnclaveKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.anchors.protocols import Anchor, Sealer
    from hwtrust.device.results import AttestResult, Condition
    from hwtrust.enclave.clock import BootTime
    from hwtrust.enclave.config import EnclaveConfig
    from hwtrust.enclave.context import Way
    from hwtrust.keys.keystore import KeyStore

_KINDS = {kind.value: kind for kind in EnclaveKind}


class Enclave:
    """An open enclave. Use it in a `with`; `Enclave.open` makes it.

    It belongs to one thread; its key store may be used from several.
    """

    def __init__(self, context: EnclaveContext, *, token: str) -> None:
        """`context` is made by `open`."""
        self._context = context
        self._token = token

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        config: EnclaveConfig,
        *,
        anchor: Anchor | None = None,
        token: str = "",
        channel: Way | None = None,
        on_condition: Callable[[Condition], None] = unwatched,
        boot_time: BootTime = boot_time_ms,
    ) -> Iterator[Self]:
        """Open the enclave that `config` describes, for the length of a `with`.

        `anchor` is by default the one that this machine has; `token` is an enrolment
        token, used once. `channel` stands in for TLS over TCP, such as one through
        vsock. `on_condition` is told of each change of `condition`, with the key store
        locked already where that is what it is told. `boot_time` gives milliseconds since
        the machine's start.

        Raises:
            ConfigError: trust file, release, paths or register are wrong.
            EnclaveAnchorError: there is no enclave here, or it makes no evidence.
            AnchorError: the anchor could seal, and cannot be used for it.
            StateBusyError: another process works with this state directory.
        """
        anchor = anchor or _this_machine()
        if anchor.attester is None or anchor.kind.value not in _KINDS:
            raise EnclaveAnchorError(f"the {anchor.kind} anchor makes no evidence of an enclave")
        trust, kind = config.read_trust(), _KINDS[anchor.kind.value]
        state = EnclaveState(Path(config.state_dir), kind=kind, sealer=_sealer(anchor, config))
        with state.locked():
            context = EnclaveContext(
                config=config,
                release=config.read_release(),
                metadata_key=metadata_key(trust),
                kind=kind,
                attester=anchor.attester,
                measured=Measured(anchor, register=config.register, path=state.event_log),
                state=state,
                channel=channel or Channel(trust.url, tls_ca=trust.tls_ca),
                clock=SignedClock(boot_time),
                on_condition=on_condition,
            )
            try:
                enclave = cls(context, token=token)
                yield enclave
            finally:
                enclave.close()

    def __repr__(self) -> str:
        return f"Enclave({self._context.kind}, {self.condition.state})"

    @property
    def device(self) -> bytes:
        """By what the backend knows it (`hwtrust.wire.enclave.enclave_name`).

        Raises:
            NotEnrolledError: it has not been started.
        """
        if self._context.identity is None:
            raise NotEnrolledError("the enclave has not been started: it is nobody yet")
        return self._context.identity.name

    @property
    def epoch(self) -> int:
        """The number of its root; 0: it holds none."""
        return self._context.epoch

    @property
    def condition(self) -> Condition:
        """Where the enclave stands, since when and why."""
        self._context.expire()
        return self._context.condition

    @property
    def keystore(self) -> KeyStore:
        """The open key store. Ask for it each time: that is when its expiry is looked at.

        Raises:
            RootExpiredError: root or grace are over; the keys are dropped. Start again.
            KeyStoreLockedError: the enclave has not started, or was locked.
        """
        return self._context.opened()

    def start(self, *, again: bool = False) -> KeyStore:
        """Measure the layers, enrol or attest, open root and key store; gives the key store.

        It may be repeated: what is open is closed first, and without a sealer a key store
        that is closed is gone. With `again` what was sealed is set aside, and the enclave
        enrols as a new device.

        Raises:
            LayerError, EnclaveError, DeviceLockedError, ChannelError, RootError,
            KeyStoreError, AnchorError, StateError: nothing is open; `condition` says at
                which step, and the next attestation that is answered tells the backend.
        """
        load.start(self._context, token=self._token, again=again)
        return self.keystore

    def attest(self) -> AttestResult:
        """Attest once, within `heartbeat_ms` of the last; takes the next root if there is one.

        Raises:
            NotEnrolledError: it has not been started.
            ChannelError: the backend is away, or refuses.
            RootError, KeyStoreError, AnchorError, StateError: a rotation failed; the
                current root stays.
        """
        return load.attest(self._context)

    def close(self) -> None:
        """Lock the key store and forget its keys; harmless when repeated."""
        self._context.lock()


def _sealer(anchor: Anchor, config: EnclaveConfig) -> Sealer | None:
    if config.memory_only:
        return None
    problem = anchor.problems.get(Capability.SEAL)
    if anchor.sealer is None and problem is not None:
        # To become a new device at each start is for the configuration to say.
        raise problem
    return anchor.sealer


def _this_machine() -> Anchor:
    from hwtrust.anchors.port import LinuxPort  # noqa: PLC0415 - where none is given
    from hwtrust.anchors.survey import find_anchors  # noqa: PLC0415

    found = find_anchors(LinuxPort())
    for anchor in found:
        if anchor.attester is not None and anchor.kind.value in _KINDS:
            return anchor
    reasons = [
        f"{anchor.kind}: {problem.message}"
        for anchor in found
        for problem in anchor.problems.values()
    ]
    raise EnclaveAnchorError("no enclave that makes evidence; " + ("; ".join(reasons) or "none"))
