"""The agent's table of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwtrust.agent.config import AgentConfig
from hwtrust.errors import ConfigError


def test_an_empty_table_is_a_working_agent() -> None:
    """Every option has a default, and the socket lies where the service manager made room."""
    config = AgentConfig.of({})
    assert config.heartbeat == 60
    assert config.watch
    assert config.allow == ()
    assert config.socket_path({}) == Path("/run/hwtrust/agent.sock")
    assert config.socket_path({"RUNTIME_DIRECTORY": "/run/x:/run/y"}) == Path("/run/x/agent.sock")
    assert AgentConfig.of({"socket": ""}).socket_path({}) is None
    assert AgentConfig.of({"socket": "/a/b"}).socket_path({}) == Path("/a/b")


@pytest.mark.parametrize(
    "table",
    [
        {"hartbeat": 60},
        {"heartbeat": 0},
        {"heartbeat": -1},
        {"heartbeat": float("inf")},
        {"heartbeat": float("nan")},
        {"heartbeat": "1m"},
        {"retry": 0},
        {"look_for_tpm": 0},
        {"remeasure": -1},
        {"settle": float("nan")},
        {"watch": "yes"},
        {"socket": "agent.sock"},
        {"allow": [{"may": ["everything"], "user": "root"}]},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(table: dict[str, Any]) -> None:
    """A misspelt option is not a default, and no number makes a busy loop."""
    with pytest.raises(ConfigError) as caught:
        AgentConfig.of(table)
    assert caught.value.code == "config"
