"""The key hierarchy: each key for one use, one device, one epoch, and never shown."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import KeyStoreDamagedError, KeyStoreLockedError, MalformedError
from hwtrust.keys import Kek, derive_kek
from hwtrust.keys.kek import DataKey, Sealed, Secret, encode
from unit.keys.stores import DEVICE, kek, root

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = b"where it belongs"


def hkdf(key: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 without salt, one block: RFC 5869 §2.2 and §2.3, written out."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_a_kek_is_hkdf_of_the_root_with_purpose_device_and_epoch() -> None:
    """The derivation never changes: a store must open after an update of hwtrust."""
    purpose = b"hwtrust key store kek v1"
    info = len(purpose).to_bytes(4, "big") + purpose
    info += len(DEVICE).to_bytes(4, "big") + DEVICE
    info += (7).to_bytes(8, "big")
    derived = derive_kek(root(7), device=DEVICE, epoch=7)
    assert derived._secret.reveal() == hkdf(root(7), info)
    assert derived.epoch == 7


OTHERS = {
    "another root": lambda: derive_kek(root(2), device=DEVICE, epoch=1),
    "another device": lambda: derive_kek(root(1), device=DEVICE + b"\x00", epoch=1),
    "another epoch": lambda: derive_kek(root(1), device=DEVICE, epoch=2),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_data_key_unwraps_under_its_own_kek_only(other: Callable[[], Kek]) -> None:
    """Root, device and epoch all go into the KEK."""
    wrapped = kek(1).wrap(DataKey.generate(), context=CONTEXT)
    kek(1).unwrap(wrapped, context=CONTEXT)
    with pytest.raises(KeyStoreDamagedError) as refused:
        other().unwrap(wrapped, context=CONTEXT)
    assert refused.value.code == "keystore:damaged"
    assert refused.value.data["reason"] == "wrap"


def test_a_data_key_unwraps_in_its_own_context_only() -> None:
    """What is bound to one place does not open in another."""
    wrapped = kek(1).wrap(DataKey.generate(), context=CONTEXT)
    with pytest.raises(KeyStoreDamagedError) as refused:
        kek(1).unwrap(wrapped, context=CONTEXT + b"\x00")
    assert refused.value.code == "keystore:damaged"


def test_an_unwrapped_data_key_is_the_one_that_was_wrapped() -> None:
    """What one holder encrypts and seals, the other decrypts and verifies."""
    original = DataKey.generate()
    again = kek(1).unwrap(kek(1).wrap(original, context=CONTEXT), context=CONTEXT)
    sealed = original.encrypt(b"value", context=b"entry")
    assert again.decrypt(sealed, context=b"entry") == b"value"
    again.verify(b"list", original.authenticate(b"list"))


def test_entries_and_seal_have_keys_of_their_own() -> None:
    """Neither the data key itself nor the other's key does a key's work."""
    data_key = DataKey(bytes(range(32)))
    keys = {bytes(key.reveal()) for key in (data_key._root, data_key._entry, data_key._seal)}
    assert len(keys) == 3


def test_a_seal_of_another_list_or_key_is_refused() -> None:
    """The seal is a MAC over all of its message."""
    data_key, other = DataKey.generate(), DataKey.generate()
    tag = data_key.authenticate(b"list")
    for key, message, claimed in (
        (data_key, b"list!", tag),
        (other, b"list", tag),
        (data_key, b"list", tag[:-1]),
        (data_key, b"list", b""),
    ):
        with pytest.raises(KeyStoreDamagedError) as refused:
            key.verify(message, claimed)
        assert refused.value.data["reason"] == "seal"


def test_every_encryption_has_a_fresh_nonce() -> None:
    """The same value twice gives two ciphertexts with nothing in common."""
    data_key = DataKey.generate()
    made = [data_key.encrypt(b"value", context=b"entry") for _ in range(64)]
    assert len({sealed.nonce for sealed in made}) == 64
    assert len({sealed.ciphertext for sealed in made}) == 64
    assert {len(sealed.nonce) for sealed in made} == {12}


SIZES = {
    "no nonce": Sealed(b"", bytes(48)),
    "a nonce of 16 bytes": Sealed(bytes(16), bytes(48)),
    "no tag": Sealed(bytes(12), bytes(15)),
    "nothing": Sealed(b"", b""),
}


@pytest.mark.parametrize("sealed", SIZES.values(), ids=SIZES)
def test_a_ciphertext_of_an_impossible_size_is_refused(sealed: Sealed) -> None:
    """Sizes come from the file, so they end in a coded error and not in the cipher's."""
    with pytest.raises(KeyStoreDamagedError) as refused:
        kek(1).unwrap(sealed, context=CONTEXT)
    assert refused.value.code == "keystore:damaged"


def test_the_digest_of_a_ciphertext_covers_nonce_and_length() -> None:
    """No byte moves between nonce and ciphertext unnoticed."""
    assert Sealed(b"ab", b"c").digest != Sealed(b"a", b"bc").digest
    expected = hashlib.sha256(b"\x00\x00\x00\x02ab\x00\x00\x00\x01c").digest()
    assert Sealed(b"ab", b"c").digest == expected


def test_an_encoding_says_where_each_part_ends() -> None:
    """Two lists of parts never encode to the same bytes."""
    assert encode(b"ab", b"c") != encode(b"a", b"bc")
    assert encode(b"", b"a") != encode(b"a", b"")
    assert encode(1, b"a") == b"\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01a"


UNUSABLE = {
    "a root of 31 bytes": (bytes(31), DEVICE, 1),
    "a root of 33 bytes": (bytes(33), DEVICE, 1),
    "no root": (b"", DEVICE, 1),
    "no device": (root(1), b"", 1),
    "an endless device": (root(1), bytes(1025), 1),
    "a negative epoch": (root(1), DEVICE, -1),
    "an epoch of 64 bits": (root(1), DEVICE, 2**63),
}


@pytest.mark.parametrize(("secret", "device", "epoch"), UNUSABLE.values(), ids=UNUSABLE)
def test_no_kek_is_derived_from_what_is_no_root(secret: bytes, device: bytes, epoch: int) -> None:
    """A truncated unseal gives an error, not a weaker key."""
    with pytest.raises(MalformedError) as refused:
        derive_kek(secret, device=device, epoch=epoch)
    assert refused.value.code == "wire:malformed"


def test_an_erased_kek_is_of_no_use() -> None:
    """Erasing overwrites the very buffer that held the key; a duplicate lives on."""
    key = kek(1)
    wrapped = key.wrap(DataKey.generate(), context=CONTEXT)
    buffer = key._secret.reveal()
    assert len(buffer) == 32
    other = key.duplicate()
    key.erase()
    key.erase()
    assert buffer == bytes(32)
    for use in (
        lambda: key.wrap(DataKey.generate(), context=CONTEXT),
        lambda: key.unwrap(wrapped, context=CONTEXT),
        key.duplicate,
    ):
        with pytest.raises(KeyStoreLockedError) as refused:
            use()
        assert refused.value.code == "keystore:locked"
    other.unwrap(wrapped, context=CONTEXT)


def test_an_erased_data_key_is_of_no_use() -> None:
    """After a rotation or a close, the old data key decrypts and seals nothing."""
    data_key = DataKey.generate()
    sealed = data_key.encrypt(b"value", context=b"entry")
    data_key.erase()
    for use in (
        lambda: data_key.encrypt(b"value", context=b"entry"),
        lambda: data_key.decrypt(sealed, context=b"entry"),
        lambda: data_key.authenticate(b"list"),
        lambda: kek(1).wrap(data_key, context=CONTEXT),
    ):
        with pytest.raises(KeyStoreLockedError) as refused:
            use()
        assert refused.value.code == "keystore:locked"


HOLDERS = {
    "a secret": lambda: Secret(root(1)),
    "a KEK": lambda: kek(1),
    "a data key": lambda: DataKey(root(1)),
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_104_a_key_shows_in_no_representation(make: Callable[[], object]) -> None:
    """Neither repr nor str nor format of a holder says anything about its bytes."""
    holder = make()
    key = kek(1)._secret.reveal()
    for text in (repr(holder), str(holder), f"{holder}", f"{[holder]}"):
        for secret in (bytes(key), root(1)):
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
        assert len(text) < 64
    assert not hasattr(holder, "__dict__")


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_104_a_key_is_not_pickled(make: Callable[[], object], protocol: int) -> None:
    """A key does not travel to another process or a cache by accident."""
    with pytest.raises(TypeError):
        pickle.dumps(make(), protocol=protocol)


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_104_a_key_is_not_copied_by_accident(make: Callable[[], object]) -> None:
    """A copy would outlive the erasing of the original."""
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(make())
