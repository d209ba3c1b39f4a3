"""Intel SGX under Gramine: quotes, and sealing, through the files in /dev/attestation.

    user_report_data ─▶ quote          64 bytes written first, or the quote is stale
    keys/_sgx_mrenclave ─HKDF─▶ key    EGETKEY, for this enclave, or for its signer

An enclave has no registers that grow: what it runs is measured when it is built.

Rules:
1. `user_report_data` takes exactly 64 bytes (Gramine cuts a longer one, and fills up a
   shorter one), and is read back before the quote is asked for.
2. The files are the process's own, one at a time: a request has them to itself.
3. The hardware's key has 16 bytes and encrypts nothing itself; an encrypted mount of
   Gramine may use the same one.
4. A blob names its key, and under which CPU and enclave SVN it was made: Gramine gives
   the key of the present ones alone, so that after an update of either the secret has
   to be obtained anew.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from hwtrust.anchors.binding import require_answer, require_report_data
from hwtrust.anchors.blob import SealedBlob, SealerId, encrypt
from hwtrust.anchors.port import erase, read_exactly, read_file, write_file
from hwtrust.anchors.protocols import REPORT_DATA_SIZE, Kind, RawEvidence
from hwtrust.errors.anchors import (
    AnchorProviderError,
    AnchorStaleError,
    DerivedKeyError,
    SealedBlobFormError,
    SealedBlobTcbError,
    SealedBlobWeakError,
)
from hwtrust.wire.cmw import MediaType

if TYPE_CHECKING:
    from hwtrust.anchors.port import Port
    from hwtrust.anchors.protocols import Fact

FILES: Final = "/dev/attestation"
DCAP: Final = "dcap"
MAX_QUOTE: Final = 64 * 1024
KEY_SIZE: Final = 16
_TARGET_INFO_SIZE: Final = 512
_REPORT_SIZE: Final = 432
_CPU_SVN_SIZE: Final = 16
_ISV_SVN: Final = 258
_HEADER: Final = struct.Struct("<I16sH2x")

_TURN: Final = threading.RLock()
"""Rule 2: of all requests in this process."""


class SealTo(IntEnum):
    """Who opens a blob."""

    ENCLAVE = 0
    """This very enclave: MRENCLAVE."""
    SIGNER = 1
    """Any enclave of the same signer and product: MRSIGNER."""


_KEYS: Final = {SealTo.ENCLAVE: "_sgx_mrenclave", SealTo.SIGNER: "_sgx_mrsigner"}


class GramineFiles:
    """The files in /dev/attestation."""

    def __init__(self, port: Port, *, root: str = FILES) -> None:
        self._port = port
        self._root = root

    def attestation_type(self) -> str:
        """What makes quotes: `dcap`, or `none`.

        Raises:
            AnchorError: this is no enclave of Gramine.
        """
        raw = read_file(self._port, f"{self._root}/attestation_type", limit=64)
        return raw.decode("ascii", errors="replace").strip()

    def quote(self, report_data: bytes) -> bytes:
        """A quote that binds `report_data`, 64 bytes.

        Raises:
            ReportDataError: it is of another size.
            AnchorProviderError: Gramine makes no quotes: `sgx.remote_attestation` is off.
            AnchorStaleError: the quote is for other report data.
            AnchorError: in another way.
        """
        with _TURN:
            found = self.attestation_type()
            if found != DCAP:
                raise AnchorProviderError(f"attestation type {found} instead of {DCAP}")
            self._set_report_data(report_data)
            quote = read_file(self._port, f"{self._root}/quote", limit=MAX_QUOTE)
        require_answer(Kind.SGX, quote, report_data)
        return quote

    def versions(self) -> tuple[bytes, int]:
        """The CPU's SVN, 16 bytes, and the enclave's: from a report to itself.

        Raises:
            AnchorError: there is no report.
        """
        with _TURN:
            target = read_exactly(self._port, f"{self._root}/my_target_info", _TARGET_INFO_SIZE)
            write_file(self._port, f"{self._root}/target_info", target)
            self._set_report_data(bytes(REPORT_DATA_SIZE))
            report = read_exactly(self._port, f"{self._root}/report", _REPORT_SIZE)
        return report[:_CPU_SVN_SIZE], int.from_bytes(report[_ISV_SVN : _ISV_SVN + 2], "little")

    def key(self, seal_to: SealTo) -> bytearray:
        """EGETKEY: 16 bytes; the caller overwrites them.

        Raises:
            DerivedKeyError: the key is all zeros.
            AnchorError: the hardware gave none.
        """
        path = f"{self._root}/keys/{_KEYS[seal_to]}"
        key = bytearray(read_exactly(self._port, path, KEY_SIZE))
        if not any(key):
            raise DerivedKeyError("the enclave's key is all zeros", status=0, path=path)
        return key

    def _set_report_data(self, report_data: bytes) -> None:
        require_report_data(report_data)
        path = f"{self._root}/user_report_data"
        write_file(self._port, path, report_data)
        if read_file(self._port, path, limit=REPORT_DATA_SIZE) != report_data:
            raise AnchorStaleError(f"{path} does not hold what was written", path=path)


class GramineAttester:
    """SGX quotes."""

    def __init__(self, files: GramineFiles) -> None:
        self._files = files

    @property
    def kind(self) -> Kind:
        """The kind of its evidence."""
        return Kind.SGX

    def attest(self, report_data: bytes) -> RawEvidence:
        """A quote that binds `report_data`, 64 bytes.

        Raises:
            ReportDataError: it is of another size.
            AnchorError: no quote could be had, or none that answers this request.
        """
        return RawEvidence(Kind.SGX, MediaType.SGX, self._files.quote(report_data))


@dataclass(frozen=True, slots=True, kw_only=True)
class GramineHeader:
    """What the key of a blob depends on."""

    seal_to: int
    cpu_svn: bytes
    isv_svn: int

    def encode(self) -> bytes:
        """Its bytes."""
        return _HEADER.pack(self.seal_to, self.cpu_svn, self.isv_svn)

    @classmethod
    def read(cls, blob: bytes) -> tuple[GramineHeader, SealedBlob]:
        """The header of a blob, and the blob; the header is not authenticated.

        Raises:
            SealedBlobFormError: it is no blob of an enclave.
        """
        sealed = SealedBlob.decode(blob, sealer=SealerId.SGX, header_size=_HEADER.size)
        seal_to, cpu_svn, isv_svn = _HEADER.unpack(sealed.header)
        header = cls(seal_to=seal_to, cpu_svn=cpu_svn, isv_svn=isv_svn)
        if seal_to not in set(SealTo) or header.encode() != sealed.header:
            raise SealedBlobFormError("the blob names keys that hwtrust does not know")
        return header, sealed

    def facts(self) -> dict[str, Fact]:
        """What the key depends on, for people and programs."""
        return {
            "seal_to": SealTo(self.seal_to).name.lower(),
            "cpu_svn": self.cpu_svn.hex(),
            "isv_svn": self.isv_svn,
        }


class GramineSealer:
    """Seals by the enclave's key, or by its signer's."""

    def __init__(self, files: GramineFiles, *, seal_to: SealTo) -> None:
        self._files = files
        self._seal_to = seal_to

    def seal(self, secret: bytes) -> bytes:
        """A blob that this enclave opens, or its signer's, on this CPU as it is now.

        Raises:
            AnchorRequestError: the secret is longer than 64 KiB.
            DerivedKeyError: the hardware gave no key.
            AnchorError: in another way.
        """
        header = self._present().encode()
        key = self._files.key(self._seal_to)
        try:
            return encrypt(key, secret, sealer=SealerId.SGX, header=header, mixed=b"")
        finally:
            erase(key)

    def unseal(self, blob: bytes) -> bytes:
        """The secret in a blob.

        Raises:
            SealedBlobFormError: it is no blob of an enclave.
            SealedBlobWeakError: it is sealed to the signer, and this sealer to the enclave.
            SealedBlobTcbError: CPU or enclave were updated since.
            SealedBlobKeyError: it was changed, or sealed by another enclave or CPU.
            DerivedKeyError: the hardware gave no key.
        """
        sealed = self._require_mine(blob)
        key = self._files.key(self._seal_to)
        try:
            return sealed.open(key, mixed=b"")
        finally:
            erase(key)

    def needs_reseal(self, blob: bytes) -> bool:
        """False: a blob that opens is never older than CPU and enclave, rule 4.

        Raises:
            SealedBlobFormError: it is no blob of an enclave.
            SealedBlobWeakError, SealedBlobTcbError: it does not open any more.
        """
        self._require_mine(blob)
        return False

    def _require_mine(self, blob: bytes) -> SealedBlob:
        header, sealed = GramineHeader.read(blob)
        # A signer's key is had by its other enclaves too: they can have made the blob.
        if header.seal_to != self._seal_to:
            raise SealedBlobWeakError("the blob is sealed to something else than this sealer's")
        if header != self._present():
            raise SealedBlobTcbError("the CPU's or the enclave's SVN changed since it was sealed")
        return sealed

    def _present(self) -> GramineHeader:
        cpu_svn, isv_svn = self._files.versions()
        return GramineHeader(seal_to=self._seal_to, cpu_svn=cpu_svn, isv_svn=isv_svn)
