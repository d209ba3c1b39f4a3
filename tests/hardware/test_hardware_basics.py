"""Discovery, random numbers and PCRs, on whatever TPM there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import TpmBankError, TpmError
from hwtrust.testing.hardware import PCR, pcr_in_use
from hwtrust.tpm import commands, provision
from hwtrust.tpm.discover import discover, identify, preferred
from hwtrust.wire.algorithms import Alg, digest_size, new_hash
from hwtrust.wire.cel import CAP, RELOAD
from hwtrust.wire.structures import PcrSelection

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.testing.plugin import HardwareTpm
    from hwtrust.testing.swtpm import Swtpm
    from hwtrust.tpm.connection import Tpm
    from simulators.anchored_hardware import OwnRange

pytestmark = pytest.mark.hardware

HASHES = (Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512)


def test_the_tpm_says_what_it_is(connection: Tpm, note: Callable[[str], None]) -> None:
    """Manufacturer, revision and firmware are there for people to read."""
    identity = identify(connection)
    assert identity.manufacturer.isprintable()
    assert identity.manufacturer
    assert float(identity.revision) >= 1
    note(f"{identity.manufacturer} {identity.vendor}, revision {identity.revision}")


def test_udev_knows_the_device_file(tpm: Swtpm | HardwareTpm) -> None:
    """A TPM with a device file is found by udev, can be opened, and one is preferred."""
    if not tpm.tcti.startswith("device:"):
        pytest.skip(f"{tpm.tcti.partition(':')[0]} has no device file that udev knows")
    found = {candidate.tcti: candidate for candidate in discover()}
    assert found[tpm.tcti].problem is None
    assert found[tpm.tcti].major_version == 2
    assert preferred(found.values()).resource_managed


def test_random_numbers_differ(connection: Tpm) -> None:
    """TPM2_GetRandom gives what was asked for, and never the same twice."""
    esapi = connection.esapi
    drawn = {bytes(connection.call("TPM2_GetRandom", esapi.get_random, 32)) for _ in range(4)}
    assert len(drawn) == 4
    assert {len(one) for one in drawn} == {32}


def test_every_bank_has_twenty_four_pcrs(connection: Tpm, note: Callable[[str], None]) -> None:
    """Each allocated bank reads in full, each value as long as the bank's digests."""
    banks = provision.active_banks(connection)
    note(f"banks {' '.join(bank.name.lower() for bank in banks)}")
    everything = PcrSelection(tuple((bank, tuple(range(24))) for bank in banks))
    for bank, values in commands.pcr_read(connection, everything).items():
        assert sorted(values) == list(range(24))
        assert {len(value) for value in values.values()} == {digest_size(bank)}


def test_a_bank_that_is_not_allocated_is_refused(
    connection: Tpm, note: Callable[[str], None]
) -> None:
    """A bank that the TPM lacks gives an error, never an empty value."""
    lacking = [bank for bank in HASHES if bank not in provision.active_banks(connection)]
    if not lacking:
        pytest.skip("this TPM has every bank allocated")
    note(f"without bank {lacking[0].name.lower()}")
    with pytest.raises((TpmBankError, TpmError)) as caught:
        commands.pcr_read(connection, PcrSelection(((lacking[0], (PCR,)),)))
    assert caught.value.code in {"tpm:bank:unusable", "tpm:command:failed"}


def test_an_extend_reaches_every_bank(own: OwnRange) -> None:
    """One command extends all banks: each holds H(what it held, the event's digest)."""
    selection = PcrSelection(tuple((bank, (PCR,)) for bank in own.banks))
    before = commands.pcr_read(own.tpm, selection)
    own.extend(RELOAD)
    after = commands.pcr_read(own.tpm, selection)
    digests = RELOAD.digests(own.banks)
    for bank in own.banks:
        assert after[bank][PCR] == new_hash(bank, before[bank][PCR] + digests[bank])


def test_the_tests_own_pcr_can_be_reset(own: OwnRange) -> None:
    """After a reset the PCR reads as after a reboot, whatever was in it."""
    own.extend(CAP)
    assert pcr_in_use(own.tpm)
    own.reset()
    assert not pcr_in_use(own.tpm)
    assert own.pcr() == bytes(32)
