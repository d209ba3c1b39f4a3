"""A good quote, and what it takes to verify it: the start of every test that spoils one thing."""

from __future__ import annotations

from typing import Any

import msgspec

from hwtrust.verify.quote import (
    QuoteClaims,
    verify_quote,
)
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.structures import Attest, PcrSelection
from simulators.software_tpm import Signed, SoftwareTpm

NONCE = bytes(range(32))
TPM = SoftwareTpm(seed=b"test_quote")
OTHER = SoftwareTpm(seed=b"another device")


def value(bank: Alg, number: int) -> bytes:
    """A value that no other PCR has."""
    return new_hash(bank, bytes([number]))


def good(number: int) -> bytes:
    """The right value in the SHA-256 bank."""
    return value(Alg.SHA256, number)


PCRS = {bank: {n: value(bank, n) for n in range(24)} for bank in (Alg.SHA1, Alg.SHA256, Alg.SHA384)}
SELECTION = PcrSelection.parse("sha256:0,1,7,10")
GOOD = TPM.quote(NONCE, PCRS, selection=SELECTION)


def verify(quote: Signed = GOOD, **changes: Any) -> QuoteClaims:  # noqa: ANN401 - any argument
    """Verify `quote` as the good one is, but for `changes`."""
    arguments: dict[str, Any] = {
        "key": TPM.ak,
        "nonce": NONCE,
        "selection": SELECTION,
        "pcrs": PCRS,
        "signer": TPM.ak_qualified_name,
    }
    return verify_quote(quote.message, quote.signature, **(arguments | changes))


def quote_of(selection: str) -> Signed:
    """A quote over other PCRs."""
    return TPM.quote(NONCE, PCRS, selection=PcrSelection.parse(selection))


def resigned(**changes: Any) -> Signed:  # noqa: ANN401 - any field
    """The good quote with other fields, signed again by the same key."""
    message = msgspec.structs.replace(Attest.decode(GOOD.message), **changes).encode()
    return Signed(message, TPM.sign(message).encode())
