"""The `[agent]` table of a device's configuration file.

    [agent]
    socket = "/run/hwtrust/agent.sock"  # where host applications connect; "" for none
    socket_group = "hwtrust-clients"    # who can connect at all, besides the agent's own group
    heartbeat = 60                      # seconds, until the backend says another
    remeasure = 3600                    # seconds between two measurements of all layers; 0: never
    settle = 0.5                        # seconds between a file event and the measurement
    watch = true                        # whether file events are watched at all
    retry = 1                           # seconds, the longest first pause after a failure
    look_for_tpm = 5                    # seconds, where udev does not say that a TPM came back

    [[agent.allow]]                     # who may do what: hwtrust.agent.permissions
    group = "payments"
    may = ["read"]
    entries = ["payments/*"]

Rules:
1. Unknown keys are refused: a misspelt option is not a default.
2. Whatever the backend says of a heartbeat counts more than this file.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hwtrust.agent.permissions import Allow
from hwtrust.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SOCKET = "/run/hwtrust/agent.sock"
_SOCKET_NAME = "agent.sock"


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the agent works. Times are in seconds."""

    socket: str | None = None
    socket_group: str | int = ""
    allow: tuple[Allow, ...] = ()
    heartbeat: float = 60
    remeasure: float = 3600
    settle: float = 0.5
    watch: bool = True
    retry: float = 1
    look_for_tpm: float = 5

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> AgentConfig:
        """Read and check the table.

        Raises:
            ConfigError: says which option and why.
        """
        try:
            config = msgspec.convert(dict(table), type=cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"agent: {error}") from error
        config.check()
        return config

    def check(self) -> None:
        """Refuse what cannot work, or cannot be meant.

        Raises:
            ConfigError: says which option and why.
        """
        for name in ("heartbeat", "retry", "look_for_tpm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"agent.{name} is a number of seconds above 0")
        for name in ("remeasure", "settle"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"agent.{name} is a number of seconds, 0 or more")
        if self.socket and not Path(self.socket).is_absolute():
            raise ConfigError("agent.socket is an absolute path")

    def socket_path(self, environment: Mapping[str, str] | None = None) -> Path | None:
        """Where the socket lies; None: there is to be none.

        Where the file does not say, it lies in the directory that the service
        manager has made (RUNTIME_DIRECTORY).
        """
        if self.socket is not None:
            return Path(self.socket) if self.socket else None
        found = os.environ if environment is None else environment
        directory = found.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        return Path(directory) / _SOCKET_NAME if directory else Path(DEFAULT_SOCKET)
