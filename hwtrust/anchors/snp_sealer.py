"""Seal to this guest, on this chip: by the SNP firmware's derived key.

    VCEK ─┬─ policy, measurement, guest SVN, TCB ─▶ derived key ─HKDF─▶ a blob's key
          └─ by the firmware                        policy, measurement again

Rules:
1. The key depends on the chip, the guest's policy (so that a guest with debugging
   enabled gets another one), its launch measurement, its SVN, and the TCB.
2. A blob names root key, fields, VMPL, SVN and TCB that its key was asked for with;
   it is opened with the same. Its VMPL and root key are this sealer's own, and it
   selects no field less: whoever can make a weaker key may have made the blob.
3. The TCB of a blob is CommittedTcb at the time. After a firmware update the old key
   can still be had, and `needs_reseal` says that a newer one should take its place.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtrust.anchors.blob import SealedBlob, SealerId, encrypt
from hwtrust.anchors.port import erase
from hwtrust.anchors.sev_guest import GuestState, KeyField, KeyRequest, RootKey
from hwtrust.errors.anchors import (
    SealedBlobFormError,
    SealedBlobTcbError,
    SealedBlobWeakError,
)

if TYPE_CHECKING:
    from typing import Self

    from hwtrust.anchors.protocols import Fact
    from hwtrust.anchors.sev_guest import SevGuest

FIELDS: Final = KeyField.POLICY | KeyField.MEASUREMENT | KeyField.GUEST_SVN | KeyField.TCB_VERSION
_HEADER: Final = struct.Struct("<IQIIQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpHeader:
    """What the key of a blob was asked for with."""

    root: int
    fields: int
    vmpl: int
    guest_svn: int
    tcb: int

    @classmethod
    def read(cls, blob: bytes) -> tuple[Self, SealedBlob]:
        """The header of a blob, and the blob; the header is not authenticated.

        Raises:
            SealedBlobFormError: it is no blob of an SNP guest.
        """
        sealed = SealedBlob.decode(blob, sealer=SealerId.SNP, header_size=_HEADER.size)
        root, fields, vmpl, guest_svn, tcb = _HEADER.unpack(sealed.header)
        if fields & ~sum(KeyField) or root not in set(RootKey):
            raise SealedBlobFormError("the blob names keys that hwtrust does not know")
        return cls(root=root, fields=fields, vmpl=vmpl, guest_svn=guest_svn, tcb=tcb), sealed

    @classmethod
    def of(cls, request: KeyRequest) -> Self:
        """The header for a key."""
        return cls(
            root=request.root,
            fields=request.fields,
            vmpl=request.vmpl,
            guest_svn=request.guest_svn,
            tcb=request.tcb,
        )

    def encode(self) -> bytes:
        """Its bytes."""
        return _HEADER.pack(self.root, self.fields, self.vmpl, self.guest_svn, self.tcb)

    def request(self) -> KeyRequest:
        """How to ask for the key."""
        return KeyRequest(
            root=RootKey(self.root),
            fields=KeyField(self.fields),
            vmpl=self.vmpl,
            guest_svn=self.guest_svn,
            tcb=self.tcb,
        )

    def facts(self) -> dict[str, Fact]:
        """What the key depends on, for people and programs."""
        return {
            "root_key": RootKey(self.root).name.lower(),
            "fields": [item.name.lower() for item in KeyField if item & self.fields and item.name],
            "vmpl": self.vmpl,
            "guest_svn": self.guest_svn,
            "tcb": f"{self.tcb:016x}",
        }


class SnpSealer:
    """Seals by the derived key of one VMPL."""

    def __init__(self, device: SevGuest, *, vmpl: int) -> None:
        self._device = device
        self._vmpl = vmpl

    def seal(self, secret: bytes) -> bytes:
        """A blob that this guest opens, on this chip, as measured now.

        Raises:
            AnchorRequestError: the secret is longer than 64 KiB.
            DerivedKeyError: the firmware gave no key.
            AnchorError: in another way.
        """
        state = self._device.state(vmpl=self._vmpl)
        request = KeyRequest(
            root=RootKey.VCEK,
            fields=FIELDS,
            vmpl=self._vmpl,
            guest_svn=state.guest_svn,
            tcb=state.committed_tcb,
        )
        key = self._device.derived_key(request)
        try:
            header = SnpHeader.of(request).encode()
            return encrypt(key, secret, sealer=SealerId.SNP, header=header, mixed=_mixed(state))
        finally:
            erase(key)

    def unseal(self, blob: bytes) -> bytes:
        """The secret in a blob.

        Raises:
            SealedBlobFormError: it is no blob of an SNP guest.
            SealedBlobWeakError: others than this guest can have made it.
            SealedBlobTcbError: it was sealed under firmware that is not committed here.
            SealedBlobKeyError: it was changed, or sealed elsewhere or in another state.
            DerivedKeyError: the firmware gave no key.
        """
        header, sealed = SnpHeader.read(blob)
        self._require_as_strong(header)
        state = self._device.state(vmpl=self._vmpl)
        _require_reachable(header, state)
        key = self._device.derived_key(header.request())
        try:
            return sealed.open(key, mixed=_mixed(state))
        finally:
            erase(key)

    def needs_reseal(self, blob: bytes) -> bool:
        """Whether firmware or guest have been updated since.

        Raises:
            SealedBlobError: it is no blob of this guest, or from newer firmware.
            AnchorError: there is no report.
        """
        header, _ = SnpHeader.read(blob)
        self._require_as_strong(header)
        state = self._device.state(vmpl=self._vmpl)
        _require_reachable(header, state)
        return (header.tcb, header.guest_svn) != (state.committed_tcb, state.guest_svn)

    def _require_as_strong(self, header: SnpHeader) -> None:
        """Rule 2."""
        if header.fields & FIELDS != FIELDS:
            raise SealedBlobWeakError("the blob's key leaves out what hwtrust mixes in")
        if header.vmpl != self._vmpl:
            raise SealedBlobWeakError(
                f"the blob was sealed at VMPL {header.vmpl}, not {self._vmpl}", vmpl=header.vmpl
            )
        if header.root != RootKey.VCEK:
            raise SealedBlobWeakError("the blob's key is that of a migration agent")


def _require_reachable(header: SnpHeader, state: GuestState) -> None:
    """The firmware gives no key of a TCB or SVN above its own."""
    pairs = zip(header.tcb.to_bytes(8), state.committed_tcb.to_bytes(8), strict=True)
    if any(sealed > committed for sealed, committed in pairs):
        raise SealedBlobTcbError(
            "the blob was sealed under firmware that is not committed here",
            sealed=f"{header.tcb:016x}",
            committed=f"{state.committed_tcb:016x}",
        )
    if header.guest_svn > state.guest_svn:
        raise SealedBlobTcbError(
            f"the blob was sealed by guest SVN {header.guest_svn}, this is {state.guest_svn}"
        )


def _mixed(state: GuestState) -> bytes:
    """Policy and measurement: mixed in once more, should the firmware leave them out."""
    return state.policy + state.measurement
