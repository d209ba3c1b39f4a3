"""Evidence from a TPM: one quote and one certified counter over one binding.

Two commands, and one TPM2_PCR_Read for every eight platform PCRs. The
application PCR is not read: the log says what it holds, and the quote says
whether the log is right. PCRs that others extend while the device runs are read
again where they have changed since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.errors import TpmError
from hwtrust.tpm import commands
from hwtrust.tpm.provision import COUNTER_SIZE
from hwtrust.tpm.response import FMT1_HANDLE, base_code
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.messages import Evidence, Signed
from hwtrust.wire.policy import pcr_digest
from hwtrust.wire.states import QUOTED_ONLY
from hwtrust.wire.structures import Attest, PcrSelection, QuoteInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwtrust.tpm.commands import SignedAttest
    from hwtrust.tpm.connection import Pinned, Tpm
    from hwtrust.wire.cel import EventLog
    from hwtrust.wire.messages import Binding

_TRIES: Final = 5
"""Quotes and readings until both have seen the same of a kernel that goes on measuring."""


def gather(
    tpm: Tpm,
    *,
    ak: Pinned,
    counter: Pinned,
    selection: PcrSelection,
    pcr: int,
    log: EventLog,
    binding: Binding,
) -> Evidence:
    """Have the TPM sign its state for `binding`. TPM2_Quote and TPM2_NV_Certify.

    `log` is what was measured into the application PCR, number `pcr`, and what
    `binding` was made over.

    Raises:
        TpmObjectConflictError: the key or the counter is gone, as after TPM2_Clear.
        TpmError: the TPM refused; `rc` says why.
    """
    qualifying = binding.digest()
    values = {pcr: log.value()}
    platform = platform_part(selection, pcr)
    if platform is not None:
        values |= commands.pcr_read(tpm, platform)[Alg.SHA256]
    try:
        quote = commands.quote(tpm, ak, qualifying=qualifying, selection=selection)
        if platform is not None and not QUOTED_ONLY.isdisjoint(values.keys() - {pcr}):
            for _ in range(_TRIES):
                if _shows(quote, values):
                    break
                # The kernel extends its PCR at any time: read before, or after.
                values |= commands.pcr_read(tpm, platform)[Alg.SHA256]
                if not _shows(quote, values):
                    quote = commands.quote(tpm, ak, qualifying=qualifying, selection=selection)
        certified = commands.nv_certify(tpm, counter, ak, qualifying=qualifying, size=COUNTER_SIZE)
    except TpmError as error:
        # A TPM that was cleared since names no object, only the number of a handle.
        rc = error.data.get("rc")
        if isinstance(rc, int) and base_code(rc) == FMT1_HANDLE:
            tpm.require(ak)
            tpm.require(counter)
        raise
    return Evidence(
        binding=binding,
        quote=signed(quote),
        pcrs=dict(sorted(values.items())),
        log=log.encode(),
        counter=signed(certified),
    )


def _shows(quote: SignedAttest, values: Mapping[int, bytes]) -> bool:
    attested = Attest.decode(quote.message).attested
    assert isinstance(attested, QuoteInfo)  # noqa: S101 - our own TPM made it a moment ago
    return attested.digest == pcr_digest(value for _, value in sorted(values.items()))


def platform_part(selection: PcrSelection, pcr: int) -> PcrSelection | None:
    """The selection without the application PCR, if anything is left."""
    ((bank, indices),) = selection.banks
    rest = tuple(index for index in indices if index != pcr)
    return PcrSelection(((bank, rest),)) if rest else None


def signed(attest: SignedAttest) -> Signed:
    """An attestation as it travels."""
    return Signed(message=attest.message, signature=attest.signature)
