"""The API of a device, in one class; the work is done by the modules beside it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.channel import Channel
from hwtrust.device.attest import AttestResult, attest_once
from hwtrust.device.boot import active_root, boot, check_layers, read_pcrs
from hwtrust.device.context import DeviceContext, silent, trusted_keys
from hwtrust.device.enrol import enrol
from hwtrust.device.rotate import rotate
from hwtrust.device.state import DeviceState
from hwtrust.errors import ConfigError, StateError, StateMissingError
from hwtrust.files import read_limited
from hwtrust.measure import MeasuredLog
from hwtrust.tpm import commands
from hwtrust.tpm.discover import identify, open_tpm
from hwtrust.tpm.provision import read_counter
from hwtrust.tpm.tcti import ObservedTcti

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.context import Step
    from hwtrust.device.state import Identity
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.tpm.discover import Identity as TpmIdentity
    from hwtrust.tpm.tcti import TCTI, Exchange
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.structures import ClockInfo

OWNER_AUTH_CREDENTIAL = "hwtrust-owner-auth"
CREDENTIAL_LIMIT = 64


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """What a device knows of itself, without asking its backend. Times are in milliseconds.

    `device` is the EK's Name; `clock` the TPM's clock, UTC where it was set;
    `not_after` is reckoned in it.
    """

    device: bytes
    tpm: TpmIdentity
    epoch: int
    counter: int
    release: str
    clock: ClockInfo
    not_after: int
    log: EventLog
    tls_kind: str


class Device:
    """An open device. Use it in a `with`; `Device.open` makes it."""

    def __init__(self, context: DeviceContext) -> None:
        """`context` is made by `open`."""
        self._context = context

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        config: DeviceConfig,
        *,
        owner_auth: Callable[[], bytes] | None = None,
        on_command: Callable[[Exchange], None] | None = None,
        wrap_tcti: Callable[[TCTI], TCTI] | None = None,
    ) -> Iterator[Self]:
        """Open the device that `config` describes, for the length of a `with`.

        `owner_auth` gives the owner hierarchy's password, where it has one;
        otherwise the systemd credential `hwtrust-owner-auth` does. `on_command`
        sees every TPM command, without its secrets.

        Raises:
            ConfigError: trust file, release or paths are wrong.
            StateBusyError: another process works with this device.
            TpmError: no TPM, or one that does not work; the class says why.
        """
        trust, release = config.read_trust(), config.read_release()
        policy_key, metadata_key = trusted_keys(trust)
        state = DeviceState(Path(config.state_dir))

        def wrap(inner: TCTI) -> TCTI:
            wrapped = wrap_tcti(inner) if wrap_tcti else inner
            return ObservedTcti(wrapped, on_command) if on_command else wrapped

        with (
            state.locked(),
            open_tpm(
                config.tpm.tcti or None,
                owner_auth=(owner_auth or owner_auth_credential)(),
                wrap=wrap if wrap_tcti or on_command else None,
            ) as tpm,
        ):
            context = DeviceContext(
                config=config,
                trust=trust,
                release=release,
                state=state,
                tpm=tpm,
                channel=Channel(trust.url, tls_ca=trust.tls_ca),
                measured=MeasuredLog(state.event_log, pcr=config.tpm.pcr, banks=config.banks()),
                policy_key=policy_key,
                metadata_key=metadata_key,
            )
            try:
                yield cls(context)
            finally:
                context.lock()

    def __repr__(self) -> str:
        return f"Device({self._context.config.state_dir!r})"

    @property
    def enrolled(self) -> bool:
        """Whether the device has been enrolled."""
        return self._context.state.enrolled

    @property
    def keystore(self) -> KeyStore:
        """The open key store.

        Raises:
            KeyStoreLockedError: the device has not booted.
        """
        return self._context.opened()

    def enrol(self, *, token: str = "", on_step: Callable[[Step], None] = silent) -> Identity:
        """Enrol with the backend; see `hwtrust.device.enrol`."""
        with self._watched(on_step):
            return enrol(self._context, token=token)

    def boot(self, *, on_step: Callable[[Step], None] = silent) -> KeyStore:
        """Measure every layer and open the key store; see `hwtrust.device.boot`."""
        with self._watched(on_step):
            boot(self._context)
        return self.keystore

    def attest(self, *, on_step: Callable[[Step], None] = silent) -> AttestResult:
        """Attest once, and rotate where the backend sends the next root.

        A device that has not booted attests too, but takes no new root: the
        backend offers it again.

        Raises:
            ChannelError: the backend is away, or refuses.
            RootError, TpmError: a rotation failed; the current root stays.
        """
        with self._watched(on_step):
            return self._attest()

    def check(self, *, on_step: Callable[[Step], None] = silent) -> None:
        """Measure every layer again; lock and raise at the first that has changed."""
        with self._watched(on_step):
            check_layers(self._context)

    def lock(self) -> None:
        """Close the key store and forget its keys."""
        self._context.lock()

    def status(self) -> DeviceStatus:
        """What the device knows of itself."""
        context = self._context
        identity = context.known()
        context.measured.settle(context.tpm)
        root = active_root(context)
        return DeviceStatus(
            device=identity.device,
            tpm=identify(context.tpm),
            epoch=root.epoch,
            counter=read_counter(context.tpm, identity.counter),
            release=context.release.name,
            clock=commands.read_clock(context.tpm),
            not_after=root.approval.not_after,
            log=context.measured.log,
            tls_kind=identity.tls_kind,
        )

    def event_log(self) -> EventLog:
        """The event log, held against the PCR.

        Raises:
            TpmPcrConflictError: the PCR holds what the log does not explain.
        """
        context = self._context
        context.measured.synchronise(read_pcrs(context))
        return context.measured.log

    def _attest(self) -> AttestResult:
        context = self._context
        with context.step("attest"):
            answered, accepted = attest_once(context)
        rotated_to, waits = None, accepted is not None and context.keystore is None
        if accepted is not None and context.keystore is not None:
            rotated_to = rotate(context, accepted)
            with context.step("attest", "to confirm the new epoch"):
                answered, _ = attest_once(context)
        reply = answered.reply
        return AttestResult(reply.standing, reply.findings, rotated_to, waits)

    @contextlib.contextmanager
    def _watched(self, on_step: Callable[[Step], None]) -> Iterator[None]:
        self._context.on_step = on_step
        try:
            yield
        finally:
            self._context.on_step = silent


def owner_auth_credential() -> bytes:
    """The owner password that systemd hands over, or none.

    Raises:
        ConfigError: the credential cannot be read, or is longer than a TPM's password.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return b""
    path = Path(directory) / OWNER_AUTH_CREDENTIAL
    try:
        return read_limited(path, limit=CREDENTIAL_LIMIT).strip(b"\r\n")
    except StateMissingError:
        return b""
    except StateError as error:
        raise ConfigError(error.message, path=str(path)) from error
