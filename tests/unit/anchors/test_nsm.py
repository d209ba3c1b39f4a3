"""/dev/nsm: whole responses of the right name, locked registers, limits before the ioctl."""

from __future__ import annotations

import errno
import hashlib
import sys
from typing import TYPE_CHECKING, Any

import cbor2
import pytest

from hwtrust.anchors.nsm import MAX_RESPONSE, Nsm, NsmAttester, NsmMeasurer
from hwtrust.anchors.protocols import Kind
from hwtrust.errors.anchors import (
    AnchorError,
    AnchorFirmwareError,
    AnchorPermissionError,
    AnchorRegisterError,
    AnchorRequestError,
    AnchorResponseError,
    AnchorSoftwareError,
    AnchorStaleError,
    EmptyReportError,
    RegisterLockedError,
    ReportDataError,
)
from hwtrust.wire.cmw import MediaType
from simulators.fake_machine import FakeMachine
from simulators.fake_nsm import FakeNsm
from unit.anchors.shapes import DATA, OTHER, os_error, token

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST = hashlib.sha384(b"layer").digest()


@pytest.fixture
def kernel() -> FakeNsm:
    """The NSM of an enclave."""
    return FakeNsm(token)


@pytest.fixture
def port(kernel: FakeNsm) -> FakeMachine:
    """The enclave."""
    return FakeMachine({"/dev/nsm": kernel})


@pytest.fixture
def nsm(port: FakeMachine) -> Nsm:
    """What speaks with it."""
    return Nsm(port)


def test_the_module_describes_itself(nsm: Nsm) -> None:
    """By a bare string, as the NSM's own library encodes it."""
    told = nsm.describe()
    assert (told.version, told.max_pcrs, told.digest) == ("1.0.0", 32, "SHA384")
    assert told.locked_pcrs == tuple(range(16))
    assert told.module_id.startswith("i-")
    assert len(nsm.random()) == 256


def test_an_extend_gives_the_new_value(kernel: FakeNsm, nsm: Nsm) -> None:
    """And is seen by a read."""
    measurer = NsmMeasurer(nsm)
    assert measurer.registers == tuple(f"pcr{index}" for index in range(16, 32))
    expected = hashlib.sha384(bytes(48) + DIGEST).digest()
    assert measurer.extend("pcr16", DIGEST) == expected
    assert measurer.read("pcr16") == expected
    assert kernel.requests[0] == {"ExtendPCR": {"index": 16, "data": DIGEST}}


def test_a_locked_register_is_told(kernel: FakeNsm, nsm: Nsm) -> None:
    """The application's after its lock, the image's always."""
    measurer = NsmMeasurer(nsm)
    measurer.lock("pcr16")
    assert nsm.pcr(16) == (bytes(48), True)
    for register in ("pcr16", "pcr0", "pcr15"):
        with pytest.raises(RegisterLockedError) as refused:
            measurer.extend(register, DIGEST)
        assert refused.value.code == "anchor:register:locked"
    with pytest.raises(RegisterLockedError):
        nsm.extend_pcr(0, DIGEST)
    nsm.lock_pcrs(20)
    assert kernel.locked == set(range(20))


@pytest.mark.parametrize("register", ["pcr32", "pcr-1", "pcr016", "rtmr3", ""])
def test_there_are_no_other_registers(kernel: FakeNsm, nsm: Nsm, register: str) -> None:
    """Names are exact."""
    measurer = NsmMeasurer(nsm)
    for call in (
        measurer.read,
        measurer.lock,
        lambda name: measurer.extend(name, DIGEST),
    ):
        with pytest.raises(AnchorRegisterError):
            call(register)
    assert kernel.requests == []


def test_numbers_out_of_range_are_refused_before_the_ioctl(kernel: FakeNsm, nsm: Nsm) -> None:
    """By PCR, and by count."""
    for call in (nsm.pcr, nsm.lock_pcr, lambda n: nsm.extend_pcr(n, DIGEST)):
        for number in (-1, 32, 33):
            with pytest.raises(AnchorRegisterError):
                call(number)
    for count in (-1, 33):
        with pytest.raises(AnchorRegisterError):
            nsm.lock_pcrs(count)
    with pytest.raises(AnchorRegisterError):
        nsm.lock_pcrs(0)
    with pytest.raises(AnchorRegisterError):
        NsmMeasurer(nsm).extend("pcr16", bytes(32))
    assert kernel.requests == []


def test_evidence_binds_the_report_data_as_its_nonce(kernel: FakeNsm, nsm: Nsm) -> None:
    """And nothing else is in it."""
    made = NsmAttester(nsm).attest(DATA)
    assert (made.kind, made.media_type) == (Kind.NITRO, MediaType.NITRO)
    assert made.evidence == token(DATA)
    assert kernel.asked == {"user_data": None, "nonce": DATA, "public_key": None}


def test_evidence_for_another_nonce_is_not_handed_on(kernel: FakeNsm, nsm: Nsm) -> None:
    """Nor an empty document, nor one for report data of another size."""
    kernel.signer = lambda _: token(OTHER)
    with pytest.raises(AnchorStaleError):
        NsmAttester(nsm).attest(DATA)
    kernel.signer = lambda _: b""
    with pytest.raises(EmptyReportError):
        NsmAttester(nsm).attest(DATA)
    with pytest.raises(ReportDataError):
        NsmAttester(nsm).attest(DATA[:-1])


@pytest.mark.parametrize(
    ("name", "limit"), [("user_data", 512), ("nonce", 512), ("public_key", 1024)]
)
def test_what_is_too_long_for_a_document_is_refused(
    kernel: FakeNsm, nsm: Nsm, name: str, limit: int
) -> None:
    """At the limit it goes, above the NSM never sees it."""
    arguments: dict[str, bytes] = {name: bytes(limit)}
    assert nsm.attestation(**arguments)
    kernel.requests.clear()
    with pytest.raises(AnchorRequestError):
        nsm.attestation(**{name: bytes(limit + 1)})
    assert kernel.requests == []


def test_a_request_that_does_not_fit_is_refused(port: FakeMachine, nsm: Nsm) -> None:
    """The kernel would say EMSGSIZE."""
    with pytest.raises(AnchorRequestError):
        nsm.extend_pcr(16, bytes(0x1000))
    assert port.calls == []


ERRORS: dict[str, type[AnchorError]] = {
    "InvalidArgument": AnchorRequestError,
    "InvalidIndex": AnchorRegisterError,
    "InvalidResponse": AnchorFirmwareError,
    "ReadOnlyIndex": RegisterLockedError,
    "InvalidOperation": AnchorRequestError,
    "BufferTooSmall": AnchorFirmwareError,
    "InputTooLarge": AnchorRequestError,
    "InternalError": AnchorFirmwareError,
    "SomethingNew": AnchorFirmwareError,
    "\x1b[31m": AnchorFirmwareError,
}


@pytest.mark.parametrize("said", ERRORS)
def test_each_error_of_the_nsm_has_its_own(kernel: FakeNsm, nsm: Nsm, said: str) -> None:
    """And what it says is told, if it is a word."""
    kernel.answer = {"Error": said}
    with pytest.raises(AnchorError) as refused:
        nsm.describe()
    assert type(refused.value) is ERRORS[said]
    assert refused.value.data["status"] == (said if said.isalpha() else "unknown error")


def described(**changes: object) -> object:
    """A description with changed fields; `...` leaves one out."""
    good: dict[str, Any] = FakeNsm(token)._say("DescribeNSM")["DescribeNSM"]  # type: ignore[index]
    return {
        "DescribeNSM": {key: value for key, value in (good | changes).items() if value is not ...}
    }


STRANGE: dict[str, object] = {
    "nothing": {},
    "a number": 7,
    "another name": {"GetRandom": {"random": b"1"}},
    "the bare name": "DescribeNSM",
    "another bare name": "LockPCR",
    "two names": {"DescribeNSM": {}, "GetRandom": {}},
    "a list": {"DescribeNSM": []},
    "an error that is no text": {"Error": 7},
    "no module id": described(module_id=...),
    "a module id of bytes": described(module_id=b"i"),
    "a version that is true": described(version_major=True),
    "too many PCRs": described(max_pcrs=33),
    "too few PCRs": described(max_pcrs=15, locked_pcrs=[]),
    "a locked PCR below zero": described(locked_pcrs=[-1]),
    "a locked PCR that there is not": described(locked_pcrs=[32]),
    "a locked PCR that is true": described(locked_pcrs=[True]),
    "locked PCRs in a map": described(locked_pcrs={}),
}


@pytest.mark.parametrize("answer", STRANGE.values(), ids=STRANGE)
def test_a_strange_answer_is_refused(kernel: FakeNsm, nsm: Nsm, answer: object) -> None:
    """Of another name, or without what it should hold."""
    kernel.answer = answer
    with pytest.raises((AnchorResponseError, AnchorFirmwareError)):
        nsm.describe()


def test_a_description_is_told_in_order(kernel: FakeNsm, nsm: Nsm) -> None:
    """Also of an NSM that has the fewest PCRs there may be."""
    kernel.answer = described(max_pcrs=16, locked_pcrs=[3, 1, 2])
    told = nsm.describe()
    assert (told.max_pcrs, told.locked_pcrs) == (16, (1, 2, 3))


NO_LOCK: dict[str, object] = {
    "another bare name": "LockPCRs",
    "the name of a question": "DescribeNSM",
    "another name": {"LockPCRs": {}},
    "two names": {"LockPCR": {}, "LockPCRs": {}},
    "a list": {"LockPCR": []},
    "nothing": {},
    "a number": 7,
    "true": True,
}


@pytest.mark.parametrize("answer", NO_LOCK.values(), ids=NO_LOCK)
def test_a_lock_that_was_not_confirmed_is_none(kernel: FakeNsm, nsm: Nsm, answer: object) -> None:
    """The answer holds nothing but the request's name, and that has to be right."""
    kernel.answer = answer
    with pytest.raises(AnchorResponseError) as refused:
        nsm.lock_pcr(16)
    assert refused.value.code == "anchor:response"


def test_the_images_registers_are_refused_before_the_nsm_sees_them(
    kernel: FakeNsm, nsm: Nsm
) -> None:
    """Though an NSM had not locked them; the application's begin behind them."""
    kernel.locked.clear()
    measurer = NsmMeasurer(nsm, count=20)
    for index in range(16):
        with pytest.raises(RegisterLockedError):
            measurer.extend(f"pcr{index}", DIGEST)
    with pytest.raises(AnchorRegisterError):
        measurer.extend("pcr20", DIGEST)
    assert kernel.requests == []
    assert measurer.registers == ("pcr16", "pcr17", "pcr18", "pcr19")
    assert measurer.extend("pcr16", DIGEST) == kernel.pcrs[16]
    nsm.lock_pcrs(1)
    assert kernel.locked == {0}


def test_a_request_of_the_nsms_size_goes_and_no_larger_one(
    kernel: FakeNsm, nsm: Nsm, port: FakeMachine
) -> None:
    """The kernel is not even asked; nor is the longest response taken for one that was cut."""
    room = 0x1000 - len(cbor2.dumps({"ExtendPCR": {"index": 16, "data": bytes(4000)}})) + 4000
    nsm.extend_pcr(16, bytes(room))
    assert len(cbor2.dumps(kernel.requests[0])) == 0x1000
    port.calls.clear()
    with pytest.raises(AnchorRequestError) as refused:
        nsm.extend_pcr(16, bytes(room + 1))
    assert refused.value.data["size"] == 0x1001
    assert port.calls == []
    kernel.signer = lambda nonce: nonce.ljust(MAX_RESPONSE - 27, b"\0")
    document = nsm.attestation(nonce=DATA)
    assert len(cbor2.dumps({"Attestation": {"document": document}})) == MAX_RESPONSE - 1


@pytest.mark.parametrize("said", ["A" * 41, "InvalidIndex\n", "InvalidIndex\x1b[31m"])
def test_what_is_no_word_of_the_nsms_is_not_repeated(kernel: FakeNsm, nsm: Nsm, said: str) -> None:
    """Nor taken for one that it begins like."""
    kernel.answer = {"Error": said}
    with pytest.raises(AnchorFirmwareError) as refused:
        nsm.describe()
    assert refused.value.data["status"] == "unknown error"


def test_values_of_another_size_are_refused(kernel: FakeNsm, nsm: Nsm) -> None:
    """A PCR is 48 bytes; random bytes are some; the lock is true or false."""
    for size in (0, 32, 47, 49):
        kernel.answer = {"ExtendPCR": {"data": bytes(size)}}
        with pytest.raises(AnchorResponseError):
            nsm.extend_pcr(16, DIGEST)
    for size in (0, 257):
        kernel.answer = {"GetRandom": {"random": bytes(size)}}
        with pytest.raises(AnchorResponseError):
            nsm.random()
    kernel.answer = {"DescribePCR": {"data": bytes(48), "lock": 1}}
    with pytest.raises(AnchorResponseError):
        nsm.pcr(16)
    kernel.answer = {"LockPCRs": {}}
    nsm.lock_pcrs(16)


def test_a_response_that_is_cut_is_refused(kernel: FakeNsm, nsm: Nsm) -> None:
    """At any byte, and where the kernel cut it without a word."""
    whole = len(cbor2.dumps(described()))
    for size in range(whole):
        kernel.cut = size
        with pytest.raises(AnchorResponseError):
            nsm.describe()
    kernel.cut = None
    kernel.signer = lambda nonce: nonce.ljust(MAX_RESPONSE, b"\0")
    with pytest.raises(AnchorResponseError) as refused:
        nsm.attestation(nonce=DATA)
    assert refused.value.data["size"] == MAX_RESPONSE


RAW = {
    "no CBOR": b"\xff",
    "something behind it": cbor2.dumps("LockPCR") + b"\0",
    "an endless list": b"\x9b" + b"\xff" * 8,
    "deep": b"\x81" * 1000 + b"\0",
    "a tag": b"\xc0\x61a",
    "a key twice": b"\xa2\x61a\x00\x61a\x00",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_bytes_from_below_raise_nothing_else(kernel: FakeNsm, nsm: Nsm, raw: bytes) -> None:
    """Whatever stands in the response."""
    kernel.raw_answer = raw
    with pytest.raises(AnchorResponseError):
        nsm.lock_pcr(16)


@pytest.mark.parametrize("size", [0, MAX_RESPONSE + 1, 2**63])
def test_a_length_that_lies_is_refused(kernel: FakeNsm, nsm: Nsm, size: int) -> None:
    """No byte behind the buffer is read, and none before it was written."""
    kernel.size = size
    with pytest.raises(AnchorResponseError):
        nsm.describe()


def test_errors_of_the_kernel_are_converted(port: FakeMachine, nsm: Nsm) -> None:
    """By their number."""
    calls: dict[int, type[AnchorError]] = {
        errno.EMSGSIZE: AnchorRequestError,
        errno.EACCES: AnchorPermissionError,
    }
    for number, kind in calls.items():
        port.cut_off, port.cut = 0, os_error(number)
        with pytest.raises(kind):
            nsm.describe()


def test_without_the_codec_the_error_says_what_to_install(
    port: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cbor2 comes with hwtrust[enclaves]."""
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(AnchorSoftwareError) as refused:
        Nsm(port)
    assert refused.value.data["hint"] == "pip install 'hwtrust[enclaves]'"
    assert port.calls == []


def test_names_are_those_of_the_nsms_library(kernel: FakeNsm, nsm: Nsm) -> None:
    """Bare strings without arguments, a map of one with."""
    calls: dict[str, Callable[[], object]] = {
        "DescribeNSM": nsm.describe,
        "GetRandom": nsm.random,
        "DescribePCR": lambda: nsm.pcr(3),
        "LockPCR": lambda: nsm.lock_pcr(31),
        "LockPCRs": lambda: nsm.lock_pcrs(32),
    }
    for call in calls.values():
        call()
    assert [item if isinstance(item, str) else next(iter(item)) for item in kernel.requests] == [
        *calls
    ]
