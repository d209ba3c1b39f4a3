"""/dev/sev-guest: the firmware's word counts, the host's word only delays."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.anchors.protocols import Kind
from hwtrust.anchors.sev_guest import (
    MAX_CERTIFICATES,
    TRIES,
    KeyField,
    KeyRequest,
    RootKey,
    SevGuest,
    SevGuestAttester,
)
from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorError,
    AnchorFirmwareError,
    AnchorHostError,
    AnchorIoError,
    AnchorMissingError,
    AnchorProviderError,
    AnchorRequestError,
    AnchorResponseError,
    AnchorStaleError,
    DerivedKeyError,
    ReportDataError,
)
from simulators.fake_machine import FakeMachine, poke
from simulators.fake_sev_guest import (
    GET_DERIVED_KEY,
    GET_EXT_REPORT,
    GET_REPORT,
    FakeSevGuest,
    certificate_table,
)
from unit.anchors.shapes import DATA, OTHER, snp

if TYPE_CHECKING:
    from collections.abc import Callable

WANTED = KeyRequest(
    root=RootKey.VCEK, fields=KeyField.POLICY | KeyField.MEASUREMENT, vmpl=0, guest_svn=1, tcb=0
)


@pytest.fixture
def kernel() -> FakeSevGuest:
    """A guest's device."""
    return FakeSevGuest()


@pytest.fixture
def port(kernel: FakeSevGuest) -> FakeMachine:
    """The machine that has it."""
    return FakeMachine({"/dev/sev-guest": kernel})


@pytest.fixture
def device(port: FakeMachine) -> SevGuest:
    """What speaks with it."""
    return SevGuest(port)


def test_a_report_binds_what_was_asked(kernel: FakeSevGuest, device: SevGuest) -> None:
    """By the ioctl of that number, with structures of that layout, which the model checks."""
    assert device.report(DATA, vmpl=1) == kernel.report(DATA, 1)
    assert kernel.requests == [GET_REPORT]


def test_certificates_come_along(kernel: FakeSevGuest, device: SevGuest) -> None:
    """The table, without the room behind it."""
    assert device.extended_report(DATA, vmpl=0) == (snp(DATA), b"")
    kernel.certificates = certificate_table(b"vcek" * 100, b"ask")
    assert device.extended_report(DATA, vmpl=0) == (snp(DATA), kernel.certificates)
    made = SevGuestAttester(device, vmpl=0).attest(DATA)
    assert (made.kind, made.evidence, made.certificates) == (
        Kind.SNP,
        snp(DATA),
        kernel.certificates,
    )


def test_room_for_certificates_grows_once(kernel: FakeSevGuest, device: SevGuest) -> None:
    """The host says how much it needs, and gets it."""
    kernel.certificates = certificate_table(bytes(10_000))
    _, certificates = device.extended_report(DATA, vmpl=0)
    assert certificates == kernel.certificates
    assert kernel.requests == [GET_EXT_REPORT] * 2


def test_room_for_certificates_is_whole_pages(kernel: FakeSevGuest, device: SevGuest) -> None:
    """The kernel takes no other, and a host may ask for bytes."""
    kernel.certificates = certificate_table(b"c" * 5000)
    honest = kernel._get_ext_report

    def in_bytes(at: int, answer: int) -> int:
        kernel.wanted = len(kernel.certificates) if len(kernel.requests) == 1 else None
        return honest(at, answer)

    kernel._get_ext_report = in_bytes  # type: ignore[method-assign]
    _, certificates = device.extended_report(DATA, vmpl=0)
    assert certificates == kernel.certificates


ENTRY = struct.Struct("<16sII")
WHOLE = {
    "that fills its room": certificate_table(b"c" * (4096 - 48)),
    "with an empty entry before another": certificate_table(b"", b"vcek"),
    "whose certificates stand in another order": ENTRY.pack(b"a" * 16, 76, 3)
    + ENTRY.pack(b"b" * 16, 72, 4)
    + bytes(24)
    + b"bbbbaaa",
    "of empty entries alone": ENTRY.pack(b"a" * 16, 0, 0) + bytes(24),
    "of as many entries as a page has": ENTRY.pack(b"a" * 16, 0, 0) * 169 + bytes(24),
}


@pytest.mark.parametrize("table", WHOLE.values(), ids=WHOLE)
def test_a_table_is_handed_on_whole(kernel: FakeSevGuest, device: SevGuest, table: bytes) -> None:
    """No certificate is lost with the room behind them."""
    kernel.certificates = table
    assert device.extended_report(DATA, vmpl=0) == (snp(DATA), table)


@pytest.mark.parametrize("wanted", [0, 1, 4096, MAX_CERTIFICATES, MAX_CERTIFICATES + 1, 2**32 - 1])
def test_a_host_that_never_has_room_enough_is_given_up(
    kernel: FakeSevGuest, device: SevGuest, wanted: int
) -> None:
    """Neither tries nor memory are the host's to choose."""
    kernel.wanted = wanted
    with pytest.raises(AnchorHostError) as refused:
        device.extended_report(DATA, vmpl=0)
    assert refused.value.code == "anchor:host"
    assert len(kernel.requests) == (2 if wanted == MAX_CERTIFICATES else 1)


TABLES = {
    "an entry that points behind the table": certificate_table(b"x").replace(
        b"\x01\0\0\0", b"\xff\xff\xff\xff"
    ),
    "no end": b"\x01" * 4096,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_that_points_outside_is_refused(
    kernel: FakeSevGuest, device: SevGuest, table: bytes
) -> None:
    """The host writes it, nobody signs it."""
    kernel.certificates = table
    with pytest.raises(AnchorResponseError):
        device.extended_report(DATA, vmpl=0)


def test_a_busy_host_is_asked_a_bounded_number_of_times(
    kernel: FakeSevGuest, device: SevGuest, port: FakeMachine
) -> None:
    """Longer and longer pauses, then an error."""
    kernel.busy = TRIES - 1
    assert device.report(DATA, vmpl=0) == snp(DATA)
    assert len(port.pauses) == TRIES - 1
    assert port.pauses == sorted(port.pauses)
    assert len(set(port.pauses)) == TRIES - 1
    kernel.busy = 10**6
    with pytest.raises(AnchorBusyError) as refused:
        device.report(DATA, vmpl=0)
    assert refused.value.code == "anchor:busy"
    assert kernel.busy == 10**6 - TRIES


FAULTS: dict[str, tuple[dict[str, Any], type[AnchorError], dict[str, int]]] = {
    "the firmware says invalid parameters": (
        {"status": 0x16},
        AnchorFirmwareError,
        {"status": 0x16},
    ),
    "the firmware gives an error by the ioctl": (
        {"fw_error": 0x17},
        AnchorFirmwareError,
        {"status": 0x17},
    ),
    "the firmware was not called": (
        {"fw_error": 0xFFFF_FFFF},
        AnchorIoError,
        {},
    ),
    "the host gives an error": ({"vmm_error": 7}, AnchorHostError, {"vmm_error": 7}),
    "the channel is disabled": ({"errno": errno.ENOTTY}, AnchorProviderError, {}),
    "the device is gone": ({"errno": errno.ENODEV}, AnchorMissingError, {}),
    "a report of no size": ({"size": 0}, AnchorResponseError, {"size": 0}),
    "a short report": ({"size": 1183}, AnchorResponseError, {"size": 1183}),
    "a report longer than the response": ({"size": 2**32 - 1}, AnchorResponseError, {}),
    "a report on other data": ({"other_report_data": OTHER[:-1] + b"\1"}, AnchorStaleError, {}),
}


@pytest.mark.parametrize(("fault", "kind", "data"), FAULTS.values(), ids=FAULTS)
def test_each_failure_has_its_error(
    kernel: FakeSevGuest,
    device: SevGuest,
    fault: dict[str, Any],
    kind: type[AnchorError],
    data: dict[str, int],
) -> None:
    """Both ways of asking tell them alike."""
    for name, value in fault.items():
        setattr(kernel, name, value)
    asks: tuple[Callable[..., object], ...] = (device.report, device.extended_report)
    for ask in asks:
        with pytest.raises(AnchorError) as refused:
            ask(DATA, vmpl=0)
        assert type(refused.value) is kind
        assert data.items() <= refused.value.data.items()


def test_a_report_is_for_any_vmpl_that_there_is(kernel: FakeSevGuest, device: SevGuest) -> None:
    """From the highest privilege to the lowest."""
    for vmpl in range(4):
        assert device.report(DATA, vmpl=vmpl) == kernel.report(DATA, vmpl)


@pytest.mark.parametrize("vmpl", [-1, 4])
def test_a_vmpl_out_of_range_is_refused(kernel: FakeSevGuest, device: SevGuest, vmpl: int) -> None:
    """Before the firmware sees it, for reports and for keys."""
    with pytest.raises(AnchorRequestError):
        device.report(DATA, vmpl=vmpl)
    with pytest.raises(AnchorRequestError):
        device.derived_key(
            KeyRequest(root=RootKey.VCEK, fields=KeyField(0), vmpl=vmpl, guest_svn=0, tcb=0)
        )
    assert kernel.requests == []


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_64_bytes(kernel: FakeSevGuest, device: SevGuest, size: int) -> None:
    """Nothing is filled up or cut."""
    with pytest.raises(ReportDataError):
        device.extended_report(bytes(size), vmpl=0)
    assert kernel.requests == []


def test_a_key_is_what_the_firmware_derived(kernel: FakeSevGuest, device: SevGuest) -> None:
    """The request says exactly what it depends on."""
    key = device.derived_key(WANTED)
    assert len(key) == 32
    assert device.derived_key(WANTED) == key
    assert kernel.keys == [(0, 0b1001, 0, 1, 0)] * 2
    assert kernel.requests == [GET_DERIVED_KEY] * 2
    kernel.policy |= 1 << 19
    assert device.derived_key(WANTED) != key
    device.derived_key(replace(WANTED, root=RootKey.VMRK, vmpl=3, guest_svn=2, tcb=3))
    assert kernel.keys[-1] == (1, 0b1001, 3, 2, 3)


BAD_KEYS: dict[str, dict[str, Any]] = {
    "status: invalid parameters": {"key_status": 0x16},
    "status: something else, with a key": {"key_status": 1},
    "a key of zeros": {"zero_key": True},
}


@pytest.mark.parametrize("fault", BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_key_that_the_firmware_refused_is_none(
    kernel: FakeSevGuest, device: SevGuest, fault: dict[str, Any]
) -> None:
    """A successful ioctl is not a key: users have sealed to zeros."""
    for name, value in fault.items():
        setattr(kernel, name, value)
    with pytest.raises(DerivedKeyError) as refused:
        device.derived_key(WANTED)
    assert refused.value.code == "anchor:key"


def test_the_buffer_that_a_key_came_in_is_overwritten(
    device: SevGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is in one place, whose owner overwrites it."""
    held: list[bytearray] = []
    call = SevGuest._call

    def kept(device: SevGuest, number: int, request: bytearray, size: int) -> bytearray:
        held.append(call(device, number, request, size))
        return held[-1]

    monkeypatch.setattr(SevGuest, "_call", kept)
    assert any(device.derived_key(WANTED))
    assert held == [bytearray(64)]


def test_a_refusal_with_key_bytes_is_a_refusal(kernel: FakeSevGuest, device: SevGuest) -> None:
    """The status alone decides."""
    honest = kernel._key
    kernel.key_status = 0x27

    def keep(at: int, answer: int) -> int:
        del at
        poke(answer, b"\x27".ljust(32, b"\0") + honest(0, 0, 0, 0, 0))
        return 0

    kernel._get_derived_key = keep  # type: ignore[method-assign]
    with pytest.raises(DerivedKeyError) as refused:
        device.derived_key(WANTED)
    assert refused.value.data["status"] == 0x27


def test_what_keys_depend_on_is_read_from_the_report(
    kernel: FakeSevGuest, device: SevGuest
) -> None:
    """Policy, measurement, SVN and the TCB that is committed."""
    state = device.state(vmpl=2)
    assert (state.guest_svn, state.vmpl, state.measurement) == (2, 2, kernel.measurement)
    assert state.policy == kernel.policy.to_bytes(8, "little")
    assert state.committed_tcb == kernel.committed_tcb
