"""What a device remembers on disk: who it is, and the roots that it holds.

    state_dir/                0700
      lock                    held while a process works with the device
      identity.json           Names and handles, written by enrolment
      handles.json            handles that are ours, written before they are used
      roots/<epoch>.json      a root: metadata, sealed object, approval
      tls-key.pem             a TPM's TLS key, wrapped; tls-certificate.pem beside it
      update.json             hwtrust.device.trial; releases/ beside it is hwtrust.updates
      heard.json              the backend's last word, and when
      failure.json            what failed in a load, until the backend was told
      eventlog.cel            hwtrust.measure
      keystore.db             hwtrust.keys

Rules:
1. Nothing here is secret: the key store is encrypted, roots are sealed, and the
   TLS key is wrapped by the TPM.
2. Nothing here is trusted either: roots are checked against signed metadata each
   time, objects in the TPM against their Names.
3. A file is replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from hwtrust.errors import (
    NotEnrolledError,
    StateDamagedError,
    StateError,
    StateMissingError,
)
from hwtrust.files import FileLock, private_directory, read_limited, state_error, write_atomic
from hwtrust.tpm.connection import Pinned
from hwtrust.tpm.handles import Handles
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import Mode, TlsKeyKind, UpdateOrder
from hwtrust.wire.root import Approval
from hwtrust.wire.statement import StepFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_LIMIT = 1024 * 1024
_YEAR_10000 = 253_402_300_800_000
"""Milliseconds from 1970; a date of the calendar lies before it."""

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who the device is: its EK's Name, and what it keeps in the TPM."""

    device: bytes
    ek_profile: str
    ak: Pinned
    storage_key: Pinned
    counter: Pinned
    tls_kind: TlsKeyKind
    keystore_made: bool = False


class StoredRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A root as it is kept: signed metadata, the object wrapped by this TPM, what opens it."""

    epoch: int
    metadata: Envelope
    public: bytes
    private: bytes
    approval: Approval
    ticket: bytes = b""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The backend's last word: the mode, and its signed time, UTC milliseconds."""

    mode: Mode
    at_ms: Annotated[int, msgspec.Meta(ge=0, lt=_YEAR_10000)]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A release that runs, or is to run, and is not confirmed. `begun` is the TPM's clock, ms."""

    release: str
    previous: str
    slot: str
    begun: int
    starts: int = 0
    restart: bool = False
    """It is switched to, and comes up with the next reset of the PCRs."""
    up: bool = False
    """It has opened the root since it was started last."""
    failed: str = ""
    """The code of why it was given up, from just before the slots are switched back."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was tried and given up. `at` is the TPM's clock, ms."""

    release: str
    code: str
    message: str
    at: int


class UpdateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of updates."""

    order: UpdateOrder | None = None
    """What the backend said last."""
    trial: Trial | None = None
    refused: Refusal | None = None


class _Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Handles` as they are kept: all of them, for a default would claim what is not ours."""

    ak: int
    storage_key: int
    counter: int


class DeviceState:
    """The directory of one device."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process away from the device.

        Raises:
            StateBusyError: another one works with it.
        """
        private_directory(self.directory)
        with FileLock(self.directory / "lock"):
            yield

    @property
    def event_log(self) -> Path:
        """The event log's file."""
        return self.directory / "eventlog.cel"

    @property
    def keystore(self) -> Path:
        """The key store's file."""
        return self.directory / "keystore.db"

    # identity

    def identity(self) -> Identity:
        """Who the device is.

        Raises:
            NotEnrolledError: nobody yet.
        """
        try:
            return self._read(self.directory / "identity.json", Identity)
        except StateMissingError as error:
            message = f"{self.directory} belongs to no enrolled device"
            raise NotEnrolledError(message) from error

    @property
    def enrolled(self) -> bool:
        """Whether there is an identity."""
        return self._known("identity.json") is not None

    def save_identity(self, identity: Identity) -> None:
        """Become that device."""
        self._write(self.directory / "identity.json", identity)

    def claimed_handles(self) -> Handles | None:
        """The handles in the TPM that are this device's, if any."""
        try:
            claim = self._read(self.directory / "handles.json", _Claim)
        except StateMissingError:
            return None
        return Handles(claim.ak, claim.storage_key, claim.counter)

    def claim_handles(self, handles: Handles) -> None:
        """Say that these handles are ours, before anything is put there."""
        self._write(self.directory / "handles.json", handles)

    # roots

    def roots(self) -> dict[int, StoredRoot]:
        """Every root on disk, by epoch, oldest first.

        Raises:
            StateDamagedError: one cannot be read, or is filed under another epoch.
        """
        found = {}
        for path in self._root_files():
            root = self._read(path, StoredRoot)
            if path.stem != str(root.epoch):
                message = f"{path} holds the root of epoch {root.epoch}"
                raise StateDamagedError(message, path=str(path))
            found[root.epoch] = root
        return dict(sorted(found.items()))

    def root_at(self, counter: int) -> StoredRoot | None:
        """The root that opens while the epoch counter stands at `counter`.

        It is that of the lowest epoch that is not below: while an epoch is left
        out, the counter comes by a number that no root has.
        """
        return next((root for epoch, root in self.roots().items() if epoch >= counter), None)

    def save_root(self, root: StoredRoot) -> None:
        """Keep a root, or replace what is known of it."""
        private_directory(self.directory / "roots")
        self._write(self.directory / "roots" / f"{root.epoch}.json", root)

    def drop_root(self, epoch: int) -> None:
        """Forget a root; nothing if it is gone."""
        _unlink(self.directory / "roots" / f"{epoch}.json")

    # updates

    def updates(self) -> UpdateRecord:
        """What there is to say of updates; nothing is said by an empty record.

        A damaged file says nothing: who can damage it can also delete it.
        """
        try:
            return self._read(self.directory / "update.json", UpdateRecord)
        except (StateMissingError, StateDamagedError):
            return UpdateRecord()

    def save_updates(self, record: UpdateRecord) -> None:
        """Replace it."""
        self._write(self.directory / "update.json", record)

    # what the backend said, and what it was not told yet

    def heard(self) -> Heard | None:
        """What the backend said last, if it is known."""
        with contextlib.suppress(StateError):
            return self._read(self.directory / "heard.json", Heard)
        return None

    def save_heard(self, heard: Heard) -> None:
        """Keep what the backend said."""
        self._write(self.directory / "heard.json", heard)

    def failure(self) -> StepFailure | None:
        """What failed and was not told yet. A file that cannot be read is a failure too."""
        try:
            return self._read(self.directory / "failure.json", StepFailure)
        except StateMissingError:
            return None
        except StateError as error:
            detail = "what failed before cannot be read any more"
            return StepFailure(step="open", code=error.code, detail=detail)

    def save_failure(self, failure: StepFailure) -> None:
        """Keep what failed, until it is told."""
        self._write(self.directory / "failure.json", failure)

    def drop_failure(self) -> None:
        """It was told; nothing if there is none."""
        _unlink(self.directory / "failure.json")

    # TLS

    def tls_pem(self) -> bytes:
        """The TPM's TLS key, TSS2 PEM."""
        return read_limited(self.directory / "tls-key.pem", limit=FILE_LIMIT)

    def save_tls_key(self, pem: bytes) -> None:
        """Keep a TPM's TLS key."""
        write_atomic(self.directory / "tls-key.pem", pem)

    def certificate(self) -> str:
        """The certificate of the TPM's TLS key, PEM; empty if there is none."""
        name = "tls-certificate.pem"
        try:
            return (self._known(name) or b"").decode("ascii")
        except UnicodeDecodeError as error:
            path = self.directory / name
            raise StateDamagedError(f"{path} is not PEM", path=str(path)) from error

    def save_certificate(self, pem: str) -> None:
        """Keep the certificate of the TPM's TLS key."""
        write_atomic(self.directory / "tls-certificate.pem", pem.encode())

    def forget(self) -> None:
        """Forget identity, roots and TLS key, as before a new enrolment.

        The key store stays, and what failed and was not told.

        Files are not read for it: a damaged one goes like the others.
        """
        for path in self._root_files():
            _unlink(path)
        for name in ("identity.json", "heard.json", "tls-key.pem", "tls-certificate.pem"):
            _unlink(self.directory / name)

    def _root_files(self) -> list[Path]:
        try:
            files = list((self.directory / "roots").iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise state_error(error, self.directory / "roots") from error
        return [path for path in files if path.suffix == ".json"]

    def _known(self, name: str) -> bytes | None:
        try:
            return read_limited(self.directory / name, limit=FILE_LIMIT)
        except StateMissingError:
            return None

    def _read(self, path: Path, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(read_limited(path, limit=FILE_LIMIT), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"{path} is damaged: {error}"
            raise StateDamagedError(message, path=str(path)) from error

    def _write(self, path: Path, value: object) -> None:
        write_atomic(path, msgspec.json.format(msgspec.json.encode(value)))


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise state_error(error, path) from error
