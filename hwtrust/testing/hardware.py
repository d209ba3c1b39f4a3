"""A TPM that belongs to somebody: the tests ask first, keep to one range, and clear up.

    leave ─▶ is it fit? is the range free? ─▶ tests ─▶ clear the range ─▶ as before?

Rules:
1. Nothing is sent to the TPM before somebody has given leave, knowing the numbers.
   Leave is for the one TPM that it names, and for one run at a time.
2. Tests keep to `OBJECTS`, `INDICES` and `PCR`. Where anything lies in there at the
   start, the tests do not run: it is somebody's.
3. What tests leave in the range is removed, however they end, and still fails the
   run; one refusal does not stop the clearing. What lies outside is never removed, but
   a difference there is told too: another object under a known handle is one.
4. No password is guessed. The owner's comes from a file; the TPM is asked whether it
   wants one, and the count of failed authorisations must not grow. Nothing shows it.
5. Nothing is done that stays: no hierarchy is cleared or given a password, the clock
   is not set.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from hwtrust.errors import (
    HardwareBusyError,
    HardwareConsentError,
    HardwareLeftoverError,
    HardwareOccupiedError,
    HardwareUnfitError,
    StateError,
    TpmError,
    TpmTransportError,
)
from hwtrust.files import read_limited
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.discover import identify, open_tpm
from hwtrust.tpm.handles import Handles
from hwtrust.tpm.leftovers import is_bare, loaded
from hwtrust.tpm.stack import ESYS_TR, TPM2_ALG, TPM2_CAP, TPM2_SE
from hwtrust.wire.structures import NvAttributes, ObjectAttributes, PcrSelection

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

T = TypeVar("T")

OBJECTS: Final = range(0x81018070, 0x81018080)
"""Persistent handles, in the owner's range of the TCG's registry."""
INDICES: Final = range(0x01804870, 0x01804880)
"""NV indices, likewise."""
PCR: Final = 23
"""The application PCR that any program may reset (PC Client Platform TPM Profile §4.6)."""
HANDLES: Final = Handles(ak=OBJECTS[0], storage_key=OBJECTS[1], counter=INDICES[0])
"""Where a device under test has its things."""

CONSENT_VARIABLE: Final = "HWTRUST_TEST_HARDWARE_OK"
OWNER_AUTH_VARIABLE: Final = "HWTRUST_TEST_OWNER_AUTH_FILE"

_LOCK_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OWNER_AUTH_LIMIT: Final = 64
_PERMANENT: Final = 0x200
_ENDORSEMENT_AUTH_SET: Final = 1 << 1
_PCR_RESET_L0: Final = 2
_SAVED_SESSIONS: Final = 0x03


class OwnerPassword(bytes):
    """A password that no traceback shows: pytest prints the arguments of what fails."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<password>" if self else "<no password>"

    __str__ = __repr__


def statement(tcti: str) -> str:
    """What the tests will touch, for the person whose TPM it is."""
    return (
        f"These tests run on the TPM {tcti}. They use\n"
        f"  NV indices          {INDICES[0]:#010x} to {INDICES[-1]:#010x}\n"
        f"  persistent handles  {OBJECTS[0]:#010x} to {OBJECTS[-1]:#010x}\n"
        f"  PCR                 {PCR}, in every bank, which they extend and reset\n"
        "and nothing else. They stop if anything lies there, and remove at the end what\n"
        "they have put there. They set no clock and no password and clear no hierarchy."
    )


def require_leave(
    tcti: str, environment: Mapping[str, str], *, ask: Callable[[str], str | None]
) -> None:
    """Say what will be touched and go on only with leave.

    `ask` shows a text and gives the answer, None where nobody can be asked.

    Raises:
        HardwareConsentError: no leave was given.
    """
    text = statement(tcti)
    if environment.get(CONSENT_VARIABLE) == tcti:
        return
    answer = ask(f"{text}\nMay they? [yes/no] ")
    if answer is None:
        message = f"nobody can be asked here, and {CONSENT_VARIABLE} is not {tcti}.\n{text}"
        raise HardwareConsentError(message, tcti=tcti)
    if answer.strip().lower() not in {"y", "yes"}:
        raise HardwareConsentError(f"the tests may not use the TPM {tcti}", tcti=tcti)


def owner_password(environment: Mapping[str, str]) -> OwnerPassword:
    """The owner hierarchy's password, from the file that the environment names; or none.

    Raises:
        HardwareUnfitError: the file cannot be read, or is too long.
    """
    path = environment.get(OWNER_AUTH_VARIABLE)
    if not path:
        return OwnerPassword()
    try:
        return OwnerPassword(read_limited(Path(path), limit=_OWNER_AUTH_LIMIT).strip(b"\r\n"))
    except StateError as error:
        raise HardwareUnfitError(f"{OWNER_AUTH_VARIABLE}: {error.message}") from error


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What can be compared of a TPM: indices and persistent objects by handle and Name."""

    indices: Mapping[int, bytes]
    objects: Mapping[int, bytes]
    loaded: frozenset[int]
    """Transient objects and sessions; those of others only where nobody stands between."""
    pcr_in_use: bool
    failed_authorisations: int


def snapshot(tpm: Tpm) -> Snapshot:
    """Look at the TPM, over a connection of its own; nothing in it is changed."""
    return Snapshot(
        indices=_names(tpm, provision.nv_indices(tpm)),
        objects=_names(tpm, provision.persistent_handles(tpm)),
        loaded=transient(tpm),
        pcr_in_use=pcr_in_use(tpm),
        failed_authorisations=identify(tpm).lockout_counter,
    )


def transient(tpm: Tpm) -> frozenset[int]:
    """What is loaded that this connection's user may have loaded."""
    present = loaded(tpm)
    if not is_bare(tpm.name):
        # A resource manager's other users come and go, their sessions saved.
        present = tuple(handle for handle in present if handle >> 24 != _SAVED_SESSIONS)
    return frozenset(present)


def _names(tpm: Tpm, handles: Iterable[int]) -> dict[int, bytes]:
    return {handle: _name(tpm, handle) for handle in sorted(handles)}


def _name(tpm: Tpm, handle: int) -> bytes:
    """The Name of what is there; empty where the TPM does not tell it."""
    try:
        known = tpm.call("TPM2_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    except TpmTransportError:
        raise
    except TpmError:
        return b""
    try:
        return bytes(tpm.esapi.tr_get_name(known))
    finally:
        tpm.esapi.tr_close(known)


def pcr_in_use(tpm: Tpm) -> bool:
    """Whether anything has extended the PCR, in whichever bank."""
    selection = PcrSelection(tuple((bank, (PCR,)) for bank in provision.active_banks(tpm)))
    return any(any(values[PCR]) for values in commands.pcr_read(tpm, selection).values())


def clear(tpm: Tpm) -> tuple[str, ...]:
    """Empty the range; whoever calls this knows that what lies there is the tests' own.

    A bare TPM is emptied of what is loaded, too. Goes on wherever the TPM refuses, and
    gives the refusals.
    """
    refused: list[str] = []

    def tried(what: str, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except TpmError as error:
            refused.append(f"{what}: {error.message}")
            return None

    if is_bare(tpm.name):
        for handle in tried("what is loaded", lambda: loaded(tpm)) or ():
            tried(f"{handle:#010x}", partial(tpm.flush_handle, handle))
    present = tried("persistent objects", lambda: provision.persistent_handles(tpm)) or ()
    for handle in sorted(set(OBJECTS).intersection(present)):
        tried(f"{handle:#010x}", partial(_evict, tpm, handle))
    present = tried("NV indices", lambda: provision.nv_indices(tpm)) or ()
    for handle in sorted(set(INDICES).intersection(present)):
        tried(f"{handle:#010x}", partial(commands.nv_undefine, tpm, handle))
    # One that is not in use is reset as well as one that cannot be read.
    tried(f"PCR {PCR}", lambda: reset_pcr(tpm))
    return tuple(refused)


def _evict(tpm: Tpm, handle: int) -> None:
    known = tpm.call("TPM2_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    commands.evict_control(tpm, known, handle)
    tpm.unpin(handle)


def reset_pcr(tpm: Tpm) -> None:
    """TPM2_PCR_Reset, Part 3 §22.8: as after a reset of the TPM."""
    tpm.call("TPM2_PCR_Reset", tpm.esapi.pcr_reset, ESYS_TR(PCR))


@contextlib.contextmanager
def guarded(tcti: str, *, owner_auth: bytes = b"") -> Iterator[str]:
    """Keep a TPM safe for the length of a `with`; gives what the TPM says of itself.

    Raises:
        HardwareUnfitError: it needs a password that is not there, or is not fit otherwise.
        HardwareOccupiedError: something lies in the range.
        HardwareBusyError: another run has the TPM.
        HardwareLeftoverError: at the end; names what the tests have left.
        TpmError: it cannot be opened.
    """
    owner_auth = OwnerPassword(owner_auth)
    with _alone(tcti):
        with _opened(tcti, owner_auth) as tpm:
            found = _require_fit(tpm, owner_auth)
            before = snapshot(tpm)
            _require_free(tpm, before)
        try:
            yield found
        finally:
            with _opened(tcti, owner_auth) as tpm:
                try:
                    after = snapshot(tpm)
                finally:
                    refused = clear(tpm)
                stays = snapshot(tpm)
            _require_as_before(before, after, stays, refused)


def lock_file(tcti: str) -> Path:
    """What a run on this TPM locks; both device files of one TPM have the same."""
    places = ("/run/lock", os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir())
    place = next(each for each in places if each and os.access(each, os.W_OK | os.X_OK))
    one = tcti.replace("/dev/tpmrm", "/dev/tpm")
    return Path(place, f"hwtrust-test-{hashlib.sha256(one.encode()).hexdigest()[:16]}.lock")


@contextlib.contextmanager
def _alone(tcti: str) -> Iterator[None]:
    """Let no other run have the TPM meanwhile, be it somebody else's."""
    path = lock_file(tcti)
    try:
        handle = _locked(path)
    except BlockingIOError as error:
        message = f"another run of the tests has the TPM {tcti}: {path} is locked"
        raise HardwareBusyError(message, tcti=tcti) from error
    except OSError as error:
        raise HardwareUnfitError(f"{path} cannot be locked: {error.strerror}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        with contextlib.suppress(FileExistsError):
            # Apart from the opening for the lock: Linux refuses O_CREAT on another user's file.
            os.close(os.open(path, _LOCK_FLAGS | os.O_CREAT | os.O_EXCL, 0o644))
        try:
            handle = os.open(path, _LOCK_FLAGS)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it has deleted it: another one may be there by now.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.lstat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(tcti: str, owner_auth: bytes) -> Tpm:
    """The TPM, with all that it holds: to open one as a device does would sweep a bare one."""
    if is_bare(tcti):
        return Tpm(tcti, owner_auth=owner_auth)
    return open_tpm(tcti, owner_auth=owner_auth)


def _require_fit(tpm: Tpm, owner_auth: bytes) -> str:
    identity = identify(tpm)
    if identity.in_lockout:
        raise HardwareUnfitError("the TPM is in dictionary-attack lockout")
    if identity.owner_auth_set and not owner_auth:
        message = f"the TPM's owner hierarchy has a password: name a file in {OWNER_AUTH_VARIABLE}"
        raise HardwareUnfitError(message)
    if owner_auth and not identity.owner_auth_set:
        message = f"{OWNER_AUTH_VARIABLE} is set, and the owner hierarchy has no password"
        raise HardwareUnfitError(message)
    _, data = tpm.call(
        "TPM2_GetCapability", tpm.esapi.get_capability, TPM2_CAP.TPM_PROPERTIES, _PERMANENT, 1
    )
    if int(data.data.tpmProperties[0].value) & _ENDORSEMENT_AUTH_SET:
        raise HardwareUnfitError("the endorsement hierarchy has a password, and hwtrust takes none")
    if not _resettable(tpm):
        raise HardwareUnfitError(f"the TPM does not let programs reset PCR {PCR}")
    if owner_auth:
        _require_right(tpm)
    banks = " ".join(bank.name.lower() for bank in provision.active_banks(tpm))
    return (
        f"{identity.manufacturer} {identity.vendor}, firmware {identity.firmware_version:#018x}, "
        f"banks {banks}"
    )


def _resettable(tpm: Tpm) -> bool:
    _, data = tpm.call(
        "TPM2_GetCapability", tpm.esapi.get_capability, TPM2_CAP.PCR_PROPERTIES, _PCR_RESET_L0, 1
    )
    (found,) = data.data.pcrProperties
    selected = int.from_bytes(bytes(found.pcrSelect)[: int(found.sizeofSelect)], "little")
    return int(found.tag) == _PCR_RESET_L0 and bool(selected >> PCR & 1)


def _require_right(tpm: Tpm) -> None:
    """See that the owner's password is right; the owner hierarchy knows no lockout."""
    session = tpm.call(
        "TPM2_StartAuthSession",
        tpm.esapi.start_auth_session,
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.TRIAL,
        symmetric="aes128cfb",
        auth_hash=TPM2_ALG.SHA256,
    )
    with tpm.flushing(session):
        try:
            tpm.call(
                "TPM2_PolicySecret",
                tpm.esapi.policy_secret,
                tpm.owner(),
                session,
                nonce_tpm=b"",
                cp_hash_a=b"",
                policy_ref=b"",
                expiration=0,
            )
        except TpmError as error:
            message = f"the password in the file of {OWNER_AUTH_VARIABLE} is not the owner's"
            raise HardwareUnfitError(message) from error


def _require_free(tpm: Tpm, before: Snapshot) -> None:
    found = [_object(tpm, handle) for handle in sorted(before.objects) if handle in OBJECTS]
    found += [_index(tpm, handle) for handle in sorted(before.indices) if handle in INDICES]
    if before.pcr_in_use:
        found.append(f"PCR {PCR}, which something has extended")
    if before.loaded:
        # Whoever opens a TPM without a resource manager sweeps it.
        found += [f"{handle:#010x}, loaded" for handle in sorted(before.loaded)]
    if found:
        there = "; ".join(found)
        message = f"the tests do not run on {tpm.name}, for this is there: {there}"
        raise HardwareOccupiedError(message, tcti=tpm.name, found=there)


def _object(tpm: Tpm, handle: int) -> str:
    known = tpm.call("TPM2_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    try:
        public, *_ = tpm.call("TPM2_ReadPublic", tpm.esapi.read_public, known)
        attributes = ObjectAttributes(int(public.publicArea.objectAttributes))
    finally:
        tpm.esapi.tr_close(known)
    ours = ObjectAttributes.RESTRICTED | ObjectAttributes.NO_DA | ObjectAttributes.FIXED_TPM
    if ours in attributes:
        kind = "signing" if ObjectAttributes.SIGN in attributes else "storage"
        return f"{handle:#010x}, a {kind} key as an enrolled hwtrust has"
    return f"{handle:#010x}, a persistent object"


def _index(tpm: Tpm, handle: int) -> str:
    known = tpm.call("TPM2_NV_ReadPublic", tpm.esapi.tr_from_tpmpublic, handle)
    try:
        public = commands.nv_read_public(tpm, known)
    finally:
        tpm.esapi.tr_close(known)
    if public.attributes & ~NvAttributes.WRITTEN == provision.COUNTER_ATTRIBUTES:
        return f"{handle:#010x}, an epoch counter as an enrolled hwtrust has"
    return f"{handle:#010x}, an NV index"


def _require_as_before(
    before: Snapshot, after: Snapshot, stays: Snapshot, refused: Iterable[str]
) -> None:
    was, now, still = (dict.fromkeys(each.loaded, b"") for each in (before, after, stays))
    told = [
        *_changes("NV index", before.indices, after.indices, stays.indices),
        *_changes("persistent object", before.objects, after.objects, stays.objects),
        *_changes("loaded", was, now, still),
    ]
    if after.pcr_in_use:
        end = "it is not reset" if stays.pcr_in_use else "reset now"
        told.append(f"PCR {PCR} was left extended; {end}")
    if after.failed_authorisations > before.failed_authorisations:
        told.append("the TPM has counted failed authorisations")
    told += [f"the TPM refused to clear {each}" for each in refused]
    if told:
        left = "; ".join(told)
        raise HardwareLeftoverError(f"the TPM is not as it was: {left}", left=left)


def _changes(
    kind: str, was: Mapping[int, bytes], now: Mapping[int, bytes], still: Container[int]
) -> Iterator[str]:
    for handle in sorted(was.keys() | now.keys()):
        if handle not in was:
            end = "it is still there" if handle in still else "removed now"
            yield f"{kind} {handle:#010x} was left; {end}"
        elif handle not in now:
            yield f"{kind} {handle:#010x} has gone"
        elif was[handle] != now[handle]:
            yield f"{kind} {handle:#010x} is not the one that it was: it has another Name"
