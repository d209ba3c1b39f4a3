"""The pytest plugin of hwtrust: TPMs as fixtures.

pytest loads it wherever hwtrust is installed, so it imports nothing that a
project without TPM tests would have to wait for or to install. Rules:

1. Each test has TPMs of its own: other seeds, other EKs.
2. No swtpm, no pass: the fixtures fail, and say what to install. Where that is
   known and accepted, HWTRUST_TEST_SKIP_TPM=1 makes them skip.
3. HWTRUST_TEST_TCTI=device:/dev/tpmrm0 (any TCTI) runs the tests that are marked
   `hardware` on that TPM: their `tpm` is a `HardwareTpm`, which has a `tcti` and
   none of a software TPM's powers. Other tests, and without the variable all
   tests, run on software TPMs. That TPM is somebody's: `hwtrust.testing.hardware`
   asks first, and sees that it stays as it was, also after SIGTERM and SIGHUP. A
   marked test that asks for a software TPM fails then: it would not run where it says.

`backend` and `enrolled_device` are in `hwtrust.testing.fixtures`. docs/testing.md shows
each fixture at work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hwtrust.errors import HwTrustError
    from hwtrust.testing.faults import At
    from hwtrust.testing.manufacture import Algorithm, Vendor
    from hwtrust.testing.swtpm import Swtpm

pytest_plugins = ["hwtrust.testing.fixtures"]

TCTI_VARIABLE = "HWTRUST_TEST_TCTI"
SKIP_VARIABLE = "HWTRUST_TEST_SKIP_TPM"


@dataclass(frozen=True, slots=True)
class HardwareTpm:
    """A TPM that the tests were given and cannot reboot.

    `owner_auth` is its owner hierarchy's password. Tests keep to the handles, indices
    and PCR of `hwtrust.testing.hardware`.
    """

    tcti: str
    owner_auth: bytes = field(default=b"", repr=False)


class TpmFactory(Protocol):
    """Makes software TPMs that last as long as the test."""

    def __call__(
        self,
        *,
        algorithm: Algorithm | None = None,
        banks: Iterable[str] = ("sha1", "sha256"),
        owner_auth: bytes = b"",
        locked_out: bool = False,
        rsa_only: bool = False,
        latency: float = 0.0,
        faults: Iterable[At] = (),
    ) -> Swtpm:
        """A new TPM.

        `algorithm` is that of the EK which has a certificate in NV: "ecc256",
        "rsa2048", or "none" for a TPM whose vendor issued no certificate; by default
        "ecc256", or "rsa2048" where the TPM is `rsa_only`: it offers no elliptic
        curves. `owner_auth` is the owner hierarchy's password; `locked_out` brings
        the TPM into dictionary-attack lockout. Each command takes `latency` seconds
        besides; `faults` are as for `Swtpm.inject`.
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
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tpm_vendor: Vendor
) -> Iterator[TpmFactory]:
    """Make software TPMs: other banks, EKs, passwords, faults, or several at once."""
    from contextlib import ExitStack  # noqa: PLC0415

    from hwtrust.testing.swtpm import Swtpm, installed  # noqa: PLC0415

    if os.environ.get(TCTI_VARIABLE) and request.node.get_closest_marker("hardware"):
        pytest.fail(
            f"this test is marked hardware and wants a software TPM, and {TCTI_VARIABLE} names "
            "another: use the fixture tpm alone, or take the marker away",
            pytrace=False,
        )
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
            algorithm: Algorithm | None = None,
            banks: Iterable[str] = ("sha1", "sha256"),
            owner_auth: bytes = b"",
            locked_out: bool = False,
            rsa_only: bool = False,
            latency: float = 0.0,
            faults: Iterable[At] = (),
        ) -> Swtpm:
            if rsa_only and algorithm == "ecc256":
                pytest.fail("a TPM that is rsa_only has no EK of algorithm ecc256")
            state_dir = tmp_path_factory.mktemp("tpm")
            tpm = started.enter_context(Swtpm.start(state_dir, banks=banks, owner_auth=owner_auth))
            started.callback(tpm.check)
            usual: Algorithm = "rsa2048" if rsa_only else "ecc256"
            tpm_vendor.manufacture(tpm, algorithm=algorithm or usual)
            if locked_out:
                tpm.lock_out()
            if rsa_only:
                tpm.forget_curves()
            tpm.slow_down(latency)
            if steps := tuple(faults):
                tpm.inject(*steps)
            return tpm

        yield make


@pytest.fixture(scope="session")
def hardware_tpm(request: pytest.FixtureRequest) -> Iterator[HardwareTpm]:
    """The TPM that HWTRUST_TEST_TCTI names: with leave, and as it was once the tests are over."""
    tcti = os.environ[TCTI_VARIABLE]
    if hasattr(request.config, "workerinput"):
        pytest.fail(f"{tcti} takes one test at a time: run pytest without -n", pytrace=False)
    with _signals_as_ctrl_c():
        yield from _guarded_tpm(request, tcti)


def _guarded_tpm(request: pytest.FixtureRequest, tcti: str) -> Iterator[HardwareTpm]:
    from hwtrust.errors import HwTrustError  # noqa: PLC0415  # see the module's docstring
    from hwtrust.testing import hardware  # noqa: PLC0415

    try:
        hardware.require_leave(tcti, os.environ, ask=lambda text: _asked(request.config, text))
        owner_auth = hardware.owner_password(os.environ)
        guard = hardware.guarded(tcti, owner_auth=owner_auth)
        found = guard.__enter__()
    except HwTrustError as error:
        pytest.exit(_refusal(error), returncode=pytest.ExitCode.USAGE_ERROR)
    _say(request.config, f"\n{hardware.statement(tcti)}\nIt says: {found}\n")
    yield HardwareTpm(tcti, owner_auth)
    try:
        guard.__exit__(None, None, None)
    except HwTrustError as error:
        if request.session.exitstatus == pytest.ExitCode.INTERRUPTED:
            # After Ctrl-C there is no test left that could fail.
            pytest.exit(_refusal(error), returncode=pytest.ExitCode.INTERRUPTED)
        pytest.fail(_refusal(error), pytrace=False)


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Have the first SIGTERM or SIGHUP interrupt the run: the TPM is cleared at its end.

    A terminal that is closed sends several. Signals that are ignored or somebody's are left.
    """

    def end(*_: object) -> None:
        for each in kept:
            signal.signal(each, lambda *_: None)
        raise KeyboardInterrupt

    kept: dict[signal.Signals, Callable[..., object] | int | None] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                kept[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, former in kept.items():
            signal.signal(number, former)


def _refusal(error: HwTrustError) -> str:
    hint = f"\nhint: {error.hint}" if error.hint else ""
    return f"{error.message} ({error.code}){hint}"


def _asked(config: pytest.Config, text: str) -> str | None:
    """The answer of whoever sits at the terminal; None where nobody does."""
    with _terminal(config):
        if not sys.stdin.isatty():
            return None
        try:
            return input(f"\n{text}")
        except EOFError:
            return ""


def _say(config: pytest.Config, text: str) -> None:
    with _terminal(config):
        sys.stdout.write(text)
        sys.stdout.flush()


@contextmanager
def _terminal(config: pytest.Config) -> Iterator[None]:
    """The program's own input and output, of which pytest takes hold."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        yield
        return
    capture.suspend(in_=True)
    try:
        yield
    finally:
        capture.resume()


@pytest.fixture
def tpm(request: pytest.FixtureRequest) -> Swtpm | HardwareTpm:
    """A new TPM with a P-256 EK certificate; the real one for tests marked `hardware`."""
    tcti = os.environ.get(TCTI_VARIABLE)
    if tcti and request.node.get_closest_marker("hardware"):
        hardware: HardwareTpm = request.getfixturevalue("hardware_tpm")
        return hardware
    make: TpmFactory = request.getfixturevalue("tpm_factory")
    return make()
