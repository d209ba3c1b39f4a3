"""Is this document of a Nitro enclave authentic, and what does it vouch for?

    document ── verify_nitro ──▶ NitroClaims ── appraise ──▶ findings (nitro_rules)

Rules, in the order in which they are checked (the code carries their numbers):

1. form       the document is one, with all of its fields (`hwtrust.wire.enclaves.nitro`).
2. time       its timestamp is not after `now`, save for what two clocks differ by,
              and not before there were such documents, as one in seconds is.
3. chain      from a root that is trusted to the signer, good at the document's own
              time and at `now` (`hwtrust.verify.enclaves.nitro_chain`).
4. signature  the signer's key made it, over the bytes as received.
5. nonce      is the challenge. An empty one is refused.
6. user data  is what the document has to vouch for.

A caller that can go without one of these says so with a member of `Unsafe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from hmac import compare_digest
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from hwtrust.errors import EmptyNonceError, StaleQuoteError
from hwtrust.errors.nitro import NitroTimeError, NitroUserDataError
from hwtrust.verify.attestation import VERIFIED, made_elsewhere, take_away
from hwtrust.verify.enclaves.cose import require_signed
from hwtrust.verify.enclaves.nitro_chain import AWS, NitroTrust, require_chain
from hwtrust.wire.enclaves.nitro import Facts, NitroDocument, facts_of, is_debug

__all__ = ["AWS", "SKEW_MS", "NitroClaims", "NitroTrust", "Unsafe", "verify_nitro"]

SKEW_MS: Final = 60_000
"""What the clock of an enclave's host may be ahead of the verifier's."""

_MILLISECOND: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_MS: Final = 1_500_000_000_000
"""In July 2017. The present in seconds, taken for milliseconds, is in January 1970."""


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    NO_NONCE = auto()
    """The document may be a replay, as old as its certificate is valid."""
    ANY_USER_DATA = auto()
    """What the enclave wished to have vouched for is not looked at."""


Nonce = bytes | Literal[Unsafe.NO_NONCE]
UserData = bytes | None | Literal[Unsafe.ANY_USER_DATA]


class NitroClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an authentic document says; only `verify_nitro` makes them."""

    module_id: str
    timestamp: int
    """When the document was made, UTC milliseconds."""
    age_ms: int
    """How old it was when it was verified; negative where clocks differ."""
    pcrs: Mapping[int, bytes]
    """Those that were locked when the document was made; read-only."""
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode: whoever has its host sees into it."""
        return is_debug(self.pcrs)

    def facts(self) -> Facts:
        """What the document says, for people and programs."""
        facts = facts_of(
            module_id=self.module_id,
            timestamp=self.timestamp,
            pcrs=self.pcrs,
            public_key=self.public_key,
            user_data=self.user_data,
            nonce=self.nonce,
        )
        return facts | {"age_ms": self.age_ms}


def verify_nitro(
    document: bytes,
    *,
    nonce: Nonce,
    user_data: UserData,
    now: datetime,
    trust: NitroTrust,
) -> NitroClaims:
    """Check a document and return what it vouches for.

    `now` is aware of its time zone. `user_data` is None where there has to be none.

    Raises:
        EvidenceError: the document is not authentic; the class says why.
        WireError: document or certificates are malformed.
    """
    # (1): form.
    read = NitroDocument.decode(document)
    # (2): time.
    age_ms = (now - _EPOCH) // _MILLISECOND - read.timestamp
    if age_ms < -SKEW_MS:
        raise NitroTimeError("the document was made later than now", timestamp=read.timestamp)
    if read.timestamp < _EARLIEST_MS:
        raise NitroTimeError(
            "the document's timestamp does not count milliseconds", timestamp=read.timestamp
        )
    made = _EPOCH + read.timestamp * _MILLISECOND
    # (3): chain.
    signer = require_chain(read.cabundle, read.certificate, roots=trust.roots, times=(made, now))
    # (4): signature.
    require_signed(read.message, key=signer.key)
    # (5): nonce.
    if nonce is not Unsafe.NO_NONCE:
        if not nonce:
            raise EmptyNonceError("the nonce is empty: whatever answers it may be of any age")
        if read.nonce is None or not compare_digest(read.nonce, nonce):
            raise StaleQuoteError("the document answers another nonce than the one that was sent")
    # (6): user data.
    if user_data is not Unsafe.ANY_USER_DATA:
        _require_user_data(read.user_data, user_data)
    return NitroClaims(
        module_id=read.module_id,
        timestamp=read.timestamp,
        age_ms=age_ms,
        pcrs=MappingProxyType(read.pcrs),
        public_key=read.public_key,
        user_data=read.user_data,
        nonce=read.nonce,
        verified=VERIFIED,
    )


def _require_user_data(found: bytes | None, expected: bytes | None) -> None:
    if expected is None:
        if found:
            raise NitroUserDataError("the document has user data where there should be none")
        return
    if not expected:
        raise EmptyNonceError("the user data to be vouched for is empty: it would bind nothing")
    if found is None or not compare_digest(found, expected):
        raise NitroUserDataError("the document vouches for other user data")
