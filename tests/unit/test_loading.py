"""What is loaded, is loaded without the garbage collector, which goes on afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hwtrust.loading import uncollected

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = """
import gc, sys
loaded = []
gc.callbacks.append(lambda phase, _: loaded.append(set(sys.modules)) if phase == "start" else None)
import hwtrust.device
amidst = [names for names in loaded if "hwtrust.wire" in names and names != set(sys.modules)]
print(gc.isenabled(), len(amidst))
"""


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector runs before a test, and after it."""
    assert gc.isenabled()
    yield
    gc.enable()


def test_nothing_is_collected_inside() -> None:
    """The collector stands still, and goes on after."""
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_leaves_the_collector_on() -> None:
    """What cannot be loaded does not stop the collector for good."""
    with pytest.raises(ModuleNotFoundError), uncollected():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    """A program that collects for itself, or never, is not overruled."""
    gc.disable()
    with uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_devices_parts_load_without_a_round() -> None:
    """Nothing is collected while the device's API is loaded, and the collector runs after."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ROUNDS], check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "0"]
