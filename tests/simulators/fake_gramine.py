"""/dev/attestation as Gramine has it inside of an SGX enclave.

Report data that is too short is filled up with zeros, and what is too long is cut. The
quote is over whatever `user_report_data` holds. libos/src/fs/dev/attestation.c.
"""

from __future__ import annotations

import errno
import hmac
from typing import TYPE_CHECKING, Final

from simulators.fake_machine import Device, fail

if TYPE_CHECKING:
    from collections.abc import Callable

FILES: Final = "/dev/attestation"
_WRITABLE: Final = {"user_report_data": 64, "target_info": 512}
_KEYS: Final = ("_sgx_mrenclave", "_sgx_mrsigner")


class FakeGramine(Device):
    """The files of one enclave on one CPU.

    `signer` makes the quote for report data. Faults: `deaf` keeps the old report data, the
    quote is `short`, the key is `key_size` bytes or all zeros, `race` runs before a quote.
    """

    def __init__(self, signer: Callable[[bytes], bytes], *, cpu: bytes = b"cpu") -> None:
        self.signer = signer
        self.cpu = cpu
        self.attestation_type = "dcap"
        self.mrenclave, self.mrsigner = bytes(range(32)), bytes(range(32, 64))
        self.cpu_svn, self.isv_svn = bytes(range(16)), 3
        self.held = {name: bytes(size) for name, size in _WRITABLE.items()}
        self.deaf = False
        self.short: int | None = None
        self.zero_key = False
        self.key_size = 16
        self.has_keys = True
        self.race: Callable[[], None] | None = None

    def listdir(self, path: str) -> list[str]:
        """The directory of keys."""
        if path != "keys" or not self.has_keys:
            fail(errno.ENOENT)
        return [*_KEYS, "default"]

    def read(self, path: str) -> bytes:
        """A file."""
        if path in self.held:
            return self.held[path]
        if path == "attestation_type":
            return self.attestation_type.encode()
        if path == "my_target_info":
            return self.mrenclave.ljust(512, b"\0")
        if path == "report":
            return self._report()
        if path == "quote":
            if self.attestation_type != "dcap":
                fail(errno.EACCES)
            if self.race is not None:
                self.race()
            return self.signer(self.held["user_report_data"])[: self.short]
        if not path.startswith("keys/") or not self.has_keys:
            fail(errno.ENOENT)
        return self._key(path.removeprefix("keys/"))

    def write(self, path: str, data: bytes) -> int:
        """Take what fits."""
        if path not in _WRITABLE:
            fail(errno.EACCES)
        size = _WRITABLE[path]
        if not (self.deaf and path == "user_report_data"):
            self.held[path] = data[:size].ljust(size, b"\0")
        return len(data)

    def _report(self) -> bytes:
        if self.held["target_info"][:32] != self.mrenclave:
            fail(errno.EACCES)
        report = bytearray(432)
        report[:16] = self.cpu_svn
        report[64:96], report[128:160] = self.mrenclave, self.mrsigner
        report[258:260] = self.isv_svn.to_bytes(2, "little")
        report[320:384] = self.held["user_report_data"]
        return bytes(report)

    def _key(self, name: str) -> bytes:
        if name not in _KEYS:
            fail(errno.EACCES)
        identity = self.mrenclave if name == "_sgx_mrenclave" else self.mrsigner
        context = name.encode() + identity + self.cpu_svn + self.isv_svn.to_bytes(2, "little")
        key = bytes(32) if self.zero_key else hmac.digest(self.cpu, context, "sha256")
        return key[: self.key_size]
