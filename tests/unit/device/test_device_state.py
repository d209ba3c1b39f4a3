"""What a device remembers is whole or refused, and nothing of it is believed for lying there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from hwtrust.device.state import FILE_LIMIT, DeviceState, Identity, StoredRoot
from hwtrust.errors import (
    NotEnrolledError,
    StateBusyError,
    StateDamagedError,
    StateDiskError,
    StateError,
    StateMissingError,
    StatePermissionError,
)
from hwtrust.tpm.connection import Pinned
from hwtrust.tpm.handles import Handles
from hwtrust.wire.envelope import Envelope, EnvelopeSignature
from hwtrust.wire.messages import TlsKeyKind
from hwtrust.wire.root import Approval, Branch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IDENTITY = Identity(
    device=b"\x00\x0b" + bytes(32),
    ek_profile="L-2",
    ak=Pinned(0x81018048, b"\x00\x0b" + b"\x01" * 32, b"blob"),
    storage_key=Pinned(0x81008048, b"\x00\x0b" + b"\x02" * 32, b"\xff\xfe"),
    counter=Pinned(0x01804857, b"\x00\x0b" + b"\x03" * 32),
    tls_kind=TlsKeyKind.ATTESTED,
)


def stored(epoch: int, *, ticket: bytes = b"") -> StoredRoot:
    """A root of `epoch`."""
    approval = Approval(
        epoch=epoch,
        selection="sha256:8",
        branches=(Branch(label="cold", pcr_digest=bytes(32)),) * 2,
        counter_name=b"name",
        not_after=2**62,
        signature=b"\xff",
    )
    return StoredRoot(
        epoch=epoch,
        metadata=Envelope(
            payload_type="application/x", payload=b"\xff", signatures=(EnvelopeSignature(sig=b"s"),)
        ),
        public=b"public",
        private=b"private",
        approval=approval,
        ticket=ticket,
    )


@pytest.fixture
def state(tmp_path: Path) -> DeviceState:
    """The state of a device whose directory is there."""
    made = DeviceState(tmp_path / "state")
    with made.locked():
        pass
    return made


# --- what is kept comes back -----------------------------------------------------


def test_an_identity_comes_back(state: DeviceState) -> None:
    """Names, handles and serialised handles, to the byte."""
    before = state.enrolled
    state.save_identity(IDENTITY)
    assert (before, state.enrolled) == (False, True)
    assert state.identity() == IDENTITY
    assert DeviceState(state.directory).identity() == IDENTITY


def test_roots_come_back_by_epoch_oldest_first(state: DeviceState) -> None:
    """Epochs count as numbers, not as names of files."""
    for epoch in (10, 9, 100, 1):
        state.save_root(stored(epoch))
    assert list(state.roots()) == [1, 9, 10, 100]
    assert state.roots()[9] == stored(9)


def test_a_root_is_replaced_and_dropped(state: DeviceState) -> None:
    """One file a root; dropping twice is harmless."""
    state.save_root(stored(1))
    state.save_root(stored(1, ticket=b"ticket"))
    assert state.roots() == {1: stored(1, ticket=b"ticket")}
    state.drop_root(1)
    state.drop_root(1)
    assert state.roots() == {}


def test_handles_are_claimed_before_anything_is_put_there(state: DeviceState) -> None:
    """They come back after a crash, so that a second try cleans up."""
    assert state.claimed_handles() is None
    claimed = Handles(0x81010000, 0x81010001, 0x01800000)
    state.claim_handles(claimed)
    assert DeviceState(state.directory).claimed_handles() == claimed


def test_the_tls_key_and_its_certificate_come_back(state: DeviceState) -> None:
    """As they are."""
    assert state.certificate() == ""
    state.save_tls_key(b"-----BEGIN TSS2 PRIVATE KEY-----\n")
    state.save_certificate("-----BEGIN CERTIFICATE-----\n")
    assert state.tls_pem() == b"-----BEGIN TSS2 PRIVATE KEY-----\n"
    assert state.certificate() == "-----BEGIN CERTIFICATE-----\n"


def test_what_is_written_is_private_and_whole(state: DeviceState) -> None:
    """Directories 0700, files 0600, and no temporary file is left."""
    state.save_identity(IDENTITY)
    state.save_root(stored(1))
    state.claim_handles(Handles())
    state.save_tls_key(b"key")
    state.save_certificate("certificate")
    found = sorted(path for path in state.directory.rglob("*"))
    assert [path.name for path in found] == [
        "handles.json",
        "identity.json",
        "lock",
        "roots",
        "1.json",
        "tls-certificate.pem",
        "tls-key.pem",
    ]
    for path in (state.directory, *found):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_a_new_device_has_nothing(tmp_path: Path) -> None:
    """Asking makes no directory."""
    state = DeviceState(tmp_path / "missing")
    assert not state.enrolled
    assert state.roots() == {}
    assert state.claimed_handles() is None
    assert state.certificate() == ""
    with pytest.raises(NotEnrolledError) as caught:
        state.identity()
    assert caught.value.code == "state:not-enrolled"
    with pytest.raises(StateMissingError):
        state.tls_pem()
    state.forget()
    assert not state.directory.exists()


# --- forgetting ------------------------------------------------------------------


def fill(state: DeviceState) -> None:
    """Everything that enrolment writes, and a key store."""
    state.save_identity(IDENTITY)
    state.save_root(stored(1))
    state.save_root(stored(2))
    state.claim_handles(Handles())
    state.save_tls_key(b"key")
    state.save_certificate("certificate")
    state.keystore.write_bytes(b"key store")
    state.event_log.write_bytes(b"log")


def test_forgetting_leaves_key_store_log_and_claims(state: DeviceState) -> None:
    """Who the device was goes; what is not enrolment's to judge stays."""
    fill(state)
    state.forget()
    assert not state.enrolled
    assert state.roots() == {}
    left = {path.name for path in state.directory.iterdir()}
    assert left == {"lock", "roots", "handles.json", "keystore.db", "eventlog.cel"}


def test_a_damaged_root_does_not_stand_in_the_way_of_forgetting(state: DeviceState) -> None:
    """Enrolling again is the way out of a damaged state."""
    fill(state)
    (state.directory / "roots" / "2.json").write_bytes(b"\0")
    with pytest.raises(StateDamagedError):
        state.roots()
    state.forget()
    assert state.roots() == {}


# --- what lies there is not believed ---------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "torn": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "no UTF-8": lambda content: content.replace(b'"', b"\xff", 1),
    "another message": lambda _: b'{"epoch": "one"}',
    "a list": lambda _: b"[]",
    "great depth": lambda _: b"[" * 500_000,
    "too long": lambda _: b" " * (FILE_LIMIT + 1),
}

READERS: dict[str, tuple[str, Callable[[DeviceState], object]]] = {
    "identity": ("identity.json", lambda state: state.identity()),
    "handles": ("handles.json", lambda state: state.claimed_handles()),
    "root": ("roots/1.json", lambda state: state.roots()),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_a_typed_error(state: DeviceState, what: str, case: str) -> None:
    """Any content ends in `state:damaged`, with the file's path (75)."""
    fill(state)
    name, read = READERS[what]
    path = state.directory / name
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    with pytest.raises(StateDamagedError) as caught:
        read(state)
    assert caught.value.code == "state:damaged"
    assert caught.value.data["path"] == str(path)


def test_a_root_filed_under_another_epoch_is_damage(state: DeviceState) -> None:
    """Two names for one root would make dropping it a matter of luck."""
    fill(state)
    (state.directory / "roots" / "2.json").replace(state.directory / "roots" / "3.json")
    with pytest.raises(StateDamagedError) as caught:
        state.roots()
    assert caught.value.data["path"] == str(state.directory / "roots" / "3.json")


def test_a_certificate_that_is_no_text_is_damage(state: DeviceState) -> None:
    """Not an exception of a decoder."""
    (state.directory / "tls-certificate.pem").write_bytes(b"\xff\xfe")
    with pytest.raises(StateDamagedError) as caught:
        state.certificate()
    assert caught.value.code == "state:damaged"


def test_other_files_among_the_roots_are_left_alone(state: DeviceState) -> None:
    """What a killed process left beside them is no root."""
    state.save_root(stored(1))
    (state.directory / "roots" / ".2.json.0123.tmp").write_bytes(b"torn")
    (state.directory / "roots" / "README").write_bytes(b"")
    assert list(state.roots()) == [1]


# --- the disk, and others --------------------------------------------------------


def test_one_process_works_with_a_device(state: DeviceState) -> None:
    """A second one is refused at once, and again served when the first is done (69)."""
    program = (
        "import sys; from pathlib import Path\n"
        "from hwtrust.device.state import DeviceState\n"
        "from hwtrust.errors import HwTrustError\n"
        "try:\n"
        "    with DeviceState(Path(sys.argv[1])).locked(): print('locked')\n"
        "except HwTrustError as error: print(error.code)\n"
    )

    def other() -> str:
        ended = subprocess.run(
            [sys.executable, "-c", program, str(state.directory)],
            capture_output=True,
            check=True,
            text=True,
        )
        return ended.stdout.strip()

    with state.locked():
        assert other() == "state:busy"
        with pytest.raises(StateBusyError), DeviceState(state.directory).locked():
            pytest.fail("locked twice")
    assert other() == "locked"


def test_a_directory_that_others_can_write_is_refused(state: DeviceState) -> None:
    """Who can replace files there can replace the device's identity."""
    state.directory.chmod(0o770)
    with pytest.raises(StatePermissionError) as caught, state.locked():
        pytest.fail("locked")
    assert caught.value.code == "state:permission"


@pytest.mark.parametrize("number", [28, 30, 5])
def test_a_disk_that_does_not_take_it_leaves_the_old_content(
    state: DeviceState, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Full, read-only or failing: typed, and what was there is there (75)."""
    fill(state)

    def broken(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("hwtrust.files.os.fsync", broken)
        writes: list[Callable[[], None]] = [
            lambda: state.save_identity(msgspec.structs.replace(IDENTITY, keystore_made=True)),
            lambda: state.save_root(stored(2, ticket=b"new")),
            lambda: state.save_certificate("new"),
            lambda: state.claim_handles(Handles(1, 2, 3)),
        ]
        for write in writes:
            with pytest.raises(StateDiskError) as caught:
                write()
            assert caught.value.code == "state:disk"
    assert state.identity() == IDENTITY
    assert state.roots()[2] == stored(2)
    assert state.certificate() == "certificate"
    assert state.claimed_handles() == Handles()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_gets_typed_errors(state: DeviceState) -> None:
    """Without rights to the directory: `state:permission`, never a traceback (102)."""
    fill(state)
    for parent in state.directory.parents:
        if parent.stat().st_uid == 0 and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o001)
    attempts: list[Callable[[], object]] = [
        lambda: state.enrolled,
        state.identity,
        state.claimed_handles,
        state.roots,
        state.certificate,
        state.tls_pem,
        state.forget,
        lambda: state.drop_root(1),
        lambda: state.save_root(stored(3)),
        lambda: state.save_identity(IDENTITY),
    ]
    os.setegid(65534)
    os.seteuid(65534)
    try:
        for attempt in attempts:
            with pytest.raises(StateError) as caught:
                attempt()
            assert caught.value.code == "state:permission"
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert state.identity() == IDENTITY
    assert list(state.roots()) == [1, 2]
