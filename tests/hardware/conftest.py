"""What runs on any TPM: a software one for each test, or the one that HWTRUST_TEST_TCTI names.

1. Every body keeps to the range of `hwtrust.testing.hardware`, and removes what it makes.
2. After each body nothing is loaded, and the TPM has counted no failed authorisation.
3. What a TPM lacks, the bodies go without, and the end of the report says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from hwtrust.testing import hardware
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.discover import identify
from hwtrust.tpm.leftovers import sweep
from simulators.anchored_hardware import OwnRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hwtrust.testing.plugin import HardwareTpm
    from hwtrust.testing.swtpm import Swtpm

NOTES: Final = pytest.StashKey[dict[str, None]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what the bodies had to go without."""
    notes = config.stash.get(NOTES, {})
    if notes:
        terminalreporter.section("bodies for hardware, as this TPM allows")
        for note in notes:
            terminalreporter.write_line(note)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note for the report what this TPM has or lacks."""
    notes = request.config.stash.setdefault(NOTES, {})

    def take(text: str) -> None:
        notes[f"{request.node.name}: {text}"] = None
        request.node.user_properties.append(("tpm", text))

    return take


@pytest.fixture
def owner_auth(tpm: Swtpm | HardwareTpm) -> bytes:
    """The owner hierarchy's password, which no traceback shows; none on software TPMs."""
    given: bytes = getattr(tpm, "owner_auth", b"")
    return given


@pytest.fixture
def connection(tpm: Swtpm | HardwareTpm, owner_auth: bytes) -> Iterator[Tpm]:
    """The TPM, open; after the test rule 2 is checked."""
    with Tpm(tpm.tcti, owner_auth=owner_auth) as opened:
        before = identify(opened)
        assert loaded_by(opened) == ()
        yield opened
        left = loaded_by(opened)
        sweep(opened)
        after = identify(opened)
        assert left == (), "objects or sessions were left loaded"
        assert after.lockout_counter <= before.lockout_counter
        assert not after.in_lockout


@pytest.fixture
def own(connection: Tpm) -> Iterator[OwnRange]:
    """Keys and counter in the tests' own range; gone afterwards."""
    with OwnRange(connection) as made:
        yield made


@pytest.fixture
def rooted(own: OwnRange) -> OwnRange:
    """A TPM that can hold a root: approvals are signed on P-256."""
    if not own.has_p256:
        pytest.skip("the TPM has no P-256, on which approvals are signed")
    return own


def loaded_by(tpm: Tpm) -> tuple[int, ...]:
    """What is loaded over this connection; on a bare TPM, what is loaded at all."""
    return tuple(sorted(hardware.transient(tpm)))
