"""A backend and enrolled devices, as another project has them by installing hwtrust."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust import errors
from hwtrust.device import State
from hwtrust.testing import plugin
from hwtrust.wire.messages import Standing

if TYPE_CHECKING:
    from hwtrust.testing.device import EnrolledDevice
    from hwtrust.testing.fixtures import EnrolledDeviceFactory
    from hwtrust.testing.plugin import TpmFactory

pytest_plugins = ["pytester"]

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "testing.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Another project, which loads this plugin alone."""
    monkeypatch.delenv(plugin.TCTI_VARIABLE, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "hwtrust.testing.plugin")
    return pytester


def test_every_block_of_the_documentation_runs(project: pytest.Pytester) -> None:
    """What is copied from docs/testing.md passes, with warnings as errors."""
    assert len(BLOCKS) >= 5
    project.makepyfile(**{f"test_block_{number}": text for number, text in enumerate(BLOCKS)})
    project.runpytest_subprocess("-W", "error").assert_outcomes(passed=len(BLOCKS))


def test_the_documentation_names_every_fixture_and_argument() -> None:
    """None is missing, none is made up."""
    text = DOCUMENT.read_text()
    source = Path(plugin.__file__).read_text()
    source += Path(plugin.__file__).with_name("fixtures.py").read_text()
    fixtures = set(re.findall(r"@pytest\.fixture.*\ndef (\w+)\(", source)) - {"hardware_tpm"}
    table = text.partition("| fixture |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == fixtures
    arguments = {name for name in plugin.TpmFactory.__call__.__annotations__ if name != "return"}
    table = text.partition("| argument |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == arguments


@pytest.mark.parametrize(
    ("module", "install"),
    [("hwtrust_backend", "hwtrust-backend"), ("tpm2_pytss", "hwtrust[device]")],
)
def test_what_is_not_installed_is_named(
    project: pytest.Pytester, module: str, install: str
) -> None:
    """The fixture fails, and says what to install; it does not skip."""
    project.makeconftest(
        f"""
        import importlib.util

        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: (
            None if name == {module!r} else find(name, *rest)
        )
        """
    )
    project.makepyfile("def test_with_a_device(enrolled_device): pass")
    outcome = project.runpytest_subprocess()
    outcome.assert_outcomes(errors=1)
    assert f"pip install '{install}'" in outcome.stdout.str()


def test_a_device_keeps_its_secret_over_reboot_and_rotation(
    enrolled_device: EnrolledDevice,
) -> None:
    """It is enrolled, has booted and attested, and is one that the backend trusts."""
    enrolled_device.keystore.put("name", b"value")
    assert enrolled_device.attest().standing is Standing.TRUSTED
    assert enrolled_device.rotate().rotated_to == 2
    enrolled_device.reboot()
    assert enrolled_device.keystore["name"] == b"value"
    assert enrolled_device.site.backend_epoch(enrolled_device.name) == 2


def test_a_closed_device_has_no_key_store(enrolled_device: EnrolledDevice) -> None:
    """An error of the tree, not an attribute that is missing."""
    enrolled_device.close()
    enrolled_device.close()
    with pytest.raises(errors.KeyStoreLockedError) as caught:
        _ = enrolled_device.keystore
    assert caught.value.code == "keystore:locked"


def test_a_platform_pcr_that_changes_closes_the_device(
    enrolled_device_factory: EnrolledDeviceFactory,
) -> None:
    """`platform_pcrs` are part of what the root is sealed to, and firmware runs at each reboot."""
    device = enrolled_device_factory(platform_pcrs=(0,))
    device.reboot()
    device.close()
    device.tpm.reboot()  # and no firmware has measured
    with pytest.raises(errors.RefusedError) as caught:
        device.open().boot()
    assert caught.value.code == "channel:refused"
    assert device.conditions[-1].state is State.LOCKED


def test_a_tpm_without_curves_is_not_enrolled(
    enrolled_device_factory: EnrolledDeviceFactory, tpm_factory: TpmFactory
) -> None:
    """The backend's approvals are signed with P-256, which the TPM has to verify."""
    tpm = tpm_factory(rsa_only=True)
    with pytest.raises(errors.TpmCurveError) as caught:
        enrolled_device_factory(tpm=tpm)
    assert caught.value.code == "tpm:curve:missing"


def test_a_planned_fault_that_could_not_happen_fails_the_test(project: pytest.Pytester) -> None:
    """Even where the test itself takes the broken connection calmly."""
    project.makepyfile(
        """
        import contextlib
        from tpm2_pytss import ESAPI
        from hwtrust.testing.faults import Alter, At

        def test_that_passes(tpm_factory):
            tpm = tpm_factory(faults=[At(Alter("request", 5000))])
            with contextlib.suppress(Exception), ESAPI(tpm.tcti) as esapi:
                esapi.get_random(4)
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1, errors=1)
