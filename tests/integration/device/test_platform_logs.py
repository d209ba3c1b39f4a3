"""Firmware log and IMA log from a machine to a verdict: a real TPM, real logs, real TLS.

The lines 44 to 52 of the list of adversaries, by the way that a device goes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from hwtrust.channel import Channel
from hwtrust.device import logs
from hwtrust.tpm import commands
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs.firmware import EventType
from hwtrust.wire.messages import (
    FIRMWARE_LOG,
    IMA_LOG,
    AttestReply,
    AttestRequest,
    Mode,
    Standing,
)
from hwtrust_backend.audit import Event
from hwtrust_backend.enrolment import Device as KnownDevice
from hwtrust_backend.enrolment import facts_of
from simulators.field import codes_of, newest
from simulators.firmware_log import booted
from simulators.logged_site import FILES, OWN_PCR, LoggedSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.device import Device
    from hwtrust.testing.manufacture import Vendor
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust.tpm.commands import SignedAttest
    from hwtrust.wire.logs.firmware import FirmwareEvent
    from hwtrust.wire.messages import Request
    from hwtrust_backend.testing import BackendServer

Sent = list[tuple[AttestRequest, AttestReply]]


@pytest.fixture
def site(tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor) -> LoggedSite:
    """A device whose backend asks for both logs; it is not enrolled yet."""
    made = LoggedSite(tmp_path, tpm, backend, tpm_vendor)
    made.hold()
    return made


@pytest.fixture
def device(site: LoggedSite) -> Iterator[Device]:
    """The device, enrolled and booted; it has shown nothing yet."""
    with site.open() as opened:
        opened.enrol(token=site.token())
        opened.boot()
        yield opened


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Every attestation that was answered, with its answer."""
    found: Sent = []
    post = Channel.post

    def record(self: Channel, path: str, message: Request, kind: type[Any]) -> object:
        reply = post(self, path, message, kind)
        if isinstance(message, AttestRequest):
            assert isinstance(reply, AttestReply)
            found.append((message, reply))
        return reply

    monkeypatch.setattr(Channel, "post", record)
    return found


def refused(site: LoggedSite, device: Device) -> str:
    """Why the backend refuses the logs of a device; it is not complete, and gets nothing."""
    result = device.attest()
    assert result.standing is Standing.INCOMPLETE
    failure = device._context.failure
    assert failure is not None
    event, reason = newest(site, device._context.known().device)
    assert event == Event.EVIDENCE_REFUSED
    assert failure.code in reason
    return failure.code


def alter(site: LoggedSite, change: Callable[[list[FirmwareEvent]], None]) -> None:
    """Write another log of the firmware than the one that was measured."""
    log = site.firmware.log
    events = list(log.events)
    change(events)
    site.firmware_path.write_bytes(msgspec.structs.replace(log, events=tuple(events)).encode())


def place(events: list[FirmwareEvent], type_: EventType, register: int | None = None) -> int:
    """Where the first event of a type, and of a register, stands."""
    return next(
        at
        for at, event in enumerate(events)
        if event.type == type_ and register in {None, event.register}
    )


# --- good machines ---------------------------------------------------------------------------


def test_a_good_machine_is_trusted_once_it_has_shown_its_logs(
    device: Device, sent: Sent, site: LoggedSite
) -> None:
    """Both come with one more attestation, at once; the first answer holds no approval."""
    assert codes_of(device) == (Standing.TRUSTED, set())
    (plain, first), (shown, last) = [pair for pair in sent if pair[0].evidence.binding.epoch][-2:]
    assert plain.evidence.firmware_log == b""
    assert plain.evidence.ima is None
    assert first.wants == (FIRMWARE_LOG, IMA_LOG)
    assert {finding.code for finding in first.findings} >= {
        "firmware:log-missing",
        "ima:log-missing",
    }
    assert (first.approval, first.root) == (None, None)
    assert shown.evidence.firmware_log == site.firmware.raw
    assert shown.evidence.ima is not None
    assert last.wants == ()
    assert last.approval is not None


def test_a_heartbeat_carries_no_log(device: Device, sent: Sent) -> None:
    """What was shown is remembered."""
    device.attest()
    sent.clear()
    assert codes_of(device) == (Standing.TRUSTED, set())
    ((request, _),) = sent
    assert (request.evidence.firmware_log, request.evidence.ima) == (b"", None)


def test_a_device_boots_before_its_logs_are_known(site: LoggedSite) -> None:
    """The first root opens for a while; what is measured later changes nothing of its states."""
    site.enrol()
    site.run("/usr/bin/init", FILES["/usr/bin/init"])
    with site.open() as again:
        again.boot()
        assert codes_of(again) == (Standing.TRUSTED, set())


def test_only_new_entries_are_sent(device: Device, site: LoggedSite, sent: Sent) -> None:
    """A log grows; the firmware's, whose values are the same, is not sent again."""
    device.attest()
    sent.clear()
    site.run("/usr/lib/libc.so", FILES["/usr/lib/libc.so"])
    assert codes_of(device) == (Standing.TRUSTED, set())
    (_, wanting), (request, _) = sent
    assert (wanting.wants, wanting.ima_start) == ((IMA_LOG,), 3)
    assert request.evidence.firmware_log == b""
    assert request.evidence.ima is not None
    assert request.evidence.ima.start == 3
    assert request.evidence.ima.entries == site.kernel.log(begin=3)


def test_logs_may_be_longer_than_the_quote(
    device: Device, site: LoggedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel goes on measuring between quote and log: what is new counts the next time."""
    real = logs.with_logs

    def later(context: object, evidence: object) -> object:
        if len(site.kernel.entries) == len(FILES) + 1:
            site.run("/opt/unknown", b"nobody knows it")
            log = site.firmware.log.encode()
            more = booted().measure(9, EventType.IPL, b"kexec\0", b"the next kernel")
            site.firmware_path.write_bytes(log + more.raw[len(log) :])
        return real(context, evidence)  # type: ignore[arg-type]

    monkeypatch.setattr(logs, "with_logs", later)
    assert codes_of(device) == (Standing.TRUSTED, set())
    assert codes_of(device) == (Standing.FAILED, {"ima:unknown"})


def test_the_kernel_may_measure_while_the_device_quotes(
    device: Device, site: LoggedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are read again: those beside the quote are those that it signs."""
    device.attest()
    quote, times = commands.quote, iter(range(3))

    def busy(*arguments: Any, **options: Any) -> SignedAttest:  # noqa: ANN401
        if next(times, None) is not None:
            site.run("/usr/bin/init", FILES["/usr/bin/init"])
        return quote(*arguments, **options)

    monkeypatch.setattr(commands, "quote", busy)
    assert codes_of(device) == (Standing.TRUSTED, set())


def test_a_long_log_comes_in_pieces(
    device: Device, site: LoggedSite, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oldest first; nothing of them counts until the last one leads to the quoted value."""
    monkeypatch.setattr(logs, "IMA_LIMIT", 600)
    monkeypatch.setattr(logs, "_LEAST", 1)
    for _ in range(20):
        site.run("/usr/bin/init", FILES["/usr/bin/init"])
    assert codes_of(device) == (Standing.TRUSTED, set())
    parts = [request.evidence.ima for request, _ in sent if request.evidence.ima is not None]
    assert len(parts) > 3
    assert [part.more for part in parts] == [*[True] * (len(parts) - 1), False]
    assert b"".join(part.entries for part in parts) == site.kernel.log()
    assert [reply.ima_start for _, reply in sent if reply.wants] == [
        0,
        *[part.start for part in parts[1:]],
    ]


def test_what_is_in_an_early_piece_counts_in_the_end(
    device: Device, site: LoggedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And stands: the device is not asked for it again."""
    monkeypatch.setattr(logs, "IMA_LIMIT", 600)
    monkeypatch.setattr(logs, "_LEAST", 1)
    site.run("/opt/unknown", b"nobody knows it")
    for _ in range(10):
        site.run("/usr/bin/init", FILES["/usr/bin/init"])
    assert codes_of(device) == (Standing.FAILED, {"ima:unknown"})
    assert codes_of(device) == (Standing.FAILED, {"ima:unknown"})


def test_a_reboot_begins_anew(site: LoggedSite, sent: Sent) -> None:
    """The kernel's log of the new boot is sent whole; what was found in the last one is over."""
    site.enrol()
    site.run("/opt/unknown", b"nobody knows it")
    with site.open() as device:
        device.boot()
        assert codes_of(device) == (Standing.FAILED, {"ima:unknown"})
    site.reboot()
    sent.clear()
    with site.open() as device:
        standing, _ = codes_of(device)
        assert standing is Standing.INCOMPLETE
        device.boot()
        assert codes_of(device) == (Standing.TRUSTED, set())
    parts = [request.evidence.ima for request, _ in sent if request.evidence.ima is not None]
    assert [part.start for part in parts] == [0]
    assert all(not request.evidence.firmware_log for request, _ in sent)


def test_other_rules_want_the_logs_again(device: Device, site: LoggedSite, sent: Sent) -> None:
    """What was found by the old ones says nothing."""
    device.attest()
    sent.clear()
    site.hold(ima={"digests_anywhere": ["00" * 31 + "01"]})
    assert codes_of(device) == (Standing.FAILED, {"ima:unknown"})
    assert sent[0][1].wants == (IMA_LOG,)


def test_what_the_logs_say_is_kept_for_people(device: Device, site: LoggedSite) -> None:
    """Secure Boot, boot loaders, how many files were measured."""
    device.attest()
    with site.backend.session() as session:
        row = session.get(KnownDevice, device._context.known().device.hex())
        assert row is not None
        facts = facts_of(row)
    assert facts["secure_boot"] == "on"
    assert facts["ima_entries"] == 3


def test_a_device_without_logs_stays_incomplete(
    device: Device, site: LoggedSite, sent: Sent
) -> None:
    """And asks no more often than before."""
    tpm = msgspec.structs.replace(device._context.config.tpm, firmware_log="", ima_log="")
    device._context.config = msgspec.structs.replace(device._context.config, tpm=tpm)
    sent.clear()
    standing, codes = codes_of(device)
    assert standing is Standing.INCOMPLETE
    assert codes >= {"firmware:log-missing", "ima:log-missing"}
    assert [reply.approval for _, reply in sent] == [None]


def test_a_log_that_cannot_be_read_is_told(device: Device, site: LoggedSite) -> None:
    """The device attests without it; the next attestation says why."""
    site.ima_path.unlink()
    standing, _ = codes_of(device)
    assert standing is Standing.INCOMPLETE
    failure = device._context.failure
    assert failure is not None
    assert (failure.step, failure.code) == ("attest", "state:missing")


# --- adversaries: the firmware's log -----------------------------------------------------------


def change_digest(events: list[FirmwareEvent]) -> None:
    """An event of another kernel."""
    at = place(events, EventType.EFI_BOOT_SERVICES_APPLICATION)
    digests = events[at].digests | {Alg.SHA256: bytes(32)}
    events[at] = msgspec.structs.replace(events[at], digests=digests)


def cut(events: list[FirmwareEvent]) -> None:
    """A log without its end."""
    del events[-1]


def silence(events: list[FirmwareEvent]) -> None:
    """44: a type altered so that its event would not have been extended."""
    at = place(events, EventType.EFI_BOOT_SERVICES_APPLICATION)
    events[at] = msgspec.structs.replace(events[at], type=int(EventType.NO_ACTION))


def move(events: list[FirmwareEvent]) -> None:
    """46: an event said to be of another PCR."""
    at = place(events, EventType.EFI_BOOT_SERVICES_APPLICATION)
    events[at] = msgspec.structs.replace(events[at], register=5)


def say_locality(events: list[FirmwareEvent]) -> None:
    """48: a StartupLocality that was not."""
    log = type(booted())(locality=0, says_locality=3).start().load().log
    events[:] = log.events


def leave_out(events: list[FirmwareEvent]) -> None:
    """52: a PCR that was extended, without any event."""
    events[:] = [event for event in events if event.register != 9]


FORGED: dict[str, tuple[Callable[[list[FirmwareEvent]], None], str]] = {
    "an event changed": (change_digest, "evidence:firmware-log:replay"),
    "a log cut short": (cut, "evidence:firmware-log:replay"),
    "44: an event type altered": (silence, "evidence:firmware-log:replay"),
    "46: an event of another PCR": (move, "evidence:firmware-log:replay"),
    "48: a wrong StartupLocality": (say_locality, "evidence:firmware-log:locality"),
    "52: a PCR without any event": (leave_out, "evidence:firmware-log:unlogged"),
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_firmware_log_is_refused(device: Device, site: LoggedSite, forgery: str) -> None:
    """The device stays incomplete, and is told why; with the real log it is trusted."""
    change, code = FORGED[forgery]
    alter(site, change)
    assert refused(site, device) == code
    site.firmware_path.write_bytes(site.firmware.raw)
    assert codes_of(device) == (Standing.TRUSTED, set())


def test_44_a_type_that_changes_no_digest_changes_nothing(device: Device, site: LoggedSite) -> None:
    """Types are words."""

    def rename(events: list[FirmwareEvent]) -> None:
        at = place(events, EventType.EFI_BOOT_SERVICES_APPLICATION)
        events[at] = msgspec.structs.replace(events[at], type=int(EventType.IPL))

    alter(site, rename)
    assert codes_of(device) == (Standing.TRUSTED, set())


def test_45_a_second_separator_is_found(device: Device, site: LoggedSite) -> None:
    """What boots behind it could pass for the firmware."""
    device.attest()
    site.firmware.separate(4)
    site.extend(4, site.firmware.events[-1].digests)
    site.firmware_path.write_bytes(site.firmware.raw)
    assert codes_of(device) == (Standing.FAILED, {"firmware:separator"})


def test_46_a_pcr_that_is_not_quoted_is_found(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """A device cannot leave out what speaks against it."""
    site = LoggedSite(tmp_path, tpm, backend, tpm_vendor, quoted="[8, 10]")
    with site.open() as device:
        device.enrol(token=site.token())
        site.hold()
        standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert codes >= {"firmware:register-missing"}


def test_46_the_kernels_pcr_cannot_be_left_out(
    tmp_path: Path, tpm: Swtpm, backend: BackendServer, tpm_vendor: Vendor
) -> None:
    """Nor the one that IMA extends."""
    site = LoggedSite(tmp_path, tpm, backend, tpm_vendor, quoted="[8, 9]")
    with site.open() as device:
        device.enrol(token=site.token())
        site.hold()
        standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert codes >= {"ima:pcr-missing"}


def test_47_data_that_is_not_what_was_measured_is_told(device: Device, site: LoggedSite) -> None:
    """The digest counts; that the words beside it lie is for an administrator."""

    def lie(events: list[FirmwareEvent]) -> None:
        at = place(events, EventType.S_CRTM_VERSION)
        events[at] = msgspec.structs.replace(events[at], data="9.9".encode("utf-16-le") + b"\0\0")

    alter(site, lie)
    assert codes_of(device) == (Standing.TRUSTED, {"firmware:data"})


def test_another_boot_loader_is_found(device: Device, site: LoggedSite) -> None:
    """It was measured, its log explains it, and no rule accepts it."""
    site.firmware.measure(4, EventType.EFI_BOOT_SERVICES_APPLICATION, b"", b"another one")
    site.extend(4, site.firmware.events[-1].digests)
    site.firmware_path.write_bytes(site.firmware.raw)
    standing, codes = codes_of(device)
    assert standing is Standing.FAILED
    assert codes >= {"firmware:digest"}
    assert device.attest().mode is Mode.LOCKED


# --- adversaries: the kernel's log ---------------------------------------------------------------


def test_49_a_violation_is_found(device: Device, site: LoggedSite) -> None:
    """And stands until the reboot."""
    device.attest()
    site.run("/usr/bin/init", b"", violation=True)
    assert codes_of(device) == (Standing.FAILED, {"ima:violation"})
    site.run("/usr/bin/init", FILES["/usr/bin/init"])
    assert codes_of(device) == (Standing.FAILED, {"ima:violation"})


def drop_last(raw: bytes) -> bytes:
    """50: without the last entry."""
    return raw[: raw.rindex(b"\x0a\0\0\0", 0, len(raw) - 60)]


def empty(raw: bytes) -> bytes:
    """51: nothing, while the PCR was extended."""
    return b""


def rename(raw: bytes) -> bytes:
    """One file under the name of another."""
    return raw.replace(b"/usr/bin/init", b"/usr/bin/evil")


@pytest.mark.parametrize("change", [drop_last, empty, rename], ids=lambda change: change.__doc__)
def test_a_forged_ima_log_is_refused(
    device: Device, site: LoggedSite, change: Callable[[bytes], bytes]
) -> None:
    """The device stays incomplete, and is told why; with the real log it is trusted."""
    real = site.ima_path.read_bytes()
    site.ima_path.write_bytes(change(real))
    assert refused(site, device) == "evidence:ima-log:replay"
    site.ima_path.write_bytes(real)
    assert codes_of(device) == (Standing.TRUSTED, set())


def test_a_forged_piece_is_refused_with_the_last_one(
    device: Device, site: LoggedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hides a file in an early piece leads to no quoted value; the log then begins again."""
    monkeypatch.setattr(logs, "IMA_LIMIT", 600)
    monkeypatch.setattr(logs, "_LEAST", 1)
    for _ in range(10):
        site.run("/usr/bin/init", FILES["/usr/bin/init"])
    real = site.ima_path.read_bytes()
    site.ima_path.write_bytes(real.replace(b"/usr/lib/libc.so", b"/usr/lib/evil.so"))
    assert refused(site, device) == "evidence:ima-log:replay"
    site.ima_path.write_bytes(real)
    assert codes_of(device) == (Standing.TRUSTED, set())


def test_a_log_of_another_boot_is_refused(device: Device, site: LoggedSite) -> None:
    """boot_aggregate binds it to what the firmware measured."""
    site.kernel.entries[0] = replace(
        site.kernel.entries[0], fields=[b"sha256:\0" + bytes(32), b"boot_aggregate\0"]
    )
    site.ima_path.write_bytes(site.kernel.log())
    assert refused(site, device) == "evidence:ima-log:replay"


def test_the_application_pcr_is_none_of_the_platforms(device: Device) -> None:
    """The device says which one it is where it quotes others of 8 to 15."""
    assert device._context.measured.pcr == OWN_PCR
    assert device._context.quoted.banks[0][1] == (*range(11), OWN_PCR)
    assert device._context.selection.banks[0][1] == (*range(8), OWN_PCR)
