"""Nitro documents: authentic means by AWS's chain, for this challenge, with this user data, now.

Documents are signed by a security module under a root of the tests, so that each check
can be reached: an attacker of the format cannot sign, but whoever has a key can.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import cbor2
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hwtrust.errors import EmptyNonceError, MalformedError, StaleQuoteError
from hwtrust.errors.cose import CoseAlgorithmError, CoseSignatureError
from hwtrust.errors.nitro import (
    NitroChainError,
    NitroExpiredError,
    NitroRootError,
    NitroTimeError,
    NitroUserDataError,
)
from hwtrust.verify.enclaves.nitro import (
    AWS,
    SKEW_MS,
    NitroClaims,
    NitroTrust,
    Unsafe,
    verify_nitro,
)
from simulators.cose_signer import key_named, sign1
from simulators.nitro_signer import (
    AGE_MS,
    MODULE_ID,
    NONCE,
    NOW,
    NOW_MS,
    PCRS,
    USER_DATA,
    Issued,
    NitroSigner,
)
from simulators.snp_signer import rsa_key

if TYPE_CHECKING:
    from hwtrust.errors import HwTrustError

SIGNER = NitroSigner()
GOOD = SIGNER.document()
HOUR = timedelta(hours=1)


def verify(document: bytes = GOOD, **changes: Any) -> NitroClaims:  # noqa: ANN401
    """Verify, asking for what the good document answers."""
    asked: dict[str, Any] = {
        "nonce": NONCE,
        "user_data": USER_DATA,
        "now": NOW,
        "trust": SIGNER.trust,
    }
    return verify_nitro(document, **(asked | changes))


def test_a_good_document_gives_what_it_vouches_for() -> None:
    """All of it, and how old it is."""
    claims = verify()
    assert claims.module_id == MODULE_ID
    assert (claims.timestamp, claims.age_ms) == (NOW_MS - AGE_MS, AGE_MS)
    assert claims.pcrs == PCRS
    assert (claims.nonce, claims.user_data, claims.public_key) == (NONCE, USER_DATA, None)
    assert not claims.debug
    assert claims.facts()["age_ms"] == AGE_MS
    assert claims.facts()["pcr2"] == PCRS[2].hex()


def test_claims_are_made_by_verifying_alone() -> None:
    """Neither by hand, nor from others; what they hold cannot be changed."""
    claims = verify()
    fields = {name: getattr(claims, name) for name in claims.__struct_fields__}
    with pytest.raises(TypeError):
        NitroClaims(**fields)
    with pytest.raises(TypeError):
        msgspec.structs.replace(claims, pcrs={})
    with pytest.raises(TypeError):
        claims.pcrs[0] = b""  # type: ignore[index]


# --- nonce and user data -------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], type[HwTrustError]]] = {
    "another nonce": ({"nonce": b"x" * 32}, {}, StaleQuoteError),
    "no nonce in the document": ({"nonce": None}, {}, StaleQuoteError),
    "an empty nonce in the document": ({"nonce": b""}, {}, StaleQuoteError),
    "the beginning of the nonce": ({"nonce": NONCE[:16]}, {}, StaleQuoteError),
    "an empty nonce asked for": ({}, {"nonce": b""}, EmptyNonceError),
    "an empty nonce on both sides": ({"nonce": b""}, {"nonce": b""}, EmptyNonceError),
    "user data of another key": ({"user_data": b"x" * 32}, {}, NitroUserDataError),
    "no user data": ({"user_data": None}, {}, NitroUserDataError),
    "user data where none is expected": ({}, {"user_data": None}, NitroUserDataError),
    "empty user data asked for": ({}, {"user_data": b""}, EmptyNonceError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_document_for_somebody_else_is_refused(case: str) -> None:
    """A replay, or one that vouches for another key."""
    signed, asked, error = REFUSED[case]
    with pytest.raises(error) as refused:
        verify(SIGNER.document(**signed), **asked)
    assert refused.value.code == error.code


def test_codes_of_the_refusals_are_what_programs_know() -> None:
    """They are part of the interface."""
    assert StaleQuoteError.code == "evidence:nonce:mismatch"
    assert EmptyNonceError.code == "evidence:nonce:empty"
    assert NitroUserDataError.code == "evidence:nitro:user-data"
    assert NitroRootError.code == "evidence:nitro:root"
    assert NitroChainError.code == "evidence:nitro:chain"
    assert NitroExpiredError.code == "evidence:nitro:expired"
    assert NitroTimeError.code == "evidence:nitro:time"


def test_going_without_a_check_is_spelled_out() -> None:
    """Nonce and user data, each by its own name."""
    other = SIGNER.document(nonce=None, user_data=b"anything")
    claims = verify(other, nonce=Unsafe.NO_NONCE, user_data=Unsafe.ANY_USER_DATA)
    assert (claims.nonce, claims.user_data) == (None, b"anything")
    with pytest.raises(NitroUserDataError):
        verify(other, nonce=Unsafe.NO_NONCE)
    with pytest.raises(StaleQuoteError):
        verify(other, user_data=Unsafe.ANY_USER_DATA)


@pytest.mark.parametrize("empty", [None, b"", ...])
def test_no_user_data_may_be_what_is_expected(empty: object) -> None:
    """Null, empty or missing."""
    assert not verify(SIGNER.document(user_data=empty), user_data=None).user_data


# --- time ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "timestamp",
    [NOW_MS // 1000, NOW_MS * 1000, NOW_MS + SKEW_MS + 1, 1, 2**63 - 1],
    ids=["seconds", "microseconds", "later than now", "1970", "the last number"],
)
def test_a_time_that_cannot_be_is_refused(timestamp: int) -> None:
    """Seconds for milliseconds among them, and no number is too large."""
    with pytest.raises(NitroTimeError) as refused:
        verify(SIGNER.document(timestamp=timestamp))
    assert refused.value.data == {"timestamp": timestamp}


def test_clocks_may_differ_a_little() -> None:
    """A minute, in which the age is negative."""
    assert verify(SIGNER.document(timestamp=NOW_MS + SKEW_MS)).age_ms == -SKEW_MS


@pytest.mark.parametrize(
    "now", [NOW + 3 * HOUR + timedelta(seconds=1), NOW + 40 * HOUR], ids=["leaf", "all"]
)
def test_a_document_is_refused_once_its_certificate_has_expired(now: Any) -> None:  # noqa: ANN401
    """Though it was good when it was made."""
    with pytest.raises(NitroExpiredError):
        verify(now=now)


def test_a_document_is_refused_before_its_certificate_is_valid() -> None:
    """By the verifier's clock."""
    early = SIGNER.with_changed("enclave", not_before=NOW + timedelta(seconds=30))
    with pytest.raises(NitroExpiredError):
        verify(early.document(timestamp=NOW_MS + 40_000), trust=early.trust)


@pytest.mark.parametrize(
    "timestamp", [NOW_MS - 61_000, NOW_MS - 86_400_000 * 2], ids=["leaf", "every CA"]
)
def test_a_document_was_made_while_its_certificates_were_valid(timestamp: int) -> None:
    """By its own clock: not before its key was certified."""
    with pytest.raises(NitroExpiredError):
        verify(SIGNER.document(timestamp=timestamp))


# --- chain ---------------------------------------------------------------------------

CHAINS: dict[str, NitroSigner] = {
    "an issuer that is no CA": SIGNER.with_changed("zone", ca=False, path_length=None),
    "the last issuer that is no CA": SIGNER.with_changed("instance", ca=False, path_length=None),
    "a root that is no CA": SIGNER.with_changed("root", ca=False),
    "a key that is not for certificates": SIGNER.with_changed(
        "region", usages=frozenset({"digital_signature", "crl_sign"})
    ),
    "a path longer than the region allows": SIGNER.with_changed("region", path_length=1),
    "a path longer than the zone allows": SIGNER.with_changed("zone", path_length=0),
    "a path longer than the root allows": SIGNER.with_changed("root", path_length=2),
    "a signer that is a CA": SIGNER.with_changed("enclave", ca=True),
    "a signer whose key is not for signing": SIGNER.with_changed(
        "enclave", usages=frozenset({"key_agreement"})
    ),
    "a critical extension in a CA": SIGNER.with_changed("zone", critical="1.2.3.4"),
    "a critical extension in the leaf": SIGNER.with_changed("enclave", critical="1.2.3.4"),
    "a weak hash": SIGNER.with_changed("instance", hash=hashes.SHA224()),
    "a weak curve": SIGNER.with_changed("instance", curve=ec.SECP224R1()),
    "a curve of others": SIGNER.with_changed("zone", curve=ec.SECP256K1()),
    "a leaf that names another issuer": SIGNER.with_changed("enclave", issuer_name="zone"),
    "a CA that names another issuer": SIGNER.with_changed("region", issuer_name="other"),
    "a leaf that signs itself": SIGNER.with_changed(
        "enclave", issuer="enclave", issuer_name="instance"
    ),
    "a CA that signs itself": SIGNER.with_changed("zone", issuer="zone", issuer_name="region"),
}


@pytest.mark.parametrize("case", CHAINS)
def test_a_chain_with_a_fault_is_refused(case: str) -> None:
    """Though all the rest of it is good, and its root is trusted."""
    signer = CHAINS[case]
    with pytest.raises(NitroChainError) as refused:
        verify(signer.document(), trust=signer.trust)
    assert refused.value.code == "evidence:nitro:chain"


@pytest.mark.parametrize("name", ["root", "region", "zone", "instance", "enclave"])
def test_every_certificate_has_to_be_valid_now(name: str) -> None:
    """The root too: its vendor has said until when it is to be trusted."""
    for changes in (
        {"not_after": NOW - timedelta(milliseconds=1000)},
        {"not_before": NOW + timedelta(seconds=1)},
    ):
        signer = SIGNER.with_changed(name, **changes)
        document = signer.document(timestamp=NOW_MS - 1000)
        with pytest.raises(NitroExpiredError):
            verify(document, trust=signer.trust)


@pytest.mark.parametrize("name", ["root", "region", "zone", "instance", "enclave"])
def test_a_key_usage_need_not_be_given(name: str) -> None:
    """RFC 5280 leaves it out where all is allowed."""
    signer = SIGNER.with_changed(name, usages=None)
    assert verify(signer.document(), trust=signer.trust).module_id == MODULE_ID


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_an_issuer_may_have_any_curve_of_nist_s_that_is_strong(curve: ec.EllipticCurve) -> None:
    """AWS's are of P-384; what is stronger, or for a while is enough, is no fault."""
    signer = SIGNER.with_changed("instance", curve=curve)
    assert verify(signer.document(), trust=signer.trust).module_id == MODULE_ID


@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_a_certificate_may_be_signed_by_any_of_sha_2_s_strong_hashes(
    hash_: hashes.HashAlgorithm,
) -> None:
    """Rule 4 names SHA-2, and its short form alone is refused."""
    signer = SIGNER.with_changed("instance", hash=hash_)
    assert verify(signer.document(), trust=signer.trust).module_id == MODULE_ID


ROOT, REGION, ZONE, INSTANCE, ENCLAVE = SIGNER.certificates


def test_a_signer_with_an_rsa_key_is_refused() -> None:
    """By the chain, before its key is used."""
    good = x509.load_der_x509_certificate(ENCLAVE)
    builder = x509.CertificateBuilder(
        good.issuer,
        good.subject,
        rsa_key("genoa-ask").public_key(),
        good.serial_number,
        good.not_valid_before_utc.replace(tzinfo=None),
        good.not_valid_after_utc.replace(tzinfo=None),
        list(good.extensions),
    )
    made = builder.sign(key_named("instance"), hashes.SHA384()).public_bytes(Encoding.DER)
    with pytest.raises(NitroChainError) as refused:
        verify(SIGNER.document(certificate=made))
    assert refused.value.code == "evidence:nitro:chain"


@pytest.mark.parametrize("limit", ["not_before", "not_after"])
def test_a_certificate_is_valid_in_its_first_and_last_moment(limit: str) -> None:
    """RFC 5280 §4.1.2.5: both of them belong to it."""
    signer = SIGNER.with_changed("zone", **{limit: NOW})
    document = signer.document(timestamp=NOW_MS)
    assert verify(document, trust=signer.trust).module_id == MODULE_ID


ORDERS: dict[str, tuple[list[bytes], bytes, type[HwTrustError]]] = {
    "in reverse": ([INSTANCE, ZONE, REGION, ROOT], ENCLAVE, NitroRootError),
    "with two exchanged": ([ROOT, ZONE, REGION, INSTANCE], ENCLAVE, NitroChainError),
    "with one left out": ([ROOT, REGION, INSTANCE], ENCLAVE, NitroChainError),
    "with one twice": ([ROOT, REGION, REGION, ZONE, INSTANCE], ENCLAVE, NitroChainError),
    "without the root": ([REGION, ZONE, INSTANCE], ENCLAVE, NitroRootError),
    "with the root in the end": ([REGION, ZONE, INSTANCE, ROOT], ENCLAVE, NitroRootError),
    "with the root alone": ([ROOT], ENCLAVE, NitroChainError),
    "with the leaf in the bundle": (
        [ROOT, REGION, ZONE, INSTANCE, ENCLAVE],
        ENCLAVE,
        NitroChainError,
    ),
    "with the signer's place taken by a CA": ([ROOT, REGION, ZONE], INSTANCE, NitroChainError),
    "with what is no certificate": ([ROOT, b"\x30\x00", ZONE], ENCLAVE, MalformedError),
    "with something behind the root": ([ROOT + b"\x00", REGION], ENCLAVE, MalformedError),
    "with a leaf cut short": ([ROOT, REGION, ZONE, INSTANCE], ENCLAVE[:-1], MalformedError),
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_chain_in_another_order_is_refused(case: str) -> None:
    """The root first, each one signed by the one before it, the signer last."""
    cabundle, certificate, error = ORDERS[case]
    with pytest.raises(error) as refused:
        verify(SIGNER.document(cabundle=cabundle, certificate=certificate))
    assert refused.value.code == error.code


def test_a_chain_to_another_root_is_refused() -> None:
    """As good as it is; AWS's own root is not that of the tests."""
    for trust in (AWS, NitroTrust(roots=frozenset())):
        with pytest.raises(NitroRootError):
            verify(trust=trust)


def test_a_root_of_the_same_name_with_another_key_is_refused() -> None:
    """What counts is its fingerprint."""
    other = SIGNER.with_changed("root", curve=ec.SECP521R1())
    with pytest.raises(NitroRootError):
        verify(other.document())


def test_a_chain_below_a_forged_copy_of_the_root_is_refused() -> None:
    """The trusted root in front, and certificates that its namesake has issued."""
    forged = SIGNER.with_changed("root", curve=ec.SECP521R1())
    document = forged.document(cabundle=[ROOT, *forged.certificates[1:-1]])
    with pytest.raises(NitroChainError):
        verify(document)


# --- signature -----------------------------------------------------------------------


def test_a_document_signed_by_another_key_is_refused() -> None:
    """A CA of the chain, another enclave."""
    payload = cbor2.dumps(SIGNER.fields())
    for name in ("instance", "root", "another enclave"):
        with pytest.raises(CoseSignatureError):
            verify(sign1(payload, key=key_named(name), tagged=False))


def test_a_document_of_another_algorithm_than_its_keys_is_refused() -> None:
    """The certificate's curve says which."""
    payload = cbor2.dumps(SIGNER.fields())
    key = key_named("enclave", ec.SECP256R1())
    with pytest.raises(CoseAlgorithmError):
        verify(sign1(payload, key=key, tagged=False))


def test_certificates_that_were_seen_are_verified_again() -> None:
    """What is kept of a certificate is what it says, not that it was good."""
    verify()
    stray = replace(SIGNER.chain[-1], issuer="zone", issuer_name="instance")
    signer = NitroSigner(chain=(*SIGNER.chain[:-1], stray))
    with pytest.raises(NitroChainError):
        verify(signer.document())
    with pytest.raises(NitroExpiredError):
        verify(now=NOW + 4 * HOUR)
    with pytest.raises(NitroRootError):
        verify(trust=AWS)
    verify()


def test_cas_that_renew_themselves_do_not_lengthen_the_path() -> None:
    """RFC 5280 §4.2.1.9 counts those that are not self-issued."""
    root, region, zone, instance, enclave = SIGNER.chain
    renewed = Issued(name="zone", issuer="zone", path_length=1)
    signer = NitroSigner(chain=(root, region, zone, renewed, instance, enclave))
    certificates = [
        issued.der(issuer.key)
        for issued, issuer in zip(signer.chain, (root, root, region, zone, zone), strict=False)
    ]
    bundle = [*certificates[:3], renewed.der(zone.key), instance.der(zone.key)]
    document = SIGNER.document(cabundle=bundle)
    assert verify(document, trust=SIGNER.trust).module_id == MODULE_ID
