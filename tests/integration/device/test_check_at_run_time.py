"""Measuring again at run time: only what was touched, or all of it at little cost."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from hwtrust import digests, errors
from hwtrust.agent.watch import LayerWatch
from hwtrust.digests import MeasureCache
from hwtrust.wire.messages import Standing
from simulators.site import LAYERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hwtrust.device import Device
    from simulators.site import Site


@pytest.fixture
def device(site: Site) -> Iterator[Device]:
    """A device that is loaded."""
    site.enrol()
    with site.open() as opened:
        opened.boot()
        yield opened


def replace(path: Path, content: bytes) -> None:
    """Put another file in the place of a layer, as who wants not to be seen does."""
    prepared = path.with_name("prepared")
    prepared.write_bytes(content)
    prepared.rename(path)


def test_only_the_layers_that_were_named_are_measured(site: Site, device: Device) -> None:
    """A file event costs one layer, not all of them."""
    measured: list[str] = []
    device.check(
        only={"kernel", "frontend"}, on_step=lambda step: measured.append(step.detail.split()[0])
    )
    assert measured == ["kernel", "frontend"]
    device.check(on_step=lambda step: measured.append(step.detail.split()[0]))
    assert measured[2:] == list(LAYERS)
    site.change("system")
    device.check(only={"kernel"})
    with pytest.raises(errors.LayerMismatchError) as mismatch:
        device.check(only={"kernel", "system"})
    assert mismatch.value.data["layer"] == "system"
    with pytest.raises(errors.KeyStoreLockedError):
        _ = device.keystore


def test_a_name_that_is_no_layers_is_refused(device: Device) -> None:
    """A misspelt layer would be one that is never measured."""
    with pytest.raises(errors.ConfigError) as wrong:
        device.check(only={"kernal"})
    assert wrong.value.code == "config"
    assert device.keystore is not None


def test_74_a_layer_that_is_replaced_between_two_events_is_found(
    site: Site, device: Device
) -> None:
    """The watch is armed before the layer is measured: a change after that is another event."""
    place = site.home / "kernel"
    good = place.read_bytes()
    with LayerWatch({name: site.home / name for name in LAYERS}) as watch:
        device.check()
        replace(place, good)
        touched = watch.changed()
        assert touched == {"kernel"}
        device.check(only=touched)
        # The same again, but now it is another content; the measurement just made is of no use.
        replace(place, b"evil")
        touched = watch.changed()
        assert touched == {"kernel"}
        with pytest.raises(errors.LayerMismatchError):
            device.check(only=touched)
    assert device.attest().standing is Standing.FAILED


def test_74_a_change_that_no_event_tells_is_found_at_the_next_interval(
    site: Site, device: Device
) -> None:
    """Same size, same times: whoever measures all of it reads all of it."""
    place = site.home / "kernel"
    before = place.stat()
    site.change("kernel")
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    cache = MeasureCache()
    with pytest.raises(errors.LayerMismatchError):
        device.check(cache=cache)


def test_what_fs_verity_guards_is_read_once(
    site: Site, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced file has another fs-verity digest, or none: it is read, and found."""
    names: dict[int, bytes] = {}
    for name in LAYERS:
        path = site.home / name
        names[path.stat().st_ino] = b"\1\0\x20\0" + hashlib.sha256(path.read_bytes()).digest()
    read: list[int] = []
    plain = digests.sha256

    def counted(descriptor: int, buffer: bytearray | None = None) -> bytes:
        read.append(descriptor)
        return plain(descriptor, buffer)

    monkeypatch.setattr(digests, "sha256", counted)
    cache = MeasureCache(lambda descriptor: names.get(os.fstat(descriptor).st_ino))
    device.check(cache=cache)
    assert len(read) == len(LAYERS)
    device.check(cache=cache)
    assert len(read) == len(LAYERS)
    replace(site.home / "frontend", b"evil")
    with pytest.raises(errors.LayerMismatchError) as mismatch:
        device.check(cache=cache)
    assert mismatch.value.data["layer"] == "frontend"
    assert len(read) == len(LAYERS) + 1
