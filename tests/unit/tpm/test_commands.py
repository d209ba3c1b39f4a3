"""Each command takes and gives bytes as they are, and what it cannot take is a typed error."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import HwTrustError, MalformedError, TpmBankError, TpmError
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.sessions import hmac_session
from hwtrust.tpm.templates import TLS_KEY
from hwtrust.verify.attestation import ENDORSEMENT, qualified_name
from hwtrust.verify.certify import verify_certify, verify_nv_certify
from hwtrust.verify.quote import verify_quote
from hwtrust.verify.signature import verify_signature
from hwtrust.wire.algorithms import Alg, digest_size
from hwtrust.wire.policy import approval_digest
from hwtrust.wire.structures import (
    Attest,
    CertifyInfo,
    NvAttributes,
    NvCertifyInfo,
    NvPublic,
    PcrSelection,
    QuoteInfo,
    Signature,
)
from simulators.anchored_tpm import AnchoredTpm, PolicyKey, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.testing.swtpm import Swtpm

QUALIFYING = bytes(range(32))


def opened_name(anchored: AnchoredTpm) -> bytes:
    """The AK's qualified Name: under the endorsement hierarchy."""
    return qualified_name(anchored.ak.name, hierarchy=ENDORSEMENT)


# --- PCRs ------------------------------------------------------------------------


def test_as_many_pcrs_as_are_asked_for_are_read(anchored: AnchoredTpm) -> None:
    """One command reads eight; the values come back under their own numbers."""
    extend(anchored, {Alg.SHA1: b"\x01" * 20, Alg.SHA256: b"\x02" * 32})
    with anchored.counted() as (tpm, heard):
        values = commands.pcr_read(tpm, PcrSelection.parse("sha256:all+sha1:8,9"))
        assert heard.by_name == {"TPM2_PCR_Read": 4}
    assert set(values) == {Alg.SHA256, Alg.SHA1}
    assert sorted(values[Alg.SHA256]) == list(range(24))
    assert sorted(values[Alg.SHA1]) == [8, 9]
    assert values[Alg.SHA256][8] == hashlib.sha256(bytes(32) + b"\x02" * 32).digest()
    assert values[Alg.SHA1][8] == hashlib.sha1(bytes(20) + b"\x01" * 20).digest()  # noqa: S324
    assert values[Alg.SHA256][9] == bytes(32)
    assert values[Alg.SHA256][17] == b"\xff" * 32


def extend(anchored: AnchoredTpm, digests: dict[Alg, bytes]) -> None:
    """Extend PCR 8."""
    with hmac_session(anchored.tpm, anchored.storage) as session:
        commands.pcr_extend(anchored.tpm, 8, digests, session)


def test_a_bank_that_is_not_there_is_not_read_as_anything(anchored: AnchoredTpm) -> None:
    """A TPM answers for a bank that is not allocated with no values: an error, not zeros (26)."""
    with pytest.raises(TpmBankError) as caught:
        commands.pcr_read(anchored.tpm, PcrSelection.parse("sha512:8"))
    assert caught.value.code == "tpm:bank:unusable"


@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256", "sha384", "sha512")])
def test_one_command_extends_every_bank(
    banks: tuple[str, ...], tpm_factory: Callable[..., Swtpm]
) -> None:
    """All banks move together."""
    with AnchoredTpm(tpm_factory(banks=banks)) as anchored:
        algorithms = provision.active_banks(anchored.tpm)
        extend(anchored, {alg: bytes(digest_size(alg)) for alg in algorithms})
        for alg in algorithms:
            values = commands.pcr_read(anchored.tpm, PcrSelection(((alg, (8,)),)))[alg]
            assert any(values[8])
        assert loaded(anchored.swtpm) == {}


# --- attestation -----------------------------------------------------------------


def test_a_quote_is_one_that_the_verifier_believes(anchored: AnchoredTpm) -> None:
    """What the TPM signs goes through the verifier as it came."""
    selection = PcrSelection.parse("sha256:8,9")
    made = commands.quote(anchored.tpm, anchored.ak, qualifying=QUALIFYING, selection=selection)
    claims = verify_quote(
        made.message,
        made.signature,
        key=anchored.ak_public,
        nonce=QUALIFYING,
        selection=selection,
        pcrs=commands.pcr_read(anchored.tpm, selection),
        signer=opened_name(anchored),
    )
    assert claims.nonce == QUALIFYING
    assert isinstance(Attest.decode(made.message).attested, QuoteInfo)


def test_a_certified_key_is_the_one_that_is_certified(anchored: AnchoredTpm) -> None:
    """TPM2_Certify speaks of the storage key, by Name."""
    tpm = anchored.tpm
    made = commands.certify(tpm, tpm.at(anchored.storage), anchored.ak, qualifying=QUALIFYING)
    claims = verify_certify(
        made.message,
        made.signature,
        key=anchored.ak_public,
        nonce=QUALIFYING,
        name=anchored.storage.name,
        signer=opened_name(anchored),
    )
    assert claims.name == anchored.storage.name
    assert isinstance(Attest.decode(made.message).attested, CertifyInfo)


def test_a_certified_counter_is_name_and_value(anchored: AnchoredTpm) -> None:
    """TPM2_NV_Certify speaks of the counter by its exact Name, with all its bytes (63)."""
    made = commands.nv_certify(
        anchored.tpm, anchored.counter, anchored.ak, qualifying=QUALIFYING, size=8
    )
    claims = verify_nv_certify(
        made.message,
        made.signature,
        key=anchored.ak_public,
        nonce=QUALIFYING,
        index_name=anchored.counter.name,
        size=8,
        signer=opened_name(anchored),
    )
    assert claims.value == anchored.epoch
    assert isinstance(Attest.decode(made.message).attested, NvCertifyInfo)


# --- objects ---------------------------------------------------------------------


def test_a_child_key_is_made_loaded_and_signs(anchored: AnchoredTpm) -> None:
    """Create gives what Load takes; the signature is the key's."""
    tpm = anchored.tpm
    private, public = commands.create(tpm, anchored.storage, TLS_KEY)
    with tpm.flushing(commands.load(tpm, anchored.storage, private=private, public=public)) as key:
        signature = commands.sign(tpm, key, hashlib.sha256(b"message").digest())
    verify_signature(public, Signature.decode(signature), b"message")
    assert loaded(anchored.swtpm) == {}


def test_a_restricted_key_signs_nothing_from_outside(anchored: AnchoredTpm) -> None:
    """The AK signs what its TPM made; a digest from outside is refused (29)."""
    tpm = anchored.tpm
    with pytest.raises(TpmError):
        commands.sign(tpm, tpm.at(anchored.ak), hashlib.sha256(b"message").digest())


@pytest.mark.parametrize("part", ["duplicate", "seed"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0", bytes(100), bytes(5000), bytes(70000)],
    ids=["empty", "one byte", "zeros", "longer than any", "longer than can be said"],
)
def test_an_import_of_anything_is_an_error_of_the_tree(
    anchored: AnchoredTpm, part: str, content: bytes
) -> None:
    """Blobs from outside are refused by type, and nothing stays loaded (81)."""
    root = anchored.seal(bytes(32))
    parts = {"duplicate": bytes(80), "seed": bytes(68)}
    parts[part] = content
    with pytest.raises(HwTrustError) as caught:
        commands.import_object(anchored.tpm, anchored.storage, public=root.public, **parts)
    assert isinstance(caught.value, TpmError | MalformedError)
    assert loaded(anchored.swtpm) == {}


# --- signatures and tickets ------------------------------------------------------


def test_a_ticket_is_the_tpms_word_on_one_signature(anchored: AnchoredTpm) -> None:
    """A good signature gives a ticket that parses back to its bytes; a bad one none."""
    tpm, key = anchored.tpm, anchored.key
    digest = approval_digest(bytes(32), b"ref")
    good = Signature.from_der_ecdsa(key.sign(digest), Alg.SHA256).encode()
    bad = Signature.from_der_ecdsa(PolicyKey().sign(digest), Alg.SHA256).encode()
    with tpm.flushing(commands.load_external(tpm, key.public)) as loaded_key:
        ticket = commands.verify_signature(tpm, loaded_key, digest=digest, signature=good)
        with pytest.raises(TpmError):
            commands.verify_signature(tpm, loaded_key, digest=digest, signature=bad)
    assert bytes(commands.ticket_from(ticket).marshal()) == ticket


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 9, bytes(200)])
def test_bytes_that_are_no_structure_are_malformed(anchored: AnchoredTpm, data: bytes) -> None:
    """What was kept on disk or came over the net ends in a typed error."""
    with pytest.raises(MalformedError):
        commands.ticket_from(data)
    tpm = anchored.tpm
    with (
        tpm.flushing(commands.load_external(tpm, anchored.key.public)) as key,
        pytest.raises(MalformedError) as caught,
    ):
        commands.verify_signature(tpm, key, digest=bytes(32), signature=data)
    assert caught.value.code == "wire:malformed"


# --- NV and clock ----------------------------------------------------------------


def test_an_index_longer_than_one_answer_is_read_whole(anchored: AnchoredTpm) -> None:
    """Chunks are put together in order."""
    tpm = anchored.tpm
    content = bytes(number % 251 for number in range(1500))
    attributes = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD | NvAttributes.NO_DA
    public = NvPublic(0x01800001, Alg.SHA256, attributes, b"", len(content))
    index = commands.nv_define(tpm, public)
    for at in range(0, len(content), 500):
        tpm.call(
            "TPM2_NV_Write",
            tpm.esapi.nv_write,
            index,
            content[at : at + 500],
            offset=at,
            auth_handle=tpm.owner(),
        )
    assert commands.nv_read(tpm, index, len(content), owner=True) == content
    written = commands.nv_read_public(tpm, index)
    assert written.attributes == attributes | NvAttributes.WRITTEN
    commands.nv_undefine(tpm, 0x01800001)
    assert 0x01800001 not in provision.nv_indices(tpm)


def test_an_index_that_is_not_there_cannot_be_undefined(anchored: AnchoredTpm) -> None:
    """It is an error, not a success."""
    with pytest.raises(TpmError):
        commands.nv_undefine(anchored.tpm, 0x01800077)


def test_the_clock_moves_forward_only(anchored: AnchoredTpm) -> None:
    """TPM2_ClockSet sets it ahead; turning it back is refused, so that nothing revives (59)."""
    tpm = anchored.tpm
    ahead = commands.read_clock(tpm).clock + 10**6
    commands.clock_set(tpm, ahead)
    assert commands.read_clock(tpm).clock >= ahead
    with pytest.raises(TpmError) as caught:
        commands.clock_set(tpm, ahead - 10**5)
    assert caught.value.code == "tpm:command:failed"
    assert commands.read_clock(tpm).clock >= ahead


def test_the_clock_tells_reboots_and_suspends_apart(anchored: AnchoredTpm) -> None:
    """Reset and restart counts come through as they are (55)."""
    first = commands.read_clock(anchored.tpm)
    anchored.swtpm.suspend()
    with Tpm(anchored.swtpm.tcti) as tpm:
        resumed = commands.read_clock(tpm)
    anchored.swtpm.reboot()
    with Tpm(anchored.swtpm.tcti) as tpm:
        rebooted = commands.read_clock(tpm)
    assert resumed.reset_count == first.reset_count
    assert resumed.restart_count == first.restart_count + 1
    assert rebooted.reset_count == first.reset_count + 1
    assert rebooted.restart_count == 0
