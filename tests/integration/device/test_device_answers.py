"""A device on a TPM that is asked what it runs, and that reports what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import HwTrustError
from hwtrust_backend.admin import local_administrator
from hwtrust_backend.admin.queries import QueryReport, query, query_report
from hwtrust_backend.testing import MINUTE

if TYPE_CHECKING:
    from simulators.site import Site


def report(site: Site, name: str) -> QueryReport:
    """What the backend shows of question and answer."""
    with site.backend.session() as session:
        return query_report(session, name, by=local_administrator(), now=site.backend.clock())


def test_a_device_answers_by_a_new_challenge_without_being_told(site: Site) -> None:
    """The challenge that it holds is from before the question: it fetches another by itself."""
    name = site.enrol().hex()
    with site.open() as device:
        device.boot()
        device.attest()
        site.backend.clock.advance(MINUTE)
        with site.backend.session() as session:
            asked = query(session, name, by=local_administrator(), now=site.backend.clock())
        device.attest()
    found = report(site, name)
    assert found.answered
    assert found.answer is not None
    assert found.answer.challenged_at >= asked
    assert [(layer.name, layer.digest) for layer in found.answer.layers] == [
        (layer.name, layer.digest.hex()) for layer in site.release.layers
    ]


def test_a_load_that_fails_is_reported_once(site: Site) -> None:
    """A device that gets no certificate any more says by its session what failed."""
    name = site.enrol().hex()
    site.tpm.reboot()
    site.change("kernel")
    with site.open() as device:
        with pytest.raises(HwTrustError):
            device.boot()
        device.attest()
        device.attest()
    failure = report(site, name).failure
    assert failure is not None
    assert (failure.layer, failure.release, failure.times) == ("kernel", "1.0", 1)
    assert failure.over_at is None
