"""The files that tpm2-tools write, as the structures that `verify_quote` takes.

    tpm2_quote -m MESSAGE        TPMS_ATTEST, or TPM2B_ATTEST       read_message
               -s SIGNATURE      TPMT_SIGNATURE; with -f plain      read_signature
                                 DER (ECDSA) or bare bytes (RSA)
               -o PCRS           serialized, or with -F values      read_pcrs
                                 the bare values in a row
    tpm2_createak -u, tpm2_readpublic -o
                                 TPM2B_PUBLIC, TPMT_PUBLIC or PEM   read_key

Everything here is untrusted input and stays so: the result of a reader is a
claim until it is verified. Rules:

1. A form is recognised by what sets it apart, never by trying until one fits.
2. What bare bytes leave open (the hash of a plain signature, the owner of each
   value in a row) is taken from the message that is signed.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from hwtrust.errors import AttestTypeError, MalformedError, UnsupportedError
from hwtrust.verify.quote import PcrValues
from hwtrust.wire.algorithms import Alg, alg_from_name, alg_name, digest_size, to_hash_alg
from hwtrust.wire.attested import GENERATED
from hwtrust.wire.codec import Reader
from hwtrust.wire.selection import MAX_BANKS, MAX_BITMAP, numbers_of, parse_number
from hwtrust.wire.structures import (
    Attest,
    EccParams,
    PcrSelection,
    Public,
    PublicKey,
    QuoteInfo,
    RsaParams,
    Signature,
)

_MAGIC: Final = GENERATED.to_bytes(4, "big")
_PEM_START: Final = b"-----BEGIN "
_DER_SEQUENCE: Final = b"\x30"

# The C structures of tss2_tpm2_types.h in memory, little-endian:
# TPML_PCR_SELECTION has 16 entries of 8 bytes, the last one padding;
# TPML_DIGEST 8 entries of a u16 size and 64 bytes. Each is read by a Reader of its
# own size, so that no count or size in it reaches beyond.
_SELECTION_ENTRY: Final = 8
_SELECTION_SIZE: Final = 4 + MAX_BANKS * _SELECTION_ENTRY
_LIST_ENTRIES: Final = 8
_DIGEST_BUFFER: Final = 64
_DIGEST_ENTRY: Final = 2 + _DIGEST_BUFFER
_LIST_SIZE: Final = 4 + _LIST_ENTRIES * _DIGEST_ENTRY

_HASH_BY_SIZE: Final = {20: Alg.SHA1, 32: Alg.SHA256, 48: Alg.SHA384, 64: Alg.SHA512}


def read_message(data: bytes) -> bytes:
    """The TPMS_ATTEST in `data`, which holds it bare or as a TPM2B_ATTEST.

    Raises:
        MalformedError: a TPM2B_ATTEST is cut short or followed by something.
    """
    if data[2 : 2 + len(_MAGIC)] != _MAGIC:
        return data
    reader = Reader(data, "TPM2B_ATTEST")
    message = reader.sized()
    reader.end()
    return message


def read_signature(data: bytes, *, key: Public | PublicKey, message: bytes) -> Signature:
    """The signature in `data`: TPMT_SIGNATURE, DER (ECDSA), or bare bytes (RSA).

    A plain signature does not say its algorithm. It is that of the key's scheme,
    else RSASSA or ECDSA over the hash that also made the pcrDigest in `message`:
    TPM2_Quote uses one hash for both.

    Raises:
        WireError: none of these, or a plain one over an unknown hash.
        EvidenceError: the key is weak, or `message` is no quote.
    """
    public_key = key.key() if isinstance(key, Public) else key
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if data.startswith(_DER_SEQUENCE):
            return Signature.from_der_ecdsa(data, _plain_hash(key, message))
    elif len(data) == public_key.key_size // 8:
        return Signature.from_raw_rsa(data, _plain_hash(key, message), _plain_rsa_alg(key))
    return Signature.decode(data)


def read_key(data: bytes) -> Public | PublicKey:
    """The key in `data`: PEM (SubjectPublicKeyInfo), TPM2B_PUBLIC or TPMT_PUBLIC.

    Only the TPM structures know the key's attributes, and so give a `Public`.

    Raises:
        WireError: none of these, or a key that is neither RSA nor ECC.
    """
    if data.startswith(_PEM_START):
        return _read_pem(data)
    size = int.from_bytes(data[:2], "big")
    return Public.decode_sized(data) if size == len(data) - 2 else Public.decode(data)


def read_selection(message: bytes) -> PcrSelection:
    """The selection that is signed in `message`, to split bare PCR values by.

    Raises:
        WireError: `message` is malformed.
        EvidenceError: `message` is no quote.
    """
    return _quote_info(message).selection


def read_pcrs(data: bytes, *, selection: PcrSelection) -> PcrValues:
    """The PCR values in `data`: serialized, in a row, or JSON.

    Serialized files and JSON (`{"sha256": {"0": "hex", …}}`) say which value is
    of which PCR; values in a row are those of `selection`, the one in the signed
    message.

    Raises:
        WireError: none of these; an unknown bank; values do not fit the banks.
    """
    # Serialized files and JSON are always longer than the bare values that they
    # hold, and bare values may start like anything: so the length decides first.
    if len(data) == sum(digest_size(bank) * len(numbers) for bank, numbers in selection.banks):
        return _read_row(data, selection)
    return _read_json(data) if data.lstrip().startswith(b"{") else _read_serialized(data)


def _read_pem(data: bytes) -> PublicKey:
    try:
        key = load_pem_public_key(data)
    except ValueError:
        raise MalformedError("the file is no public key in PEM form") from None
    except UnsupportedAlgorithm:
        raise UnsupportedError("the key is of a kind that hwtrust does not know") from None
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise UnsupportedError("the key is neither an RSA nor an elliptic-curve key")
    return key


def _plain_hash(key: Public | PublicKey, message: bytes) -> Alg:
    if isinstance(key, Public) and isinstance(key.params, EccParams | RsaParams):
        named = key.params.scheme_hash
        if named is not None:
            return named
    size = len(_quote_info(message).digest)
    if size not in _HASH_BY_SIZE:
        raise UnsupportedError(f"no hash is known whose digest has {size} bytes")
    return _HASH_BY_SIZE[size]


def _quote_info(message: bytes) -> QuoteInfo:
    attested = Attest.decode(message).attested
    if not isinstance(attested, QuoteInfo):
        raise AttestTypeError("the message is no quote")
    return attested


def _plain_rsa_alg(key: Public | PublicKey) -> Alg:
    is_pss = (
        isinstance(key, Public)
        and isinstance(key.params, RsaParams)
        and key.params.scheme is Alg.RSAPSS
    )
    return Alg.RSAPSS if is_pss else Alg.RSASSA


def _read_json(data: bytes) -> PcrValues:
    try:
        banks = msgspec.json.decode(data, type=dict[str, dict[str, str]])
        return {
            alg_from_name(bank): {
                parse_number(number): bytes.fromhex(value) for number, value in values.items()
            }
            for bank, values in banks.items()
        }
    except (msgspec.DecodeError, ValueError):
        raise MalformedError(
            'the file is no JSON of PCR values such as {"sha256": {"0": "hex"}}'
        ) from None


def _read_row(data: bytes, selection: PcrSelection) -> PcrValues:
    reader = Reader(data, "row of PCR values")
    values = {
        bank: {number: reader.take(digest_size(bank)) for number in numbers}
        for bank, numbers in selection.banks
    }
    reader.end()
    return values


def _read_serialized(data: bytes) -> PcrValues:
    reader = Reader(data, "serialized PCR file")
    selection = _read_host_selection(reader.take(_SELECTION_SIZE))
    lists = _host_u32(reader)
    digests = iter([d for _ in range(lists) for d in _read_host_digests(reader.take(_LIST_SIZE))])
    reader.end()
    values: dict[Alg, dict[int, bytes]] = {}
    for bank, numbers in selection.banks:
        values[bank] = {}
        for number in numbers:
            digest = next(digests, None)
            if digest is None or len(digest) != digest_size(bank):
                raise MalformedError(
                    f"the serialized PCR file has no value for PCR {number} "
                    f"of the bank {alg_name(bank)}"
                )
            values[bank][number] = digest
    if next(digests, None) is not None:
        raise MalformedError("the serialized PCR file has more values than it selects PCRs")
    return values


def _read_host_selection(data: bytes) -> PcrSelection:
    reader = Reader(data, "serialized PCR file")
    count = _host_u32(reader)
    if count > MAX_BANKS:
        raise MalformedError(f"a serialized PCR file has {count} banks, {MAX_BANKS} at most")
    banks = []
    for _ in range(count):
        entry = Reader(reader.take(_SELECTION_ENTRY), "serialized PCR file")
        bank = to_hash_alg(int.from_bytes(entry.take(2), "little"))
        width = entry.u8()
        if width > MAX_BITMAP:
            raise MalformedError(f"a PCR bitmap has {width} bytes, {MAX_BITMAP} at most")
        banks.append((bank, numbers_of(entry.take(width))))
    return PcrSelection(tuple(banks))


def _read_host_digests(data: bytes) -> list[bytes]:
    reader = Reader(data, "serialized PCR file")
    count = _host_u32(reader)
    digests = []
    for _ in range(count):
        entry = Reader(reader.take(_DIGEST_ENTRY), "serialized PCR file")
        digests.append(entry.take(int.from_bytes(entry.take(2), "little")))
    return digests


def _host_u32(reader: Reader) -> int:
    return int.from_bytes(reader.take(4), "little")
