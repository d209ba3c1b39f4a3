"""Reports through configfs-tsm, the kernel's common interface (Linux 6.7 and later).

    mkdir NAME ─▶ privlevel, service_* ─▶ inblob ─▶ outblob, auxblob, manifestblob ─▶ rmdir
                       generation g ──────▶ g + 1 ─────────────────────────▶ g + 1

Rules:
1. Each request has a directory of its own, whose name nobody can guess; it is
   removed whatever happens.
2. `inblob` takes effect when it is closed, and the kernel drops the result of that:
   the report answers this request only if `generation` rose by one, and stayed there
   until all was read.
3. A busy interface is tried again, a bounded number of times. Anything else is not.
4. An empty report is a failure.
5. The provider is the one that the caller expects: it gives the report its meaning.

Documentation/ABI/testing/configfs-tsm-report of the Linux kernel.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hwtrust.anchors.binding import require_answer, require_report_data
from hwtrust.anchors.port import converted, read_file, write_file
from hwtrust.anchors.protocols import Kind, RawEvidence
from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorMissingError,
    AnchorProviderError,
    AnchorRequestError,
    AnchorResponseError,
    AnchorStaleError,
    EmptyReportError,
)
from hwtrust.wire.cmw import MediaType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hwtrust.anchors.port import Port

REPORTS: Final = "/sys/kernel/config/tsm/report"
MAX_INBLOB: Final = 64
MAX_BLOB: Final = 16 * 1024 * 1024
"""TSM_REPORT_OUTBLOB_MAX of the newest kernels; older ones have 32 KiB."""
MAX_PRIVLEVEL: Final = 3
TRIES: Final = 5
SVSM: Final = "svsm"

PROVIDERS: Final = {
    "sev_guest": Kind.SNP,
    "tdx_guest": Kind.TDX,
    "arm_cca_guest": Kind.CCA,
}
MEDIA_TYPES: Final = {
    Kind.SNP: MediaType.SNP,
    Kind.TDX: MediaType.TDX,
    Kind.CCA: MediaType.CCA,
}

_FIRST_PAUSE: Final = 0.1
_TEXT_LIMIT: Final = 256
_NAME: Final = re.compile(r"[a-z0-9_]{1,64}")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WRAP: Final = 2**64


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the SVSM, below the kernel, whose manifest the report binds.

    REPORT_DATA is then SHA-512(inblob || manifest).
    """

    guid: str
    manifest_version: int | None = None


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What one request gave."""

    provider: str
    outblob: bytes = field(repr=False)
    auxblob: bytes = field(default=b"", repr=False)
    manifestblob: bytes = field(default=b"", repr=False)


class Tsm:
    """The report interface of configfs-tsm."""

    def __init__(self, port: Port, *, root: str = REPORTS) -> None:
        self._port = port
        self._root = root

    def provider(self) -> str:
        """The name of the driver that makes reports.

        Raises:
            AnchorMissingError: the kernel has no configfs-tsm, or it is not mounted.
            AnchorProviderError: there is no provider.
            AnchorPermissionError: this user may not ask for reports.
        """
        with self._entry() as entry:
            return self._provider(entry)

    def privlevel_floor(self) -> int | None:
        """The lowest privilege level (VMPL) that can be asked for; None where there are none.

        Raises:
            AnchorError: as of `provider`.
        """
        with self._entry() as entry:
            return self._floor(entry)

    def report(
        self,
        inblob: bytes,
        *,
        provider: str,
        privlevel: int | None = None,
        service: Service | None = None,
    ) -> TsmReport:
        """A report that binds `inblob`, 1 to 64 bytes, made by `provider`.

        Raises:
            AnchorRequestError: size, privilege level or service are not possible.
            AnchorProviderError: another provider, or none, is there.
            AnchorBusyError: it stayed busy.
            AnchorStaleError: another writer came in between.
            EmptyReportError: the report is empty.
        """
        if not 1 <= len(inblob) <= MAX_INBLOB:
            raise AnchorRequestError(
                f"a report binds 1 to {MAX_INBLOB} bytes, not {len(inblob)}", size=len(inblob)
            )
        pause = _FIRST_PAUSE
        for _ in range(TRIES - 1):
            with contextlib.suppress(AnchorBusyError):
                return self._once(inblob, provider, privlevel, service)
            self._port.pause(pause)
            pause *= 2
        return self._once(inblob, provider, privlevel, service)

    def _once(
        self, inblob: bytes, provider: str, privlevel: int | None, service: Service | None
    ) -> TsmReport:
        with self._entry() as entry:
            found = self._provider(entry)
            if found != provider:
                raise AnchorProviderError(
                    f"reports are made by {found}, not by {provider}", provider=found
                )
            if privlevel is not None:
                self._set_privlevel(entry, privlevel)
            if service is not None:
                self._set_service(entry, service)
            before = self._generation(entry)
            write_file(self._port, f"{entry}/inblob", inblob)
            expected = (before + 1) % _WRAP
            self._require_generation(entry, expected, before=before)
            report = self._read(entry, found, service)
            self._require_generation(entry, expected, before=None)
        return report

    def _read(self, entry: str, provider: str, service: Service | None) -> TsmReport:
        outblob = read_file(self._port, f"{entry}/outblob", limit=MAX_BLOB)
        if not outblob:
            raise EmptyReportError(f"{provider} gave an empty report", provider=provider)
        with converted(entry):
            present = self._port.listdir(entry)
        others = {
            name: read_file(self._port, f"{entry}/{name}", limit=MAX_BLOB)
            for name in ("auxblob", "manifestblob")
            if name in present
        }
        manifest = others.get("manifestblob", b"")
        if service is not None and not manifest:
            raise EmptyReportError(f"{provider} gave no manifest of {service.guid}")
        return TsmReport(provider, outblob, others.get("auxblob", b""), manifest)

    def _require_generation(self, entry: str, expected: int, *, before: int | None) -> None:
        """Rule 2: what is committed is this request, and no other."""
        found = self._generation(entry)
        if found == before:
            # The kernel refuses a commit, silently, as long as a report waits to be read.
            raise AnchorBusyError("the report interface did not take the request", path=entry)
        if found != expected:
            raise AnchorStaleError(
                f"generation {found} instead of {expected}: another request came in between",
                expected=expected,
                found=found,
            )

    def _set_privlevel(self, entry: str, privlevel: int) -> None:
        floor = self._floor(entry)
        if floor is None:
            raise AnchorRequestError("this provider has no privilege levels", privlevel=privlevel)
        if not floor <= privlevel <= MAX_PRIVLEVEL:
            raise AnchorRequestError(
                f"privilege level {privlevel} is not between {floor} and {MAX_PRIVLEVEL}",
                privlevel=privlevel,
                floor=floor,
            )
        write_file(self._port, f"{entry}/privlevel", str(privlevel).encode())

    def _set_service(self, entry: str, service: Service) -> None:
        if not _GUID.fullmatch(service.guid):
            raise AnchorRequestError("the service has no GUID, or one in capital letters")
        with converted(entry):
            if "service_provider" not in self._port.listdir(entry):
                raise AnchorMissingError("there is no SVSM below this kernel", path=entry)
        write_file(self._port, f"{entry}/service_provider", SVSM.encode())
        write_file(self._port, f"{entry}/service_guid", service.guid.encode())
        if service.manifest_version is not None:
            version = str(service.manifest_version).encode()
            write_file(self._port, f"{entry}/service_manifest_version", version)

    def _provider(self, entry: str) -> str:
        return self._text(f"{entry}/provider", _NAME)

    def _generation(self, entry: str) -> int:
        return int(self._text(f"{entry}/generation", _NUMBER))

    def _floor(self, entry: str) -> int | None:
        with converted(entry):
            if "privlevel_floor" not in self._port.listdir(entry):
                return None
        return int(self._text(f"{entry}/privlevel_floor", _NUMBER))

    def _text(self, path: str, form: re.Pattern[str]) -> str:
        raw = read_file(self._port, path, limit=_TEXT_LIMIT)
        text = raw.decode("ascii", errors="replace").removesuffix("\n")
        if not form.fullmatch(text):
            raise AnchorResponseError(f"{path} holds what the kernel never writes", path=path)
        return text

    @contextlib.contextmanager
    def _entry(self) -> Iterator[str]:
        """Rule 1: a directory for one request."""
        path = f"{self._root}/hwtrust-{os.urandom(16).hex()}"
        try:
            with converted(self._root):
                self._port.mkdir(path)
            yield path
            with converted(path):
                self._port.rmdir(path)
        except BaseException:
            # Whatever stopped the request matters more than what stops the removal.
            with contextlib.suppress(OSError):
                self._port.rmdir(path)
            raise


class TsmAttester:
    """Evidence of one kind through configfs-tsm."""

    def __init__(self, tsm: Tsm, *, provider: str, privlevel: int | None = None) -> None:
        """`privlevel` is the VMPL that an SNP report shows; None leaves it to the kernel.

        Raises:
            AnchorProviderError: hwtrust does not know what this provider's reports are.
        """
        if provider not in PROVIDERS:
            raise AnchorProviderError(f"hwtrust does not know the provider {provider}")
        self._tsm = tsm
        self._provider = provider
        self._privlevel = privlevel
        self._kind = PROVIDERS[provider]

    @property
    def kind(self) -> Kind:
        """The kind of its evidence."""
        return self._kind

    def attest(self, report_data: bytes) -> RawEvidence:
        """Evidence that binds `report_data`, 64 bytes.

        Raises:
            ReportDataError: it is of another size.
            AnchorError: no evidence could be had, or none that answers this request.
        """
        require_report_data(report_data)
        report = self._tsm.report(report_data, provider=self._provider, privlevel=self._privlevel)
        require_answer(self._kind, report.outblob, report_data)
        return RawEvidence(
            self._kind, MEDIA_TYPES[self._kind], report.outblob, certificates=report.auxblob
        )
