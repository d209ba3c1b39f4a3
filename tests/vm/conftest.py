"""What tests in a VM have in common.

1. They run only where HWTRUST_TEST_VM says so, as scripts/vm-test does: `short` those
   that fit into a pipeline, `all` also those marked `long`.
2. HWTRUST_TEST_VM_TPM names the one TPM interface to test with.
3. Statements about a running system share one VM for each TPM interface; a test that
   reboots or changes one makes its own by `new_machine`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args
from urllib.parse import urlsplit

import pytest

from vm.machine import Machine, Plan, TpmInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.testing.manufacture import Vendor
    from hwtrust_backend.testing import BackendServer
    from vm.vendor_device import VendorDevice

VARIABLE = "HWTRUST_TEST_VM"
INTERFACE_VARIABLE = "HWTRUST_TEST_VM_TPM"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "vm: boots a virtual machine; scripts/vm-test runs it")
    config.addinivalue_line("markers", "long: of those, not in the short form")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Rule 1: leave out what is not asked for."""
    left_out = [item for item in items if item.get_closest_marker("vm") and not asked_for(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def asked_for(item: pytest.Item) -> bool:
    """Whether a test in a VM belongs to the form, and to the interface, that is wanted."""
    form, interface = os.environ.get(VARIABLE), os.environ.get(INTERFACE_VARIABLE)
    own = item.callspec.params.get("machine", interface) if hasattr(item, "callspec") else interface
    fits = form == "all" or (form == "short" and not item.get_closest_marker("long"))
    return fits and interface in {None, own}


def interfaces() -> list[object]:
    """The one that is wanted; or all, of which the short form has the first."""
    if asked := os.environ.get(INTERFACE_VARIABLE):
        return [asked]
    first, *others = get_args(TpmInterface)
    return [first, *(pytest.param(one, marks=pytest.mark.long) for one in others)]


@pytest.fixture
def new_machine(tmp_path: Path, tpm_vendor: Vendor) -> Iterator[Callable[[Plan], Machine]]:
    """Make a machine that ends with the test; it is off."""
    made: list[Machine] = []

    def make(plan: Plan) -> Machine:
        machine = Machine.make(tmp_path / f"vm{len(made)}", vendor=tpm_vendor, plan=plan)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.cut_power()


@pytest.fixture(scope="session", params=interfaces())
def machine(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tpm_vendor: Vendor,
) -> Iterator[Machine]:
    """A running machine, with each TPM interface in turn."""
    directory = tmp_path_factory.mktemp("vm") / "machine"
    plan = Plan(interface=request.param)
    with Machine.make(directory, vendor=tpm_vendor, plan=plan) as made:
        made.start()
        made.run("useradd", "--system", "--groups", "tss", "device").good()
        yield made


@pytest.fixture
def device(
    new_machine: Callable[[Plan], Machine], backend: BackendServer, tmp_path: Path
) -> VendorDevice:
    """A device in a running VM that reaches its backend; not set up yet."""
    # The parts of a backend load slowly, and the short form has none.
    from vm.vendor_device import VendorDevice  # noqa: PLC0415

    port = urlsplit(backend.url).port
    assert port is not None
    machine = new_machine(Plan(reach=(port,)))
    machine.start()
    return VendorDevice(machine, backend, tmp_path)
