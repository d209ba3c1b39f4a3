"""Sealing: only the same software, on the same machine, in the same state opens a blob."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.anchors import snp_sealer
from hwtrust.anchors.blob import MAX_SECRET
from hwtrust.anchors.gramine import GramineFiles, GramineHeader, GramineSealer, SealTo
from hwtrust.anchors.sev_guest import KeyField, KeyRequest, SevGuest
from hwtrust.anchors.snp_sealer import FIELDS, SnpHeader, SnpSealer
from hwtrust.errors.anchors import (
    AnchorError,
    AnchorIoError,
    AnchorPermissionError,
    AnchorRequestError,
    AnchorResponseError,
    DerivedKeyError,
    SealedBlobError,
    SealedBlobFormError,
    SealedBlobKeyError,
    SealedBlobTcbError,
    SealedBlobWeakError,
)
from simulators.fake_gramine import FILES, FakeGramine
from simulators.fake_machine import FakeMachine
from simulators.fake_sev_guest import FakeSevGuest
from unit.anchors.shapes import os_error, sgx

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.anchors.protocols import Sealer

SECRET = b"the dynamic root of this device!"
HEADER_AT = 18
"""Where a blob's header begins."""


def snp(kernel: FakeSevGuest, *, vmpl: int = 0) -> SnpSealer:
    """The sealer of a guest."""
    return SnpSealer(SevGuest(FakeMachine({"/dev/sev-guest": kernel})), vmpl=vmpl)


def gramine(kernel: FakeGramine, seal_to: SealTo = SealTo.ENCLAVE) -> GramineSealer:
    """The sealer of an enclave."""
    return GramineSealer(GramineFiles(FakeMachine({FILES: kernel})), seal_to=seal_to)


SEALERS: dict[str, Callable[[], Sealer]] = {
    "SNP": lambda: snp(FakeSevGuest()),
    "Gramine, enclave": lambda: gramine(FakeGramine(sgx)),
    "Gramine, signer": lambda: gramine(FakeGramine(sgx), SealTo.SIGNER),
}
sealers = pytest.mark.parametrize("make", SEALERS.values(), ids=SEALERS)


@sealers
@pytest.mark.parametrize("secret", [b"", b"\0", SECRET, bytes(MAX_SECRET)], ids=len)
def test_what_was_sealed_is_unsealed(make: Callable[[], Sealer], secret: bytes) -> None:
    """After a restart, too: nothing is kept but the blob."""
    blob = make().seal(secret)
    assert make().unseal(blob) == secret
    assert not make().needs_reseal(blob)


@sealers
def test_a_secret_does_not_show(make: Callable[[], Sealer]) -> None:
    """Neither in the blob, nor beside it, and no two blobs are alike."""
    sealer = make()
    one, two = sealer.seal(SECRET), sealer.seal(SECRET)
    assert SECRET not in one
    assert one != two
    assert repr(SECRET) not in repr(sealer)


@sealers
def test_a_secret_that_is_too_long_is_refused(make: Callable[[], Sealer]) -> None:
    """And is not in the error."""
    with pytest.raises(AnchorRequestError) as refused:
        make().seal(SECRET * 4096)
    assert "root" not in str(refused.value) + repr(refused.value.data)


@sealers
def test_every_bit_of_a_blob_is_authenticated(make: Callable[[], Sealer]) -> None:
    """A changed blob opens nowhere, and fails with an error of the tree."""
    sealer = make()
    blob = sealer.seal(SECRET)
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((SealedBlobError, DerivedKeyError)):
            sealer.unseal(bytes(changed))


@sealers
def test_a_blob_of_another_length_is_refused(make: Callable[[], Sealer]) -> None:
    """Cut anywhere, or lengthened."""
    sealer = make()
    blob = sealer.seal(SECRET)
    for size in range(len(blob)):
        with pytest.raises(SealedBlobError):
            sealer.unseal(blob[:size])
    with pytest.raises(SealedBlobKeyError):
        sealer.unseal(blob + b"\0")
    for strange in (b"", b"\0" * 200, bytes(MAX_SECRET + 1000)):
        with pytest.raises(SealedBlobFormError) as refused:
            sealer.unseal(strange)
        assert refused.value.code == "anchor:blob:malformed"


def test_one_anchors_blob_is_not_anothers() -> None:
    """The blob names its sealer."""
    with pytest.raises(SealedBlobFormError):
        gramine(FakeGramine(sgx)).unseal(snp(FakeSevGuest()).seal(SECRET))
    with pytest.raises(SealedBlobFormError):
        snp(FakeSevGuest()).needs_reseal(gramine(FakeGramine(sgx)).seal(SECRET))


OTHER_GUESTS: dict[str, dict[str, Any]] = {
    "another chip": {"chip": b"another"},
    "another measurement": {"measurement": bytes(48)},
    "another policy: debugging": {"policy": 0x30000 | 1 << 19},
}


@pytest.mark.parametrize("ignores_fields", [False, True])
@pytest.mark.parametrize("changes", OTHER_GUESTS.values(), ids=OTHER_GUESTS)
def test_another_guest_does_not_open_a_blob(
    changes: dict[str, Any], *, ignores_fields: bool
) -> None:
    """Not even where the firmware would leave policy and measurement out of the key."""
    first, other = FakeSevGuest(), FakeSevGuest()
    for kernel in (first, other):
        kernel.ignores_fields = ignores_fields
    for name, value in changes.items():
        setattr(other, name, value)
    blob = snp(first).seal(SECRET)
    with pytest.raises(SealedBlobKeyError) as refused:
        snp(other).unseal(blob)
    assert refused.value.code == "anchor:blob:key"
    assert refused.value.__cause__ is None


def test_a_key_depends_on_all_that_it_should() -> None:
    """VCEK; policy, measurement, SVN and TCB; what the guest launched with."""
    kernel = FakeSevGuest()
    snp(kernel).seal(SECRET)
    assert kernel.keys == [(0, 0b111001, 0, kernel.guest_svn, kernel.committed_tcb)]


def test_a_firmware_update_asks_for_sealing_anew() -> None:
    """The old blob opens with the TCB that it names, until it is replaced."""
    kernel = FakeSevGuest()
    blob = snp(kernel).seal(SECRET)
    before = kernel.committed_tcb
    kernel.committed_tcb += 1 << 56
    assert snp(kernel).needs_reseal(blob)
    assert snp(kernel).unseal(blob) == SECRET
    assert kernel.keys[-1][-1] == before
    assert not snp(kernel).needs_reseal(snp(kernel).seal(SECRET))


def test_a_guest_update_asks_for_sealing_anew() -> None:
    """A newer SVN opens what an older one sealed."""
    kernel = FakeSevGuest()
    blob = snp(kernel).seal(SECRET)
    kernel.guest_svn += 1
    assert snp(kernel).needs_reseal(blob)
    assert snp(kernel).unseal(blob) == SECRET


def test_older_firmware_or_guest_is_told_from_damage() -> None:
    """In any component; the firmware is not even asked."""
    kernel = FakeSevGuest()
    blob = snp(kernel).seal(SECRET)
    newest = kernel.committed_tcb
    for older in (newest - 1, newest - (1 << 48), newest - (1 << 48) + (1 << 56)):
        kernel.committed_tcb = older
        for call in (snp(kernel).unseal, snp(kernel).needs_reseal):
            with pytest.raises(SealedBlobTcbError) as refused:
                call(blob)
            assert refused.value.code == "anchor:blob:tcb"
    kernel.committed_tcb = newest
    kernel.guest_svn -= 1
    with pytest.raises(SealedBlobTcbError):
        snp(kernel).unseal(blob)
    assert len(kernel.keys) == 1


def forged(blob: bytes, **changes: int) -> bytes:
    """A blob whose header names another key."""
    header, _ = SnpHeader.read(blob)
    values = {
        name: getattr(header, name) for name in ("root", "fields", "vmpl", "guest_svn", "tcb")
    }
    encoded = SnpHeader(**(values | changes)).encode()
    return blob[:HEADER_AT] + encoded + blob[HEADER_AT + len(encoded) :]


WEAKER: dict[str, dict[str, int]] = {
    "nothing of the guest": {"fields": 0},
    "no policy": {"fields": FIELDS & ~KeyField.POLICY},
    "no measurement": {"fields": FIELDS & ~KeyField.MEASUREMENT},
    "no SVN": {"fields": FIELDS & ~KeyField.GUEST_SVN},
    "no TCB": {"fields": FIELDS & ~KeyField.TCB_VERSION},
    "a VMPL that less privileged software has": {"vmpl": 3},
    "a migration agent's key": {"root": 1},
}


@pytest.mark.parametrize("changes", WEAKER.values(), ids=WEAKER)
def test_a_blob_that_others_could_make_is_refused(changes: dict[str, int]) -> None:
    """Who can derive a weaker key could otherwise plant a secret of its own."""
    kernel = FakeSevGuest()
    blob = forged(snp(kernel).seal(SECRET), **changes)
    for call in (snp(kernel).unseal, snp(kernel).needs_reseal):
        with pytest.raises(SealedBlobWeakError) as refused:
            call(blob)
        assert refused.value.code == "anchor:blob:weak"
    assert len(kernel.keys) == 1


@pytest.mark.parametrize("changes", [{"root": 2}, {"fields": FIELDS | 1 << 40}])
def test_a_blob_of_unknown_keys_is_malformed(changes: dict[str, int]) -> None:
    """A later version's blob is not guessed at."""
    kernel = FakeSevGuest()
    with pytest.raises(SealedBlobFormError):
        snp(kernel).unseal(forged(snp(kernel).seal(SECRET), **changes))


def test_vmpls_do_not_open_each_others_blobs() -> None:
    """In both directions."""
    kernel = FakeSevGuest()
    blob = snp(kernel, vmpl=2).seal(SECRET)
    with pytest.raises(SealedBlobWeakError):
        snp(kernel, vmpl=0).unseal(blob)
    assert snp(kernel, vmpl=2).unseal(blob) == SECRET
    for call in (snp(kernel, vmpl=2).unseal, snp(kernel, vmpl=2).needs_reseal):
        with pytest.raises(SealedBlobWeakError) as refused:
            call(snp(kernel, vmpl=0).seal(SECRET))
        assert refused.value.code == "anchor:blob:weak"


def test_a_blob_whose_key_depends_on_more_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """No field less is selected; one more makes the key no weaker."""
    kernel = FakeSevGuest()
    with monkeypatch.context() as later:
        later.setattr(snp_sealer, "FIELDS", FIELDS | KeyField.IMAGE_ID)
        blob = snp(kernel).seal(SECRET)
    assert snp(kernel).unseal(blob) == SECRET
    assert kernel.keys[-1] == kernel.keys[0]
    assert kernel.keys[0][1] == FIELDS | KeyField.IMAGE_ID


def test_headers_tell_what_a_key_depends_on() -> None:
    """For people and programs."""
    kernel, enclave = FakeSevGuest(), FakeGramine(sgx)
    header, _ = SnpHeader.read(snp(kernel).seal(SECRET))
    assert header.facts() == {
        "root_key": "vcek",
        "fields": ["policy", "measurement", "guest_svn", "tcb_version"],
        "vmpl": 0,
        "guest_svn": 2,
        "tcb": f"{kernel.committed_tcb:016x}",
    }
    sgx_header, _ = GramineHeader.read(gramine(enclave).seal(SECRET))
    assert sgx_header.facts() == {
        "seal_to": "enclave",
        "cpu_svn": enclave.cpu_svn.hex(),
        "isv_svn": 3,
    }


@pytest.mark.parametrize("fault", [{"key_status": 0x16}, {"zero_key": True}, {"status": 1}])
def test_without_a_key_nothing_is_sealed(fault: dict[str, Any]) -> None:
    """No blob under a key that everybody knows."""
    kernel = FakeSevGuest()
    blob = snp(kernel).seal(SECRET)
    for name, value in fault.items():
        setattr(kernel, name, value)
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: snp(kernel).seal(SECRET),
        lambda: snp(kernel).unseal(blob),
    )
    for call in calls:
        with pytest.raises(AnchorError) as refused:
            call()
        assert refused.value.code in {"anchor:key", "anchor:firmware"}
        assert "root of this" not in str(refused.value) + repr(refused.value.data)


def test_keys_are_overwritten_after_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The buffers that held them are zeros, whether it went well or not."""
    held: list[bytearray] = []
    derive, read = SevGuest.derived_key, GramineFiles.key

    def derived(device: SevGuest, wanted: KeyRequest) -> bytearray:
        held.append(derive(device, wanted))
        return held[-1]

    def gotten(files: GramineFiles, seal_to: SealTo) -> bytearray:
        held.append(read(files, seal_to))
        return held[-1]

    monkeypatch.setattr(SevGuest, "derived_key", derived)
    monkeypatch.setattr(GramineFiles, "key", gotten)
    for sealer in (snp(FakeSevGuest()), gramine(FakeGramine(sgx))):
        blob = sealer.seal(SECRET)
        sealer.unseal(blob)
        with pytest.raises(SealedBlobKeyError):
            sealer.unseal(blob[:-1] + bytes([blob[-1] ^ 1]))
    assert len(held) == 6
    assert not any(any(key) for key in held)


# --- Gramine ----------------------------------------------------------------------


def test_another_enclave_or_cpu_does_not_open_a_blob() -> None:
    """MRENCLAVE and the CPU's own secret go into the key."""
    blob = gramine(FakeGramine(sgx)).seal(SECRET)
    other = FakeGramine(sgx)
    other.mrenclave = bytes(32)
    for kernel in (other, FakeGramine(sgx, cpu=b"another")):
        with pytest.raises(SealedBlobKeyError):
            gramine(kernel).unseal(blob)


def test_a_blob_for_the_signer_opens_in_its_other_enclaves() -> None:
    """And is not taken where only this enclave's are expected."""
    first, other = FakeGramine(sgx), FakeGramine(sgx)
    other.mrenclave = bytes(32)
    blob = gramine(first, SealTo.SIGNER).seal(SECRET)
    assert gramine(other, SealTo.SIGNER).unseal(blob) == SECRET
    with pytest.raises(SealedBlobWeakError):
        gramine(first).unseal(blob)
    with pytest.raises(SealedBlobWeakError):
        gramine(first).needs_reseal(blob)


@pytest.mark.parametrize("at", [0, 22])
def test_an_enclaves_blob_of_unknown_keys_is_malformed(at: int) -> None:
    """A later version's blob is not guessed at, nor is padding that is none."""
    blob = bytearray(gramine(FakeGramine(sgx)).seal(SECRET))
    blob[HEADER_AT + at] = 2
    with pytest.raises(SealedBlobFormError):
        gramine(FakeGramine(sgx)).unseal(bytes(blob))


def test_an_update_of_cpu_or_enclave_is_told() -> None:
    """Gramine cannot give the old key: the secret has to come anew, and damage it is not."""
    for name, value in (("cpu_svn", bytes(16)), ("isv_svn", 4)):
        kernel = FakeGramine(sgx)
        blob = gramine(kernel).seal(SECRET)
        setattr(kernel, name, value)
        for call in (gramine(kernel).unseal, gramine(kernel).needs_reseal):
            with pytest.raises(SealedBlobTcbError) as refused:
                call(blob)
            assert refused.value.code == "anchor:blob:tcb"


def test_the_hardwares_key_encrypts_nothing_itself() -> None:
    """An encrypted mount may use it: the blob's key is derived from it."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    kernel = FakeGramine(sgx)
    blob = gramine(kernel).seal(SECRET)
    front, ciphertext = blob[: -len(SECRET) - 16], blob[-len(SECRET) - 16 :]
    with pytest.raises(InvalidTag):
        AESGCM(kernel.read("keys/_sgx_mrenclave")).decrypt(bytes(12), ciphertext, front)


@pytest.mark.parametrize("fault", [{"key_size": 15}, {"zero_key": True}, {"key_size": 0}])
def test_an_enclave_key_that_is_none_is_refused(fault: dict[str, Any]) -> None:
    """Short, or zeros."""
    kernel = FakeGramine(sgx)
    for name, value in fault.items():
        setattr(kernel, name, value)
    with pytest.raises((AnchorResponseError, DerivedKeyError)):
        gramine(kernel).seal(SECRET)


def test_a_sealer_cut_off_anywhere_tells_no_secret() -> None:
    """Each call to the kernel may fail."""
    machines: tuple[Callable[[], FakeMachine], ...] = (
        lambda: FakeMachine({"/dev/sev-guest": FakeSevGuest()}),
        lambda: FakeMachine({FILES: FakeGramine(sgx)}),
    )
    for make in machines:
        whole = make()
        sealer_of(whole).seal(SECRET)
        for nth in range(len(whole.calls)):
            for number, kind in ((errno.EIO, AnchorIoError), (errno.EACCES, AnchorPermissionError)):
                port = make()
                port.cut_off, port.cut = nth, os_error(number)
                with pytest.raises(kind) as refused:
                    sealer_of(port).seal(SECRET)
                assert SECRET.decode() not in str(refused.value) + repr(refused.value.data)


def sealer_of(port: FakeMachine) -> Sealer:
    """The sealer of a machine that has one."""
    if FILES in port.devices:
        return GramineSealer(GramineFiles(port), seal_to=SealTo.ENCLAVE)
    return SnpSealer(SevGuest(port), vmpl=0)
