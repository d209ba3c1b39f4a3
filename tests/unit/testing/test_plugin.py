"""Another project gets TPMs in its tests by installing hwtrust."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tpm2_pytss import ESAPI, TPM2B_SENSITIVE_CREATE
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.utils import NVReadEK

import hwtrust.testing
from hwtrust.testing import firmware, plugin
from hwtrust.testing.manufacture import EK_CERTIFICATE_INDEX, create_ek
from hwtrust.testing.plugin import HardwareTpm

if TYPE_CHECKING:
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.plugin import TpmFactory
    from hwtrust.testing.swtpm import Swtpm

pytest_plugins = ["pytester"]

RC_BAD_AUTH = 0x9A2
RC_HANDLE_1 = 0x18B
RC_LOCKOUT = 0x921

HEAVY = (
    "tpm2_pytss",
    "cryptography",
    "msgspec",
    "hwtrust.testing.swtpm",
    "hwtrust.errors",
    "hwtrust_backend",
)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Another project, run by somebody who has set none of the plugin's variables.

    It loads this plugin alone, to start faster.
    """
    monkeypatch.delenv(plugin.TCTI_VARIABLE, raising=False)
    monkeypatch.delenv(plugin.SKIP_VARIABLE, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "hwtrust.testing.plugin")
    return pytester


def certificate_in(tpm: Swtpm, algorithm: str = "ecc256") -> bytes:
    """The EK certificate in NV."""
    with ESAPI(tpm.tcti) as esapi:
        return bytes(NVReadEK(esapi)(EK_CERTIFICATE_INDEX[algorithm]))


# --- in a project of its own ----------------------------------------------------------


def test_the_example_in_the_documentation_runs(pytester: pytest.Pytester) -> None:
    """The package's docstring holds a test that passes where hwtrust is just installed."""
    assert hwtrust.testing.__doc__ is not None
    block = re.search(r"\n\n((?:    .*\n|\n)+)", hwtrust.testing.__doc__)
    assert block is not None
    example = textwrap.dedent(block[1])
    assert isinstance(ast.parse(example).body[-1], ast.FunctionDef)
    pytester.makepyfile(example)
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_without_swtpm_the_fixture_fails(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program is no reason for a test to pass or to be passed over."""
    monkeypatch.setenv("PATH", str(project.mkdir("empty")))
    project.makepyfile("def test_with_a_tpm(tpm): pass\ndef test_without(): pass")
    outcome = project.runpytest_subprocess()
    outcome.assert_outcomes(errors=1, passed=1)
    assert "install the program swtpm" in outcome.stdout.str()


def test_without_swtpm_the_fixture_skips_where_that_is_accepted(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HWTRUST_TEST_SKIP_TPM=1 is the one way to skip, and only without swtpm."""
    monkeypatch.setenv(plugin.SKIP_VARIABLE, "1")
    project.makepyfile("def test_with_a_tpm(tpm): assert tpm.tcti")
    project.runpytest_subprocess().assert_outcomes(passed=1)
    monkeypatch.setenv("PATH", str(project.mkdir("empty")))
    project.runpytest_subprocess().assert_outcomes(skipped=1)


def test_hardware_tests_get_the_tpm_that_is_named(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tpm: Swtpm
) -> None:
    """HWTRUST_TEST_TCTI is for marked tests alone: others never touch that TPM."""
    project.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.hardware
        def test_marked(tpm):
            assert tpm.tcti == os.environ["HWTRUST_TEST_TCTI"]
            assert not hasattr(tpm, "reboot")

        def test_unmarked(tpm):
            assert tpm.tcti != os.environ.get("HWTRUST_TEST_TCTI")
            tpm.reboot()
        """
    )
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv("HWTRUST_TEST_HARDWARE_OK", tpm.tcti)
    project.runpytest_subprocess("--strict-markers").assert_outcomes(passed=2)
    monkeypatch.delenv(plugin.TCTI_VARIABLE)
    outcome = project.runpytest_subprocess("--strict-markers")
    outcome.assert_outcomes(passed=1, failed=1)
    assert "test_unmarked" not in outcome.stdout.str()


@pytest.mark.parametrize("fixture", ["tpm_factory", "enrolled_device"])
def test_a_marked_test_does_not_run_on_a_software_tpm_instead(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tpm: Swtpm, fixture: str
) -> None:
    """Where a TPM is named, who is marked `hardware` runs on it, or fails and says why."""
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.hardware
        def test_marked({fixture}):
            pass

        def test_unmarked(tpm_factory):
            assert tpm_factory().tcti
        """
    )
    monkeypatch.setenv(plugin.TCTI_VARIABLE, tpm.tcti)
    monkeypatch.setenv("HWTRUST_TEST_HARDWARE_OK", tpm.tcti)
    outcome = project.runpytest_subprocess()
    outcome.assert_outcomes(errors=1, passed=1)
    assert "marked hardware and wants a software TPM" in outcome.stdout.str()
    monkeypatch.delenv(plugin.TCTI_VARIABLE)
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_loading_the_plugin_loads_nothing_else() -> None:
    """Projects that have hwtrust and no TPM tests pay nothing, and need no TPM stack."""
    script = (
        "import sys, hwtrust.testing.plugin as plugin\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_swtpm_and_manufacture_need_no_tpm_stack() -> None:
    """The fixtures work where tpm2-pytss is not installed."""
    script = (
        "import sys\n"
        "sys.modules['tpm2_pytss'] = None\n"
        "from datetime import datetime, UTC\n"
        "from hwtrust.testing.manufacture import Vendor\n"
        "from hwtrust.testing.swtpm import Swtpm\n"
        "with Swtpm.start() as tpm:\n"
        "    print(Vendor.create(now=datetime.now(UTC)).manufacture(tpm, algorithm='ecc256'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Certificate" in done.stdout


# --- the fixtures -----------------------------------------------------------------------


def test_the_tpm_has_a_certificate_of_the_session_s_vendor(tpm: Swtpm, tpm_vendor: Vendor) -> None:
    """`tpm` is manufactured by `tpm_vendor`, with a P-256 EK."""
    certificate = x509.load_der_x509_certificate(certificate_in(tpm))
    certificate.verify_directly_issued_by(tpm_vendor.intermediate)
    assert certificate.public_key() == create_ek(tpm.bus, "ecc256")


def test_tpms_of_one_test_differ(tpm: Swtpm, tpm_factory: TpmFactory) -> None:
    """Each TPM has seeds of its own, and all run at once."""
    others = [tpm_factory() for _ in range(2)]
    eks = {certificate_in(one) for one in (tpm, *others)}
    assert len(eks) == 3
    assert len({one.tcti for one in (tpm, *others)}) == 3


def test_the_factory_makes_an_rsa_tpm(tpm_factory: TpmFactory) -> None:
    """`rsa2048` has its certificate in the RSA index and none in the other."""
    tpm = tpm_factory(algorithm="rsa2048")
    assert certificate_in(tpm, "rsa2048")
    with ESAPI(tpm.tcti) as esapi, pytest.raises(TSS2_Exception) as caught:
        esapi.tr_from_tpmpublic(EK_CERTIFICATE_INDEX["ecc256"])
    assert caught.value.rc == RC_HANDLE_1


def test_the_factory_makes_a_tpm_without_a_certificate(tpm_factory: TpmFactory) -> None:
    """`none` is a TPM for allow-lists."""
    tpm = tpm_factory(algorithm="none")
    with ESAPI(tpm.tcti) as esapi:
        for index in EK_CERTIFICATE_INDEX.values():
            with pytest.raises(TSS2_Exception) as caught:
                esapi.tr_from_tpmpublic(index)
            assert caught.value.rc == RC_HANDLE_1


def test_the_factory_makes_a_tpm_with_other_banks(tpm_factory: TpmFactory) -> None:
    """`banks` reaches the TPM."""
    allocated = firmware.banks(tpm_factory(banks=("sha1",)).bus)
    assert [name for name, number in firmware.BANKS.items() if allocated[number]] == ["sha1"]


def test_the_factory_makes_an_owned_tpm(tpm_factory: TpmFactory) -> None:
    """`owner_auth` reaches the TPM; its certificate is there all the same."""
    tpm = tpm_factory(owner_auth=b"owner")
    assert certificate_in(tpm)
    with ESAPI(tpm.tcti) as esapi, pytest.raises(TSS2_Exception) as caught:
        esapi.create_primary(TPM2B_SENSITIVE_CREATE())
    assert caught.value.rc == RC_BAD_AUTH


def test_the_factory_makes_a_tpm_in_lockout(tpm_factory: TpmFactory) -> None:
    """`locked_out` is a lockout that the TPM reports; its certificate stays readable."""
    tpm = tpm_factory(locked_out=True)
    assert certificate_in(tpm)
    with ESAPI(tpm.tcti) as esapi:
        sealing = TPM2B_SENSITIVE_CREATE()
        sealing.sensitive.userAuth = b"password"
        handle = esapi.create_primary(sealing)[0]
        with pytest.raises(TSS2_Exception) as caught:
            esapi.create(handle, TPM2B_SENSITIVE_CREATE())
    assert caught.value.rc == RC_LOCKOUT


@pytest.mark.hardware
def test_a_marked_test_runs_on_a_software_tpm_too(tpm: Swtpm | HardwareTpm) -> None:
    """The same body runs on swtpm and on a hardware TPM."""
    with ESAPI(tpm.tcti) as esapi:
        assert len(bytes(esapi.get_random(8))) == 8


def test_a_test_s_tpms_are_gone_when_it_ends(project: pytest.Pytester, tmp_path: Path) -> None:
    """The fixtures stop what they started, when the test fails too."""
    note = tmp_path / "pids"
    project.makepyfile(
        f"""
        import pathlib

        def test_that_fails(tpm, tpm_factory):
            pathlib.Path({str(note)!r}).write_text(f"{{tpm.pid}} {{tpm_factory().pid}}")
            assert False

        def test_afterwards():
            pids = pathlib.Path({str(note)!r}).read_text().split()
            assert [pid for pid in pids if pathlib.Path("/proc", pid).exists()] == []
        """
    )
    project.runpytest_subprocess().assert_outcomes(failed=1, passed=1)
