"""The backend's command line, run in this process as a shell runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwtrust_backend.cli import main


class Shell:
    """Runs the command line in this process."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Standard output and error of a command that must end with `code`."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["--data", str(self.data), *arguments])
        found = self._capsys.readouterr()
        assert caught.value.code == code, found.err
        return found.out, found.err

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The result of a command as JSON."""
        return json.loads(self.run(*arguments, "--json")[0])
