"""Look at a TPM before a device is set up on it. Nothing in it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwtrust.device.config import APPLICATION_PCRS
from hwtrust.errors import ConfigError, TpmBankError, TpmPcrConflictError
from hwtrust.tpm import commands
from hwtrust.tpm.discover import identify, open_tpm, require_no_lockout
from hwtrust.tpm.provision import active_banks
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cel import RESET_VALUE
from hwtrust.wire.structures import PcrSelection

if TYPE_CHECKING:
    from hwtrust.tpm.connection import Tpm

PCR_COUNT = 24


@dataclass(frozen=True, slots=True)
class Survey:
    """What a device may use: a PCR that nobody else does, and the banks to extend."""

    pcr: int
    banks: tuple[Alg, ...]


def survey(tcti: str | None, *, pcr: int | None) -> Survey:
    """Look at the TPM that `tcti` names, or at the preferred one.

    The PCR is `pcr`, or the first of 8 to 15 that still reads its reset value.

    Raises:
        ConfigError: there is no PCR of that number.
        TpmLockoutError: the TPM is locked out.
        TpmBankError: its SHA-256 bank is missing, or firmware leaves it alone.
        TpmPcrConflictError: the PCR has been extended, or all have.
        TpmError: no TPM, or one that does not work; the class says why.
    """
    if pcr is not None and pcr not in range(PCR_COUNT):
        raise ConfigError(f"there is no PCR {pcr}", pcr=pcr)
    with open_tpm(tcti) as tpm:
        require_no_lockout(identify(tpm))
        banks = active_banks(tpm)
        _require_extended_bank(tpm)
        return Survey(_free_pcr(tpm, wanted=pcr), banks)


def _free_pcr(tpm: Tpm, *, wanted: int | None) -> int:
    indices = tuple(APPLICATION_PCRS) if wanted is None else (wanted,)
    values = commands.pcr_read(tpm, PcrSelection(((Alg.SHA256, indices),)))[Alg.SHA256]
    for index in indices:
        if values[index] == RESET_VALUE:
            return index
    which = "every PCR of 8 to 15" if wanted is None else f"PCR {wanted}"
    hint = "reboot, and find the program that extends it; --pcr chooses another one"
    raise TpmPcrConflictError(
        f"{which} is in use: something has extended it", pcr=indices[0], hint=hint
    )


def _require_extended_bank(tpm: Tpm) -> None:
    """Refuse a SHA-256 bank that firmware leaves alone while it extends the SHA-1 bank."""
    firmware = tuple(range(8))
    selection = PcrSelection(((Alg.SHA1, firmware), (Alg.SHA256, firmware)))
    try:
        values = commands.pcr_read(tpm, selection)
    except TpmBankError:
        return
    used = any(any(value) for value in values[Alg.SHA1].values())
    if used and not any(any(value) for value in values[Alg.SHA256].values()):
        raise TpmBankError("firmware extends the SHA-1 bank and not the SHA-256 bank")
