"""The templates give the keys that vendors certified, and keys that cannot leave the TPM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_PUBLIC,
)

from hwtrust.errors import EkChainError
from hwtrust.testing.swtpm import Swtpm, installed
from hwtrust.tpm import templates
from hwtrust.tpm.templates import (
    EK_P256,
    EK_P256_HIGH,
    EK_P384_HIGH,
    EK_RSA2048,
    EK_RSA2048_HIGH,
    EK_TEMPLATES,
    STORAGE_KEY,
    STORAGE_KEY_RSA,
    TLS_KEY,
    TLS_KEY_RSA,
    EkTemplate,
    ak_template,
    ak_template_rsa,
)
from hwtrust.verify.ek import EkTrust, verify_ek_certificate
from hwtrust.wire.algorithms import Alg, digest_size, new_hash
from hwtrust.wire.codec import tpm2b, u16, u32
from hwtrust.wire.structures import EccPoint, ObjectAttributes, Public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RH_ENDORSEMENT = 0x4000_000B
NONCE = bytes(range(32))

needs_swtpm = pytest.mark.skipif(not installed(), reason="swtpm is not installed")


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where `program` is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@dataclass
class SoftTpm:
    """A software TPM with a connection to it."""

    esapi: ESAPI
    tcti: str

    def create_primary(self, hierarchy: ESYS_TR, template: Public) -> tuple[ESYS_TR, Public]:
        """TPM2_CreatePrimary, Part 3 §24.1."""
        area, _ = TPMT_PUBLIC.unmarshal(template.encode())
        handle, public, *_ = self.esapi.create_primary(
            TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(area), hierarchy
        )
        return handle, Public.decode_sized(public.marshal())

    def nv_read(self, index: int) -> bytes:
        """All that an NV index holds."""
        handle = self.esapi.tr_from_tpmpublic(index)
        public, _ = self.esapi.nv_read_public(handle)
        size, content = public.nvPublic.dataSize, b""
        while len(content) < size:
            step = min(512, size - len(content))
            content += bytes(self.esapi.nv_read(handle, step, len(content)))
        return content


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftTpm]:
    """A new software TPM."""
    with Swtpm.start(tmp_path) as software, ESAPI(software.tcti) as esapi:
        yield SoftTpm(esapi, software.tcti)


# --- the profile ------------------------------------------------------------------


def policy_a(alg: Alg) -> bytes:
    """TPM2_PolicySecret with the endorsement hierarchy, Part 3 §23.4."""
    empty = bytes(digest_size(alg))
    step = new_hash(alg, empty + u32(0x151) + u32(RH_ENDORSEMENT))
    return new_hash(alg, step)


def policy_c(alg: Alg, index: int) -> bytes:
    """TPM2_PolicyAuthorizeNV with the profile's policy index, Part 3 §23.22."""
    public = u32(index) + u16(alg) + u32(0x220F_1008) + tpm2b(policy_a(alg))
    name = u16(alg) + new_hash(alg, public + u16(2 + digest_size(alg)))
    return new_hash(alg, bytes(digest_size(alg)) + u32(0x192) + name)


@pytest.mark.parametrize(
    ("alg", "index", "a", "b", "c"),
    [
        (
            Alg.SHA256,
            0x01C0_7F01,
            templates.POLICY_A_SHA256,
            templates.POLICY_B_SHA256,
            templates.POLICY_C_SHA256,
        ),
        (
            Alg.SHA384,
            0x01C0_7F02,
            templates.POLICY_A_SHA384,
            templates.POLICY_B_SHA384,
            templates.POLICY_C_SHA384,
        ),
    ],
)
def test_the_ek_policies_are_what_the_profile_describes(
    alg: Alg, index: int, a: bytes, b: bytes, c: bytes
) -> None:
    """Each constant is the digest of its description: secret, authorised by NV, one of both."""
    assert a == policy_a(alg)
    assert c == policy_c(alg, index)
    assert b == new_hash(alg, bytes(digest_size(alg)) + u32(0x171) + a + c)


def test_the_rsa_template_is_the_one_that_tools_write(vectors: Path) -> None:
    """The default RSA template is the profile's, to the byte."""
    published = (vectors / "tpm-structs/tpm2-tools/ek-template-default.bin").read_bytes()
    assert EK_RSA2048.public.encode() == published


@pytest.mark.parametrize(
    ("template", "vector"),
    [
        (EK_RSA2048, "keylime/ek-low-range-template-rsa.tpm2b_public"),
        (EK_P256, "keylime/ek-low-range-template-ecc.tpm2b_public"),
        (EK_RSA2048, "vm-ek-rsa.tpm2b_public"),
        (EK_P256, "vm-ek-ecc.tpm2b_public"),
    ],
)
def test_real_eks_differ_from_their_template_in_the_key_alone(
    vectors: Path, template: EkTemplate, vector: str
) -> None:
    """Everything but `unique` of an EK is what the template asks for."""
    ek = Public.decode_sized((vectors / "tpm-structs" / vector).read_bytes())
    size = len(ek.encode()) - (256 if ek.type is Alg.RSA else 66)
    assert ek.encode()[:size] == template.public.encode()[:size]
    assert ek.unique != template.public.unique


def test_the_nv_indices_are_those_of_the_profile() -> None:
    """Certificates are looked for where vendors put them; no two templates share one."""
    assert {t.profile: t.certificate_index for t in EK_TEMPLATES} == {
        "L-1": 0x01C0_0002,
        "L-2": 0x01C0_000A,
        "H-1": 0x01C0_0012,
        "H-2": 0x01C0_0014,
        "H-3": 0x01C0_0016,
    }
    used = [i for t in EK_TEMPLATES for i in (t.certificate_index, t.template_index, t.nonce_index)]
    known = [index for index in used if index is not None]
    assert len(known) == len(set(known)) == 12


@needs_swtpm
@needs("tpm2_createek")
@pytest.mark.parametrize(
    ("template", "algorithm"), [(EK_RSA2048, "rsa2048"), (EK_P256, "ecc256")], ids=["L-1", "L-2"]
)
def test_the_low_range_eks_are_those_that_tpm2_createek_makes(
    tpm: SoftTpm, tmp_path: Path, template: EkTemplate, algorithm: str
) -> None:
    """Another implementation of the profile creates the same key."""
    public = tmp_path / "ek.pub"
    command = ["tpm2_createek", "-G", algorithm, "-c", str(tmp_path / "ek.ctx"), "-u", str(public)]
    environment = {**os.environ, "TPM2TOOLS_TCTI": tpm.tcti}
    tpm.esapi.close()
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=60)
    with ESAPI(tpm.tcti) as esapi:
        _, ek = SoftTpm(esapi, tpm.tcti).create_primary(ESYS_TR.ENDORSEMENT, template.public)
    assert ek.encode_sized() == public.read_bytes()


@needs_swtpm
@needs("swtpm_setup")
@pytest.mark.parametrize("template", [EK_P384_HIGH, EK_RSA2048], ids=["H-3", "L-1"])
def test_the_eks_are_those_that_swtpm_setup_certifies(tmp_path: Path, template: EkTemplate) -> None:
    """The certificate that the TPM's manufacturer stored is for the key of the template.

    It also verifies, under the manufacturer's CA and under no other.
    """
    cas = certify(tmp_path)
    with Swtpm.start(tmp_path / "tpm") as software, ESAPI(software.tcti) as esapi:
        tpm = SoftTpm(esapi, software.tcti)
        stored = tpm.nv_read(template.certificate_index)
        _, ek = tpm.create_primary(ESYS_TR.ENDORSEMENT, template.public)
    certificate = x509.load_der_x509_certificate(stored)
    assert certificate.public_key() == ek.key()
    now = certificate.not_valid_before_utc + timedelta(days=1)
    found = verify_ek_certificate(stored, ek, trust=EkTrust.load(cas), now=now)
    assert found.model == "swtpm"
    with pytest.raises(EkChainError):
        verify_ek_certificate(stored, ek, trust=EkTrust.load([]), now=now)


def certify(directory: Path) -> list[bytes]:
    """Manufacture a software TPM with EK certificates in `directory`/tpm; gives the CAs."""
    (directory / "tpm").mkdir()
    authority = directory / "ca"
    authority.mkdir()
    (directory / "ca.conf").write_text(
        f"statedir={authority}\nsigningkey={authority}/key.pem\n"
        f"issuercert={authority}/ca.pem\ncertserial={authority}/serial\n"
    )
    (directory / "ca.options").write_text(
        "--platform-manufacturer hwtrust\n--platform-version 1.0\n--platform-model test\n"
    )
    (directory / "setup.conf").write_text(
        f"create_certs_tool={shutil.which('swtpm_localca')}\n"
        f"create_certs_tool_config={directory}/ca.conf\n"
        f"create_certs_tool_options={directory}/ca.options\n"
    )
    command = ["swtpm_setup", "--tpm2", "--config", str(directory / "setup.conf")]
    command += ["--tpmstate", str(directory / "tpm"), "--create-ek-cert", "--lock-nvram"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return [
        (authority / "ca.pem").read_bytes(),
        *(p.read_bytes() for p in authority.glob("*cert*")),
    ]


# --- our own keys -----------------------------------------------------------------

ANCHORED = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
)


@pytest.mark.parametrize(
    ("template", "role"),
    [
        pytest.param(
            STORAGE_KEY, ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT, id="storage"
        ),
        pytest.param(
            STORAGE_KEY_RSA,
            ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT,
            id="storage, RSA",
        ),
        pytest.param(
            ak_template(NONCE), ObjectAttributes.RESTRICTED | ObjectAttributes.SIGN, id="AK"
        ),
        pytest.param(
            ak_template_rsa(NONCE),
            ObjectAttributes.RESTRICTED | ObjectAttributes.SIGN,
            id="AK, RSA",
        ),
        pytest.param(TLS_KEY, ObjectAttributes.SIGN, id="TLS"),
        pytest.param(TLS_KEY_RSA, ObjectAttributes.SIGN, id="TLS, RSA"),
    ],
)
def test_our_keys_cannot_leave_the_tpm_and_do_one_thing(
    template: Public, role: ObjectAttributes
) -> None:
    """No key of ours is exportable, foreign, locked out by others, or fit for two roles."""
    manners = ObjectAttributes.USER_WITH_AUTH | ObjectAttributes.NO_DA
    assert template.attributes == ANCHORED | manners | role
    assert template.name_alg is Alg.SHA256


@needs_swtpm
@pytest.mark.parametrize(
    "make", [pytest.param(ak_template, id="P-256"), pytest.param(ak_template_rsa, id="RSA-2048")]
)
def test_the_enrolment_nonce_makes_the_ak(tpm: SoftTpm, make: Callable[[bytes], Public]) -> None:
    """The same nonce gives the same AK at every boot, another nonce another AK."""
    names = []
    for nonce in (NONCE, NONCE, bytes(32)):
        handle, public = tpm.create_primary(ESYS_TR.ENDORSEMENT, make(nonce))
        tpm.esapi.flush_context(handle)
        names.append(public.name)
    assert names[0] == names[1] != names[2]


@needs_swtpm
@pytest.mark.parametrize(
    ("parent", "child"),
    [
        pytest.param(STORAGE_KEY, TLS_KEY, id="P-256"),
        pytest.param(STORAGE_KEY_RSA, TLS_KEY_RSA, id="RSA-2048"),
    ],
)
def test_the_tls_key_is_made_and_loaded_under_the_storage_key(
    tpm: SoftTpm, parent: Public, child: Public
) -> None:
    """The storage key is a parent, and the TLS key signs."""
    handle, _ = tpm.create_primary(ESYS_TR.OWNER, parent)
    area, _ = TPMT_PUBLIC.unmarshal(child.encode())
    private, public, *_ = tpm.esapi.create(handle, TPM2B_SENSITIVE_CREATE(), TPM2B_PUBLIC(area))
    loaded = tpm.esapi.load(handle, private, public)
    made = Public.decode_sized(public.marshal())
    assert made.attributes == child.attributes
    assert made.params == child.params
    made.key()
    tpm.esapi.flush_context(loaded)


@needs_swtpm
def test_the_high_range_eks_are_keys_of_their_own(tpm: SoftTpm) -> None:
    """The templates of the two ranges give different keys: none can stand in for another."""
    names = set()
    for template in (EK_P256, EK_P256_HIGH, EK_RSA2048, EK_RSA2048_HIGH):
        handle, public = tpm.create_primary(ESYS_TR.ENDORSEMENT, template.public)
        tpm.esapi.flush_context(handle)
        key = public.unique
        names.add(key.x if isinstance(key, EccPoint) else key)
    assert len(names) == 4


def test_the_templates_need_no_tpm_stack() -> None:
    """Reading the templates does not load tpm2_pytss."""
    code = "import sys, hwtrust.tpm.templates; sys.exit('tpm2_pytss' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
