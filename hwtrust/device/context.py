"""What the parts of a device's life share while it is open.

enrol · boot · attest · rotate  ── work on ──▶  DeviceContext
config, state, tpm, channel,
measured log, open key store
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hwtrust.device.failures import cut
from hwtrust.device.results import Condition, State, Step, silent, unwatched, utc_ms
from hwtrust.device.wanted import Wanted
from hwtrust.digests import MeasureCache
from hwtrust.errors import ConfigError, KeyStoreLockedError, RootMissingError, StateError
from hwtrust.keys.unseal import Anchorage
from hwtrust.measure import application_selection
from hwtrust.wire.root import policy_key_public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.channel import Channel
    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.results import Activate, AttestResult
    from hwtrust.device.state import DeviceState, Heard, Identity, StoredRoot, UpdateRecord
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.measure import MeasuredLog
    from hwtrust.tls import ClientKey
    from hwtrust.tpm.connection import Tpm
    from hwtrust.wire.messages import Release, TrustAnchor
    from hwtrust.wire.statement import StepFailure
    from hwtrust.wire.structures import PcrSelection, Public


_log = logging.getLogger(__name__)


class DeviceContext(msgspec.Struct, eq=False):
    """An open device."""

    config: DeviceConfig
    trust: TrustAnchor
    release: Release
    state: DeviceState
    tpm: Tpm
    channel: Channel
    measured: MeasuredLog
    policy_key: Public
    metadata_key: ec.EllipticCurvePublicKey
    identity: Identity | None = None
    client_key: ClientKey | None = None
    keystore: KeyStore | None = None
    challenge: bytes = b""
    wanted: Wanted = Wanted()
    """The logs that the next attestation is to carry."""
    afresh: bool = False
    """The kernel's log is to be sent from its beginning: what was sent of it was refused."""
    other: str = ""
    """The release in the second slot, for which leave is asked too."""
    utc_ahead_ms: int | None = None
    """By how much UTC, as the backend signed it last, was ahead of the TPM's clock."""
    activate: Activate | None = None
    started: Release | None = None
    """The release whose layers were activated last, all of them, by this process."""
    answer: AttestResult | None = None
    """What the backend made of the evidence last."""
    on_step: Callable[[Step], None] = silent
    on_condition: Callable[[Condition], None] = unwatched
    condition: Condition = msgspec.field(
        default_factory=lambda: Condition(State.STARTING, since_ms=0)
    )
    doing: tuple[str, str] = ("tpm", "")
    """The step that is under way and its layer, for whoever notes that it failed."""
    updates: UpdateRecord | None = None
    """What there is to say of updates, as it was read or written last."""
    failure: StepFailure | None = None
    """What failed and was not told to the backend yet."""
    heard: Heard | None = None
    """The backend's last word."""
    heard_on_disk: Heard | None = None
    cache: MeasureCache = msgspec.field(default_factory=MeasureCache)
    now: Callable[[], int] = utc_ms

    def __repr__(self) -> str:
        return f"DeviceContext({self.config.state_dir!r})"

    @property
    def selection(self) -> PcrSelection:
        """The PCRs that approvals cover: what a root depends on."""
        return application_selection(self.config.tpm.pcr, self.config.tpm.platform_pcrs)

    @property
    def quoted(self) -> PcrSelection:
        """The PCRs that quotes cover: those, and what is shown for the logs of the platform."""
        tpm = self.config.tpm
        return application_selection(tpm.pcr, (*tpm.platform_pcrs, *tpm.quoted_pcrs))

    def known(self) -> Identity:
        """Who the device is.

        Raises:
            NotEnrolledError: nobody yet.
        """
        if self.identity is None:
            self.identity = self.state.identity()
        return self.identity

    def anchorage(self) -> Anchorage:
        """Where this device's roots hang."""
        identity = self.known()
        return Anchorage(identity.storage_key, identity.counter, self.policy_key)

    def opened(self) -> KeyStore:
        """The key store.

        Raises:
            KeyStoreLockedError: the device has not booted.
        """
        keystore = self.keystore  # another thread may lock in between
        if keystore is None:
            raise KeyStoreLockedError("the key store is locked: the device has not booted")
        return keystore

    def lock(self) -> None:
        """Forget the keys. Nothing finds them any more from the first moment on."""
        keystore, self.keystore = self.keystore, None
        if keystore is not None:
            keystore.close()

    def become(
        self, state: State, *, step: str = "", layer: str = "", code: str = "", message: str = ""
    ) -> None:
        """Be in another condition, and tell the host application.

        It is told at once, perhaps between two commands of the TPM. So what its
        callback raises is written to the log, and goes no further.
        """
        was = self.condition
        update, restart = self._waiting()
        condition = Condition(
            state,
            was.since_ms if was.state is state and was.since_ms else self.now(),
            step=step,
            layer=layer,
            release=self.release.name,
            code=code,
            message=message,
            update=update,
            restart=restart,
        )
        if condition == was:
            return
        self.condition = condition
        try:
            self.on_condition(condition)
        except Exception:  # noqa: BLE001 - whatever a callback raises
            _log.exception("the host application's on_condition has failed")

    def tell_of_updates(self) -> None:
        """Tell the host application again where it stands, if it is another release that waits."""
        was = self.condition
        self.become(was.state, step=was.step, layer=was.layer, code=was.code, message=was.message)

    def _waiting(self) -> tuple[str, bool]:
        """The release that waits, and whether it is for a restart."""
        trial = self.updates.trial if self.updates else None
        order = self.updates.order if self.updates else None
        if trial is not None:
            return (trial.release, True) if trial.restart else ("", False)
        if order is not None and (order.forced or order.release != self.release.name):
            return order.release, False
        return "", False

    def note_failure(self, failure: StepFailure) -> None:
        """Keep what failed until the backend has been told; the latest counts."""
        self.failure = cut(failure, at_ms=self.now())
        with contextlib.suppress(StateError):
            self.state.save_failure(self.failure)

    def newest_root(self) -> StoredRoot:
        """The root with the highest epoch.

        Raises:
            RootMissingError: there is none.
        """
        roots = self.state.roots()
        if not roots:
            raise RootMissingError("the device holds no root")
        return roots[max(roots)]

    @contextlib.contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        """Report what is done within a `with`, once it has succeeded."""
        start = time.perf_counter()
        yield
        self.on_step(Step(name, detail, (time.perf_counter() - start) * 1000))


def trusted_keys(trust: TrustAnchor) -> tuple[Public, ec.EllipticCurvePublicKey]:
    """The policy key as a TPM loads it, and the metadata key.

    Raises:
        ConfigError: the trust file holds something else.
    """
    policy_key = _p256(trust.policy_key, "policy_key")
    return policy_key_public(policy_key), _p256(trust.metadata_key, "metadata_key")


def _p256(pem: str, option: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise ConfigError(f"the trust file's {option} is not a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"the trust file's {option} is not a P-256 key")
    return key
