"""The API of a device, in one class; the work is done by the modules beside it.

Importing this module loads no TPM stack: the methods load what they need, so
that a program which imports hwtrust and opens no device pays for none.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from hwtrust.device.results import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import AttestResult, DeviceStatus, Step
    from hwtrust.device.state import Identity
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.tpm.tcti import TCTI, Exchange
    from hwtrust.wire.cel import EventLog


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
        from hwtrust.device.opening import opened

        with opened(
            config, owner_auth=owner_auth, on_command=on_command, wrap_tcti=wrap_tcti
        ) as context:
            yield cls(context)

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
        from hwtrust.device.enrol import enrol

        with self._watched(on_step):
            return enrol(self._context, token=token)

    def boot(self, *, on_step: Callable[[Step], None] = silent) -> KeyStore:
        """Measure every layer and open the key store; see `hwtrust.device.boot`."""
        from hwtrust.device.boot import boot

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
        from hwtrust.device.rotate import attest

        with self._watched(on_step):
            return attest(self._context)

    def report(self, kind: str, *, detail: str = "") -> bool:
        """Report an event of the application, such as `transaction`; gives whether to attest now.

        `kind` is at most 60 of a-z, 0-9, `.`, `_` and `-`, `detail` at most 200 characters.
        The policy of the device's group says for which kinds the root is replaced.

        Raises:
            ChannelAnonymousError: the device has not attested since it was opened.
            ChannelError: the backend is away, or refuses.
        """
        from hwtrust.device.push import report

        return report(self._context, kind, detail=detail)

    def wait(self, seconds: int = 55) -> str:
        """Wait until the backend has something for the device; gives what, or nothing.

        Attest when told, then wait again. `seconds` is 0 to 55; what happened while
        nobody waited is told at once.

        Raises:
            ChannelAnonymousError: the device has not attested since it was opened.
            ChannelError: the backend is away, or refuses.
        """
        from hwtrust.device.push import wait

        return wait(self._context, seconds=seconds)

    def check(self, *, on_step: Callable[[Step], None] = silent) -> None:
        """Measure every layer again; lock and raise at the first that has changed."""
        from hwtrust.device.boot import check_layers

        with self._watched(on_step):
            check_layers(self._context)

    def lock(self) -> None:
        """Close the key store and forget its keys."""
        self._context.lock()

    def status(self) -> DeviceStatus:
        """What the device knows of itself."""
        from hwtrust.device.status import status

        return status(self._context)

    def event_log(self) -> EventLog:
        """The event log, held against the PCR.

        Raises:
            TpmPcrConflictError: the PCR holds what the log does not explain.
        """
        from hwtrust.device.status import event_log

        return event_log(self._context)

    @contextlib.contextmanager
    def _watched(self, on_step: Callable[[Step], None]) -> Iterator[None]:
        self._context.on_step = on_step
        try:
            yield
        finally:
            self._context.on_step = silent
