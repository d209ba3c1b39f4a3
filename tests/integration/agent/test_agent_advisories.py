"""The agent names the known faults of the TPM library in its log: once, and goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hwtrust.agent.config import AgentConfig
from hwtrust.device.results import State
from hwtrust.tpm import installed
from hwtrust.tpm.advisories import Installed, Library
from simulators.running_agent import RunningAgent, quiet_ports

if TYPE_CHECKING:
    import pytest

    from simulators.site import Site


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of libraries."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "known faults" in record.getMessage()
    ]


def live(site: Site) -> None:
    """Run an agent until a change locks its device."""
    with RunningAgent(site, AgentConfig(socket="", settle=0.05), ports=quiet_ports()) as agent:
        agent.await_condition(State.NORMAL)
        site.change("kernel")
        agent.await_condition(State.LOCKED)


def test_an_old_library_is_named_once_and_the_device_is_normal(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and no reason not to work."""
    old = Installed(Library.TSS2, "4.1.3", "4.1.3-1.2")
    monkeypatch.setattr(installed, "libraries", lambda: (old,))
    live(site)
    (warning,) = warnings(caplog)
    assert "tpm2-tss 4.1.3" in warning
    assert "GHSA-q759-vqg7-8rc5" in warning


def test_a_good_library_is_not_spoken_of(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is warned of what does not concern them."""
    monkeypatch.setattr(installed, "libraries", lambda: (Installed(Library.TSS2, "4.1.4"),))
    live(site)
    assert warnings(caplog) == []
