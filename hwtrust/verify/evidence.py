"""Is this evidence authentic, and what does it say? Bytes in, claims out.

    Evidence ── verify_evidence ──▶ Claims ── hwtrust.verify.appraise ──▶ Verdict

A quote signs over the binding, and the binding names everything else, so that
nothing is believed unless it hashes in. Rules, in the order in which they are
checked (the code carries their numbers):

1.  purpose   the binding is for what the evidence is used for.
2.  nonce     it answers the challenge that was sent; an empty one is refused.
3.  TLS key   it names the key of the connection by which it came, so that a
              quote cannot be relayed. Evidence for a purpose that has a client
              certificate is refused without that key.
4.  log hash  the log is the one that the binding names. It is not decoded
              before the binding is known to be signed.
5.  quote     the device's attestation key, a primary of the endorsement
              hierarchy, signs the binding's digest over exactly the device's
              PCRs, with exactly the values beside the quote.
6.  bank      where the quote covers PCRs of the firmware, the firmware did
              extend the SHA-256 bank.
7.  counter   the same key certifies the device's epoch counter, by its Name and
              in full, over the same digest.
8.  boot      quote and counter were signed between the same two resets, by the
              same firmware.
9.  records   every record of the log is of the application PCR and of the
              SHA-256 bank.
10. replay    the log explains the quoted application PCR, from its reset value.

Claims are authentic, not acceptable: that is for `hwtrust.verify.appraise`.

Many are checked at once in three rounds: all are opened, with everything that can be
refused before a signature is checked; then come all signatures, one after the
other; then the rest of the rules. A form that is wrong, in quote or counter, is
therefore found before a signature that is wrong.

A fleet sends the same logs over and over. One that passed rule 9 is kept, decoded
and replayed, by the rules of `hwtrust.verify.kept`: by the SHA-256 that was made
of it, and by the PCR. Where the same bytes come again, their digest is known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from hwtrust.errors import (
    BootMismatchError,
    ChallengePurposeError,
    ChannelBindingError,
    EmptyNonceError,
    HwTrustError,
    LogError,
    StaleQuoteError,
)
from hwtrust.verify.attestation import (
    ENDORSEMENT,
    VERIFIED,
    Unverified,
    made_elsewhere,
    qualified_name,
    read,
    take_away,
)
from hwtrust.verify.certify import NvClaims, nv_claims
from hwtrust.verify.kept import Kept
from hwtrust.verify.quote import QuoteClaims, covers_firmware, quote_claims, require_extended
from hwtrust.verify.signature import run
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import EventLog
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.messages import Binding, Evidence
from hwtrust.wire.structures import ClockInfo, NvCertifyInfo, PcrSelection, Public, QuoteInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

COUNTER_SIZE: Final = 8

_SHA256: Final = Alg.SHA256

LOGS_KEPT: Final = 512
LONGEST_KEPT: Final = 16 * 1024
"""Bytes of a log that is kept; decoded it takes some ten times as much."""


class _Replayed(msgspec.Struct, frozen=True, eq=False):
    """A log of records of one PCR, and what it makes of it."""

    data: bytes
    log: EventLog
    value: bytes


_LOGS: Final[Kept[tuple[bytes, int], _Replayed]] = Kept(most=LOGS_KEPT)
"""By the SHA-256 of the log and the PCR."""

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """What a backend knows of a device since its enrolment.

    Attributes:
        name: the Name of its EK: its identity.
        ak: its attestation key, a primary of the endorsement hierarchy.
        selection: the PCRs that it quotes, of the SHA-256 bank.
        pcr: the application PCR, one of the selection.
        counter_name: the Name of its epoch counter, once written.
    """

    name: bytes
    ak: Public
    selection: PcrSelection
    pcr: int
    counter_name: bytes
    _signer: bytes = field(default=b"", init=False, compare=False, repr=False)

    @property
    def signer(self) -> bytes:
        """The qualified Name of `ak`, which stands in all that it signs."""
        if not self._signer:
            signer = qualified_name(self.ak.name, hierarchy=ENDORSEMENT)
            object.__setattr__(self, "_signer", signer)
        return self._signer


class Offered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Evidence, and all that it is held against; `verify_evidence` says what each is."""

    evidence: Evidence
    device: KnownDevice
    nonce: bytes
    purpose: Purpose
    tls_key: bytes | None


class Claims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What authentic evidence says; only `hwtrust.verify` makes them."""

    device: KnownDevice
    quote: QuoteClaims
    """Signed by the TPM: PCR values, clock, firmware version."""
    counter: int
    """The value of the epoch counter."""
    log: EventLog
    """What was extended into the application PCR since the reset."""
    binding: Binding
    """The device's own words, for which its TPM vouches only that they are unchanged."""
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)

    @property
    def clock(self) -> ClockInfo:
        """The TPM's clock, reset and restart counts at the quote."""
        return self.quote.clock

    @property
    def firmware_version(self) -> int:
        """The TPM's firmware version."""
        return self.quote.firmware_version

    @property
    def pcrs(self) -> Mapping[int, bytes]:
        """The quoted values of the SHA-256 bank, by PCR number."""
        return self.quote.pcrs[_SHA256]


def verify_evidence(
    evidence: Evidence,
    *,
    device: KnownDevice,
    nonce: bytes,
    purpose: Purpose,
    tls_key: bytes | None,
) -> Claims:
    """Check evidence of `device` and return what it says.

    `nonce` is the challenge that the backend issued, already checked to be good;
    `tls_key` the SubjectPublicKeyInfo (DER) of the connection's client
    certificate. It is None only where there is no certificate yet: when a device
    asks for one, for the very key that the evidence names.

    Raises:
        EvidenceError: the evidence is not authentic; the class says why.
        ChallengePurposeError: it was made for another purpose.
        WireError: a part of it is malformed.
    """
    offered = Offered(
        evidence=evidence, device=device, nonce=nonce, purpose=purpose, tls_key=tls_key
    )
    (result,) = verify_group((offered,))
    if isinstance(result, HwTrustError):
        raise result
    return result


def verify_group(group: Iterable[Offered]) -> list[Claims | HwTrustError]:
    """Check each as `verify_evidence` does; the claims, or why it is refused, in the same order.

    One that is refused takes nothing from the others and lends them nothing.
    """
    opened = [_tried(_opened, offered) for offered in group]
    run(
        [
            check
            for one in opened
            if isinstance(one, _Opened)
            for check in (one.quote.check, one.counter.check)
        ]
    )
    return [_tried(_claims, one) if isinstance(one, _Opened) else one for one in opened]


def _tried(step: Callable[[Given], Made], given: Given) -> Made | HwTrustError:
    try:
        return step(given)
    except HwTrustError as error:
        return error


class _Opened(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Evidence as it was read; nothing of it is believed yet."""

    offered: Offered
    quote: Unverified[QuoteInfo]
    counter: Unverified[NvCertifyInfo]


def _opened(offered: Offered) -> _Opened:
    """Rules 1 to 4, and what of 5 and 7 comes before the signatures."""
    evidence, device = offered.evidence, offered.device
    binding = evidence.binding
    # (1): purpose.
    if binding.purpose is not offered.purpose:
        raise ChallengePurposeError(
            f"the evidence was made for {binding.purpose}, it is used for {offered.purpose}"
        )
    # (2): nonce.
    if not offered.nonce:
        raise EmptyNonceError("the nonce is empty: whatever answers it may be of any age")
    if not compare_digest(binding.nonce, offered.nonce):
        raise StaleQuoteError("the evidence answers another challenge than the one that was sent")
    # (3): TLS key.
    _require_tls_key(binding, offered.tls_key)
    # (4): log hash.
    require_log(evidence.log, digest=binding.log_digest, pcr=device.pcr)
    quote, counter = evidence.quote, evidence.counter
    return _Opened(
        offered,
        read(quote.message, quote.signature, QuoteInfo, key=device.ak),
        read(counter.message, counter.signature, NvCertifyInfo, key=device.ak),
    )


def _claims(opened: _Opened) -> Claims:
    """Rules 5 to 10, once the signatures were checked."""
    evidence, device = opened.offered.evidence, opened.offered.device
    binding, pcr = evidence.binding, device.pcr
    bound, signer = binding.digest(), device.signer
    # (5): quote.
    quote = quote_claims(
        opened.quote,
        nonce=bound,
        selection=device.selection,
        pcrs={_SHA256: evidence.pcrs},
        signer=signer,
    )
    values = quote.pcrs.get(_SHA256, {})
    # (6): bank.
    if covers_firmware(values):
        require_extended(quote, bank=_SHA256)
    # (7): counter.
    counter = nv_claims(
        opened.counter,
        nonce=bound,
        index_name=device.counter_name,
        size=COUNTER_SIZE,
        signer=signer,
    )
    # (8): boot.
    _require_same_boot(quote, counter)
    # (9): records.
    log, value = replayed(evidence.log, digest=binding.log_digest, pcr=pcr)
    # (10): replay.
    quoted = values.get(pcr)
    if quoted is None or not compare_digest(value, quoted):
        raise LogError(f"the event log does not explain what PCR {pcr} holds", pcr=pcr)
    return Claims(
        device=device,
        quote=quote,
        counter=counter.value,
        log=log,
        binding=binding,
        verified=VERIFIED,
    )


def _require_tls_key(binding: Binding, tls_key: bytes | None) -> None:
    if tls_key is None:
        if binding.purpose is Purpose.ATTEST:
            raise ChannelBindingError(
                "an attestation is believed only with the key of the connection that it came by"
            )
        return
    if not compare_digest(binding.tls_key, tls_key):
        raise ChannelBindingError("the evidence names another TLS key than the connection's")


def _require_same_boot(quote: QuoteClaims, counter: NvClaims) -> None:
    if (
        quote.clock.reset_count != counter.clock.reset_count
        or quote.clock.restart_count != counter.clock.restart_count
        or quote.firmware_version != counter.firmware_version
    ):
        raise BootMismatchError("the TPM was restarted between its quote and its counter")


def require_log(data: bytes, *, digest: bytes, pcr: int) -> None:
    """Refuse a log whose SHA-256 is not `digest` (rule 4).

    Raises:
        LogError: it is another.
    """
    kept = _LOGS.get((digest, pcr))
    if kept is not None and kept.data == data:
        return
    if not compare_digest(hashlib.sha256(data).digest(), digest):
        raise LogError("the event log is not the one that the device bound into its quote")


def replayed(data: bytes, *, digest: bytes, pcr: int) -> tuple[EventLog, bytes]:
    """The log that `data` is, and what it makes of the PCR `pcr`, from its reset value.

    `digest` is the SHA-256 of `data`, as the caller knows it to be.

    Raises:
        LogError: a digest in it is wrong, or a record is of another PCR (rule 9).
        WireError: it is malformed.
    """
    kept = _LOGS.get((digest, pcr))
    if kept is not None:
        return kept.log, kept.value
    log = EventLog.decode(data)
    for record in log.records:
        if record.pcr != pcr or _SHA256 not in record.banks:
            raise LogError(
                f"record {record.number} of the event log is not of PCR {pcr} of the SHA-256 bank",
                record=record.number,
                pcr=record.pcr,
            )
    value = log.value()
    if len(data) <= LONGEST_KEPT:
        _LOGS.keep((digest, pcr), _Replayed(data, log, value))
    return log, value
