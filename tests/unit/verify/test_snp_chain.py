"""Chains of SEV-SNP certificates: pinned root, exact names, CAs that are CAs, all of it valid now.

Each test names one defect of an otherwise good chain that the test root has signed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hwtrust.errors import EvidenceError, MalformedError
from hwtrust.errors.snp import (
    SnpChainError,
    SnpCrlError,
    SnpExpiredError,
    SnpProductError,
    SnpRevokedError,
    SnpRootError,
    SnpTcbError,
)
from hwtrust.verify import der
from hwtrust.verify.certificates import read_certificate
from hwtrust.verify.enclaves import snp_chain
from hwtrust.verify.enclaves.snp_chain import (
    AMD,
    LARGEST,
    MOST_CERTIFICATES,
    Endorsement,
    SnpTrust,
    endorsed,
    suiting,
)
from hwtrust.wire.enclaves.snp import Product, SigningKey
from simulators.cose_signer import key_named
from simulators.ek_authority import tlv
from simulators.nitro_signer import Issued, NitroSigner
from simulators.snp_signer import (
    CSP,
    END,
    NOW,
    START,
    TCBS,
    Authority,
    Ca,
    Chip,
    ia5,
    integer,
    intermediate,
    name_of,
    root,
    rsa_key,
    signed_again,
    trust,
)

VCEK, VLEK = SigningKey.VCEK, SigningKey.VLEK
KINDS = (VCEK, VLEK)
MILAN, GENOA, TURIN = Chip(Product.MILAN), Chip(Product.GENOA), Chip(Product.TURIN)
AUTHORITY = MILAN.authority


def check(
    certificates: Sequence[bytes],
    *,
    kind: SigningKey = VCEK,
    now: datetime = NOW,
    trusted: SnpTrust | None = None,
) -> Endorsement:
    """What the chain vouches for, under all test roots unless others are given."""
    return endorsed(certificates, kind=kind, now=now, trust=trusted or trust())


def leaf(**options: Any) -> tuple[bytes, ...]:  # noqa: ANN401
    """A chain whose leaf has the defects that the keywords name."""
    return (MILAN.certificate(**options), *MILAN.certificates()[1:])


def under(ca: Ca, kind: SigningKey = VCEK, ark: Ca = AUTHORITY.ark) -> tuple[bytes, ...]:
    """A chain with another intermediate."""
    return (MILAN.certificate(kind, issuer=ca), ca.der, ark.der)


def ask(**options: Any) -> Ca:  # noqa: ANN401
    """An ASK with the defects that the keywords name."""
    return intermediate(AUTHORITY.ark, Product.MILAN, VCEK, **options)


def pem(der: bytes) -> bytes:
    """One certificate in PEM."""
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


# --- what passes ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("product", list(Product))
def test_a_good_chain_vouches_for_key_tcb_and_chip_or_provider(
    product: Product, kind: SigningKey
) -> None:
    """Of each product, by both kinds."""
    chip = Chip(product)
    found = check(chip.certificates(kind), kind=kind)
    assert found.product is product
    assert found.tcb == TCBS[product]
    assert found.hwid == (chip.hwid if kind is VCEK else b"")
    assert found.csp_id == (CSP if kind is VLEK else "")
    assert found.key == chip.key(kind).public_key()
    assert found.fingerprints == tuple(
        hashlib.sha256(der).hexdigest() for der in chip.certificates(kind)
    )


def test_files_come_in_any_order_and_form() -> None:
    """DER, PEM, several in a file, padded, twice, with others among them."""
    first, second, third = MILAN.certificates()
    good = check([first, second, third])
    for files in (
        [third, second, first],
        [pem(third) + pem(first), second],
        [b"a comment\n" + pem(second) + pem(third), pem(first)],
        [first + bytes(100), second, third],
        [first, second, third, second, third],
        [*GENOA.certificates()[1:], *MILAN.certificates(VLEK), first, second],
    ):
        only = trust(Product.MILAN)
        assert check(files, trusted=only) == good


STEPPINGS = {
    "Milan-B0": MILAN,
    "Milan": MILAN,
    "Genoa": GENOA,
    "Bergamo-A2": GENOA,
    "Siena": GENOA,
    "Turin-B1": TURIN,
}


@pytest.mark.parametrize(("name", "chip"), STEPPINGS.items())
def test_a_product_goes_by_its_names_with_a_stepping_or_without(name: str, chip: Chip) -> None:
    """Siena and Bergamo are under Genoa's root."""
    chip = replace(chip, stepping=name)
    assert check(chip.certificates()).product is chip.product


def test_a_hardware_id_may_be_an_octet_string() -> None:
    """The bytes are the same."""
    wrapped = leaf(change={"4": b"\x04\x40" + MILAN.hwid})
    assert check(wrapped).hwid == MILAN.hwid


def test_every_vcek_has_the_serial_number_zero_and_is_read_all_the_same() -> None:
    """The simulator's are as AMD's."""
    assert read_certificate(MILAN.certificates()[0]).serial == 0


def test_a_parser_that_refuses_serial_zero_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5280 forbids it, and a later parser may; what was received is what is signed."""
    load = x509.load_der_x509_certificate

    def strict(data: bytes) -> x509.Certificate:
        parsed = load(data)
        if parsed.serial_number <= 0:
            raise ValueError("serial numbers are positive")
        return parsed

    good = read_certificate(MILAN.certificates()[0])
    monkeypatch.setattr(x509, "load_der_x509_certificate", strict)
    monkeypatch.setattr(snp_chain, "_certificates", snp_chain._certificates.__wrapped__)
    assert read_certificate(MILAN.certificates()[0]) == good
    assert check(MILAN.certificates()).hwid == MILAN.hwid
    with pytest.raises(SnpChainError):
        check(
            (
                signed_again(MILAN.certificates()[0], rsa_key("genoa-ask")),
                AUTHORITY.ask.der,
                AUTHORITY.ark.der,
            )
        )


# --- 1: the root ----------------------------------------------------------------------


def test_amds_roots_are_those_of_the_published_bundles(vectors: Any) -> None:  # noqa: ANN401
    """Each pin is the fingerprint of the ARK, the same in the bundle of the ASK and of the ASVK."""
    names = {
        Product.MILAN: ("milan", "milan_vlek"),
        Product.GENOA: ("genoa", "genoa_vlek"),
        Product.TURIN: ("turin_vcek", "turin_vlek"),
    }
    for product, files in names.items():
        for file in files:
            bundle = (vectors / "sev-snp" / f"gosev-ask_ark_{file}.pem").read_bytes()
            below, ark = x509.load_pem_x509_certificates(bundle)
            assert {ark.fingerprint(hashes.SHA256()).hex()} == AMD.roots[product]
            below.verify_directly_issued_by(ark)


def test_a_root_that_is_not_pinned_is_refused() -> None:
    """Though its names, and all else, are as they should be."""
    with pytest.raises(SnpRootError) as caught:
        check(MILAN.certificates(), trusted=AMD)
    assert caught.value.code == "evidence:snp:root"
    with pytest.raises(SnpRootError):
        check(MILAN.certificates(), trusted=trust(Product.GENOA))
    with pytest.raises(SnpRootError):
        check(MILAN.certificates()[:2])
    with pytest.raises(SnpRootError):
        check([])


def test_a_root_counts_for_its_own_product_alone() -> None:
    """Pinned for another one, it vouches for none."""
    pins = SnpTrust(roots={Product.GENOA: frozenset({AUTHORITY.ark.sha256})}, crls=())
    with pytest.raises(SnpChainError):
        check(MILAN.certificates(), trusted=pins)


def test_a_root_with_another_name_is_refused_although_it_is_pinned() -> None:
    """The name says for what product AMD made it."""
    ark = root(Product.MILAN, name="ARK-Rome")
    ca = intermediate(ark, Product.MILAN, VCEK)
    pins = SnpTrust(roots={Product.MILAN: frozenset({ark.sha256})}, crls=())
    with pytest.raises(SnpChainError):
        check(under(ca, ark=ark), trusted=pins)


# --- 2 and 3: names and signatures ----------------------------------------------------


def test_a_chain_of_the_other_kind_is_refused() -> None:
    """An ASVK issues no VCEK, an ASK no VLEK, whatever they have signed."""
    for kind, issuer in ((VCEK, AUTHORITY.asvk), (VLEK, AUTHORITY.ask)):
        with pytest.raises(SnpChainError) as caught:
            check(under(issuer, kind), kind=kind)
        assert caught.value.code == "evidence:snp:chain"
        with pytest.raises(SnpChainError):
            check(MILAN.certificates(kind), kind=SigningKey(1 - kind))


def test_a_leaf_with_another_name_is_refused() -> None:
    """Also one that the ASK has signed."""
    with pytest.raises(SnpChainError):
        check(leaf(name="SEV-VLEK"))
    with pytest.raises(SnpChainError):
        check(leaf(name="VCEK"))


def test_a_leaf_with_two_names_is_refused() -> None:
    """Though one of them is as it should be, and the ASK has signed both."""
    one = name_of("SEV-VCEK")
    both = x509.Name([*one, x509.NameAttribute(x509.NameOID.COMMON_NAME, "another")])

    def renamed(signed: bytes) -> bytes:
        parts = der.children(signed)
        assert parts.count(one.public_bytes()) == 1
        new = [both.public_bytes() if part == one.public_bytes() else part for part in parts]
        return tlv(0x30, *new)

    first, *rest = MILAN.certificates()
    certificate = signed_again(first, AUTHORITY.ask.key, renamed)
    assert read_certificate(certificate).signed_by(read_certificate(rest[0]))
    with pytest.raises(SnpChainError):
        check((certificate, *rest))


def test_two_leaves_are_refused() -> None:
    """Which of them the report means is not guessed."""
    other = replace(MILAN, seed=b"other").certificates()[0]
    with pytest.raises(SnpChainError):
        check([*MILAN.certificates(), other])


def test_the_intermediate_of_another_product_is_refused() -> None:
    """Though the pinned root has signed it."""
    with pytest.raises(SnpChainError):
        check(under(ask(name="SEV-Genoa")))


def test_a_leaf_that_the_intermediate_has_not_signed_is_refused() -> None:
    """Names alone are nothing."""
    forged = signed_again(MILAN.certificates()[0], rsa_key("genoa-ask"))
    with pytest.raises(SnpChainError):
        check((forged, *MILAN.certificates()[1:]))


def test_an_intermediate_that_the_root_has_not_signed_is_refused() -> None:
    """The leaf is signed by it, but it stands alone."""
    own = Ca(
        AUTHORITY.ask.common_name,
        AUTHORITY.ask.key,
        signed_again(AUTHORITY.ask.der, rsa_key("genoa-ark")),
    )
    with pytest.raises(SnpChainError):
        check(under(own))


def test_a_chain_without_its_intermediate_is_refused() -> None:
    """And so is one without its leaf."""
    first, second, third = MILAN.certificates()
    for files in ([first, third], [second, third]):
        with pytest.raises(SnpChainError):
            check(files)


def test_an_intermediate_with_a_shorter_key_is_refused() -> None:
    """AMD's have 4096 bits."""
    key = rsa.generate_private_key(65537, 2048)
    with pytest.raises(SnpChainError):
        check(under(ask(key=key)))


def test_an_intermediate_with_a_longer_key_is_refused() -> None:
    """Its size is AMD's exactly: no enormous key of a stranger's is used."""
    one, other = (rsa_key(name).private_numbers() for name in ("genoa-ask", "genoa-ark"))
    first, second, e = one.p * other.p, one.q, 65537
    below = (one.p - 1) * (other.p - 1)
    d = pow(e, -1, below * (second - 1))
    key = rsa.RSAPrivateNumbers(
        first,
        second,
        d,
        d % below,
        d % (second - 1),
        pow(second, -1, first),
        rsa.RSAPublicNumbers(e, first * second),
    ).private_key(unsafe_skip_rsa_key_validation=True)
    chain = under(ask(key=key))
    assert read_certificate(chain[0]).signed_by(read_certificate(chain[1]))
    with pytest.raises(SnpChainError) as caught:
        check(chain)
    assert caught.value.code == "evidence:snp:chain"


@pytest.mark.parametrize(
    "options", [{"pkcs1": True}, {"algorithm": hashes.SHA256()}, {"algorithm": hashes.SHA512()}]
)
def test_another_signature_algorithm_is_refused(options: dict[str, Any]) -> None:
    """AMD signs by RSASSA-PSS over SHA-384 alone: the leaf, and the intermediate."""
    with pytest.raises(SnpChainError):
        check(leaf(serial=1, **options))
    with pytest.raises(SnpChainError):
        check(under(ask(**options)))


# --- 4: what they may be used for -----------------------------------------------------

NOT_CAS: dict[str, dict[str, Any]] = {
    "no basic constraints": {"ca": None},
    "not a CA": {"ca": False, "path_length": None},
    "no key usage": {"usage": None},
    "a key for something else": {"usage": "digital_signature crl_sign"},
    "a critical extension that is not known": {
        "private": {"1.2.3": b"\x05\0"},
        "critical": "1.2.3",
    },
}


@pytest.mark.parametrize("options", NOT_CAS.values(), ids=NOT_CAS)
def test_an_intermediate_that_may_not_issue_is_refused(options: dict[str, Any]) -> None:
    """Though the root has signed it."""
    with pytest.raises(SnpChainError):
        check(under(ask(**options)))


def pinned(ark: Ca) -> SnpTrust:
    """Trust in that root for Milan."""
    return SnpTrust(roots={Product.MILAN: frozenset({ark.sha256})}, crls=())


@pytest.mark.parametrize(
    "options", [*NOT_CAS.values(), {"path_length": 0}], ids=[*NOT_CAS, "no CA may be below it"]
)
def test_a_root_that_may_not_issue_is_refused(options: dict[str, Any]) -> None:
    """Though it is pinned."""
    ark = root(Product.MILAN, **options)
    chain = under(intermediate(ark, Product.MILAN, VCEK), ark=ark)
    with pytest.raises(SnpChainError):
        check(chain, trusted=pinned(ark))


LEAVES: dict[str, dict[str, Any]] = {
    "a CA": {"ca": True},
    "a key that is not for signatures": {"usage": "content_commitment"},
    "a critical extension that is not known": {"change": {"3.10": integer(0)}, "critical": "3.10"},
    "a key of P-256": {"key": ec.derive_private_key(7, ec.SECP256R1()).public_key()},
    "an RSA key": {"key": rsa_key("genoa-ask").public_key()},
    "a chip and a provider": {"change": {"5": ia5(CSP)}},
    "neither chip nor provider": {"change": {"4": None}},
    "a provider alone": {"change": {"4": None, "5": ia5(CSP)}},
}


@pytest.mark.parametrize("options", LEAVES.values(), ids=LEAVES)
def test_a_leaf_that_is_no_key_for_reports_is_refused(options: dict[str, Any]) -> None:
    """Though the ASK has signed it."""
    with pytest.raises(SnpChainError):
        check(leaf(**options))


def test_a_vlek_with_a_chip_or_without_a_provider_is_refused() -> None:
    """It belongs to a provider, and that alone."""
    for change in ({"4": MILAN.hwid}, {"5": None}, {"4": MILAN.hwid, "5": None}):
        certificate = MILAN.certificate(VLEK, change=change)
        with pytest.raises(SnpChainError):
            check((certificate, *MILAN.certificates(VLEK)[1:]), kind=VLEK)


def test_a_leaf_may_say_that_its_key_signs() -> None:
    """AMD's say nothing of it, and are no CAs."""
    assert check(leaf(usage="digital_signature", ca=False)).hwid == MILAN.hwid


# --- 5: validity and revocation -------------------------------------------------------


@pytest.mark.parametrize("now", [START, END])
def test_a_chain_is_valid_from_its_first_to_its_last_moment(now: datetime) -> None:
    """Both included."""
    assert check(MILAN.certificates(), now=now).hwid == MILAN.hwid


@pytest.mark.parametrize("now", [START - timedelta(seconds=1), END + timedelta(seconds=1)])
def test_a_chain_is_refused_outside_of_its_validity(now: datetime) -> None:
    """Whatever else is right."""
    with pytest.raises(SnpExpiredError) as caught:
        check(MILAN.certificates(), now=now)
    assert caught.value.code == "evidence:snp:expired"


def test_the_validity_of_each_certificate_counts() -> None:
    """Leaf, intermediate, and root."""
    past = datetime(2025, 1, 1, tzinfo=UTC)
    ark = root(Product.MILAN, end=past)
    chains = [
        (leaf(end=past), trust()),
        (under(ask(end=past)), trust()),
        (under(intermediate(ark, Product.MILAN, VCEK), ark=ark), pinned(ark)),
    ]
    for chain, trusted in chains:
        assert check(chain, trusted=trusted, now=past).hwid == MILAN.hwid
        with pytest.raises(SnpExpiredError):
            check(chain, trusted=trusted)


REVOKED = {
    "the ASK": AUTHORITY.ark.revoke(1, 0x10001),
    "the ARK": AUTHORITY.ark.revoke(0x10000),
}


@pytest.mark.parametrize("crl", REVOKED.values(), ids=REVOKED)
def test_a_revoked_certificate_is_refused(crl: bytes) -> None:
    """By a list of its issuer, however old that is."""
    with pytest.raises(SnpRevokedError) as caught:
        check(MILAN.certificates(), trusted=trust(crls=(crl,)))
    assert caught.value.code == "evidence:snp:revoked"


def test_a_leaf_with_a_number_of_its_own_can_be_revoked() -> None:
    """By its ASK; AMD's VCEKs all have the number 0, which no list can name."""
    chain = leaf(serial=7)
    assert check(chain, trusted=trust(crls=(AUTHORITY.ask.revoke(8),))).hwid == MILAN.hwid
    with pytest.raises(SnpRevokedError):
        check(chain, trusted=trust(crls=(AUTHORITY.ask.revoke(7),)))


def test_a_revoked_vlek_and_asvk_are_refused() -> None:
    """And the other kind of key goes on."""
    for crl in (AUTHORITY.asvk.revoke(77), AUTHORITY.ark.revoke(0x10101)):
        trusted = trust(crls=(crl,))
        with pytest.raises(SnpRevokedError):
            check(MILAN.certificates(VLEK), kind=VLEK, trusted=trusted)
        assert check(MILAN.certificates(), trusted=trusted).hwid == MILAN.hwid


def test_lists_of_others_and_of_other_numbers_change_nothing() -> None:
    """Also a number that means another certificate at another issuer."""
    lists = (
        AUTHORITY.ark.revoke(),
        AUTHORITY.ark.revoke(77, 0x10101),
        Authority.of(Product.GENOA).ark.revoke(0x10000, 0x10001),
    )
    assert check(MILAN.certificates(), trusted=trust(crls=lists)).hwid == MILAN.hwid


@pytest.mark.parametrize("place", range(3))
def test_every_list_counts(place: int) -> None:
    """Wherever the one that revokes stands among them."""
    lists = [AUTHORITY.ark.revoke(), AUTHORITY.ask.revoke()]
    lists.insert(place, AUTHORITY.ark.revoke(0x10001))
    with pytest.raises(SnpRevokedError) as caught:
        check(MILAN.certificates(), trusted=trust(crls=tuple(lists)))
    assert caught.value.code == "evidence:snp:revoked"


def test_a_list_that_its_issuer_has_not_signed_is_an_error() -> None:
    """It may be the one that matters, damaged."""
    forged = AUTHORITY.ark.revoke(1, by=Authority.of(Product.GENOA).ark)
    with pytest.raises(SnpCrlError) as caught:
        check(MILAN.certificates(), trusted=trust(crls=(forged,)))
    assert caught.value.code == "evidence:snp:crl"
    with pytest.raises(MalformedError):
        check(MILAN.certificates(), trusted=trust(crls=(b"no list",)))


# --- 6: what the leaf says ------------------------------------------------------------

CHANGES: dict[str, tuple[dict[str, bytes | None], type[Exception]]] = {
    "no struct version": ({"1": None}, MalformedError),
    "no product": ({"2": None}, MalformedError),
    "another product": ({"2": ia5("Genoa-B1")}, SnpProductError),
    "a product that begins alike": ({"2": ia5("Milano")}, SnpProductError),
    "a product that is no text": ({"2": integer(3)}, MalformedError),
    "an empty product": ({"2": ia5("")}, MalformedError),
    "a product that is not ASCII": ({"2": b"\x16\x02\xc3\xa4"}, MalformedError),
    "a product that is cut short": ({"2": ia5("Milan")[:-1]}, MalformedError),
    "a product that goes on": ({"2": ia5("Milan") + b"!"}, MalformedError),
    "no boot loader": ({"3.1": None}, MalformedError),
    "no TEE": ({"3.2": None}, MalformedError),
    "no SNP": ({"3.3": None}, MalformedError),
    "no microcode": ({"3.8": None}, MalformedError),
    "a negative level": ({"3.1": b"\x02\x01\x84"}, MalformedError),
    "a level with a needless byte": ({"3.1": b"\x02\x02\x00\x04"}, MalformedError),
    "the lowest negative level": ({"3.1": b"\x02\x01\x80"}, MalformedError),
    "a level of a length that lies": ({"3.1": b"\x02\x02\x04"}, MalformedError),
    "a level above 127 of a length that lies": ({"3.1": b"\x02\x03\x00\x84"}, MalformedError),
    "a level far above a byte": ({"3.1": b"\x02\x02\x01\x84"}, MalformedError),
    "a level above a byte": ({"3.1": b"\x02\x02\x01\x04"}, MalformedError),
    "a level that is no number": ({"3.1": b"\x04\x01\x04"}, MalformedError),
    "a level that is empty": ({"3.1": b""}, MalformedError),
    "a level that goes on": ({"3.1": b"\x02\x01\x04\x00"}, MalformedError),
    "a level above 127 that is no number": ({"3.1": b"\x04\x02\x00\x84"}, MalformedError),
    "a level of three bytes": ({"3.1": b"\x02\x03\x00\x00\x84"}, MalformedError),
    **{
        f"a level of the unknown component {number}": ({f"3.{number}": integer(1)}, SnpTcbError)
        for number in range(4, 8)
    },
    "an unknown component whose level is no number": ({"3.7": b"\x04\x00"}, MalformedError),
    "a product that is too long": ({"2": b"\x16\x80" + b"M" * 128}, MalformedError),
    "a product as another kind of text": ({"2": b"\x0c\x05Milan"}, MalformedError),
    "a hardware id in something else": ({"4": b"\x05\x40" + MILAN.hwid}, MalformedError),
    "a hardware id with two bytes before it": ({"4": b"\x04\x3f" + MILAN.hwid}, MalformedError),
    "a short hardware id": ({"4": bytes(63)}, MalformedError),
    "a hardware id as Turin's": ({"4": bytes(8)}, MalformedError),
    "an empty hardware id": ({"4": b""}, MalformedError),
}


@pytest.mark.parametrize(("change", "error"), CHANGES.values(), ids=CHANGES)
def test_a_leaf_that_says_something_else_is_refused(
    change: dict[str, bytes | None], error: type[EvidenceError]
) -> None:
    """There is one form for it."""
    with pytest.raises(error) as caught:
        check(leaf(change=change))
    assert caught.value.code == error.code


def test_turins_leaf_names_its_own_component_and_a_short_chip() -> None:
    """The level of its FMC, and eight bytes."""
    rest = TURIN.certificates()[1:]
    for change in ({"3.9": None}, {"4": bytes(64)}, {"3.4": integer(1)}):
        with pytest.raises((MalformedError, SnpTcbError)):
            check((TURIN.certificate(change=change), *rest))


def test_the_tcb_is_the_certificates_own() -> None:
    """Each level from its own extension."""
    names = {"3.1": "bootloader", "3.2": "tee", "3.3": "snp", "3.8": "microcode", "3.9": "fmc"}
    for oid, name in names.items():
        chain = (TURIN.certificate(change={oid: integer(200)}), *TURIN.certificates()[1:])
        assert getattr(check(chain).tcb, name) == 200
    for level in (0, 127, 128, 255):
        assert check(leaf(change={"3.1": integer(level)})).tcb.bootloader == level
    assert check(leaf(change={"3.5": integer(0)})) == check(leaf())


# --- bytes from outside ---------------------------------------------------------------

FILES = {
    "nothing": b"",
    "zeros": bytes(50),
    "no certificate": b"\x30\x03\x02\x01\x05",
    "a PEM block of something else": b"-----BEGIN X-----\nAA==\n-----END X-----\n",
    "PEM that is no base64": b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    "something behind it": MILAN.certificates()[0] + b"x",
    "cut short": MILAN.certificates()[0][:-1],
    "too large": bytes(LARGEST + 1),
    "too many in one": b"\x30\x00" * (MOST_CERTIFICATES + 1),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_files_that_hold_no_certificates_are_refused(file: bytes) -> None:
    """With a coded error, however good the others are."""
    with pytest.raises(MalformedError):
        check([*MILAN.certificates(), file])


def test_more_files_or_certificates_than_a_chain_needs_are_refused() -> None:
    """What comes from outside is bounded before it is read."""
    with pytest.raises(MalformedError):
        check([MILAN.certificates()[2]] * (MOST_CERTIFICATES + 1))
    many = [replace(MILAN, seed=bytes([n])).certificates()[0] for n in range(MOST_CERTIFICATES)]
    bundles = [b"".join(map(pem, many[:5])), b"".join(map(pem, many[5:10])), *many[10:]]
    with pytest.raises(MalformedError):
        check([*bundles, *MILAN.certificates()])


def test_as_much_as_may_be_is_taken_and_no_more() -> None:
    """Bytes of a file, certificates in a file, files, certificates in all: at each bound."""
    first, second, third = MILAN.certificates()
    good = check([first, second, third])
    assert check([first.ljust(LARGEST, b"\0"), second, third]) == good
    with pytest.raises(MalformedError) as caught:
        check([first.ljust(LARGEST + 1, b"\0"), second, third])
    assert caught.value.code == "wire:malformed"
    short = NitroSigner().certificates[0]
    assert check([first, second, third, short * MOST_CERTIFICATES]) == good
    with pytest.raises(MalformedError):
        check([first, second, third, short * (MOST_CERTIFICATES + 1)])
    others = [
        Issued(name=f"other {at}", issuer="root").der(key_named("root"))
        for at in range(MOST_CERTIFICATES - 3)
    ]
    files = [first, second, third, *others]
    assert len(files) == MOST_CERTIFICATES
    assert check(files) == good
    with pytest.raises(MalformedError):
        check([*files, first])
    with pytest.raises(MalformedError):
        check([*files[1:], pem(first) + pem(short)])


# --- what an operator adds ------------------------------------------------------------

TURIN_HWID = TURIN.hwid.ljust(64, b"\0")
SUITING: dict[str, tuple[Chip, SigningKey, dict[str, Any], dict[str, Any], bool]] = {
    "the chip's own": (MILAN, VCEK, {}, {}, True),
    "renewed, of the same key": (MILAN, VCEK, {"serial": 9}, {}, True),
    "Turin's, whose id is short": (TURIN, VCEK, {}, {}, True),
    "the provider's, which names no chip": (MILAN, VLEK, {}, {}, True),
    "of a report that does not name its chip": (MILAN, VCEK, {}, {"chip_id": bytes(64)}, True),
    "of another chip": (MILAN, VCEK, {}, {"chip_id": b"x" * 64}, False),
    "of a chip whose id begins alike": (
        TURIN,
        VCEK,
        {},
        {"chip_id": TURIN_HWID[:-1] + b"\1"},
        False,
    ),
    "of another TCB version": (MILAN, VCEK, {"change": {"3.1": integer(1)}}, {}, False),
    "of a product that nobody knows": (MILAN, VCEK, {"change": {"2": ia5("Rome-B0")}}, {}, False),
    "under another name": (MILAN, VCEK, {"name": "VCEK"}, {}, False),
    "without a hardware id that can be read": (MILAN, VCEK, {"change": {"4": b"x"}}, {}, False),
}


@pytest.mark.parametrize(
    ("chip", "kind", "options", "fields", "taken"), SUITING.values(), ids=SUITING
)
def test_of_many_keys_certificates_that_of_the_report_is_taken(
    chip: Chip, kind: SigningKey, options: dict[str, Any], fields: dict[str, Any], *, taken: bool
) -> None:
    """By name, product, chip and TCB version; and only where none came with the report."""
    report = msgspec.structs.replace(chip.fields(kind), **fields)
    first, *above = chip.certificates(kind)
    added = chip.certificate(kind, **options) if options else first
    assert (added in suiting(above, [added], report=report)) is taken
    assert added == first or added not in suiting([first, *above], [added], report=report)
