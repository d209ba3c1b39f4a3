"""What `hwtrust agent` writes to standard error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from hwtrust.cli.agent import log_to_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def levels_as_before() -> Iterator[None]:
    """Loggers belong to the process: what the command does to them ends with the test."""
    levels = {name: logging.getLogger(name).level for name in (None, "hwtrust")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("verbose", [False, True])
def test_the_log_is_the_agents_and_not_that_of_what_it_is_made_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, verbose: bool
) -> None:
    """A holder of a root key who did not sign is no news; two of three are enough."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log_to_stderr(verbose=verbose)
    logging.getLogger("tuf.api").info("No signature for keyid %s", "0123")
    logging.getLogger("hwtrust.agent").info("the device is normal")
    logging.getLogger("hwtrust.agent").debug("a request")
    logging.getLogger("tuf.api").warning("this matters")
    said = capsys.readouterr().err.splitlines()
    asked = ["hwtrust agent: a request"] if verbose else []
    assert said == ["hwtrust agent: the device is normal", *asked, "hwtrust agent: this matters"]
