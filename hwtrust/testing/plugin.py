"""The pytest plugin of hwtrust: TPMs as fixtures.

pytest loads it wherever hwtrust is installed, so it imports nothing that a
project without TPM tests would have to wait for or to install. Rules:

1. Each test has TPMs of its own: other seeds, other EKs.
2. No swtpm, no pass: the fixtures fail, and say what to install. Where that is
   known and accepted, HWTRUST_TEST_SKIP_TPM=1 makes them skip.
3. HWTRUST_TEST_TCTI=device:/dev/tpmrm0 (any TCTI) runs the tests that are marked
   `hardware` on that TPM: their `tpm` is a `HardwareTpm`, which has a `tcti` and
   none of a software TPM's powers. Other tests, and without the variable all
   tests, run on software TPMs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hwtrust.testing.manufacture import Algorithm, Vendor
    from hwtrust.testing.swtpm import Swtpm

TCTI_VARIABLE = "HWTRUST_TEST_TCTI"
SKIP_VARIABLE = "HWTRUST_TEST_SKIP_TPM"


@dataclass(frozen=True, slots=True)
class HardwareTpm:
    """A TPM that the tests were given and cannot reboot."""

    tcti: str


class TpmFactory(Protocol):
    """Makes software TPMs that last as long as the test."""

    def __call__(
        self,
        *,
        algorithm: Algorithm = "ecc256",
        banks: Iterable[str] = ("sha1", "sha256"),
        owner_auth: bytes = b"",
        locked_out: bool = False,
    ) -> Swtpm:
        """A new TPM.

        `algorithm` is that of the EK which has a certificate in NV: "ecc256",
        "rsa2048", or "none" for a TPM whose vendor issued no certificate.
        `owner_auth` is the owner hierarchy's password; `locked_out` brings the
        TPM into dictionary-attack lockout.
        """


def pytest_configure(config: pytest.Config) -> None:
    """Declare the plugin's marker."""
    config.addinivalue_line(
        "markers",
        f"hardware: runs on the TPM that {TCTI_VARIABLE} names, on a software TPM without it",
    )


@pytest.fixture(scope="session")
def tpm_vendor() -> Vendor:
    """The vendor of the session's TPMs; a backend that has its `ca_pem` trusts them."""
    from datetime import UTC, datetime  # noqa: PLC0415  # see the module's docstring

    from hwtrust.testing.manufacture import Vendor  # noqa: PLC0415

    return Vendor.create(now=datetime.now(UTC))


@pytest.fixture
def tpm_factory(
    tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor
) -> Iterator[TpmFactory]:
    """Make software TPMs: other banks, EKs, passwords, or several at once."""
    from contextlib import ExitStack  # noqa: PLC0415

    from hwtrust.testing.swtpm import Swtpm, installed  # noqa: PLC0415

    if not installed():
        if os.environ.get(SKIP_VARIABLE) == "1":
            pytest.skip(f"swtpm is not installed and {SKIP_VARIABLE}=1")
        pytest.fail(
            "this test needs a software TPM: install the program swtpm (Debian, Ubuntu, "
            f"Fedora: package swtpm), or set {SKIP_VARIABLE}=1 to skip such tests",
            pytrace=False,
        )
    with ExitStack() as started:

        def make(
            *,
            algorithm: Algorithm = "ecc256",
            banks: Iterable[str] = ("sha1", "sha256"),
            owner_auth: bytes = b"",
            locked_out: bool = False,
        ) -> Swtpm:
            state_dir = tmp_path_factory.mktemp("tpm")
            tpm = started.enter_context(Swtpm.start(state_dir, banks=banks, owner_auth=owner_auth))
            tpm_vendor.manufacture(tpm, algorithm=algorithm)
            if locked_out:
                tpm.lock_out()
            return tpm

        yield make


@pytest.fixture
def tpm(request: pytest.FixtureRequest) -> Swtpm | HardwareTpm:
    """A new TPM with a P-256 EK certificate; the real one for tests marked `hardware`."""
    tcti = os.environ.get(TCTI_VARIABLE)
    if tcti and request.node.get_closest_marker("hardware"):
        return HardwareTpm(tcti)
    make: TpmFactory = request.getfixturevalue("tpm_factory")
    return make()
