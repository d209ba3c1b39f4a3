"""What a machine's firmware, its owner and its enemies do to a TPM before a test.

All by TPM commands: the state that a test finds is one that a TPM can be in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.errors import SoftwareTpmError
from hwtrust.testing import bus
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import tpm2b, u8, u16, u32

if TYPE_CHECKING:
    from collections.abc import Iterable

STARTUP_CLEAR: Final = 0
STARTUP_STATE: Final = 1

BANKS: Final = {
    "sha1": Alg.SHA1,
    "sha256": Alg.SHA256,
    "sha384": Alg.SHA384,
    "sha512": Alg.SHA512,
}

_CAP_PCRS: Final = 5
_RC_LOCKOUT: Final = 0x921
_BAIT: Final = 0x0140_0001
_MOST_TRIES: Final = 100


def shutdown(tpm: bus.Bus, kind: int) -> None:
    """Tell the TPM that power is about to go (TPM2_Shutdown, Part 3 §9.4)."""
    tpm.run(bus.SHUTDOWN, u16(kind))


def banks(tpm: bus.Bus) -> dict[int, bool]:
    """Each hash algorithm that the TPM has, and whether its bank holds any PCR."""
    answer = tpm.run(bus.GET_CAPABILITY, u32(_CAP_PCRS) + u32(0) + u32(1))
    answer.take(5)
    found = {}
    for _ in range(answer.u32()):
        algorithm = answer.u16()
        found[algorithm] = any(answer.take(answer.u8()))
    return found


def allocate_banks(tpm: bus.Bus, names: Iterable[str]) -> bool:
    """Give PCRs to the banks `names` and to no others (TPM2_PCR_Allocate, Part 3 §22.5).

    Returns:
        Whether anything changes, at the next reset.

    Raises:
        SoftwareTpmError: the TPM does not have one of the algorithms.
    """
    wanted = {int(BANKS[name]) for name in names if name in BANKS}
    present = banks(tpm)
    if len(wanted) != len(set(names)) or not wanted <= set(present):
        message = f"the software TPM cannot have the banks {', '.join(names)}"
        raise SoftwareTpmError(message)
    if wanted == {algorithm for algorithm, allocated in present.items() if allocated}:
        return False
    selection = u32(len(present)) + b"".join(
        u16(algorithm) + _bitmap(full=algorithm in wanted) for algorithm in sorted(present)
    )
    answer = tpm.run(bus.PCR_ALLOCATE, selection, handles=(bus.PLATFORM,), passwords=(b"",))
    if not answer.u8():
        message = f"the software TPM has no room for the banks {', '.join(names)}"
        raise SoftwareTpmError(message)
    return True


def _bitmap(*, full: bool) -> bytes:
    """All 24 PCRs, or none of them, as a sized bitmap."""
    return u8(3) + (b"\xff" if full else b"\x00") * 3


def set_owner_password(tpm: bus.Bus, password: bytes) -> None:
    """Take ownership: give the owner hierarchy, which has none, a password."""
    tpm.run(bus.HIERARCHY_CHANGE_AUTH, tpm2b(password), handles=(bus.OWNER,), passwords=(b"",))


def lock_out(tpm: bus.Bus) -> None:
    """Guess passwords until the TPM is in dictionary-attack lockout (Part 1 §19.8).

    Raises:
        SoftwareTpmError: the TPM tires of guesses later than any TPM should.
    """
    public = (
        u32(_BAIT)
        + u16(Alg.SHA256)
        + u32(bus.NV_AUTHREAD | bus.NV_AUTHWRITE | bus.NV_PPWRITE | bus.NV_PLATFORMCREATE)
    )
    public += tpm2b(b"") + u16(1)
    tpm.run(
        bus.NV_DEFINE_SPACE,
        tpm2b(b"the password") + tpm2b(public),
        handles=(bus.PLATFORM,),
        passwords=(b"",),
    )
    try:
        for _ in range(_MOST_TRIES):
            try:
                tpm.run(
                    bus.NV_READ,
                    u16(1) + u16(0),
                    handles=(_BAIT, _BAIT),
                    passwords=(b"a guess",),
                )
            except SoftwareTpmError as error:
                if error.data.get("rc") == _RC_LOCKOUT:
                    return
    finally:
        tpm.run(bus.NV_UNDEFINE_SPACE, handles=(bus.PLATFORM, _BAIT), passwords=(b"",))
    message = f"the software TPM is not in lockout after {_MOST_TRIES} wrong passwords"
    raise SoftwareTpmError(message)
