"""TPMs as enrolment leaves them, and the end of every test: nothing may stay loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulators.anchored_tpm import AnchoredTpm, loaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.testing.swtpm import Swtpm


@pytest.fixture
def anchored(tpm: Swtpm) -> Iterator[AnchoredTpm]:
    """A TPM with keys and epoch counter; after the test, before closing, nothing is loaded."""
    with AnchoredTpm(tpm) as made:
        assert loaded(tpm) == {}
        yield made
        assert loaded(tpm) == {}
