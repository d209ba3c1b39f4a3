"""Update: bring the next release in, and stay with the last one unless the next is confirmed.

    ask ─▶ stage ─▶ leave for both ─▶ switch ─▶ reload ─▶ attest ─▶ confirm
                                        │         └─ fails ─▶ switch back ─▶ reload ─▶ attest
                                        └─ a layer wants a restart ─▶ the host restarts

Rules:
1. One question for all layers: the backend's answer names a release, and the
   repository's signed metadata say what is in it.
2. Nothing is switched before the TPM's approval covers the new release, and the
   one to return to: both ways are open also while the backend is away. The way back
   takes a restart where the new release was not loaded whole. A device that its
   backend has locked switches only where the backend forces it to.
3. The switch is one rename. From then on the release is on trial
   (`hwtrust.device.trial`), and every start counts.
4. Layers below the first one that changed are measured again, not activated
   again; those from it on are.
5. A release that is to be repaired, or for which no leave is given while the
   running one is refused, takes a restart: the PCR forgets only then.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hwtrust.device import rotate, trial
from hwtrust.device.boot import active_root, read_pcrs
from hwtrust.device.confirm import attest_on_trial
from hwtrust.device.failures import failure_of
from hwtrust.device.results import AttestResult, Outcome, UpdateResult
from hwtrust.device.trial import boot_on_trial
from hwtrust.errors import (
    ChannelError,
    SlotError,
    UpdateAnchorError,
    UpdateError,
    UpdateLeaveError,
    UpdatePlacesError,
)
from hwtrust.tpm import commands
from hwtrust.updates.client import ReleaseClient
from hwtrust.updates.slots import CURRENT, RELEASE
from hwtrust.updates.source import Source, SystemCas
from hwtrust.updates.staging import stage, unseen
from hwtrust.wire.cel import RESET_VALUE
from hwtrust.wire.messages import Mode
from hwtrust.wire.states import cold_value, live_value, state_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.device.context import DeviceContext
    from hwtrust.device.results import Activate
    from hwtrust.updates.slots import Slots
    from hwtrust.updates.staging import Progress
    from hwtrust.wire.messages import LayerReference, Release
    from hwtrust.wire.release import ReleaseManifest


def update(
    device: DeviceContext,
    name: str = "",
    *,
    on_progress: Callable[[Progress], None] = unseen,
    on_wait: Callable[[], None] | None = None,
) -> UpdateResult:
    """Bring release `name` in, by default the one that the backend has ordered.

    Raises:
        UpdateError: it is not published, not signed, not what it says, or there is
            no leave for it; the device goes on with what it runs.
        ConfigError: the device has no slots.
        ChannelError: the backend is away.
        RootError, LayerError: the release was given up, and the last one does not
            come up without a restart.
    """
    slots = trial.slots_of(device)
    on_trial = trial.trial_of(device)
    if on_trial is not None and slots.current == on_trial.slot:
        waits = on_trial.restart or on_trial.release != device.release.name
        return UpdateResult(on_trial.release, Outcome.RESTART if waits else Outcome.ON_TRIAL)
    require_places(device, slots)
    if device.utc_ahead_ms is None:
        attest_on_trial(device)
    order = device.state.updates().order
    name = name or (order.release if order else device.release.name)
    forced = order is not None and order.forced and order.release == name
    if name == device.release.name and not forced:
        return UpdateResult(name, Outcome.CURRENT)
    manifest = _staged(device, slots, name, on_progress, on_wait)
    return _switch(device, manifest.release(), forced=forced)


def require_places(device: DeviceContext, slots: Slots) -> None:
    """Refuse a configuration whose paths do not go through the slots.

    Raises:
        UpdatePlacesError: one does not.
    """
    updates, config = device.config.updates, device.config
    assert updates is not None  # noqa: S101 - there are slots
    current = Path(updates.slots) / CURRENT
    expected = {"release": current / RELEASE}
    expected |= {name: current / name for name in config.layers}
    for name, place in {"release": config.release, **config.layers}.items():
        if Path(place) != expected[name]:
            message = f"{name} lies at {place}, and must be {expected[name]} to be updated"
            raise UpdatePlacesError(message, path=str(place))
    slots.current  # noqa: B018 - raises where they are not set up


def client_of(device: DeviceContext) -> ReleaseClient:
    """The client of the repository that the device's trust file names.

    Raises:
        UpdateAnchorError: the trust file has no first root of the repository.
        ConfigError: a URL in the configuration is none.
    """
    trust, updates = device.trust, device.config.updates
    if not trust.releases:
        raise UpdateAnchorError("the device's trust file says nothing of releases")
    state, now = device.state.directory / "releases", partial(_now, device)
    if updates is not None and updates.metadata_url:
        return ReleaseClient(
            trust.releases,
            state=state,
            metadata=Source(updates.metadata_url, tls=SystemCas()),
            targets=Source(updates.targets_url, tls=SystemCas()),
            now=now,
        )
    return ReleaseClient.of_backend(
        trust.url, tls_ca=trust.tls_ca, root=trust.releases, state=state, now=now
    )


def _now(device: DeviceContext) -> datetime:
    """UTC as the backend signed it last, carried on by the TPM's clock."""
    clock = commands.read_clock(device.tpm).clock
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(
            milliseconds=clock + (device.utc_ahead_ms or 0)
        )
    except OverflowError:
        # Whoever may set the TPM's clock: everything has expired.
        return datetime.max.replace(tzinfo=UTC)


def _staged(
    device: DeviceContext,
    slots: Slots,
    name: str,
    on_progress: Callable[[Progress], None],
    on_wait: Callable[[], None] | None,
) -> ReleaseManifest:
    with _failure_noted(device, name), client_of(device) as client:
        with device.step("refresh", "the list of releases"):
            client.refresh(on_piece=on_wait)
        manifest = client.manifest(name)
        _require_layers(device, manifest)
        with device.step("stage", f"release {name}"):
            stage(client, slots, manifest, on_progress=on_progress)
    return manifest


def _require_layers(device: DeviceContext, manifest: ReleaseManifest) -> None:
    for layer in manifest.layers:
        if layer.name not in device.config.layers:
            message = f"the configuration has no place for layer {layer.name} of {manifest.name}"
            raise UpdatePlacesError(message, layer=layer.name)


@contextlib.contextmanager
def _failure_noted(device: DeviceContext, release: str) -> Iterator[None]:
    try:
        yield
    except (UpdateError, SlotError) as error:
        device.note_failure(failure_of(error, step="stage", release=release))
        raise


def _switch(device: DeviceContext, new: Release, *, forced: bool) -> UpdateResult:
    old = device.release
    device.other = new.name if new.name != old.name else ""
    try:
        with device.step("attest", "leave for both releases"):
            result = rotate.attest(device)
        live, cold = _leave(device, new)
    finally:
        device.other = ""
    if result.mode is Mode.LOCKED and not forced:
        # It would not load, and every start of it would count against the release.
        raise _no_leave(new, result)
    restart = not live or _wants_restart(device, old, new)
    if restart and not cold and not forced:
        raise _no_leave(new, result)
    trial.begin(device, new.name, restart=restart)
    if restart:
        return UpdateResult(new.name, Outcome.RESTART)
    return _try(device, new)


def _no_leave(new: Release, result: AttestResult) -> UpdateLeaveError:
    findings = [finding.message for finding in result.findings]
    message = f"no leave to run release {new.name}: {'; '.join(findings) or 'not accepted'}"
    return UpdateLeaveError(message, release=new.name)


def _try(device: DeviceContext, new: Release) -> UpdateResult:
    slots = trial.slots_of(device)
    slot = slots.current
    with _activating_from(device, _first_change(device.started, new)):
        boot_on_trial(device)
        try:
            result: AttestResult | None = attest_on_trial(device)
        except ChannelError:
            result = None
    if slots.current == slot:
        done = trial.trial_of(device) is None
        return UpdateResult(new.name, Outcome.CONFIRMED if done else Outcome.ON_TRIAL, result)
    refused = device.state.updates().refused
    code, message = (refused.code, refused.message) if refused else ("", "")
    return UpdateResult(new.name, Outcome.FELL_BACK, result, code, message)


def _leave(device: DeviceContext, new: Release) -> tuple[bool, bool]:
    """Whether the root opens after a load of `new` now, and after a restart."""
    values, pcr = read_pcrs(device), device.config.tpm.pcr
    approval = active_root(device).approval

    def covered(value: bytes) -> bool:
        digest = state_digest(device.selection, values, pcr=pcr, value=value)
        return approval.branch_for(digest) is not None

    cold = cold_value(new)
    now = cold if values[pcr] == RESET_VALUE else live_value(new, values[pcr])
    return covered(now), covered(cold)


def _wants_restart(device: DeviceContext, old: Release, new: Release) -> bool:
    updates = device.config.updates
    changed = {layer.name for layer in {*old.layers} ^ {*new.layers}}
    return updates is not None and bool(changed & {*updates.restart})


def _first_change(started: Release | None, new: Release) -> int:
    """The place of the first layer of `new` that does not run already."""
    place = 0
    for before, after in zip(started.layers if started else (), new.layers, strict=False):
        if before != after:
            break
        place += 1
    return place


@contextlib.contextmanager
def _activating_from(device: DeviceContext, first: int) -> Iterator[None]:
    """Activate no layer below `first` again: it runs already, and was measured again."""
    activate = device.activate
    if activate is not None:
        device.activate = _only_from(activate, device, first)
    try:
        yield
    finally:
        device.activate = activate


def _only_from(activate: Activate, device: DeviceContext, first: int) -> Activate:
    def activate_changed(layer: LayerReference, path: Path) -> None:
        if device.release.layers.index(layer) >= first:
            activate(layer, path)

    return activate_changed
