"""configfs-tsm: a report answers its own request, and nothing is left behind."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

import pytest

from hwtrust.anchors.cca import cca_attester
from hwtrust.anchors.protocols import Kind
from hwtrust.anchors.tdx import tdx_attester
from hwtrust.anchors.tsm import MAX_BLOB, TRIES, Service, Tsm, TsmAttester
from hwtrust.errors import HwTrustError
from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorError,
    AnchorIoError,
    AnchorMissingError,
    AnchorPermissionError,
    AnchorProviderError,
    AnchorRequestError,
    AnchorResponseError,
    AnchorStaleError,
    EmptyReportError,
    ReportDataError,
)
from hwtrust.wire.cmw import MediaType
from simulators.fake_machine import FakeMachine, Forbidden
from simulators.fake_sev_guest import certificate_table
from simulators.fake_tsm import REPORTS, Entry, FakeTsm
from unit.anchors import shapes
from unit.anchors.shapes import DATA, OTHER, os_error

if TYPE_CHECKING:
    from collections.abc import Callable

VTPM = Service("c476f1eb-0123-45a5-9641-b4e7dde5bfe3", manifest_version=0)


def machine(kernel: FakeTsm) -> FakeMachine:
    """A machine with configfs-tsm."""
    return FakeMachine({REPORTS: kernel})


def report(kernel: FakeTsm, *, privlevel: int | None = None) -> bytes:
    """The report of one request."""
    port = machine(kernel)
    return Tsm(port).report(DATA, provider="sev_guest", privlevel=privlevel).outblob


def test_a_report_binds_what_was_asked() -> None:
    """The kernel's commit at the close is waited for, and the certificates come along."""
    kernel = FakeTsm(shapes.snp, certificates=certificate_table(b"certificate"))
    found = Tsm(machine(kernel)).report(DATA, provider="sev_guest")
    assert found.outblob == shapes.snp(DATA)
    assert found.auxblob == certificate_table(b"certificate")
    assert found.provider == "sev_guest"
    assert kernel.entries == {}


def test_each_request_has_a_directory_of_its_own() -> None:
    """Two programs never share a request, and cannot guess each other's."""
    kernel = FakeTsm(shapes.snp)
    report(kernel)
    report(kernel)
    first, second = kernel.names
    assert first != second
    assert all(len(name) >= len("hwtrust-") + 32 for name in kernel.names)


def test_a_directory_is_removed_wherever_the_request_is_cut_off() -> None:
    """An interrupt before or after any call leaves nothing in the kernel's memory."""
    whole = machine(FakeTsm(shapes.snp))
    Tsm(whole).report(DATA, provider="sev_guest", privlevel=1)
    assert len(whole.calls) > 8
    for nth in range(len(whole.calls)):
        for after in (False, True):
            kernel = FakeTsm(shapes.snp)
            port = machine(kernel)
            port.cut_off, port.cut_after = nth, after
            with pytest.raises(KeyboardInterrupt):
                Tsm(port).report(DATA, provider="sev_guest", privlevel=1)
            assert kernel.entries == {}, port.calls[-1]


def test_a_failing_call_is_coded_and_leaves_nothing() -> None:
    """Whatever system call fails, an error of the tree says so, and the directory goes."""
    whole = machine(FakeTsm(shapes.snp))
    Tsm(whole).report(DATA, provider="sev_guest")
    for nth in range(len(whole.calls)):
        kernel = FakeTsm(shapes.snp)
        port = machine(kernel)
        port.cut_off, port.cut = nth, os_error(errno.EIO)
        with pytest.raises(AnchorIoError) as refused:
            Tsm(port).report(DATA, provider="sev_guest")
        assert refused.value.data["errno"] == "EIO"
        assert kernel.entries == {}


CAUSES: dict[int, type[AnchorError]] = {
    errno.ENOENT: AnchorMissingError,
    errno.ENXIO: AnchorProviderError,
    errno.ENOTTY: AnchorProviderError,
    errno.EACCES: AnchorPermissionError,
    errno.EPERM: AnchorPermissionError,
    errno.EINVAL: AnchorRequestError,
    errno.EFBIG: AnchorRequestError,
    errno.ETXTBSY: AnchorRequestError,
    errno.ENOMEM: AnchorIoError,
}


@pytest.mark.parametrize("number", CAUSES, ids=errno.errorcode.get)
def test_each_error_of_the_kernel_has_its_code(number: int) -> None:
    """A program can tell what is missing from what is forbidden."""
    port = machine(FakeTsm(shapes.snp))
    port.cut_off, port.cut = 0, os_error(number)
    with pytest.raises(AnchorError) as refused:
        Tsm(port).provider()
    assert type(refused.value) is CAUSES[number]


def test_a_lost_commit_is_tried_again_and_then_given_up() -> None:
    """The kernel drops the result of a commit: only the generation tells that it was refused."""
    kernel = FakeTsm(shapes.snp)
    kernel.lost = TRIES - 1
    port = machine(kernel)
    assert Tsm(port).report(DATA, provider="sev_guest").outblob == shapes.snp(DATA)
    assert len(set(port.pauses)) == len(port.pauses) == TRIES - 1
    assert port.pauses == sorted(port.pauses)
    kernel.lost = TRIES
    with pytest.raises(AnchorBusyError) as refused:
        Tsm(port).report(DATA, provider="sev_guest")
    assert refused.value.code == "anchor:busy"
    assert kernel.entries == {}


def test_a_busy_host_is_asked_a_bounded_number_of_times() -> None:
    """A host that always says busy does not hold the program for ever."""
    kernel = FakeTsm(shapes.snp)
    kernel.busy = 10**6
    with pytest.raises(AnchorBusyError):
        report(kernel)
    assert kernel.busy == 10**6 - TRIES
    kernel.busy = 1
    assert report(kernel) == shapes.snp(DATA)


def intrude(entry: Entry) -> None:
    """Another program writes to the same request."""
    entry.inblob = OTHER
    entry.write_generation += 1


def test_a_report_for_somebody_elses_request_is_refused() -> None:
    """A writer between commit and read is seen by the generation after the read."""
    kernel = FakeTsm(shapes.snp)
    kernel.race = intrude
    with pytest.raises(AnchorStaleError) as refused:
        report(kernel)
    assert refused.value.code == "anchor:stale"
    assert kernel.entries == {}
    assert len(kernel.names) == 1, "it is told, and not asked again"


def test_a_writer_after_the_report_is_seen_too() -> None:
    """What is read beside the report would be of another generation."""
    kernel = FakeTsm(shapes.snp)
    kernel.late_race = intrude
    with pytest.raises(AnchorStaleError):
        report(kernel)


def test_a_writer_before_the_commit_is_seen() -> None:
    """A generation that rose by two holds another request than ours."""
    kernel = FakeTsm(shapes.snp)
    counted = kernel.advance

    def twice(entry: Entry) -> int:
        counted(entry)
        return counted(entry)

    kernel.advance = twice  # type: ignore[method-assign]
    with pytest.raises(AnchorStaleError) as refused:
        report(kernel)
    assert refused.value.data == {"expected": 1, "found": 2}


def test_a_generation_that_fell_is_seen() -> None:
    """It is that of another directory, or of another kernel."""
    kernel = FakeTsm(shapes.snp)
    honest, told = kernel.read, iter((5, 3))
    kernel.read = (  # type: ignore[method-assign]
        lambda path: b"%d\n" % next(told) if path.endswith("/generation") else honest(path)
    )
    with pytest.raises(AnchorStaleError) as refused:
        report(kernel)
    assert refused.value.data == {"expected": 6, "found": 3}


def test_the_generation_behind_the_last_is_zero() -> None:
    """The kernel's counter has 64 bits."""
    kernel = FakeTsm(shapes.snp)
    honest = kernel.mkdir

    def old(path: str) -> None:
        honest(path)
        kernel.entries[path] = Entry(write_generation=2**64 - 1, read_generation=2**64 - 1)

    kernel.mkdir = old  # type: ignore[method-assign]
    assert report(kernel) == shapes.snp(DATA)


def test_an_empty_report_is_a_failure() -> None:
    """Seen in the field: success, and nothing in the file."""
    kernel = FakeTsm(shapes.snp)
    kernel.short = 0
    with pytest.raises(EmptyReportError) as refused:
        report(kernel)
    assert refused.value.code == "anchor:response:empty"
    assert kernel.entries == {}
    assert len(kernel.names) == 1, "it is told, and not asked again"


@pytest.mark.parametrize("size", [0, 65])
def test_report_data_that_does_not_fit_is_refused_before_the_kernel_sees_it(size: int) -> None:
    """The kernel would drop a commit of it without a word."""
    port = machine(FakeTsm(shapes.snp))
    with pytest.raises(AnchorRequestError):
        Tsm(port).report(bytes(size), provider="sev_guest")
    assert port.calls == []


def test_no_provider_is_told() -> None:
    """configfs-tsm is there, and no driver behind it."""
    with pytest.raises(AnchorProviderError) as refused:
        report(FakeTsm(shapes.snp, provider=None))
    assert refused.value.code == "anchor:provider"


def test_another_provider_than_expected_is_refused() -> None:
    """What a report means depends on who made it."""
    with pytest.raises(AnchorProviderError) as refused:
        report(FakeTsm(shapes.tdx, provider="tdx_guest"))
    assert refused.value.data["provider"] == "tdx_guest"


def test_an_unknown_provider_has_no_attester() -> None:
    """Nobody could say what its reports are."""
    with pytest.raises(AnchorProviderError):
        TsmAttester(Tsm(FakeMachine({})), provider="other_guest")


def test_a_user_without_the_right_is_told() -> None:
    """Permission and absence are two things."""
    with pytest.raises(AnchorPermissionError):
        Tsm(FakeMachine({REPORTS: Forbidden()})).provider()
    with pytest.raises(AnchorMissingError):
        Tsm(FakeMachine({})).provider()


def test_a_privilege_level_reaches_the_kernel() -> None:
    """The report is for the VMPL that was asked for."""
    kernel = FakeTsm(shapes.snp, floor=1)
    assert Tsm(machine(kernel)).privlevel_floor() == 1
    for privlevel in (1, 2, 3):
        report(kernel, privlevel=privlevel)
    assert kernel.privlevels == [1, 2, 3]


@pytest.mark.parametrize("privlevel", [-1, 0, 4])
def test_a_privilege_level_out_of_range_is_refused(privlevel: int) -> None:
    """Below the floor, or above 3."""
    kernel = FakeTsm(shapes.snp, floor=1)
    with pytest.raises(AnchorRequestError) as refused:
        report(kernel, privlevel=privlevel)
    assert refused.value.data["floor"] == 1


def test_a_provider_without_privilege_levels_is_not_given_one() -> None:
    """It is refused, not ignored: a caller who names a level relies on it."""
    kernel = FakeTsm(shapes.tdx, provider="tdx_guest")
    assert Tsm(machine(kernel)).privlevel_floor() is None
    with pytest.raises(AnchorRequestError):
        Tsm(machine(kernel)).report(DATA, provider="tdx_guest", privlevel=0)


def test_the_manifest_of_a_service_is_bound() -> None:
    """The SVSM's report is over SHA-512 of nonce and manifest."""
    kernel = FakeTsm(shapes.snp, floor=1, manifest=b"the vTPM's EK")
    found = Tsm(machine(kernel)).report(DATA, provider="sev_guest", privlevel=1, service=VTPM)
    assert found.manifestblob == b"the vTPM's EK"
    assert found.outblob[0x50:0x90] == hashlib.sha512(DATA + b"the vTPM's EK").digest()


@pytest.mark.parametrize("version", [None, 0, 7])
def test_the_kernel_is_told_which_service(version: int | None) -> None:
    """Its GUID, and the version of the manifest, 0 too; without one the SVSM chooses."""
    kernel = FakeTsm(shapes.snp, floor=1)
    asked: list[dict[str, str]] = []
    kernel.race = lambda entry: asked.append(dict(entry.service))
    service = Service(VTPM.guid, manifest_version=version)
    Tsm(machine(kernel)).report(DATA, provider="sev_guest", service=service)
    told = {"service_provider": "svsm", "service_guid": VTPM.guid}
    if version is not None:
        told["service_manifest_version"] = str(version)
    assert asked[0] == told


def test_a_service_needs_an_svsm_a_guid_and_a_manifest() -> None:
    """Each has its own error."""
    tsm = Tsm(machine(FakeTsm(shapes.snp)))
    with pytest.raises(AnchorMissingError):
        tsm.report(DATA, provider="sev_guest", service=VTPM)
    kernel = FakeTsm(shapes.snp, floor=1, manifest=b"")
    for guid in ("vtpm\n", f"{VTPM.guid}\n", VTPM.guid.upper(), ""):
        with pytest.raises(AnchorRequestError):
            Tsm(machine(kernel)).report(DATA, provider="sev_guest", service=Service(guid))
    with pytest.raises(EmptyReportError):
        Tsm(machine(kernel)).report(DATA, provider="sev_guest", service=VTPM)
    assert kernel.entries == {}


STRANGE: dict[str, tuple[str, bytes]] = {
    "a provider with a path": ("provider", b"../sev_guest\n"),
    "a provider that is no text": ("provider", b"\xff\xfe"),
    "an empty provider": ("provider", b"\n"),
    "a provider of many lines": ("provider", b"sev_guest\nother\n"),
    "a generation that is no number": ("generation", b"one\n"),
    "a negative generation": ("generation", b"-1\n"),
    "a generation of 21 digits": ("generation", b"1" * 21),
    "an endless generation": ("generation", b"1" * 1000),
}


@pytest.mark.parametrize(("name", "content"), STRANGE.values(), ids=STRANGE)
def test_text_that_the_kernel_never_writes_is_refused(name: str, content: bytes) -> None:
    """No text from below is taken for what it should be."""
    kernel = FakeTsm(shapes.snp)
    honest = kernel.read
    kernel.read = (  # type: ignore[method-assign]
        lambda path: content if path.endswith(name) else honest(path)
    )
    with pytest.raises(AnchorResponseError) as refused:
        report(kernel)
    assert refused.value.code == "anchor:response"


@pytest.mark.parametrize("name", ["outblob", "auxblob"])
def test_a_report_without_end_is_not_read_to_its_end(name: str) -> None:
    """Memory is bounded, whatever the kernel gives."""
    kernel = FakeTsm(shapes.snp)
    honest = kernel.read
    kernel.read = (  # type: ignore[method-assign]
        lambda path: bytes(MAX_BLOB + 1) if path.endswith(f"/{name}") else honest(path)
    )
    with pytest.raises(AnchorResponseError) as refused:
        report(kernel)
    assert refused.value.data["limit"] == MAX_BLOB


def test_a_write_that_took_a_part_is_a_failure() -> None:
    """Half a nonce is none."""
    kernel = FakeTsm(shapes.snp)
    kernel.write = lambda path, data: len(data) - len(path[:1])  # type: ignore[method-assign]
    with pytest.raises(AnchorIoError):
        report(kernel)


ATTESTERS: dict[str, tuple[str, Callable[[bytes], bytes], Kind, MediaType]] = {
    "SNP": ("sev_guest", shapes.snp, Kind.SNP, MediaType.SNP),
    "TDX, version 4": ("tdx_guest", shapes.tdx, Kind.TDX, MediaType.TDX),
    "TDX, version 5": ("tdx_guest", shapes.tdx_v5, Kind.TDX, MediaType.TDX),
    "TDX, another form": ("tdx_guest", shapes.token, Kind.TDX, MediaType.TDX),
    "CCA": ("arm_cca_guest", shapes.token, Kind.CCA, MediaType.CCA),
}
attesters = pytest.mark.parametrize(
    ("provider", "signer", "kind", "media_type"), ATTESTERS.values(), ids=ATTESTERS
)


@attesters
def test_an_attester_makes_evidence_of_its_kind(
    provider: str, signer: Callable[[bytes], bytes], kind: Kind, media_type: MediaType
) -> None:
    """One interface, three kinds."""
    attester = TsmAttester(Tsm(machine(FakeTsm(signer, provider=provider))), provider=provider)
    made = attester.attest(DATA)
    assert (made.kind, made.media_type, made.evidence) == (kind, media_type, signer(DATA))
    assert attester.kind is kind
    assert "evidence" not in repr(made)


def test_an_attester_hands_the_certificates_on() -> None:
    """Those that the host gave beside the report; without them no verifier has the key's."""
    table = certificate_table(b"vcek")
    kernel = FakeTsm(shapes.snp, certificates=table)
    made = TsmAttester(Tsm(machine(kernel)), provider="sev_guest").attest(DATA)
    assert made.certificates == table


@pytest.mark.parametrize("size", [1, 64])
def test_as_little_as_a_byte_can_be_bound(size: int) -> None:
    """The interface takes 1 to 64; how many, each provider says."""
    kernel = FakeTsm(shapes.token, provider="other_guest")
    found = Tsm(machine(kernel)).report(DATA[:size], provider="other_guest")
    assert found.outblob == shapes.token(DATA[:size])


@attesters
def test_evidence_for_other_report_data_is_not_handed_on(
    provider: str, signer: Callable[[bytes], bytes], kind: Kind, media_type: MediaType
) -> None:
    """A quoting service of the host that answers with an old quote is caught at once."""
    del kind, media_type
    kernel = FakeTsm(lambda _: signer(OTHER), provider=provider)
    with pytest.raises(AnchorStaleError):
        TsmAttester(Tsm(machine(kernel)), provider=provider).attest(DATA)


@attesters
def test_evidence_that_is_cut_short_is_not_handed_on(
    provider: str, signer: Callable[[bytes], bytes], kind: Kind, media_type: MediaType
) -> None:
    """A host that answers short is caught at once."""
    del kind, media_type
    for size in (0, 1, 60):
        kernel = FakeTsm(signer, provider=provider)
        kernel.short = size
        with pytest.raises((AnchorResponseError, AnchorStaleError)):
            TsmAttester(Tsm(machine(kernel)), provider=provider).attest(DATA)


def test_an_snp_report_has_one_size_only() -> None:
    """One byte less is not a report, though its report data is there."""
    kernel = FakeTsm(shapes.snp)
    kernel.short = 1183
    with pytest.raises(AnchorResponseError) as refused:
        TsmAttester(Tsm(machine(kernel)), provider="sev_guest").attest(DATA)
    assert refused.value.data["size"] == 1183


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes(size: int) -> None:
    """What some kernels would fill up with zeros is refused for all."""
    for attester, provider in ((cca_attester, "arm_cca_guest"), (tdx_attester, "tdx_guest")):
        port = machine(FakeTsm(shapes.token, provider=provider))
        with pytest.raises(ReportDataError) as refused:
            attester(Tsm(port)).attest(bytes(size))
        assert refused.value.code == "anchor:request:report-data"
        assert port.calls == []


def test_the_model_refuses_to_mix_reading_and_writing() -> None:
    """ETXTBSY and EFBIG, as configfs has them."""
    kernel = FakeTsm(shapes.snp)
    kernel.mkdir("one")
    handle = kernel.open("one/inblob", writing=True)
    handle.write(bytes(64))
    for number, call in (
        (errno.ETXTBSY, handle.read),
        (errno.EFBIG, lambda: handle.write(b"\0")),
    ):
        with pytest.raises(OSError, match=r"busy|large") as refused:
            call()
        assert refused.value.errno == number
    assert kernel.entries["one"].write_generation == 0
    handle.close()
    assert kernel.entries["one"].write_generation == 1


def test_all_errors_belong_to_the_tree() -> None:
    """One base catches them all."""
    assert issubclass(AnchorError, HwTrustError)
