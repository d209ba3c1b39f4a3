"""Is this quote authentic, and which PCR values does it vouch for?

    message, signature, PCR values beside them -> verify_quote -> QuoteClaims

Rules, in the order in which they are checked (the code carries their numbers).
1 to 5 are those of every attestation, in `hwtrust.verify.attestation`:

1. magic      the message was composed by a TPM.
2. type       it is a quote.
3. signature  the key made the signature, over the message as received.
4. signer     qualifiedSigner is the qualified Name of the attestation key.
5. nonce      extraData is the challenge; an empty one is refused.
6. selection  the quote covers exactly the PCRs that are asked for, bank by bank
              and in that order: no fewer, no more, no other bank. One that
              covers nothing is refused always.
7. banks      no PCR is covered by its SHA-1 bank alone.
8. pcrDigest  the digest of the PCR values, in the order of the signed selection,
              is the signed one. Which value belongs to which PCR follows from
              signed bytes only; values of PCRs that are not signed are dropped.

A quote that passes is authentic. Whether its state is acceptable, and whether
firmware ever extended the bank (`require_extended`), is another question.

PCR values that passed rule 8 are kept, by the rules of `hwtrust.verify.kept`: by
the signed digest. They are taken for those beside a quote only if these are equal
to them, every one, and selection and hash are too.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from types import MappingProxyType
from typing import Final, Literal

from hwtrust.errors import PcrDigestError, SelectionError, UnextendedBankError, WeakBankError
from hwtrust.verify.attestation import (
    ENDORSEMENT,
    OWNER,
    PLATFORM,
    VERIFIED,
    Claims,
    Nonce,
    Signer,
    Unsafe,
    Unverified,
    authenticated,
    qualified_name,
    qualified_name_under,
    read,
)
from hwtrust.verify.kept import Kept
from hwtrust.verify.signature import run
from hwtrust.wire.algorithms import MAX_DIGEST_SIZE, Alg, alg_name, digest_size, new_hash
from hwtrust.wire.structures import PcrSelection, Public, PublicKey, QuoteInfo, Signature

__all__ = [
    "ENDORSEMENT",
    "OWNER",
    "PLATFORM",
    "PcrValues",
    "QuoteClaims",
    "Unsafe",
    "pcr_digest",
    "qualified_name",
    "qualified_name_under",
    "require_extended",
    "verify_quote",
]

PcrValues = Mapping[Alg, Mapping[int, bytes]]
"""PCR values by bank and number."""

Selection = PcrSelection | Literal[Unsafe.ANY_SELECTION]

FIRMWARE_PCRS: Final = range(8)
_MAX_LOCALITY: Final = 4

_DIGEST_SIZES: Final = range(1, MAX_DIGEST_SIZE + 1)
_RESET_VALUES: Final = frozenset(
    bytes([fill]) * size for fill in (0, 0xFF) for size in _DIGEST_SIZES
)
_STARTED: Final = frozenset(
    locality.to_bytes(size, "big")
    for locality in range(_MAX_LOCALITY + 1)
    for size in _DIGEST_SIZES
)
"""PCR 0 starts with the number of the locality that TPM2_Startup came from."""

KEPT: Final = 4096
"""How many sets of PCR values are kept, some 3 KiB each."""

_ANY_SELECTION: Final = Unsafe.ANY_SELECTION
_SHA1: Final = Alg.SHA1


class QuoteClaims(Claims, frozen=True, kw_only=True, gc=False):
    """What an authentic quote says; only `verify_quote` makes them."""

    selection: PcrSelection
    pcrs: PcrValues
    """The values that the TPM vouches for: exactly those of `selection`, read-only."""


def verify_quote(
    message: bytes,
    signature: bytes | Signature,
    *,
    key: Public | PublicKey,
    nonce: Nonce,
    selection: Selection,
    pcrs: PcrValues,
    signer: Signer,
    unsafe_allow_sha1: bool = False,
) -> QuoteClaims:
    """Check a quote and return what it vouches for.

    `message` is the TPMS_ATTEST, `signature` the TPMT_SIGNATURE, `signer` the
    expected qualified Name of the attestation key (`qualified_name`).
    TPM2_Quote, TPM 2.0 Part 3 §18.4.

    Raises:
        EvidenceError: the quote is not authentic; the class says why.
        WireError: message or signature are malformed.
    """
    unverified = read(message, signature, QuoteInfo, key=key, unsafe_allow_sha1=unsafe_allow_sha1)
    run((unverified.check,))
    return quote_claims(
        unverified,
        nonce=nonce,
        selection=selection,
        pcrs=pcrs,
        signer=signer,
        unsafe_allow_sha1=unsafe_allow_sha1,
    )


def quote_claims(
    unverified: Unverified[QuoteInfo],
    *,
    nonce: Nonce,
    selection: Selection,
    pcrs: PcrValues,
    signer: Signer,
    unsafe_allow_sha1: bool = False,
) -> QuoteClaims:
    """What a quote vouches for that was read, and whose signature was checked.

    Raises:
        EvidenceError: the quote is not authentic; the class says why.
    """
    # (1) to (5): what every attestation must fulfil.
    attest = authenticated(unverified, nonce=nonce, signer=signer)
    info = unverified.info
    # (6): selection.
    # Selections that were read or parsed come again as the same object.
    signed = info.selection
    if signed is not selection or signed.is_empty:
        _require_selection(signed, selection)
    # (7): banks.
    if not unsafe_allow_sha1 and (len(signed.banks) > 1 or signed.banks[0][0] is _SHA1):
        _require_strong_banks(signed)
    # (8): pcrDigest.
    chosen = _vouched_for(pcrs, info, unverified.check.hash)
    return QuoteClaims(
        nonce=attest.extra_data,
        qualified_signer=attest.qualified_signer,
        clock=attest.clock,
        firmware_version=attest.firmware_version,
        selection=signed,
        pcrs=chosen,
        verified=VERIFIED,
    )


def pcr_digest(pcrs: PcrValues, selection: PcrSelection, hash_: Alg) -> bytes:
    """The digest that a TPM signs for `pcrs`: all values in the order of `selection`.

    Raises:
        PcrDigestError: a value is missing, or has not the size of its bank.
    """
    return _digest(_chosen(pcrs, selection), hash_)


def require_extended(claims: QuoteClaims, *, bank: Alg) -> None:
    """Refuse a bank that the firmware did not extend.

    Firmware that measures into SHA-1 only leaves the SHA-256 bank at its reset
    values, and any program can then extend it to whatever is expected. Looked at
    are the firmware's PCRs 0 to 7 where the quote covers any of them, else all
    that it covers.

    Raises:
        UnextendedBankError: all of these PCRs hold their reset value, or the
            quote does not cover the bank.
    """
    values = claims.pcrs.get(bank, {})
    for number in FIRMWARE_PCRS if covers_firmware(values) else values:
        value = values.get(number)
        if value is not None and not _is_reset_value(number, value):
            return
    raise UnextendedBankError(
        f"no measurement was ever made into the bank {alg_name(bank)}", bank=alg_name(bank)
    )


def covers_firmware(numbers: Container[int]) -> bool:
    """Whether any PCR of the firmware is among `numbers`."""
    for number in FIRMWARE_PCRS:  # noqa: SIM110  a generator costs more than the answer
        if number in numbers:
            return True
    return False


def _require_selection(signed: PcrSelection, expected: Selection) -> None:
    if signed.is_empty:
        raise SelectionError("the quote covers no PCR at all")
    if expected is not _ANY_SELECTION and signed != expected:
        raise SelectionError(
            f"the quote covers {signed}, asked for is {expected}",
            expected=str(expected),
            found=str(signed),
        )


def _require_strong_banks(selection: PcrSelection) -> None:
    banks = dict(selection.banks)
    weak = banks.pop(_SHA1, None)
    if not weak:
        return
    alone = set(weak).difference(*banks.values())
    if alone:
        raise WeakBankError(
            f"the quote covers PCR {', '.join(map(str, sorted(alone)))} in the SHA-1 bank only"
        )


@dataclass(frozen=True, slots=True)
class _VouchedFor:
    """PCR values of which the digest is known."""

    selection: PcrSelection
    hash: Alg
    chosen: PcrValues


_KEPT: Final[Kept[bytes, _VouchedFor]] = Kept(most=KEPT)
"""By digest."""


def _vouched_for(pcrs: PcrValues, info: QuoteInfo, hash_: Alg) -> PcrValues:
    """The values of `pcrs` that `info` signs, with a digest made by `hash_`."""
    kept = _KEPT.get(info.digest)
    if (
        kept is not None
        and kept.hash is hash_
        and (kept.selection is info.selection or kept.selection == info.selection)
        and kept.chosen == pcrs
    ):
        return kept.chosen
    chosen = _chosen(pcrs, info.selection)
    if not compare_digest(_digest(chosen, hash_), info.digest):
        raise PcrDigestError("the PCR values are not the ones that the TPM signed")
    _KEPT.keep(info.digest, _VouchedFor(info.selection, hash_, chosen))
    return chosen


def _chosen(pcrs: PcrValues, selection: PcrSelection) -> PcrValues:
    """The values of exactly `selection`, in its order."""
    return MappingProxyType(
        {bank: _of_bank(pcrs.get(bank, {}), bank, numbers) for bank, numbers in selection.banks}
    )


def _of_bank(
    values: Mapping[int, bytes], bank: Alg, numbers: tuple[int, ...]
) -> Mapping[int, bytes]:
    return MappingProxyType(
        {number: _value(values.get(number), bank, number) for number in numbers}
    )


def _value(value: bytes | None, bank: Alg, number: int) -> bytes:
    if value is None:
        raise PcrDigestError(
            f"the quote covers PCR {number} of the bank {alg_name(bank)}, whose value is missing",
            bank=alg_name(bank),
            pcr=number,
        )
    if len(value) != digest_size(bank):
        # Else bytes could wander from one value into the next under the same digest.
        raise PcrDigestError(
            f"the value of PCR {number} of the bank {alg_name(bank)} has {len(value)} bytes",
            bank=alg_name(bank),
            pcr=number,
        )
    return bytes(value)


def _digest(chosen: PcrValues, hash_: Alg) -> bytes:
    return new_hash(hash_, b"".join([b"".join(values.values()) for values in chosen.values()]))


def _is_reset_value(number: int, value: bytes) -> bool:
    return value in _RESET_VALUES or (number == 0 and value in _STARTED)
