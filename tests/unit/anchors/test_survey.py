"""What a machine has is told with what it can do, and with the reason where it cannot."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from hwtrust.anchors.gramine import GramineHeader
from hwtrust.anchors.port import LinuxPort
from hwtrust.anchors.protocols import Anchor, Capability, Kind
from hwtrust.anchors.sev_guest import SevGuestAttester
from hwtrust.anchors.survey import find_anchors
from hwtrust.anchors.tsm import TsmAttester
from hwtrust.cli import anchors as command
from hwtrust.errors import TpmPermissionError
from simulators.fake_gramine import FILES, FakeGramine
from simulators.fake_machine import Device, FakeMachine, Forbidden
from simulators.fake_nsm import FakeNsm
from simulators.fake_sev_guest import FakeSevGuest
from simulators.fake_tdx import DEVICE, MEASUREMENTS, FakeMeasurements, FakeTdxGuest, TrustDomain
from simulators.fake_tsm import REPORTS, FakeTsm
from unit.anchors import shapes
from unit.anchors.shapes import DATA

if TYPE_CHECKING:
    from collections.abc import Callable

M, A, S = Capability.MEASURE, Capability.ATTEST, Capability.SEAL


def tdx_machine() -> dict[str, Device]:
    """A trust domain on a new kernel."""
    domain = TrustDomain()
    return {
        REPORTS: FakeTsm(shapes.tdx, provider="tdx_guest"),
        DEVICE: FakeTdxGuest(domain),
        MEASUREMENTS: FakeMeasurements(domain),
    }


def silent() -> FakeNsm:
    """An NSM whose answers nobody understands."""
    nsm = FakeNsm(shapes.token)
    nsm.raw_answer = b"\xff"
    return nsm


def without_keys() -> FakeGramine:
    """Gramine outside of SGX."""
    gramine = FakeGramine(shapes.sgx)
    gramine.attestation_type, gramine.has_keys = "none", False
    return gramine


MACHINES: dict[str, tuple[Callable[[], dict[str, Device]], Kind, set[Capability], dict[str, str]]]
MACHINES = {
    "an SNP guest": (
        lambda: {REPORTS: FakeTsm(shapes.snp), "/dev/sev-guest": FakeSevGuest()},
        Kind.SNP,
        {A, S},
        {},
    ),
    "an SNP guest on an old kernel": (
        lambda: {"/dev/sev-guest": FakeSevGuest()},
        Kind.SNP,
        {A, S},
        {},
    ),
    "an SNP guest without its device": (
        lambda: {REPORTS: FakeTsm(shapes.snp)},
        Kind.SNP,
        {A},
        {"seal": "anchor:none"},
    ),
    "an SNP guest, not as root": (
        lambda: {REPORTS: Forbidden(), "/dev/sev-guest": Forbidden()},
        Kind.SNP,
        set(),
        {"attest": "anchor:permission", "seal": "anchor:permission"},
    ),
    "a trust domain": (tdx_machine, Kind.TDX, {M, A}, {}),
    "a trust domain on an old kernel": (
        lambda: {REPORTS: FakeTsm(shapes.tdx, provider="tdx_guest")},
        Kind.TDX,
        {A},
        {"measure": "anchor:none"},
    ),
    "a trust domain without configfs": (
        lambda: {DEVICE: FakeTdxGuest(TrustDomain())},
        Kind.TDX,
        set(),
        {"measure": "anchor:none", "attest": "anchor:none"},
    ),
    "a trust domain without a provider": (
        lambda: tdx_machine() | {REPORTS: FakeTsm(shapes.tdx, provider=None)},
        Kind.TDX,
        {M},
        {"attest": "anchor:provider"},
    ),
    "a trust domain, not as root": (
        lambda: {REPORTS: Forbidden(), DEVICE: Forbidden()},
        Kind.TDX,
        set(),
        {"measure": "anchor:none", "attest": "anchor:permission"},
    ),
    "a realm": (
        lambda: {REPORTS: FakeTsm(shapes.token, provider="arm_cca_guest")},
        Kind.CCA,
        {A},
        {},
    ),
    "a Nitro Enclave": (lambda: {"/dev/nsm": FakeNsm(shapes.token)}, Kind.NITRO, {M, A}, {}),
    "a Nitro Enclave, not as root": (
        lambda: {"/dev/nsm": Forbidden()},
        Kind.NITRO,
        set(),
        {"measure": "anchor:permission", "attest": "anchor:permission"},
    ),
    "a Nitro Enclave whose NSM is not understood": (
        lambda: {"/dev/nsm": silent()},
        Kind.NITRO,
        set(),
        {"measure": "anchor:response", "attest": "anchor:response"},
    ),
    "an SGX enclave, not for this user": (
        lambda: {FILES: Forbidden()},
        Kind.SGX,
        set(),
        {"attest": "anchor:permission", "seal": "anchor:none"},
    ),
    "an SGX enclave": (lambda: {FILES: FakeGramine(shapes.sgx)}, Kind.SGX, {A, S}, {}),
    "Gramine without SGX": (
        lambda: {FILES: without_keys()},
        Kind.SGX,
        set(),
        {"attest": "anchor:provider", "seal": "anchor:none"},
    ),
    "a new kind of guest": (
        lambda: {REPORTS: FakeTsm(shapes.token, provider="other_guest")},
        Kind.UNKNOWN,
        set(),
        {"attest": "anchor:provider"},
    ),
    "reports that others may ask for": (
        lambda: {REPORTS: Forbidden()},
        Kind.UNKNOWN,
        set(),
        {"attest": "anchor:permission"},
    ),
}


@pytest.mark.parametrize(("devices", "kind", "can", "problems"), MACHINES.values(), ids=MACHINES)
def test_a_machine_tells_what_it_can_do(
    devices: Callable[[], dict[str, Device]],
    kind: Kind,
    can: set[Capability],
    problems: dict[str, str],
) -> None:
    """What is missing is missing, what is forbidden has its reason."""
    (anchor,) = find_anchors(FakeMachine(devices()))
    assert anchor.kind is kind
    assert {item for item in Capability if anchor.can(item)} == can
    assert (anchor.measurer is not None, anchor.attester is not None) == (M in can, A in can)
    assert (anchor.sealer is not None) == (S in can)
    assert bool(anchor.registers) == (M in can)
    assert {name.value: problem.code for name, problem in anchor.problems.items()} == problems


@pytest.mark.parametrize("devices", [item[0] for item in MACHINES.values()], ids=MACHINES)
def test_what_is_told_works(devices: Callable[[], dict[str, Device]]) -> None:
    """Each capability is used as it was found."""
    for anchor in find_anchors(FakeMachine(devices())):
        if anchor.attester is not None:
            assert anchor.attester.attest(DATA).kind is anchor.kind is anchor.attester.kind
        if anchor.measurer is not None:
            assert len(anchor.measurer.extend(anchor.registers[-1], bytes(48))) == 48
        if anchor.sealer is not None:
            assert anchor.sealer.unseal(anchor.sealer.seal(b"secret")) == b"secret"


@pytest.mark.parametrize("devices", [item[0] for item in MACHINES.values()], ids=MACHINES)
def test_looking_leaves_nothing_behind(devices: Callable[[], dict[str, Device]]) -> None:
    """No directory, no extended register."""
    machine = FakeMachine(devices())
    find_anchors(machine)
    reports = machine.devices.get(REPORTS)
    assert not isinstance(reports, FakeTsm) or reports.entries == {}
    assert not [call for call, _ in machine.calls if call == "write"]


def test_a_machine_may_have_several() -> None:
    """A TPM, and what it runs in."""
    devices = {REPORTS: FakeTsm(shapes.snp), "/dev/sev-guest": FakeSevGuest()}
    tpm = Anchor(kind=Kind.TPM, name="TPM", path="/dev/tpmrm0", served=frozenset(Capability))
    found = find_anchors(
        FakeMachine(devices | {"/dev/nsm": FakeNsm(shapes.token)}), tpm=lambda: [tpm]
    )
    assert [anchor.kind for anchor in found] == [Kind.TPM, Kind.SNP, Kind.NITRO]
    assert all(found[0].can(capability) for capability in Capability)


def test_a_machine_may_have_none() -> None:
    """And that is no error."""
    assert find_anchors(FakeMachine({})) == ()
    assert find_anchors(FakeMachine({REPORTS: FakeTsm(shapes.snp, provider=None)})) == ()


def test_a_guest_above_an_svsm_uses_its_own_level() -> None:
    """Reports and keys are asked for at the floor."""
    reports, device = FakeTsm(shapes.snp, floor=2), FakeSevGuest()
    device.vmpl = 2
    (anchor,) = find_anchors(FakeMachine({REPORTS: reports, "/dev/sev-guest": device}))
    assert anchor.attester is not None
    assert anchor.sealer is not None
    anchor.attester.attest(DATA)
    anchor.sealer.seal(b"secret")
    assert (reports.privlevels, device.keys[0][2]) == ([2], 2)
    assert "it runs at VMPL 2" in anchor.notes


def test_the_common_interface_is_preferred() -> None:
    """The device is for kernels without it."""
    both = {REPORTS: FakeTsm(shapes.snp), "/dev/sev-guest": FakeSevGuest()}
    (anchor,) = find_anchors(FakeMachine(both))
    assert isinstance(anchor.attester, TsmAttester)
    (anchor,) = find_anchors(FakeMachine({"/dev/sev-guest": FakeSevGuest()}))
    assert isinstance(anchor.attester, SevGuestAttester)


def test_reports_of_another_provider_are_not_taken_for_ones_own() -> None:
    """Whatever device is there: who makes the reports decides what they are."""
    domain = {REPORTS: FakeTsm(shapes.tdx, provider="tdx_guest"), "/dev/sev-guest": FakeSevGuest()}
    snp, tdx = find_anchors(FakeMachine(domain))
    assert (snp.kind, tdx.kind) == (Kind.SNP, Kind.TDX)
    assert isinstance(snp.attester, SevGuestAttester)
    guest = {REPORTS: FakeTsm(shapes.snp), DEVICE: FakeTdxGuest(TrustDomain())}
    _, tdx = find_anchors(FakeMachine(guest))
    assert tdx.attester is None
    assert tdx.problems[A].code == "anchor:provider"


def test_an_anchors_path_is_where_it_was_found() -> None:
    """The device if it is there, the reports' directory if not."""
    for devices, path in (
        ({REPORTS: FakeTsm(shapes.snp)}, REPORTS),
        ({REPORTS: FakeTsm(shapes.snp), "/dev/sev-guest": FakeSevGuest()}, "/dev/sev-guest"),
        ({REPORTS: FakeTsm(shapes.tdx, provider="tdx_guest")}, REPORTS),
    ):
        (anchor,) = find_anchors(FakeMachine(devices))
        assert anchor.path == path


def test_an_nsm_has_as_many_registers_as_it_says() -> None:
    """From 16 to what it describes."""
    nsm = FakeNsm(shapes.token)
    honest = nsm._say

    def few(asked: object) -> object:
        said = honest(asked)
        if asked == "DescribeNSM":
            assert isinstance(said, dict)
            said["DescribeNSM"]["max_pcrs"] = 20
        return said

    nsm._say = few  # type: ignore[method-assign]
    (anchor,) = find_anchors(FakeMachine({"/dev/nsm": nsm}))
    assert anchor.registers == ("pcr16", "pcr17", "pcr18", "pcr19")


def test_an_enclave_seals_to_itself() -> None:
    """Not to its signer, whose other enclaves could open what it keeps."""
    (anchor,) = find_anchors(FakeMachine({FILES: FakeGramine(shapes.sgx)}))
    assert anchor.sealer is not None
    header, _ = GramineHeader.read(anchor.sealer.seal(b"secret"))
    assert header.facts()["seal_to"] == "enclave"


# --- the command ------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, devices: dict[str, Device], *options: str) -> Result:
    """`hwtrust anchors` on a machine of these devices, without a TPM."""
    monkeypatch.setattr("hwtrust.anchors.port.LinuxPort", lambda: FakeMachine(devices))
    monkeypatch.setattr("hwtrust.tpm.discover.discover", list)
    return CliRunner().invoke(command.anchors, options, catch_exceptions=False)


def test_the_command_shows_registers_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line an anchor, then why not, then what there is to know."""
    shown = run(monkeypatch, tdx_machine()).stdout
    first, second, *rest = shown.splitlines()
    assert first.split() == ["KIND", "NAME", "DEVICE", "MEASURE", "ATTEST", "SEAL"]
    assert second.split()[-3:] == ["rtmr2-3", "yes", "no"]
    assert len(rest) == 1
    denied = run(monkeypatch, {"/dev/nsm": Forbidden()}).stdout
    assert "nitro: cannot attest: /dev/nsm: Permission denied [anchor:permission]" in denied
    assert "  hint: " in denied
    assert "unusable" in denied
    assert "pcr16-31" in run(monkeypatch, {"/dev/nsm": FakeNsm(shapes.token)}).stdout


def test_the_command_says_when_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, or as an empty list."""
    assert run(monkeypatch, {}).stdout.startswith("no anchor found")
    assert json.loads(run(monkeypatch, {}, "--json").stdout) == []


def test_the_command_speaks_to_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fact, by the field's terms."""
    (told,) = json.loads(run(monkeypatch, tdx_machine(), "--json").stdout)
    assert told == {
        "kind": "tdx",
        "name": "Intel TDX",
        "path": DEVICE,
        "measure": True,
        "attest": True,
        "seal": False,
        "registers": ["rtmr2", "rtmr3"],
        "problems": [],
        "notes": ["it has no key to seal with: roots are held in memory only"],
    }


class Candidate:
    """What is used of a TPM that udev knows."""

    path = "/dev/tpmrm0"

    def __init__(self, *, version: int | None = 2, problem: Exception | None = None) -> None:
        self.major_version = version
        self.problem = problem


def test_a_tpm_is_an_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can do all three; or none, with the reason."""
    found = [
        Candidate(),
        Candidate(version=1),
        Candidate(problem=TpmPermissionError("not for this user")),
    ]
    monkeypatch.setattr("hwtrust.tpm.discover.discover", lambda: found)
    good, old, denied = command.tpm_anchors(FakeMachine({}))
    assert good.facts()["registers"] == [f"pcr{index}" for index in range(24)]
    assert [good.can(item) for item in Capability] == [True] * 3
    for anchor, code in ((old, "tpm:version"), (denied, "tpm:permission")):
        assert not any(anchor.can(item) for item in Capability)
        assert {problem.code for problem in anchor.problems.values()} == {code}


def test_a_tpm_without_its_software_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command works where only the base of hwtrust is installed."""
    monkeypatch.setitem(sys.modules, "hwtrust.tpm.discover", None)
    monkeypatch.delattr("hwtrust.tpm.discover", raising=False)
    assert list(command.tpm_anchors(FakeMachine({}))) == []
    devices = {"/dev/tpmrm0": Forbidden(), "/dev/tpm0": Device()}
    (anchor,) = command.tpm_anchors(FakeMachine(devices))
    assert anchor.path == "/dev/tpmrm0"
    assert {problem.code for problem in anchor.problems.values()} == {"anchor:software"}


def test_this_machine_can_be_looked_at() -> None:
    """Whatever it is, nothing is raised."""
    for anchor in find_anchors(LinuxPort()):
        assert anchor.facts()["kind"] == anchor.kind
