"""The report of a GPU is believed only if a genuine GPU made it, now, and for us."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from hwtrust.errors import EmptyNonceError, HwTrustError, MalformedError, WeakKeyError
from hwtrust.errors.nvidia import (
    NvidiaChainError,
    NvidiaExpiredError,
    NvidiaFirmwareIdError,
    NvidiaNonceError,
    NvidiaRevokedError,
    NvidiaSignatureError,
)
from hwtrust.verify.attestation import Unsafe
from hwtrust.verify.enclaves.nvidia import (
    MAX_CERTIFICATES,
    MAX_CHAIN,
    NVIDIA_ROOTS,
    NvidiaClaims,
    NvidiaTrust,
    verify_nvidia,
)
from hwtrust.verify.enclaves.nvidia_rules import FINDINGS, NvidiaRules, appraise_nvidia
from simulators.nvidia_signer import (
    END,
    FIRMWARE_ID,
    FWID,
    LEAF,
    LINKS,
    NOW,
    START,
    GpuSigner,
    Link,
    changed,
    crl_of,
    key_of,
)

GPU = GpuSigner()
NONCE = bytes(range(32))
REPORT = GPU.report(NONCE)
SECOND = timedelta(seconds=1)


def verify(report: bytes = REPORT, **changes: Any) -> NvidiaClaims:  # noqa: ANN401 - any argument
    """Verify as the good report is, but for `changes`."""
    arguments: dict[str, Any] = {
        "certificates": GPU.chain,
        "nonce": NONCE,
        "now": NOW,
        "trust": GPU.trust,
    }
    return verify_nvidia(report, **(arguments | changes))


def refused(error: type[HwTrustError], report: bytes = REPORT, **changes: Any) -> str:  # noqa: ANN401
    """The code of the refusal, which is of exactly that class."""
    with pytest.raises(error) as refusal:
        verify(report, **changes)
    assert type(refusal.value) is error
    return refusal.value.code


def by(links: tuple[Link, ...], **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """The arguments for a GPU with another chain."""
    gpu = replace(GPU, links=links)
    return {"report": gpu.report(NONCE), "certificates": gpu.chain, "trust": gpu.trust} | changes


def test_a_good_report_is_believed() -> None:
    """Model and device come from the certificates, the rest from the report."""
    claims = verify()
    assert claims.nonce == NONCE
    assert claims.model == LINKS[1].name
    assert claims.device == f"{LEAF.serial:x}"
    assert claims.firmware_id == FWID
    assert (claims.driver_version, claims.vbios_version) == ("550.90.07", "96.00.9F.00.01")
    assert dict(claims.measurements) == dict(GPU.measurements)
    assert claims.facts()["model"] == LINKS[1].name


def test_certificates_may_be_pem() -> None:
    """One file with all of them, as NVIDIA's tools write it."""
    pem = b"\n".join(
        load_der_x509_certificate(link).public_bytes(Encoding.PEM) for link in GPU.chain
    )
    assert verify(certificates=[pem]) == verify()


def test_claims_are_made_here_alone() -> None:
    """Nobody else says of a GPU that it was verified."""
    with pytest.raises(TypeError):
        msgspec.structs.replace(verify(), driver_version="1")


def test_a_report_of_another_gpu_or_changed_is_refused() -> None:
    """Adversaries 13 and 85: the key of the certificate has not signed this."""
    for change in range(0, len(REPORT) * 8, 19):
        data = bytearray(REPORT)
        data[change // 8] ^= 1 << change % 8
        with pytest.raises(HwTrustError) as refusal:
            verify(bytes(data))
        assert refusal.value.code in {
            "nvidia:signature:invalid",
            "nvidia:fwid:mismatch",
            "wire:malformed",
            "wire:unsupported",
        }
    other = replace(GPU, links=(replace(LEAF, name="Another GPU"), *LINKS[1:]))
    assert refused(NvidiaSignatureError, other.report(NONCE)) == "nvidia:signature:invalid"
    assert refused(NvidiaSignatureError, REPORT[:-96] + bytes(96))


def test_a_report_for_another_nonce_is_refused() -> None:
    """Adversaries 14, 17: a replay, or an answer to no question."""
    assert refused(NvidiaNonceError, nonce=NONCE[::-1]) == "nvidia:nonce:mismatch"
    assert refused(NvidiaNonceError, nonce=NONCE[:-1]) == "nvidia:nonce:mismatch"
    assert refused(EmptyNonceError, nonce=b"") == "evidence:nonce:empty"
    assert verify(nonce=Unsafe.NO_NONCE).nonce == NONCE


def test_nothing_is_trusted_but_what_is_pinned() -> None:
    """A chain may be as good as it likes: its root must be one of ours."""
    assert refused(NvidiaChainError, trust=NvidiaTrust()) == "nvidia:chain:invalid"
    assert NvidiaTrust().roots == NVIDIA_ROOTS
    assert refused(NvidiaChainError, certificates=GPU.chain[:-1])
    assert refused(NvidiaChainError, certificates=[*GPU.chain, GPU.chain[0]])


def test_certificates_that_are_no_chain_are_refused() -> None:
    """None, one alone, far too many, in another order, with a link missing or twice."""
    leaf, *above = GPU.chain
    own = NvidiaTrust(roots=frozenset({hashlib.sha256(leaf).hexdigest()}))
    for certificates in (
        [],
        [leaf, *[above[0]] * MAX_CERTIFICATES, *above],
        [above[0], leaf, *above[1:]],
        [leaf, *above[1:]],
        [leaf, above[0], *above],
    ):
        assert refused(NvidiaChainError, certificates=certificates)
    assert refused(NvidiaChainError, certificates=[leaf], trust=own)
    assert refused(MalformedError, certificates=[leaf, bytes(MAX_CHAIN)])
    assert refused(MalformedError, certificates=[leaf, b"0"])


def test_a_chain_has_two_certificates_at_least_and_eight_at_most() -> None:
    """One that vouches for itself is that of nobody's GPU."""
    cas = tuple(Link(f"CA {number}") for number in range(MAX_CERTIFICATES))
    for count in (0, MAX_CERTIFICATES - 2):
        assert verify(**by((LEAF, *cas[:count], LINKS[-1]))).nonce == NONCE
    assert refused(NvidiaChainError, **by((LEAF, *cas[:-1], LINKS[-1])))
    assert refused(NvidiaChainError, **by((LEAF,)))


def test_cas_that_merely_renew_their_key_are_not_counted() -> None:
    """RFC 5280 §4.2.1.9; each other one is, and the GPU is none."""
    renewed = changed(2, name=LINKS[3].name, issuer=LINKS[3].name)
    renewed = (*renewed[:3], replace(renewed[3], path_length=1), renewed[4])
    assert verify(**by(renewed)).nonce == NONCE
    for at, allowed in ((1, 0), (2, 1), (3, 2), (4, 3)):
        assert verify(**by(changed(at, path_length=allowed))).nonce == NONCE
        if allowed:
            assert refused(NvidiaChainError, **by(changed(at, path_length=allowed - 1)))


RSA_KEY = rsa.generate_private_key(65537, 2048)
CURVE_KEY = key_of(LEAF.name)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def pair(own: Key, issuers: Key) -> dict[str, Any]:
    """The arguments for a chain of two with these keys."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "GPU")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.not_valid_before(START).not_valid_after(END)
    leaf = builder.serial_number(1).public_key(own.public_key())
    root = builder.serial_number(2).public_key(issuers.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    chain = [
        made.sign(issuers, hashes.SHA384()).public_bytes(Encoding.DER) for made in (leaf, root)
    ]
    trust = NvidiaTrust(roots=frozenset({hashlib.sha256(chain[1]).hexdigest()}))
    return {"certificates": chain, "trust": trust}


def test_rsa_keys_sign_neither_certificates_nor_reports() -> None:
    """NVIDIA has none; what another kind of key can do is not looked at."""
    assert verify(**pair(CURVE_KEY, CURVE_KEY)).firmware_id == b""
    assert refused(NvidiaChainError, **pair(CURVE_KEY, RSA_KEY)) == "nvidia:chain:invalid"
    assert refused(WeakKeyError, **pair(RSA_KEY, CURVE_KEY)) == "evidence:key:weak"


BAD_CHAINS = {
    "the GPU's certificate is a CA's": changed(0, ca=True),
    "the GPU's key is for something else": changed(0, usage="key_cert_sign"),
    "an issuer is no CA": changed(1, ca=False),
    "the root is no CA": changed(4, ca=False),
    "an issuer's key is for something else": changed(2, usage="digital_signature"),
    "an issuer allows no CA below it": changed(2, path_length=0),
    "an issuer names another issuer": changed(2, issuer="Somebody else"),
    "an issuer was signed by another key": changed(2, signer="Somebody else"),
    "the GPU's certificate was signed by another key": changed(0, signer="Somebody else"),
    "a weak hash": changed(2, hash_=hashes.SHA224()),
    "a weak curve": changed(2, curve=ec.SECP256K1()),
    "a critical extension that nobody knows": changed(0, critical=True),
}


@pytest.mark.parametrize("case", BAD_CHAINS)
def test_a_chain_with_a_fault_is_refused(case: str) -> None:
    """Adversaries 35, 36, 89: each alone is enough."""
    assert refused(NvidiaChainError, **by(BAD_CHAINS[case])) == "nvidia:chain:invalid"


def test_a_path_length_that_is_kept_is_no_fault() -> None:
    """One CA below is one."""
    assert verify(**by(changed(2, path_length=1))).nonce == NONCE
    assert verify(**by(changed(2, usage=None))).nonce == NONCE


@pytest.mark.parametrize("at", range(5))
def test_every_certificate_has_to_be_valid_now(at: int) -> None:
    """From its first second to its last, also the root and the year 9999."""
    links = changed(at, start=NOW, end=NOW + SECOND)
    assert verify(**by(links, now=NOW + SECOND)).nonce == NONCE
    for now in (NOW - SECOND, NOW + 2 * SECOND):
        assert refused(NvidiaExpiredError, **by(links, now=now)) == "nvidia:chain:expired"
    assert verify(now=END).nonce == NONCE
    assert verify(now=START).nonce == NONCE


@pytest.mark.parametrize("at", range(5))
def test_a_revoked_certificate_is_refused(at: int) -> None:
    """By a list of its own issuer, and of nobody else."""
    issuer = (*LINKS[1:], LINKS[-1])[at]
    serial = LINKS[at].serial
    revoked = replace(GPU.trust, crls=(crl_of(issuer, serial),))
    assert refused(NvidiaRevokedError, trust=revoked) == "nvidia:chain:revoked"
    for crl in (crl_of(issuer, 1), crl_of(issuer, serial, signer="Somebody else")):
        assert verify(trust=replace(GPU.trust, crls=(crl,))).nonce == NONCE


def test_a_gpu_with_other_firmware_than_its_certificate_says_is_refused() -> None:
    """And one that keeps its firmware to itself."""
    rest = tuple(item for item in GPU.fields if item[0] != FIRMWARE_ID)
    for fields in (rest, (*rest, (FIRMWARE_ID, FWID[::-1])), (*rest, (FIRMWARE_ID, b""))):
        report = replace(GPU, fields=fields).report(NONCE)
        assert refused(NvidiaFirmwareIdError, report) == "nvidia:fwid:mismatch"


def test_a_certificate_without_firmware_vouches_for_none() -> None:
    """What the report says of it is not passed on."""
    assert verify(**by(changed(0, fwid=b""))).firmware_id == b""


SHA384 = bytes.fromhex("0609608648016503040202")
SHA256 = bytes.fromhex("0609608648016503040201")


def inside(content: bytes, levels: int = 1) -> bytes:
    """`content` in as many DER sequences."""
    for _ in range(levels):
        content = bytes([0x30, len(content)]) + content
    return content


NO_FIRMWARE = {
    "nothing": b"",
    "an empty sequence": b"\x30\x00",
    "no sequence": b"\x04\x00",
    "a sequence that is cut short": b"\x30\x03\x02\x01",
    "a digest by another hash": inside(SHA256 + b"\x04\x30" + FWID),
    "a digest that is shorter": inside(SHA384 + b"\x04\x20" + FWID[:32]),
    "a digest that is longer": inside(SHA384 + b"\x04\x31" + FWID + b"\0"),
    "a digest that is no byte string": inside(SHA384 + b"\x0c\x30" + FWID),
    "a digest far inside": inside(SHA384 + b"\x04\x30" + FWID, levels=10),
}


@pytest.mark.parametrize("case", NO_FIRMWARE)
def test_an_extension_that_names_no_firmware_is_malformed(case: str) -> None:
    """It is there to name some: what cannot be found in it is not passed over."""
    assert refused(MalformedError, **by(changed(0, tcb_info=NO_FIRMWARE[case])))


def test_firmware_is_found_as_far_inside_as_it_may_be() -> None:
    """Chips of several generations wrap it differently."""
    for levels in range(1, 10):
        value = inside(SHA384 + b"\x04\x30" + FWID, levels=levels)
        assert verify(**by(changed(0, tcb_info=value))).firmware_id == FWID


def test_a_gpu_whose_key_is_of_another_kind_is_refused() -> None:
    """Reports are signed on P-384."""
    assert refused(WeakKeyError, **by(changed(0, curve=ec.SECP256R1())))


# --- rules -------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "models": (LINKS[1].name,),
    "driver_versions": ("535.1", "550.90.07"),
    "vbios_versions": ("96.00.9F.00.01",),
    "measurements": {str(index): ("0" * 96, value.hex()) for index, value in GPU.measurements[:3]},
}


def codes(**changes: Any) -> list[str]:  # noqa: ANN401 - any field
    """What is found by these rules."""
    found = appraise_nvidia(verify(), rules=NvidiaRules(**(GOOD | changes)))
    assert all(FINDINGS[finding.code][0] is finding.severity for finding in found)
    return [finding.code for finding in found]


def test_a_gpu_as_the_rules_have_it_is_accepted() -> None:
    """Indices that the rules do not name are not looked at."""
    assert codes() == []


def test_what_the_rules_do_not_say_is_not_accepted() -> None:
    """Every field on its own."""
    assert appraise_nvidia(verify(), rules=NvidiaRules())
    for name in GOOD:
        rules = NvidiaRules(**{key: value for key, value in GOOD.items() if key != name})
        assert [finding.code for finding in appraise_nvidia(verify(), rules=rules)] == [
            "nvidia:absent"
        ]
    assert codes(measurements={}) == ["nvidia:absent"]


def test_every_finding_is_told() -> None:
    """Not the first alone."""
    assert codes(models=()) == ["nvidia:model"]
    assert codes(driver_versions=("550.90",)) == ["nvidia:driver"]
    assert codes(vbios_versions=("96",)) == ["nvidia:vbios"]
    assert (
        codes(measurements={"1": ("0" * 96,), "2": (), "99": ("0" * 96,)})
        == ["nvidia:measurement"] * 3
    )
    assert len(codes(models=(), driver_versions=(), vbios_versions=(), measurements={})) == 4


def test_rules_are_read_from_a_policy() -> None:
    """Digests and indices are held to their form, and there are no other fields."""
    assert msgspec.convert(GOOD, type=NvidiaRules) == NvidiaRules(**GOOD)
    policy = b'[measurements]\n1 = ["%s"]' % (b"0" * 96)
    assert msgspec.toml.decode(policy, type=NvidiaRules).measurements == {"1": ("0" * 96,)}
    for bad in (
        '[measurements]\n1 = ["xyz"]',
        "[measurements]\n0 = []",
        "model = []",
        '[measurements]\n1 = "%s"' % ("0" * 96),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.toml.decode(bad, type=NvidiaRules)
