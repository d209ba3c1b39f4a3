"""Quotes: authentic means made by this key, for this challenge, over these PCRs, with these values.

Quotes are made by a software TPM with real signatures, so that each check can be
reached: an attacker of the format cannot sign, but a TPM, or a thief of its key,
can sign anything that is tried here.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import (
    EmptyNonceError,
    MalformedError,
    SignatureAlgorithmError,
    SignatureError,
    SignerError,
    StaleQuoteError,
    UnsupportedError,
)
from hwtrust.verify.attestation import PLATFORM, VERIFIED, Unsafe
from hwtrust.verify.quote import (
    ENDORSEMENT,
    OWNER,
    QuoteClaims,
    qualified_name,
    qualified_name_under,
    verify_quote,
)
from hwtrust.wire.algorithms import Alg, Curve, new_hash
from hwtrust.wire.structures import Attest, ClockInfo, PcrSelection, Signature
from simulators.good_quote import (
    GOOD,
    NONCE,
    OTHER,
    PCRS,
    SELECTION,
    TPM,
    good,
    quote_of,
    resigned,
    value,
    verify,
)
from simulators.software_tpm import Signed, SoftwareTpm

# --- what passes ---------------------------------------------------------------------


def test_a_good_quote_gives_what_the_tpm_vouches_for() -> None:
    """All of it, from signed bytes, and the values of no other PCR."""
    claims = verify()
    assert claims.nonce == NONCE
    assert claims.qualified_signer == TPM.ak_qualified_name
    assert claims.clock == TPM.clock
    assert claims.firmware_version == TPM.firmware_version
    assert claims.selection == SELECTION
    assert claims.pcrs == {Alg.SHA256: {n: value(Alg.SHA256, n) for n in (0, 1, 7, 10)}}


AKS = {
    "P-256": SoftwareTpm(seed=b"a"),
    "P-384": SoftwareTpm(
        ak_key=ec.generate_private_key(ec.SECP384R1()), scheme=Alg.ECDSA, hash_=Alg.SHA384
    ),
    "RSASSA": SoftwareTpm(
        ak_key=rsa.generate_private_key(65537, 2048), scheme=Alg.RSASSA, hash_=Alg.SHA256
    ),
    "RSAPSS": SoftwareTpm(
        ak_key=rsa.generate_private_key(65537, 2048), scheme=Alg.RSAPSS, hash_=Alg.SHA512
    ),
}


@pytest.mark.parametrize("tpm", AKS.values(), ids=AKS)
def test_a_quote_by_each_kind_of_key_verifies(tpm: SoftwareTpm) -> None:
    """The hash of the signature is also that of the pcrDigest."""
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    for key in (tpm.ak, tpm.ak.key()):
        assert verify(quote, key=key, signer=tpm.ak_qualified_name).selection == SELECTION
    decoded = Signature.decode(quote.signature)
    signed = verify_quote(
        quote.message,
        decoded,
        key=tpm.ak,
        nonce=NONCE,
        selection=SELECTION,
        pcrs=PCRS,
        signer=tpm.ak_qualified_name,
    )
    assert signed.nonce == NONCE


def test_clock_and_counts_are_those_of_the_tpm_now() -> None:
    """Nothing of an earlier quote is remembered."""
    tpm = SoftwareTpm(seed=b"clock")
    tpm.advance(5_000)
    tpm.reset()
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    claims = verify(quote, key=tpm.ak, signer=tpm.ak_qualified_name)
    assert claims.clock == ClockInfo(6_000, 2, 0, safe=True)


@pytest.mark.parametrize("text", ["sha256:all", "sha256:0+sha384:1", "sha1:0,1+sha256:all"])
def test_any_selection_that_is_asked_for_verifies(text: str) -> None:
    """Banks in any order, any number of PCRs."""
    claims = verify(quote_of(text), selection=PcrSelection.parse(text))
    assert str(claims.selection) == text


# --- key and signer ------------------------------------------------------------------


def test_a_quote_by_another_key_is_refused() -> None:
    """Also when it names the right signer."""
    forged = OTHER.attest(NONCE, Attest.decode(GOOD.message).attested, signer=TPM.ak_qualified_name)
    with pytest.raises(SignatureError) as refused:
        verify(forged)
    assert refused.value.code == "evidence:signature:invalid"


def test_the_signature_of_another_quote_is_refused() -> None:
    """Both are good, but not for each other."""
    other = TPM.quote(bytes(32), PCRS, selection=SELECTION)
    with pytest.raises(SignatureError) as refused:
        verify(Signed(GOOD.message, other.signature))
    assert refused.value.code == "evidence:signature:invalid"


def test_a_quote_over_sha1_is_refused_unless_it_is_spelled_out() -> None:
    """A signature over SHA-1 proves nothing."""
    tpm = SoftwareTpm(seed=b"sha1", hash_=Alg.SHA1)
    quote = tpm.quote(NONCE, PCRS, selection=SELECTION)
    arguments = {"key": tpm.ak, "signer": tpm.ak_qualified_name}
    assert verify(quote, **arguments, unsafe_allow_sha1=True).selection == SELECTION
    with pytest.raises(SignatureAlgorithmError) as refused:
        verify(quote, **arguments)
    assert refused.value.code == "evidence:signature:algorithm"


WRONG_SIGNERS = {
    "another device's": OTHER.ak_qualified_name,
    "the same key in another hierarchy": qualified_name(TPM.ak.name, hierarchy=OWNER),
    "the same key with other attributes": qualified_name(
        replace(TPM.ak, attributes=TPM.tls.attributes).name, hierarchy=ENDORSEMENT
    ),
    "the key's Name, unqualified": TPM.ak.name,
    "a part of it": TPM.ak_qualified_name[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("signer", WRONG_SIGNERS.values(), ids=WRONG_SIGNERS)
def test_a_quote_with_another_signer_is_refused(signer: bytes) -> None:
    """Adversary 32: the expected one differs, or the quoted one does."""
    with pytest.raises(SignerError) as refused:
        verify(signer=signer)
    assert refused.value.code == "evidence:signer:mismatch"
    if signer:
        with pytest.raises(SignerError) as refused:
            verify(resigned(qualified_signer=signer))
        assert refused.value.code == "evidence:signer:mismatch"


def test_a_quote_without_signer_is_not_that_of_an_unknown_signer() -> None:
    """Adversary 32: two empty names are not a match."""
    with pytest.raises(SignerError) as refused:
        verify(resigned(qualified_signer=b""), signer=b"")
    assert refused.value.code == "evidence:signer:mismatch"


def test_going_without_the_signer_is_spelled_out() -> None:
    """A bare key has no Name to expect."""
    claims = verify(resigned(qualified_signer=b"\0\x0b"), signer=Unsafe.ANY_SIGNER)
    assert claims.qualified_signer == b"\0\x0b"


def test_a_qualified_name_holds_the_path_from_the_hierarchy() -> None:
    """TPM 2.0 Part 1 §16: QN = nameAlg || H(QN of the parent || Name)."""
    name = TPM.ak.name
    expected = b"\0\x0b" + new_hash(Alg.SHA256, bytes.fromhex("4000000b") + name)
    assert qualified_name(name, hierarchy=ENDORSEMENT) == expected
    ek = qualified_name(TPM.ek.name, hierarchy=ENDORSEMENT)
    child = qualified_name_under(name, parent=ek)
    assert child == b"\0\x0b" + new_hash(Alg.SHA256, ek + name)
    paths = {child, expected, *(qualified_name(name, hierarchy=h) for h in (OWNER, PLATFORM))}
    assert len(paths) == 4


@pytest.mark.parametrize("name", [b"", b"\0", b"\0\x0b", TPM.ak.name + b"\0", TPM.ak.name[:-1]])
def test_what_is_no_name_has_no_qualified_name(name: bytes) -> None:
    """A handle, for one, is not hashed as if it were a Name."""
    with pytest.raises(MalformedError) as refused:
        qualified_name(name, hierarchy=OWNER)
    assert refused.value.code == "wire:malformed"


def test_a_name_with_an_unknown_hash_has_no_qualified_name() -> None:
    """TPM_ALG_NULL in front of nothing."""
    with pytest.raises(UnsupportedError) as refused:
        qualified_name(b"\0\x10", hierarchy=OWNER)
    assert refused.value.code == "wire:unsupported"


# --- nonce ---------------------------------------------------------------------------


WRONG_NONCES = {
    "another one": bytes(32),
    "its hex": NONCE.hex().encode(),
    "a part of it": NONCE[:-1],
    "more than it": NONCE + b"\0",
    "one bit off": bytes([NONCE[0] ^ 1]) + NONCE[1:],
}


@pytest.mark.parametrize("nonce", WRONG_NONCES.values(), ids=WRONG_NONCES)
def test_a_quote_for_another_nonce_is_refused(nonce: bytes) -> None:
    """Bytes are compared, all of them."""
    with pytest.raises(StaleQuoteError) as refused:
        verify(nonce=nonce)
    assert refused.value.code == "evidence:nonce:mismatch"


def test_an_empty_nonce_is_refused_although_the_quote_has_none_either() -> None:
    """Adversary 17: two empty nonces are not a match."""
    for quote in (GOOD, TPM.quote(b"", PCRS, selection=SELECTION)):
        with pytest.raises(EmptyNonceError) as refused:
            verify(quote, nonce=b"")
        assert refused.value.code == "evidence:nonce:empty"


def test_going_without_the_nonce_is_spelled_out() -> None:
    """The quote's own is in the claims, to be looked at."""
    assert verify(nonce=Unsafe.NO_NONCE).nonce == NONCE


# --- claims --------------------------------------------------------------------------


def test_only_the_verifier_makes_claims() -> None:
    """Who holds claims holds proof that they were verified."""
    claims = verify()
    fields: dict[str, Any] = {
        "nonce": claims.nonce,
        "qualified_signer": claims.qualified_signer,
        "clock": claims.clock,
        "firmware_version": claims.firmware_version,
        "selection": claims.selection,
        "pcrs": claims.pcrs,
    }
    for verified in (None, True, object()):
        with pytest.raises(TypeError):
            QuoteClaims(**fields, verified=verified)
    with pytest.raises((TypeError, ValueError)):
        msgspec.structs.replace(claims, nonce=b"")
    assert QuoteClaims(**fields, verified=VERIFIED) == claims


def test_claims_cannot_be_changed() -> None:
    """Neither a field, nor a value inside, nor by what was passed in."""
    pcrs = copy.deepcopy({Alg.SHA256: dict(PCRS[Alg.SHA256])})
    claims = verify(pcrs=pcrs)
    with pytest.raises(AttributeError):
        claims.nonce = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        claims.pcrs[Alg.SHA256][0] = bytes(32)  # type: ignore[index]
    pcrs[Alg.SHA256][0] = bytes(32)
    assert claims.pcrs[Alg.SHA256][0] == good(0)


def test_a_derived_key_is_the_same_in_every_run() -> None:
    """The software TPM of a seed is one device."""
    again = SoftwareTpm(seed=b"test_quote")
    assert again.ak == TPM.ak
    assert again.derive("x", Curve.P384).curve.name == "secp384r1"
