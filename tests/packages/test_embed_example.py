"""The vendor's example: forty lines that embed the library, run as they stand."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hwtrust.wire.messages import Standing
from simulators.distributions import ROOT
from simulators.site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust_backend.testing import BackendServer

EXAMPLE = ROOT / "examples" / "embed" / "terminal.py"
LAYER = "app"
KEY = "payments/transport"


@pytest.fixture
def site(tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor) -> Site:
    """A device whose one layer is a program that says that it runs."""
    program = b'#!/bin/sh\necho started >> "$(dirname "$0")/started"\n'
    made = Site(tmp_path, tpm, backend, tpm_vendor, layers={LAYER: program})
    (tmp_path / LAYER).chmod(0o755)
    return made


def run(site: Site, *orders: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """Run the example as its usage says."""
    arguments = [str(site.config_path)]
    if token:
        (site.home / "token").write_text(f"{token}\n")
        arguments.append(str(site.home / "token"))
    return subprocess.run(
        [sys.executable, EXAMPLE, *arguments],
        input="".join(f"{order}\n" for order in orders),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_example_has_forty_lines_at_most() -> None:
    """Embedding is no project of its own."""
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_the_document_shows_the_example_that_is_tested() -> None:
    """What a reader copies is what the tests below run."""
    document = (ROOT / "docs" / "how-to" / "embed.md").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert shown == EXAMPLE.read_text()


def test_the_example_enrols_starts_its_layer_signs_and_keeps_its_key(site: Site) -> None:
    """From nothing to signed orders, and over a restart of the machine the same key."""
    first = run(site, "order 1", "order 2", token=site.token())
    assert first.returncode == 0, first.stderr
    signatures = first.stdout.split()
    assert len(signatures) == 2
    assert (site.home / "started").read_text() == "started\n"
    site.tpm.reboot()
    again = run(site, "order 1")
    assert again.stdout.split() == signatures[:1], again.stderr
    with site.open() as device:
        device.boot()
        key = device.keystore[KEY]
        assert device.attest().standing is Standing.TRUSTED
    assert hmac.new(key, b"order 1\n", hashlib.sha256).hexdigest() == signatures[0]


def test_the_example_signs_nothing_once_its_layer_was_changed(site: Site) -> None:
    """A changed program is neither started nor served with a key; the reason is told."""
    assert run(site, token=site.token()).returncode == 0
    site.tpm.reboot()
    (site.home / "started").unlink()
    site.change(LAYER)
    done = run(site, "order 1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "[layer:mismatch]" in done.stderr
    assert not (site.home / "started").exists()


def test_the_example_tells_an_error_by_its_code(site: Site) -> None:
    """A token that the backend does not know ends in a line, and in no traceback."""
    done = run(site, token="not a token")
    assert done.returncode == 1
    assert done.stderr.startswith("out of order: ")
    assert "Traceback" not in done.stderr
