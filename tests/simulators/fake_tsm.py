"""configfs-tsm as the kernel has it: binary attributes take effect when they are closed.

The result of that is dropped: an `inblob` that the kernel refuses is silent, and only
`generation` tells. Text attributes take effect, or fail, when they are written.
drivers/virt/coco/guest/report.c, fs/configfs/file.c.
"""

from __future__ import annotations

import errno
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simulators.fake_machine import Device, fail

if TYPE_CHECKING:
    from collections.abc import Callable

REPORTS: Final = "/sys/kernel/config/tsm/report"
INBLOB_MAX, OUTBLOB_MAX = 64, 32 * 1024
_SIZES: Final = {
    "sev_guest": range(64, 65),
    "tdx_guest": range(64, 65),
    "arm_cca_guest": range(32, 65),
}
_COMMON: Final = ("generation", "provider", "inblob", "outblob")
_SEV: Final = ("auxblob", "privlevel", "privlevel_floor")
_SVSM: Final = ("manifestblob", "service_provider", "service_guid", "service_manifest_version")
_WRITABLE: Final = (
    "inblob",
    "privlevel",
    "service_provider",
    "service_guid",
    "service_manifest_version",
)
_BINARY: Final = {"inblob", "outblob", "auxblob", "manifestblob"}


@dataclass
class Entry:
    """A directory below report/."""

    write_generation: int = 0
    read_generation: int = 0
    inblob: bytes = b""
    privlevel: int = 0
    service: dict[str, str] = field(default_factory=dict)
    outblob: bytes | None = None
    manifest: bytes = b""


class FakeTsm(Device):
    """The directory /sys/kernel/config/tsm/report.

    `signer` makes the report for report data. Faults: `lost` commits are dropped without
    a word; `busy` reads of the report fail with EBUSY; `race` runs before the report is
    read; `short` cuts the report. `floor` above 0 is a kernel above an SVSM.
    """

    def __init__(
        self,
        signer: Callable[[bytes], bytes],
        *,
        provider: str | None = "sev_guest",
        floor: int = 0,
        certificates: bytes = b"",
        manifest: bytes = b"manifest",
    ) -> None:
        self.signer = signer
        self.provider = provider
        self.floor = floor
        self.certificates = certificates
        self.manifest = manifest
        self.entries: dict[str, Entry] = {}
        self.lost = 0
        self.busy = 0
        self.short: int | None = None
        self.race: Callable[[Entry], None] | None = None
        self.late_race: Callable[[Entry], None] | None = None
        self.names: list[str] = []
        self.privlevels: list[int] = []

    def probe(self, path: str) -> None:
        """Whether the path is there."""
        if path and path not in self.entries:
            fail(errno.ENOENT)

    def mkdir(self, path: str) -> None:
        """A new request."""
        if self.provider is None:
            fail(errno.ENXIO)
        if path in self.entries:
            fail(errno.EEXIST)
        self.names.append(path)
        self.entries[path] = Entry()

    def rmdir(self, path: str) -> None:
        """Drop a request."""
        if self.entries.pop(path, None) is None:
            fail(errno.ENOENT)

    def listdir(self, path: str) -> list[str]:
        """The requests, or the attributes that this provider shows."""
        if not path:
            return list(self.entries)
        self._entry(path)
        shown = [*_COMMON]
        if self.provider == "sev_guest":
            shown += _SEV
            if self.floor:
                shown += _SVSM
        return shown

    def read(self, path: str) -> bytes:
        """Open, read to the end, close."""
        handle = self.open(path, writing=False)
        data = handle.read()
        handle.close()
        return data

    def write(self, path: str, data: bytes) -> int:
        """Open, write once, close."""
        handle = self.open(path, writing=True)
        taken = handle.write(data)
        handle.close()
        return taken

    def open(self, path: str, *, writing: bool) -> Handle:
        """Open an attribute."""
        name, _, attribute = path.partition("/")
        entry = self._entry(name)
        if attribute not in self.listdir(name):
            fail(errno.ENOENT)
        if writing != (attribute in _WRITABLE):
            fail(errno.EACCES)
        return Handle(self, entry, attribute)

    def _entry(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            fail(errno.ENOENT)
        return entry

    def advance(self, entry: Entry) -> int:
        """Count a change; gives an error's number, or 0."""
        if entry.write_generation == (entry.read_generation - 1) % 2**64:
            return errno.EBUSY
        entry.write_generation = (entry.write_generation + 1) % 2**64
        return 0

    def generate(self, entry: Entry) -> None:
        """Make the report, unless the one that is there is of this generation."""
        if self.provider is None:
            fail(errno.ENXIO)
        if not entry.inblob:
            fail(errno.EINVAL)
        if self.busy:
            self.busy -= 1
            fail(errno.EBUSY)
        if self.race is not None:
            self.race(entry)
        if entry.outblob is not None and entry.read_generation == entry.write_generation:
            return
        entry.outblob = None
        if len(entry.inblob) not in _SIZES.get(self.provider, range(1, 65)):
            fail(errno.EINVAL)
        bound, entry.manifest = entry.inblob, b""
        if entry.service.get("service_provider") is not None:
            if entry.service["service_provider"] != "svsm":
                fail(errno.EINVAL)
            entry.manifest = self.manifest
            bound = hashlib.sha512(entry.inblob + entry.manifest).digest()
        self.privlevels.append(entry.privlevel)
        entry.outblob = self.signer(bound)[: self.short]
        entry.read_generation = entry.write_generation
        if self.late_race is not None:
            self.late_race(entry)


class Handle:
    """An open attribute: read or written, not both."""

    def __init__(self, tsm: FakeTsm, entry: Entry, attribute: str) -> None:
        self._tsm = tsm
        self._entry = entry
        self._attribute = attribute
        self._pending: bytes | None = None
        self._read = False

    def read(self) -> bytes:
        """The whole attribute."""
        if self._pending is not None:
            fail(errno.ETXTBSY)
        self._read = True
        if self._attribute in _BINARY:
            self._tsm.generate(self._entry)
            data = {
                "outblob": self._entry.outblob or b"",
                "auxblob": self._tsm.certificates,
                "manifestblob": self._entry.manifest,
            }[self._attribute]
            if len(data) > OUTBLOB_MAX:
                fail(errno.EFBIG)
            return data
        text = {
            "generation": str(self._entry.write_generation),
            "provider": self._tsm.provider or "",
            "privlevel_floor": str(self._tsm.floor),
        }[self._attribute]
        return f"{text}\n".encode()

    def write(self, data: bytes) -> int:
        """Text takes effect now, bytes when the file is closed."""
        if self._read:
            fail(errno.ETXTBSY)
        if self._attribute in _BINARY:
            pending = (self._pending or b"") + data
            if len(pending) > INBLOB_MAX:
                fail(errno.EFBIG)
            self._pending = pending
            return len(data)
        text = data.decode()
        if self._attribute == "privlevel" and not (
            re.fullmatch("[0-9]+", text) and self._tsm.floor <= int(text) <= 3
        ):
            fail(errno.EINVAL)
        if refused := self._tsm.advance(self._entry):
            fail(refused)
        if self._attribute == "privlevel":
            self._entry.privlevel = int(text)
        else:
            self._entry.service[self._attribute] = text.removesuffix("\n")
        return len(data)

    def close(self) -> None:
        """Commit; whether that succeeds is not told."""
        if self._pending is None:
            return
        if self._tsm.lost:
            self._tsm.lost -= 1
        elif not self._tsm.advance(self._entry):
            self._entry.inblob = self._pending
