"""The files of tpm2-tools: each form is recognised, and nothing is guessed."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import (
    AttestTypeError,
    HwTrustError,
    MalformedError,
    UnsupportedError,
    WeakKeyError,
)
from hwtrust.verify.signature import verify_signature
from hwtrust.verify.tools_files import (
    read_key,
    read_message,
    read_pcrs,
    read_selection,
    read_signature,
)
from hwtrust.wire.algorithms import Alg, alg_name, new_hash
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.structures import PcrSelection, Public, Signature
from simulators.software_tpm import AK_ATTRIBUTES, SoftwareTpm, ecc_public, rsa_public
from simulators.strategies import selections

TPM = SoftwareTpm(seed=b"test_tools_files")
RSA = rsa.generate_private_key(65537, 2048)
RSA_TPM = SoftwareTpm(ak_key=RSA, scheme=Alg.RSASSA, hash_=Alg.SHA384)
PSS_TPM = SoftwareTpm(ak_key=RSA, scheme=Alg.RSAPSS, hash_=Alg.SHA256)
NONCE = bytes(20)


def value(bank: Alg, number: int) -> bytes:
    """A value that no other PCR has."""
    return new_hash(bank, bytes([number]))


def values_of(selection: PcrSelection) -> dict[Alg, dict[int, bytes]]:
    """Values for a selection."""
    return {bank: {n: value(bank, n) for n in numbers} for bank, numbers in selection.banks}


SELECTION = PcrSelection.parse("sha256:0,1,7+sha1:0,1,2,3,4,5,6,7,8")
PCRS = values_of(SELECTION)
QUOTE = TPM.quote(NONCE, PCRS, selection=SELECTION)


def row(selection: PcrSelection) -> bytes:
    """What `tpm2_quote -F values -o` writes."""
    return b"".join(value(bank, n) for bank, numbers in selection.banks for n in numbers)


def serialized(selection: PcrSelection, values: list[bytes] | None = None) -> bytes:
    """What `tpm2_quote -o` writes: C structures in memory, lists of up to 8 digests."""
    entries = b"".join(
        struct.pack("<HB4sx", bank, 3, sum(1 << n for n in numbers).to_bytes(4, "little"))
        for bank, numbers in selection.banks
    )
    if values is None:
        values = [value(bank, n) for bank, numbers in selection.banks for n in numbers]
    chunks = [values[at : at + 8] for at in range(0, len(values), 8)]
    lists = b"".join(
        struct.pack("<I", len(chunk))
        + b"".join(struct.pack("<H64s", len(v), v) for v in chunk).ljust(8 * 66, b"\0")
        for chunk in chunks
    )
    head = struct.pack("<I", len(selection.banks)) + entries.ljust(16 * 8, b"\0")
    return head + struct.pack("<I", len(chunks)) + lists


# --- message -----------------------------------------------------------------------


def test_a_message_is_read_bare_and_sized() -> None:
    """TPMS_ATTEST and TPM2B_ATTEST cannot be taken for each other."""
    assert read_message(QUOTE.message) == QUOTE.message
    assert read_message(tpm2b(QUOTE.message)) == QUOTE.message


def test_a_sized_message_is_exactly_as_long_as_it_says() -> None:
    """Adversaries 3 and 4: cut, or followed by something."""
    for raw in (tpm2b(QUOTE.message)[:-1], tpm2b(QUOTE.message) + b"\0"):
        with pytest.raises(MalformedError) as refused:
            read_message(raw)
        assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize("raw", [b"", b"\xff", b"no message", bytes(100)])
def test_what_is_no_message_is_left_to_the_decoder(raw: bytes) -> None:
    """It says what is wrong."""
    assert read_message(raw) == raw
    with pytest.raises(HwTrustError):
        read_selection(raw)


def test_the_selection_is_that_of_the_message() -> None:
    """Order of banks included; and only a quote has one."""
    assert read_selection(QUOTE.message) == SELECTION
    with pytest.raises(AttestTypeError) as refused:
        read_selection(TPM.certify(TPM.storage, NONCE).message)
    assert refused.value.code == "evidence:type:mismatch"


# --- signature ---------------------------------------------------------------------


def bare(signature: bytes) -> bytes:
    """What `tpm2_quote -f plain -s` writes."""
    decoded = Signature.decode(signature).value
    return decoded if isinstance(decoded, bytes) else encode_dss_signature(*decoded)


@pytest.mark.parametrize("tpm", [TPM, RSA_TPM, PSS_TPM], ids=["ECDSA", "RSASSA", "RSAPSS"])
def test_a_plain_signature_of_a_bound_key_is_that_of_its_scheme(tpm: SoftwareTpm) -> None:
    """A Public says what a plain signature leaves open."""
    quote = tpm.quote(NONCE, PCRS)
    for data in (quote.signature, bare(quote.signature)):
        signature = read_signature(data, key=tpm.ak, message=quote.message)
        assert signature == Signature.decode(quote.signature)
        verify_signature(tpm.ak, signature, quote.message)


@pytest.mark.parametrize("hash_", [Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512])
@pytest.mark.parametrize("kind", ["ECC", "RSA"])
def test_a_plain_signature_of_a_bare_key_has_the_hash_of_the_pcr_digest(
    kind: str, hash_: Alg
) -> None:
    """TPM2_Quote uses one hash for both, and the message is signed."""
    tpm = (
        SoftwareTpm(seed=b"plain", hash_=hash_)
        if kind == "ECC"
        else SoftwareTpm(ak_key=RSA, scheme=Alg.RSASSA, hash_=hash_)
    )
    quote = tpm.quote(NONCE, PCRS)
    unbound = (
        rsa_public(RSA, AK_ATTRIBUTES)
        if kind == "RSA"
        else ecc_public(tpm.derive("ak"), AK_ATTRIBUTES)
    )
    for key in (tpm.ak.key(), unbound):
        signature = read_signature(bare(quote.signature), key=key, message=quote.message)
        assert signature == Signature.decode(quote.signature)
        verify_signature(key, signature, quote.message, unsafe_allow_sha1=True)


def test_a_plain_signature_of_something_else_than_a_quote_is_refused() -> None:
    """Nothing says which hash it has."""
    certified = TPM.certify(TPM.storage, NONCE)
    with pytest.raises(AttestTypeError) as refused:
        read_signature(bare(certified.signature), key=TPM.ak.key(), message=certified.message)
    assert refused.value.code == "evidence:type:mismatch"


def test_a_plain_signature_of_a_bound_key_needs_no_quote() -> None:
    """The key says which hash it has."""
    certified = TPM.certify(TPM.storage, NONCE)
    signature = read_signature(bare(certified.signature), key=TPM.ak, message=certified.message)
    assert signature == Signature.decode(certified.signature)


def test_a_plain_signature_over_an_unknown_hash_is_refused() -> None:
    """A pcrDigest of 28 bytes is none of a TPM's hashes."""
    message = QUOTE.message[: -2 - 32] + tpm2b(bytes(28))
    with pytest.raises(UnsupportedError) as refused:
        read_signature(bare(QUOTE.signature), key=TPM.ak.key(), message=message)
    assert refused.value.code == "wire:unsupported"


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x06\x02\x01\x01\x02\x01", bytes(255)])
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    """Adversary 8: DER is read strictly, for keys of both kinds."""
    for tpm in (TPM, RSA_TPM):
        with pytest.raises(HwTrustError) as refused:
            read_signature(data, key=tpm.ak, message=QUOTE.message)
        assert refused.value.code in {"wire:malformed", "wire:unsupported"}


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_signature_or_a_typed_error(noise: bytes) -> None:
    """For keys of both kinds."""
    for tpm in (TPM, RSA_TPM):
        try:
            signature = read_signature(noise, key=tpm.ak, message=QUOTE.message)
        except HwTrustError:
            continue
        assert isinstance(signature, Signature)


# --- key ---------------------------------------------------------------------------


def pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> bytes:
    """SubjectPublicKeyInfo in PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("public", [TPM.ak, RSA_TPM.ak], ids=["ECC", "RSA"])
def test_a_key_is_read_in_each_of_its_forms(public: Public) -> None:
    """Only the TPM's own structures know attributes and Name."""
    assert read_key(public.encode()) == public
    assert read_key(public.encode_sized()) == public
    assert read_key(pem(public.key())) == public.key()


NO_KEYS = {
    "nothing": (b"", MalformedError),
    "text": (b"ssh-ed25519 AAAA", UnsupportedError),
    "an empty PEM block": (b"-----BEGIN PUBLIC KEY-----\n", MalformedError),
    "a damaged PEM block": (pem(TPM.ak.key()).replace(b"M", b"N"), MalformedError),
    "a private key": (b"-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----", None),
    "Ed25519": (pem(ed25519.Ed25519PrivateKey.generate().public_key()), UnsupportedError),
    "a TPM2B cut short": (TPM.ak.encode_sized()[:-1], None),
    "a TPM2B followed by something": (TPM.ak.encode_sized() + b"\0", None),
}


@pytest.mark.parametrize(("data", "error"), NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key_is_refused(data: bytes, error: type[HwTrustError] | None) -> None:
    """With a typed error for each."""
    with pytest.raises(error or HwTrustError) as refused:
        read_key(data)
    assert refused.value.code in {"wire:malformed", "wire:unsupported"}


def test_a_weak_pem_key_is_read_and_then_refused() -> None:
    """Adversary 12: reading is not believing."""
    weak = rsa.RSAPublicNumbers(65537, 2**1024 - 1).public_key()
    key = read_key(pem(weak))
    signature = read_signature(bytes(128), key=key, message=QUOTE.message)
    with pytest.raises(WeakKeyError) as refused:
        verify_signature(key, signature, QUOTE.message)
    assert refused.value.code == "evidence:key:weak"


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_key_or_a_typed_error(noise: bytes) -> None:
    """Behind each of the starts that are recognised."""
    for start in (b"", b"-----BEGIN PUBLIC KEY-----\n", TPM.ak.encode()[:20]):
        for data in (start + noise, tpm2b(start + noise)):
            try:
                read_key(data)
            except HwTrustError:
                continue


# --- PCR values ----------------------------------------------------------------------


def as_json(pcrs: Mapping[Alg, Mapping[int, bytes]]) -> bytes:
    """Values as a person would write them."""
    return json.dumps(
        {
            alg_name(bank): {str(n): v.hex() for n, v in values.items()}
            for bank, values in pcrs.items()
        }
    ).encode()


def test_values_are_read_in_each_of_their_forms() -> None:
    """Serialized, in a row, and JSON say the same."""
    for data in (serialized(SELECTION), row(SELECTION), as_json(PCRS), b"\n " + as_json(PCRS)):
        assert read_pcrs(data, selection=SELECTION) == PCRS


@given(selections().map(lambda s: PcrSelection(s.banks)))
def test_any_selection_is_read_in_each_of_its_forms(selection: PcrSelection) -> None:
    """No serialized file is as long as the row of its values."""
    if any(numbers and numbers[-1] > 23 for _, numbers in selection.banks):
        return
    values = values_of(selection)
    for data in (serialized(selection), row(selection), as_json(values)):
        assert read_pcrs(data, selection=selection) == values


def test_a_row_is_split_by_the_signed_selection() -> None:
    """Adversary 28: banks in another order give other values, which the digest refuses."""
    swapped = PcrSelection(tuple(reversed(SELECTION.banks)))
    assert read_pcrs(row(SELECTION), selection=swapped) != PCRS


def test_a_serialized_file_says_which_value_is_of_which_pcr() -> None:
    """Its labels may differ from what was signed; the verifier then misses a value."""
    other = PcrSelection.parse("sha256:16")
    assert read_pcrs(serialized(other), selection=SELECTION) == values_of(other)


def patched(data: bytes, at: int, content: bytes) -> bytes:
    """`data` with other bytes at one place."""
    return data[:at] + content + data[at + len(content) :]


FILE = serialized(SELECTION)
LISTS_AT = 4 + 16 * 8
MALFORMED = {
    "nothing": b"",
    "a row with a byte missing": row(SELECTION)[:-1],
    "a row with a byte too many": row(SELECTION) + b"\0",
    "17 banks": patched(FILE, 0, b"\x11"),
    "4 billion banks": patched(FILE, 0, b"\xff\xff\xff\xff"),
    "adversary 6: a bank twice": patched(FILE, 12, b"\x0b\x00"),
    "adversary 7: a bitmap of 5 bytes": patched(FILE, 6, b"\x05"),
    "a list too few": patched(FILE, LISTS_AT, b"\x01"),
    "a list too many": patched(FILE, LISTS_AT, b"\x03"),
    "a serialized file followed by something": FILE + b"\0",
    "4 billion lists": patched(FILE, LISTS_AT, b"\xff\xff\xff\xff"),
    "a list of 9 digests": patched(FILE, LISTS_AT + 4, b"\x09"),
    "a digest of 65 bytes": patched(FILE, LISTS_AT + 8, b"\x41"),
    "a digest of another size than its bank's": patched(FILE, LISTS_AT + 8, b"\x1f"),
    "a value too few": serialized(SELECTION, [value(Alg.SHA256, n) for n in (0, 1, 7)]),
    "a value too many": serialized(PcrSelection.parse("sha256:0"), [bytes(32)] * 2),
    "JSON cut short": as_json(PCRS)[:-1],
    "JSON of another shape": b'{"sha256": ["00"]}',
    "JSON with what is no PCR": b'{"sha256": {"x": "00"}}',
    "JSON with a PCR in other digits": '{"sha256": {"\u0661": "00"}}'.encode(),
    "JSON with a sign": b'{"sha256": {"+1": "00"}}',
    "JSON with a PCR of many digits": b'{"sha256": {"1234": "00"}}',
    "JSON with what is no hex": b'{"sha256": {"0": "0g"}}',
    "JSON that is nested deeply": b'{"a":' * 100_000,
    "JSON that is not UTF-8": b'{"sha256": {"0": "\xff"}}',
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_values_are_refused(data: bytes) -> None:
    """Lines 6 and 7 of the adversaries, and their neighbours."""
    with pytest.raises(MalformedError) as refused:
        read_pcrs(data, selection=SELECTION)
    assert refused.value.code == "wire:malformed"


@pytest.mark.parametrize(
    "data",
    [patched(FILE, 4, b"\x0b\x01"), patched(FILE, 4, b"\x06\x00"), b'{"md5": {}}'],
    ids=["a bank of no number known", "a bank of AES", "a bank of no name known"],
)
def test_an_unknown_bank_is_refused(data: bytes) -> None:
    """A value of an unknown size cannot be read."""
    with pytest.raises(UnsupportedError) as refused:
        read_pcrs(data, selection=SELECTION)
    assert refused.value.code == "wire:unsupported"


def test_a_serialized_file_cut_at_every_byte_is_refused() -> None:
    """Adversary 3: but for the length that is a row's, where the values are wrong."""
    for length in range(len(FILE)):
        if length != len(row(SELECTION)):
            with pytest.raises(MalformedError) as refused:
                read_pcrs(FILE[:length], selection=SELECTION)
            assert refused.value.code == "wire:malformed"


def test_what_c_left_in_unused_memory_does_not_matter() -> None:
    """Padding and unused entries hold whatever was on the stack; bitmaps may have 4 bytes."""
    dirty = patched(FILE, 4 + 2, b"\x04")
    dirty = patched(dirty, 4 + 7, b"\xff")
    dirty = patched(dirty, 4 + 2 * 8, b"\xee" * 14 * 8)
    dirty = patched(dirty, LISTS_AT + 8 + 2 + 32, b"\xdd" * 32)
    assert read_pcrs(dirty, selection=SELECTION) == PCRS


@given(st.data())
def test_damaged_values_end_in_values_or_a_typed_error(data: st.DataObject) -> None:
    """Nothing from outside the tree leaves the reader."""
    damaged = bytearray(FILE)
    for at in data.draw(st.lists(st.integers(0, len(FILE) - 1), max_size=5)):
        damaged[at] = data.draw(st.integers(0, 255))
    for raw in (bytes(damaged), data.draw(st.binary()), b"{" + data.draw(st.binary())):
        try:
            read_pcrs(raw, selection=SELECTION)
        except HwTrustError:
            continue
