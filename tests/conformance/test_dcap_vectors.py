"""TDX and SGX quotes that others have published: each gives what its README says of it.

dcap-qvl wants revocation lists: where none were published (Oasis), signatures and
chains are checked here with `cryptography`, over what hwtrust has decoded. Of the
repository's own vectors all is checked. What no signature covers is named where bits
are changed.
"""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hwtrust.errors import HwTrustError, MalformedError
from hwtrust.errors.dcap import (
    DcapCertificationError,
    DcapDebugError,
    DcapExpiredError,
    DcapPlatformError,
    DcapTcbError,
)
from hwtrust.verify.enclaves.dcap import INTEL, DcapTrust, Unsafe
from hwtrust.verify.enclaves.sgx import SgxClaims, verify_sgx
from hwtrust.verify.enclaves.sgx_rules import SgxRules, appraise_sgx
from hwtrust.verify.enclaves.tdx import TdxClaims, verify_tdx
from hwtrust.verify.enclaves.tdx_rules import PKS, SEPT_VE_DISABLE, TdxRules, appraise_tdx
from hwtrust.wire.enclaves.dcap import Collateral, Quote, TcbInfo, TdReport, Tee
from vectors import make_dcap

Claims = SgxClaims | TdxClaims
HELLO = b"Hello, world!"
"""The report data of Phala's SGX quote."""
SHA256 = ec.ECDSA(hashes.SHA256())


def at(text: str) -> datetime:
    """That moment of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def verify(
    quote: bytes,
    collateral: bytes,
    now: datetime,
    *,
    report_data: bytes | Unsafe = Unsafe.NO_REPORT_DATA,
    trust: DcapTrust = INTEL,
) -> Claims:
    """Verify a quote by the TEE that it is of."""
    decoded = Quote.decode(quote)
    by_tee = verify_tdx if decoded.tee is Tee.TDX else verify_sgx
    claims: Claims = by_tee(
        decoded,
        collateral=Collateral.decode(collateral),
        report_data=report_data,
        now=now,
        trust=trust,
    )
    return claims


def read(vectors: Path, name: str) -> bytes:
    """One file of the collection."""
    return (vectors / name).read_bytes()


VALID = {
    "sgx/phala-v3": (
        "2025-06-19T10:56:11",
        "2025-07-19T10:01:18",
        "ConfigurationAndSWHardeningNeeded",
        ("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
    "tdx/phala-v4": ("2025-06-19T10:32:27", "2025-07-19T10:00:34", "UpToDate", ()),
    "tdx/phala-v4-20a06f": ("2025-09-02T07:41:59", "2025-10-02T07:03:50", "UpToDate", ()),
}
"""From when to when each verifies, and what Intel says of its platform."""


@pytest.mark.parametrize("name", VALID)
def test_a_valid_quote_verifies_in_its_time_and_in_no_other(vectors: Path, name: str) -> None:
    """To the second, at both ends."""
    quote, collateral = read(vectors, f"{name}.quote"), read(vectors, f"{name}.collateral.json")
    begins, ends, status, advisories = VALID[name]
    for moment in (at(begins), at(ends)):
        platform = verify(quote, collateral, moment).platform
        assert platform.tcb_status == platform.platform_tcb_status == status
        assert platform.qe_tcb_status == "UpToDate"
        assert platform.advisory_ids == advisories
    second = at("2000-01-01T00:00:01") - at("2000-01-01T00:00:00")
    for moment in (at(begins) - second, at(ends) + 2 * second):
        with pytest.raises(DcapExpiredError):
            verify(quote, collateral, moment)


def test_the_report_data_of_phalas_sgx_quote_is_known(vectors: Path) -> None:
    """Bound by us, from our own reading."""
    name, now = "sgx/phala-v3", at("2025-07-01T00:00:00")
    files = read(vectors, f"{name}.quote"), read(vectors, f"{name}.collateral.json")
    claims = verify(*files, now, report_data=HELLO)
    assert claims.report_data == HELLO.ljust(64, b"\0")
    with pytest.raises(HwTrustError):
        verify(*files, now, report_data=HELLO + b"!")
    assert isinstance(claims, SgxClaims)
    rules = SgxRules(
        accepted_tcb_statuses=("UpToDate", "ConfigurationAndSWHardeningNeeded"),
        accepted_advisories=("INTEL-SA-00289",),
        tcb_evaluation_data_number_floor=17,
        mr_enclave=("33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb",),
        xfrm="0x00000000000000e7",
    )
    assert [each.code for each in appraise_sgx(claims, rules=rules)] == ["sgx:advisory"]


def test_phalas_platform_is_dynamic_with_cached_keys_and_hyper_threading(vectors: Path) -> None:
    """All three are findings until they are allowed, as dcap-qvl's strict policy has it."""
    name = "tdx/phala-v4"
    claims = verify(
        read(vectors, f"{name}.quote"),
        read(vectors, f"{name}.collateral.json"),
        at("2025-07-01T00:00:00"),
    )
    assert isinstance(claims, TdxClaims)
    report = claims.report
    rules = TdxRules(
        accepted_tcb_statuses=("UpToDate",),
        tcb_evaluation_data_number_floor=17,
        mr_td=(report.mr_td.hex(),),
        unsafe_any_rtmr=("0", "1", "2", "3"),
        mr_seam=(report.mr_seam.hex(),),
        xfam=("0x00000000000602e7",),
        tee_tcb_svn_floor="06010300" + "00" * 12,
    )
    assert [each.code for each in appraise_tdx(claims, rules=rules)] == ["tdx:platform"] * 3
    allowed = msgspec.structs.replace(
        rules, allow_dynamic_platform=True, allow_cached_keys=True, allow_smt=True
    )
    assert appraise_tdx(claims, rules=allowed) == ()
    assert Quote.decode(read(vectors, f"{name}.quote")).padding == 70


GOOGLE = "tdx/google-v4-spr.quote"
REFUSED = {
    "below every level": (
        "tdx/phala-v5-no-tcb-level.quote",
        "tdx/phala-v5-no-tcb-level.collateral.json",
        "2026-03-01T00:00:00",
        DcapTcbError,
    ),
    "a TD in debug mode": (
        "tdx/coco-v4-debug.quote",
        "tdx/assembled-50806f-2026.collateral.json",
        "2026-04-01T00:00:00",
        DcapDebugError,
    ),
    "a TD in debug mode, years before": (
        "tdx/coco-v4-debug.quote",
        "tdx/assembled-50806f-2023.collateral.json",
        "2023-07-01T00:00:00",
        DcapDebugError,
    ),
    "collateral of another FMSPC": (
        "tdx/phala-v4.quote",
        "tdx/phala-v4-20a06f.collateral.json",
        "2025-09-07T00:00:00",
        DcapPlatformError,
    ),
    "collateral of another year": (
        "tdx/coco-v4-debug.quote",
        "tdx/assembled-50806f-2023.collateral.json",
        "2026-04-01T00:00:00",
        DcapExpiredError,
    ),
    "collateral of the other TEE": (
        "sgx/phala-v3.quote",
        "tdx/phala-v4.collateral.json",
        "2025-07-01T00:00:00",
        DcapPlatformError,
    ),
    "no certificates in the quote": (
        "sgx/oasis-v3-eppid.quote",
        "sgx/phala-v3.collateral.json",
        "2025-07-01T00:00:00",
        DcapCertificationError,
    ),
    "something behind the quote that is no padding": (
        GOOGLE,
        "tdx/assembled-50806f-2026.collateral.json",
        "2026-04-01T00:00:00",
        MalformedError,
    ),
}


@pytest.mark.parametrize(("quote", "collateral", "now", "error"), REFUSED.values(), ids=REFUSED)
def test_a_quote_that_must_not_verify_does_not(
    vectors: Path, quote: str, collateral: str, now: str, error: type[HwTrustError]
) -> None:
    """For the reason that is given."""
    with pytest.raises(HwTrustError) as caught:
        verify(read(vectors, quote), read(vectors, collateral), at(now))
    assert type(caught.value) is error


def test_googles_quote_is_below_every_level_once_what_is_behind_it_is_cut_off(
    vectors: Path,
) -> None:
    """The file has text behind the quote, which is no padding."""
    raw = read(vectors, GOOGLE).removesuffix(b"\nextra bytes(only for testing purpose)\n")
    quote = Quote.decode(raw)
    require_signatures(quote)
    assert isinstance(quote.report, TdReport)
    assert quote.report.td_attributes & PKS
    assert not quote.report.td_attributes & SEPT_VE_DISABLE
    for year, now in (("2023", "2023-07-01T00:00:00"), ("2026", "2026-04-01T00:00:00")):
        collateral = read(vectors, f"tdx/assembled-50806f-{year}.collateral.json")
        with pytest.raises(DcapTcbError):
            verify(raw, collateral, at(now))


# --- without revocation lists --------------------------------------------------------


def key_of(raw: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key with these coordinates."""
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + raw)


def der(signature: bytes) -> bytes:
    """R and s, as `cryptography` wants them."""
    r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
    return encode_dss_signature(r, s)


def require_chain(pem: bytes) -> x509.Certificate:
    """The leaf of a chain to Intel's root, each signed by the next."""
    chain = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
    for certificate, issuer in pairwise(chain):
        certificate.verify_directly_issued_by(issuer)
    assert chain[-1].fingerprint(hashes.SHA256()) == INTEL.root
    return chain[0]


def require_signatures(quote: Quote) -> None:
    """Every signature of a quote, from its report up to Intel's root."""
    key = key_of(quote.attestation_key)
    key.verify(der(quote.signature), quote.signed, SHA256)
    named = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest()
    assert quote.qe_report.report_data == named + bytes(32)
    pck = require_chain(quote.certification_data).public_key()
    assert isinstance(pck, ec.EllipticCurvePublicKey)
    start = quote.raw.index(quote.attestation_key) + 64 + (6 if quote.tee is Tee.TDX else 0)
    pck.verify(der(quote.qe_report_signature), quote.raw[start : start + 384], SHA256)


@pytest.mark.parametrize(
    "name",
    [
        *("sgx/oasis-v3", "sgx/phala-v3", "tdx/oasis-v4-c0806f", "tdx/oasis-v4-trailing"),
        *("tdx/coco-v4-debug", "tdx/phala-v4", "tdx/phala-v4-20a06f", "tdx/phala-v5-no-tcb-level"),
    ],
)
def test_the_signatures_of_each_quote_are_good_over_what_was_decoded(
    vectors: Path, name: str
) -> None:
    """Those that come without revocation lists, too."""
    quote = Quote.decode(read(vectors, f"{name}.quote"))
    require_signatures(quote)
    changed = msgspec.structs.replace(quote, signed=quote.signed[:-1] + b"\xff")
    with pytest.raises(InvalidSignature):
        require_signatures(changed)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("sgx/oasis-tcb_info_00606a.json", "tcbInfo"),
        ("sgx/oasis-qe_identity.json", "enclaveIdentity"),
        ("tdx/oasis-tcb_info_c0806f.json", "tcbInfo"),
        ("tdx/oasis-qe_identity_tdx2.json", "enclaveIdentity"),
    ],
)
def test_what_intels_service_answers_is_signed_by_tcb_signing(
    vectors: Path, name: str, field: str
) -> None:
    """And not by the other chain of the collection, whose leaf is wrong."""
    body = read(vectors, name).decode().strip()
    signed = body[len(f'{{"{field}":') : body.rindex(',"signature"')]
    signature = der(bytes.fromhex(json.loads(body)["signature"]))
    keys = [
        x509.load_pem_x509_certificates(read(vectors, f"sgx/{chain}.pem"))[0].public_key()
        for chain in ("oasis-tcb_certs", "oasis-tcb_certs_bad")
    ]
    good, bad = keys
    assert isinstance(good, ec.EllipticCurvePublicKey)
    assert isinstance(bad, ec.EllipticCurvePublicKey)
    require_chain(read(vectors, "sgx/oasis-tcb_certs.pem"))
    good.verify(signature, signed.encode(), SHA256)
    with pytest.raises(InvalidSignature):
        bad.verify(signature, signed.encode(), SHA256)
    if field == "tcbInfo":
        assert TcbInfo.decode(signed).pce_id == "0000"


def test_the_pinned_root_is_intels(vectors: Path) -> None:
    """By the file of the collection."""
    assert DcapTrust.of(read(vectors, "sgx/intel-sgx-root-ca.der")) == INTEL


def test_every_file_of_the_collection_is_looked_at(vectors: Path) -> None:
    """None is there that the tests above do not read."""
    text = Path(__file__).read_text(encoding="utf-8")
    for folder in ("sgx", "tdx"):
        names = {file.name for file in (vectors / folder).iterdir()} - {"README.md"}
        assert names
        for name in names:
            # Pairs of a year are read by one name.
            assert name.split(".")[0].removesuffix("2023").removesuffix("2026") in text, name


# --- single bits ---------------------------------------------------------------------

SAMPLE = 500


@pytest.mark.parametrize("name", ["sgx/phala-v3", "tdx/phala-v4"])
def test_a_changed_bit_of_what_is_signed_is_refused(vectors: Path, name: str) -> None:
    """Up to the certificates; those are text, in which line ends and the last zero are free."""
    raw, collateral = read(vectors, f"{name}.quote"), read(vectors, f"{name}.collateral.json")
    now = at("2025-07-01T00:00:00")
    good = verify(raw, collateral, now)
    chain = raw.index(b"-----BEGIN")
    rng = random.Random(name)  # noqa: S311 - the same bits in each run
    for bit in rng.sample(range(8 * chain), SAMPLE):
        with pytest.raises(HwTrustError):
            verify(flipped(raw, bit), collateral, now)
    for bit in rng.sample(range(8 * chain, 8 * len(Quote.decode(raw).raw)), SAMPLE):
        try:
            claims = verify(flipped(raw, bit), collateral, now)
        except HwTrustError:
            continue
        assert raw[bit // 8 : bit // 8 + 1] in b"\n\0"
        assert claims.facts() == good.facts()


@pytest.mark.parametrize("name", ["sgx/phala-v3", "tdx/phala-v4"])
def test_a_changed_bit_of_collateral_is_refused_or_changes_nothing(
    vectors: Path, name: str
) -> None:
    """The chain of the revocation list's issuer counts for nothing; hex may be in either case."""
    raw, collateral = read(vectors, f"{name}.quote"), read(vectors, f"{name}.collateral.json")
    now = at("2025-07-01T00:00:00")
    good = Collateral.decode(collateral)
    facts = verify(raw, collateral, now).facts()
    refused = 0
    for bit in random.Random(name).sample(range(8 * len(collateral)), SAMPLE):  # noqa: S311
        changed = flipped(collateral, bit)
        try:
            claims = verify(raw, changed, now)
        except HwTrustError:
            refused += 1
            continue
        assert claims.facts() == facts
        assert signed_parts(Collateral.decode(changed)) == signed_parts(good)
    assert refused > SAMPLE // 2


def signed_parts(collateral: Collateral) -> list[object]:
    """What signatures cover, without the white space of PEM."""
    parts = msgspec.structs.asdict(collateral)
    del parts["pck_crl_issuer_chain"]
    for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        parts[name] = "".join(parts[name].split())
    return list(parts.values())


def flipped(raw: bytes, bit: int) -> bytes:
    """`raw` with that bit changed."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- the repository's own ------------------------------------------------------------


def own(name: str) -> bytes:
    """One file of them."""
    return (make_dcap.FOLDER / name).read_bytes()


def test_own_vectors_are_what_the_generator_makes() -> None:
    """All of them, to the byte, and no other file."""
    made = make_dcap.made()
    assert made
    assert {file.name for file in make_dcap.FOLDER.iterdir()} == set(made)
    for name, content in made.items():
        assert own(name) == content, name
        assert len(content) < 20_000


@pytest.mark.parametrize("name", ["sgx-v3", "tdx-v4", "tdx-v5", "tdx-v5-td15"])
def test_own_vectors_verify(name: str) -> None:
    """Over their report data, under their root, in their time."""
    case = json.loads(own("case.json"))
    claims = verify(
        own(f"{name}.quote"),
        own(f"{name[:3]}.collateral.json"),
        datetime.fromisoformat(case["now"]),
        report_data=bytes.fromhex(case["report_data"]),
        trust=DcapTrust(bytes.fromhex(case["root_sha256"])),
    )
    assert claims.platform.tcb_status == "UpToDate"
