"""The API of a device, in one class; the work is done by the modules beside it.

Importing this module loads no TPM stack: the methods load what they need, so
that a program which imports hwtrust and opens no device pays for none.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.device.results import State, silent, unwatched
from hwtrust.errors import DeviceSoftwareError
from hwtrust.loading import uncollected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from hwtrust.device.config import DeviceConfig
    from hwtrust.device.context import DeviceContext
    from hwtrust.device.push import Line
    from hwtrust.device.results import (
        Activate,
        AttestResult,
        Condition,
        DeviceStatus,
        Lease,
        Step,
        UpdateResult,
    )
    from hwtrust.device.state import Identity, UpdateRecord
    from hwtrust.digests import MeasureCache
    from hwtrust.errors import HwTrustError
    from hwtrust.keys.keystore import KeyStore
    from hwtrust.tpm.tcti import TCTI, Exchange
    from hwtrust.updates.staging import Progress
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import UpdateOrder

_EXTRA = frozenset({"inotify_simple", "pyudev", "securesystemslib", "tpm2_pytss", "tuf"})
"""What the extra `device`, or `tpm` of hwtrust-device, brings."""


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
        on_condition: Callable[[Condition], None] = unwatched,
    ) -> Iterator[Self]:
        """Open the device that `config` describes, for the length of a `with`.

        `owner_auth` gives the owner hierarchy's password, where it has one;
        otherwise the systemd credential `hwtrust-owner-auth` does. `on_command`
        sees every TPM command, without its secrets.

        `on_condition` is told of each change of `condition`, first that the device
        is starting. It is called at once, perhaps between two commands of the TPM,
        with the key store locked already where that is what it is told: it may look
        at the device and lock it, and nothing else. What it raises is written to the
        log `hwtrust.device.context`; the device goes on with what it does.

        Raises:
            ConfigError: trust file, release or paths are wrong.
            DeviceSoftwareError: hwtrust is installed without its extra `device`.
            StateBusyError: another process works with this device.
            TpmError: no TPM, or one that does not work; the class says why.
        """
        try:
            with uncollected():
                from hwtrust.device.opening import opened
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _EXTRA:
                raise
            raise DeviceSoftwareError(
                f"a device needs {error.name}, which is not installed", module=error.name
            ) from None

        with opened(
            config,
            owner_auth=owner_auth,
            on_command=on_command,
            wrap_tcti=wrap_tcti,
            on_condition=on_condition,
        ) as context:
            yield cls(context)

    def __repr__(self) -> str:
        return f"Device({self._context.config.state_dir!r})"

    @property
    def enrolled(self) -> bool:
        """Whether the device has been enrolled."""
        return self._context.state.enrolled

    @property
    def condition(self) -> Condition:
        """Where the device stands, since when and why."""
        return self._context.condition

    @property
    def answer(self) -> AttestResult | None:
        """What the backend answered last, since the device was opened."""
        return self._context.answer

    @property
    def updates(self) -> UpdateRecord:
        """What the backend has ordered last, what is on trial, and what was given up."""
        return self._context.state.updates()

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

    def load(
        self,
        *,
        on_step: Callable[[Step], None] = silent,
        activate: Activate | None = None,
        update: Callable[[UpdateOrder], object] | None = None,
    ) -> Condition:
        """Ask the backend, update where it orders so, boot and attest; gives the condition.

        Whatever becomes of the device is in the condition; `activate` is as for
        `boot`. `update` is called with what the backend orders; by default that is
        brought in where the device takes updates by itself, or has to. A backend that
        is away is no failure. See `hwtrust.device.load`.

        Raises:
            NotEnrolledError: the device is not enrolled.
            ConfigError: the configuration does not do for an update.
        """
        from hwtrust.device.load import load

        with self._watched(on_step):
            self._context.activate = activate or self._context.activate
            return load(self._context, update=update or self._bring)

    def boot(
        self, *, on_step: Callable[[Step], None] = silent, activate: Activate | None = None
    ) -> KeyStore:
        """Measure every layer and open the key store; see `hwtrust.device.boot`.

        `activate` starts a layer that was measured and extended, at its path; what it
        raises stops the load there. It is kept for the loads to come, such as that
        of an update. A layer is measured again after it, and one that has changed
        meanwhile is a violation.

        Raises:
            LayerError, RootError, KeyStoreError, TpmError, StateError: the load has
                failed; `condition` says at which step, and the next attestation that
                is answered tells the backend.
        """
        from hwtrust.device.trial import boot_on_trial

        with self._watched(on_step):
            self._context.activate = activate or self._context.activate
            boot_on_trial(self._context)
        return self.keystore

    def attest(self, *, on_step: Callable[[Step], None] = silent) -> AttestResult:
        """Attest once, and rotate where the backend sends the next root.

        A device that has not booted attests too, but takes no new root: the
        backend offers it again.

        Raises:
            ChannelError: the backend is away, or refuses.
            RootError, TpmError: a rotation failed; the current root stays.
        """
        from hwtrust.device.confirm import attest_on_trial

        with self._watched(on_step):
            return attest_on_trial(self._context)

    def update(
        self,
        release: str = "",
        *,
        on_step: Callable[[Step], None] = silent,
        on_progress: Callable[[Progress], None] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> UpdateResult:
        """Bring a release in, by default the one that the backend has ordered.

        Only layers that differ are fetched; what was interrupted goes on where it
        was. The release runs on trial until an attestation with it is trusted; else
        the device returns to the last one by itself. See `hwtrust.device.update`.

        `on_progress` is called as layers come, `on_wait` as the list of releases does;
        what they raise ends the run, which can be taken up later.

        Raises:
            ConfigError: the device has no slots.
            UpdateError: the release is not published, not signed, or not what it says.
            ChannelError: the backend is away.
            RootError, LayerError: it was given up, and the last release needs a restart.
        """
        from hwtrust.device.update import update
        from hwtrust.updates.staging import unseen

        with self._watched(on_step):
            return update(
                self._context, release, on_progress=on_progress or unseen, on_wait=on_wait
            )

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

    def line(self) -> Line:
        """A line to the backend for another thread: it waits and reports there.

        It presents the certificate that the device has now; ask for another after an
        attestation that was refused for its certificate's sake.

        Raises:
            ChannelAnonymousError: the device has not attested since it was opened.
        """
        from hwtrust.device.push import line

        return line(self._context)

    def hang_up(self) -> None:
        """Break off what is under way with the backend, and ask it nothing more.

        For another thread, or a signal handler, where the device is about to be closed.
        """
        self._context.channel.close()

    def lease(self) -> Lease:
        """The TPM's clock, and until when in that clock it opens the root."""
        from hwtrust.device.status import lease

        return lease(self._context)

    def check(
        self,
        *,
        only: Collection[str] | None = None,
        cache: MeasureCache | None = None,
        on_step: Callable[[Step], None] = silent,
    ) -> None:
        """Measure layers again; lock and raise at the first that has changed.

        All of them, unless `only` names some. With a `cache`, files that fs-verity
        guards are not read again.
        """
        from hwtrust.device.boot import check_layers

        with self._watched(on_step):
            check_layers(self._context, only=only, cache=cache)

    def lock(self) -> None:
        """Close the key store and forget its keys."""
        self._context.lock()
        self._context.become(State.LOCKED, message="locked by the host application")

    def tpm_away(self, error: HwTrustError) -> None:
        """The TPM is gone, as `error` says: forget the keys, and tell the host application.

        Open the device anew when the TPM is back.
        """
        from hwtrust.device.conditions import tpm_away

        self._context.doing = "tpm", ""
        tpm_away(self._context, error)

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

    @property
    def places(self) -> dict[str, Path]:
        """Where each layer lies that is loaded: until a restart perhaps not in the slot in use."""
        return {name: Path(place) for name, place in self._context.config.layers.items()}

    def takes(self, order: UpdateOrder) -> bool:
        """Whether the device brings a release in by itself.

        It does where it has to; else where its configuration says so, and the release
        was not given up before.
        """
        updates, refused = self._context.config.updates, self.updates.refused
        if updates is None:
            return False
        given_up = refused is not None and refused.release == order.release
        return order.forced or (updates.automatic and not given_up)

    def _bring(self, order: UpdateOrder) -> None:
        from hwtrust.device.update import update
        from hwtrust.updates.staging import unseen

        if self.takes(order):
            update(self._context, on_progress=unseen)

    @contextlib.contextmanager
    def _watched(self, on_step: Callable[[Step], None]) -> Iterator[None]:
        former, self._context.on_step = self._context.on_step, on_step
        try:
            yield
        finally:
            self._context.on_step = former
