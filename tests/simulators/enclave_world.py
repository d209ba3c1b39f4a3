"""A machine with an enclave, its backend, and a clock that the test turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwtrust.enclave import Enclave, State
from simulators.enclave_backend import TOKEN, EnclaveBackend

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from simulators.enclave_machines import EnclaveMachine


class World:
    """A machine, its backend, and a clock that the test turns."""

    def __init__(self, directory: Path, machine: EnclaveMachine) -> None:
        self.directory = directory
        self.machine = machine
        self.backend = EnclaveBackend(machine)
        self.config = self.backend.config(directory)
        self.boot_ms = 1_000
        self.conditions: list[State] = []

    def open(self, **options: Any) -> AbstractContextManager[Enclave]:  # noqa: ANN401
        """Open the enclave, as after a start of its process."""
        chosen: dict[str, Any] = {
            "anchor": self.machine.anchor,
            "token": TOKEN,
            "channel": self.backend.way(),
            "boot_time": lambda: self.boot_ms,
            "on_condition": lambda condition: self.conditions.append(condition.state),
        }
        return Enclave.open(options.pop("config", self.config), **(chosen | options))

    def advance(self, milliseconds: int) -> None:
        """Let time pass here and at the backend."""
        self.boot_ms += milliseconds
        self.backend.now_ms += milliseconds

    @property
    def state_dir(self) -> Path:
        """Where the enclave keeps what it keeps."""
        return self.directory / "state"

    def names(self) -> set[str]:
        """The files in there."""
        return {path.name for path in self.state_dir.iterdir()}
