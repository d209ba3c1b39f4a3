"""A manufactured TPM carries the EK certificate that a vendor's TPM carries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_CAP, TPM2B_SENSITIVE_CREATE, TPMA_NV
from tpm2_pytss.TSS2_Exception import TSS2_Exception
from tpm2_pytss.utils import NVReadEK, create_ek_template

from hwtrust.errors import SoftwareTpmError
from hwtrust.testing.manufacture import (
    EK_CERTIFICATE_INDEX,
    OID_EK_CERTIFICATE,
    Algorithm,
    KeyAlgorithm,
    Vendor,
    create_ek,
    identify,
)
from hwtrust.testing.swtpm import Swtpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RC_NV_AUTHORIZATION = 0x149

ALGORITHMS = [
    pytest.param("ecc256", "EK-ECC256", id="an ECC TPM"),
    pytest.param("rsa2048", "EK-RSA2048", id="an RSA TPM"),
]


@pytest.fixture(scope="module")
def vendor() -> Vendor:
    """A vendor that opens at NOW."""
    return Vendor.create(now=NOW)


@pytest.fixture
def blank(tmp_path: Path) -> Iterator[Swtpm]:
    """A TPM that has not passed the vendor's line yet."""
    with Swtpm.start(tmp_path) as tpm:
        yield tpm


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes."""
    return certificate.public_bytes(Encoding.DER)


@pytest.mark.parametrize(("algorithm", "template"), ALGORITHMS)
def test_the_certificate_in_nv_is_for_the_ek_that_the_template_makes(
    vendor: Vendor, blank: Swtpm, algorithm: Algorithm, template: str
) -> None:
    """Another implementation finds the certificate, and the EK that it certifies."""
    issued = vendor.manufacture(blank, algorithm=algorithm)
    assert issued is not None
    with ESAPI(blank.tcti) as esapi:
        stored, public = create_ek_template(template, NVReadEK(esapi))
        handle, made, *_ = esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(), public, ESYS_TR.ENDORSEMENT
        )
        esapi.flush_context(handle)
    assert bytes(stored) == der(issued)
    in_certificate = issued.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert in_certificate == made.publicArea.to_der()


@pytest.mark.parametrize(("algorithm", "template"), ALGORITHMS)
def test_the_certificate_verifies_against_the_vendor_s_ca(
    vendor: Vendor, blank: Swtpm, algorithm: Algorithm, template: str
) -> None:
    """The chain in `ca_pem` is complete, and its signatures hold."""
    issued = vendor.manufacture(blank, algorithm=algorithm)
    assert issued is not None, template
    root, intermediate = x509.load_pem_x509_certificates(vendor.ca_pem)
    issued.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    for certificate in (root, intermediate, issued):
        assert certificate.not_valid_before_utc <= NOW < certificate.not_valid_after_utc


def test_another_vendor_s_ca_does_not_verify_it(vendor: Vendor, blank: Swtpm) -> None:
    """Two vendors of the same name are two vendors."""
    issued = vendor.manufacture(blank, algorithm="ecc256")
    assert issued is not None
    stranger = Vendor.create(now=NOW)
    with pytest.raises(InvalidSignature):
        issued.verify_directly_issued_by(stranger.intermediate)


@pytest.mark.parametrize(("algorithm", "template"), ALGORITHMS)
def test_the_certificate_has_the_fields_of_an_ek_certificate(
    vendor: Vendor, blank: Swtpm, algorithm: Algorithm, template: str
) -> None:
    """Subject, alternative name, usages and constraints are those of the TCG's profile."""
    issued = vendor.manufacture(blank, algorithm=algorithm)
    assert issued is not None, template
    assert len(list(issued.subject)) == 0

    extensions = issued.extensions
    san = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    (name,) = san.value.get_values_for_type(x509.DirectoryName)
    assert {attribute.oid.dotted_string: attribute.value for attribute in name} == {
        "2.23.133.2.1": "id:49424D00",
        "2.23.133.2.2": identify(blank.bus).model,
        "2.23.133.2.3": identify(blank.bus).version,
    }

    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_agreement == (algorithm == "ecc256")
    assert usage.value.key_encipherment == (algorithm == "rsa2048")
    assert not usage.value.digital_signature
    assert not usage.value.key_cert_sign

    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(extended) == [OID_EK_CERTIFICATE]
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    issuer = vendor.intermediate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert authority.key_identifier == issuer.value.digest


def test_the_certificate_names_the_specification(vendor: Vendor, blank: Swtpm) -> None:
    """The tPMSpecification of a TPM of family 2.0, level 0, revision 164."""
    issued = vendor.manufacture(blank, algorithm="ecc256")
    assert issued is not None
    attributes = issued.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_DIRECTORY_ATTRIBUTES)
    identity = identify(blank.bus)
    assert (identity.family, identity.level) == ("2.0", 0)
    assert isinstance(attributes.value, x509.UnrecognizedExtension)
    revision = identity.revision.to_bytes(2, "big")
    assert attributes.value.value == (
        bytes.fromhex("3019 3017 0605 6781050210 310e 300c 0c03 322e30 0201 00 0202") + revision
    )


def test_the_ca_certificates_can_issue_and_no_more(vendor: Vendor) -> None:
    """Root and intermediate are CAs; only EK certificates can follow the intermediate."""
    for certificate, depth in ((vendor.root, 1), (vendor.intermediate, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value.ca
        assert constraints.value.path_length == depth
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_cert_sign
        assert not usage.digital_signature


@pytest.mark.parametrize(("algorithm", "template"), ALGORITHMS)
def test_the_index_is_the_platform_s(
    vendor: Vendor, blank: Swtpm, algorithm: KeyAlgorithm, template: str
) -> None:
    """The owner can read the certificate and can neither change nor remove it."""
    vendor.manufacture(blank, algorithm=algorithm)
    with ESAPI(blank.tcti) as esapi:
        index = esapi.tr_from_tpmpublic(EK_CERTIFICATE_INDEX[algorithm])
        public, _ = esapi.nv_read_public(index)
        attributes = public.nvPublic.attributes & ~TPMA_NV.WRITTEN
        assert attributes == (
            TPMA_NV.PPWRITE
            | TPMA_NV.PPREAD
            | TPMA_NV.OWNERREAD
            | TPMA_NV.AUTHREAD
            | TPMA_NV.NO_DA
            | TPMA_NV.PLATFORMCREATE
        ), template
        size = public.nvPublic.dataSize
        assert size > 256
        esapi.nv_read(index, 16, auth_handle=ESYS_TR.OWNER)
        with pytest.raises(TSS2_Exception) as caught:
            esapi.nv_write(index, b"forged", auth_handle=ESYS_TR.OWNER)
        assert caught.value.rc == RC_NV_AUTHORIZATION
        with pytest.raises(TSS2_Exception) as caught:
            esapi.nv_undefine_space(index, ESYS_TR.OWNER)
        assert caught.value.rc == RC_NV_AUTHORIZATION


def test_a_tpm_without_a_certificate_has_an_ek_and_no_index(vendor: Vendor, blank: Swtpm) -> None:
    """`none` is a TPM whose vendor issued nothing."""
    assert vendor.manufacture(blank, algorithm="none") is None
    with ESAPI(blank.tcti) as esapi:
        # The list reads memory of the whole answer, which must be kept.
        capability = esapi.get_capability(TPM2_CAP.HANDLES, 0x0100_0000, 16)[1]
        assert len(capability.data.handles) == 0
    assert create_ek(blank.bus, "ecc256") == create_ek(blank.bus, "ecc256")


def test_nothing_is_left_loaded(vendor: Vendor, blank: Swtpm) -> None:
    """The line flushes what it loads: all three object slots are free."""
    vendor.manufacture(blank, algorithm="ecc256")
    with ESAPI(blank.tcti) as esapi:
        capability = esapi.get_capability(TPM2_CAP.HANDLES, 0x8000_0000, 16)[1]
        assert len(capability.data.handles) == 0


def test_a_tpm_passes_the_line_once(vendor: Vendor, blank: Swtpm) -> None:
    """A certificate is never replaced unnoticed."""
    vendor.manufacture(blank, algorithm="ecc256")
    with pytest.raises(SoftwareTpmError) as caught:
        vendor.manufacture(blank, algorithm="ecc256")
    assert caught.value.code == "testing:swtpm"
    assert caught.value.data["rc"] == 0x14C  # TPM_RC_NV_DEFINED


def test_the_certificate_survives_reboot_and_power_cut(vendor: Vendor, blank: Swtpm) -> None:
    """The vendor's index is no ordinary owner's memory: it is there after each reset."""
    issued = vendor.manufacture(blank, algorithm="ecc256")
    assert issued is not None
    for event in (blank.reboot, blank.power_cut):
        event()
        with ESAPI(blank.tcti) as esapi:
            stored = NVReadEK(esapi)(EK_CERTIFICATE_INDEX["ecc256"])
        assert bytes(stored) == der(issued)
        assert create_ek(blank.bus, "ecc256") == issued.public_key()
