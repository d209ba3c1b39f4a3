"""What a TPM signs is what the verifier believes, and no more.

A software TPM driven by tpm2-pytss: other tests make evidence with our own
encoder; nothing of ours takes part in making it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hwtrust.errors import CertifiedNameError, SelectionError, SignerError, StaleQuoteError
from hwtrust.testing.swtpm import Swtpm
from hwtrust.verify.certify import verify_certify, verify_nv_certify
from hwtrust.verify.quote import (
    ENDORSEMENT,
    OWNER,
    qualified_name,
    qualified_name_under,
    verify_quote,
)
from hwtrust.verify.roles import (
    require_attestation_key,
    require_epoch_counter,
    require_storage_key,
    require_tls_key,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.structures import NvPublic, PcrSelection, Public

tss = pytest.importorskip("tpm2_pytss")

NONCE = bytes(range(20))
INDEX = 0x0180_0100
MADE_INSIDE = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
ATTESTING = f"{MADE_INSIDE}|restricted|sign"


@pytest.fixture
def esapi(tpm: Swtpm) -> Iterator[Any]:
    """tpm2-tss on a TPM that nobody used before."""
    with tss.ESAPI(tpm.tcti) as context:
        yield context


def primary(esapi: Any, hierarchy: Any, algorithm: str, attributes: str) -> tuple[Any, Public]:  # noqa: ANN401
    """Make a primary key; give its handle and its public area, as we read it."""
    template = tss.TPM2B_PUBLIC.parse(algorithm, objectAttributes=attributes)
    handle, public, *_ = esapi.create_primary(
        tss.TPM2B_SENSITIVE_CREATE(), in_public=template, primary_handle=hierarchy
    )
    ours = Public.decode_sized(public.marshal())
    assert ours.encode_sized() == public.marshal()
    return handle, ours


def attesting(esapi: Any, algorithm: str = "ecc256:ecdsa-sha256:null") -> tuple[Any, Public]:  # noqa: ANN401
    """Make an attestation key in the endorsement hierarchy."""
    return primary(esapi, tss.ESYS_TR.ENDORSEMENT, algorithm, ATTESTING)


AKS = {
    "P-256": "ecc256:ecdsa-sha256:null",
    "RSASSA": "rsa2048:rsassa-sha256:null",
    "RSAPSS": "rsa2048:rsapss-sha256:null",
}


@pytest.mark.parametrize("algorithm", AKS.values(), ids=AKS)
def test_a_quote_verifies_and_for_nothing_else(esapi: Any, algorithm: str) -> None:  # noqa: ANN401
    """Two banks, the values that TPM2_PCR_Read gives, and the AK's qualified name."""
    handle, ak = attesting(esapi, algorithm)
    require_attestation_key(ak)
    selection = PcrSelection.parse("sha256:0,7,16+sha1:0,7,16")
    theirs = tss.TPML_PCR_SELECTION.parse(str(selection))
    esapi.pcr_event(tss.ESYS_TR.PCR16, b"measured")
    _, _, values = esapi.pcr_read(theirs)
    rest = iter(bytes(value) for value in values)
    pcrs = {bank: {number: next(rest) for number in numbers} for bank, numbers in selection.banks}
    message, signature = esapi.quote(handle, theirs, NONCE)

    def check(**changes: object) -> bytes:
        arguments: dict[str, Any] = {
            "key": ak,
            "nonce": NONCE,
            "selection": selection,
            "pcrs": pcrs,
            "signer": qualified_name(ak.name, hierarchy=ENDORSEMENT),
        }
        raw = bytes(message), signature.marshal()
        return verify_quote(*raw, **(arguments | changes)).pcrs[Alg.SHA256][16]

    assert check() == pcrs[Alg.SHA256][16] != bytes(32)
    with pytest.raises(SignerError):
        check(signer=qualified_name(ak.name, hierarchy=OWNER))
    with pytest.raises(StaleQuoteError):
        check(nonce=NONCE[:-1])
    with pytest.raises(SelectionError):
        check(selection=PcrSelection.parse("sha256:0,7,16"))


def test_certified_keys_have_the_names_that_we_compute(esapi: Any) -> None:  # noqa: ANN401
    """A storage key, a TLS key beneath it, and the path to both."""
    ak_handle, ak = attesting(esapi)
    signer = qualified_name(ak.name, hierarchy=ENDORSEMENT)
    storage_handle, storage = primary(
        esapi, tss.ESYS_TR.OWNER, "ecc256:aes128cfb", f"{MADE_INSIDE}|restricted|decrypt|noda"
    )
    require_storage_key(storage)
    template = tss.TPM2B_PUBLIC.parse("ecc256", objectAttributes=f"{MADE_INSIDE}|sign")
    private, public, *_ = esapi.create(
        storage_handle, tss.TPM2B_SENSITIVE_CREATE(), in_public=template
    )
    tls = Public.decode_sized(public.marshal())
    require_tls_key(tls)
    path = qualified_name(storage.name, hierarchy=OWNER)
    checks = [
        (storage_handle, storage, path),
        (
            esapi.load(storage_handle, private, public),
            tls,
            qualified_name_under(tls.name, parent=path),
        ),
    ]
    for handle, expected, qualified in checks:
        message, signature = esapi.certify(
            handle, ak_handle, NONCE, tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
        )
        arguments: dict[str, Any] = {"key": ak, "nonce": NONCE, "signer": signer}
        raw = bytes(message), signature.marshal()
        claims = verify_certify(*raw, **arguments, name=expected.name)
        assert claims.qualified_name == qualified
        with pytest.raises(CertifiedNameError):
            verify_certify(*raw, **arguments, name=ak.name)


def test_a_certified_counter_has_the_name_and_value_that_we_compute(esapi: Any) -> None:  # noqa: ANN401
    """Written under its policy alone, certified with all of its 8 bytes."""
    ak_handle, ak = attesting(esapi)

    def session(kind: Any) -> Any:  # noqa: ANN401
        """A session in which the policy holds."""
        handle = esapi.start_auth_session(
            tss.ESYS_TR.NONE,
            tss.ESYS_TR.NONE,
            kind,
            tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
            tss.TPM2_ALG.SHA256,
        )
        esapi.policy_command_code(handle, tss.TPM2_CC.NV_Increment)
        return handle

    trial = session(tss.TPM2_SE.TRIAL)
    policy = esapi.policy_get_digest(trial)
    esapi.flush_context(trial)
    index = esapi.nv_define_space(
        None,
        tss.TPM2B_NV_PUBLIC(
            nvPublic=tss.TPMS_NV_PUBLIC(
                nvIndex=INDEX,
                nameAlg=tss.TPM2_ALG.SHA256,
                attributes=tss.TPMA_NV.parse("nt=1|policywrite|authread|no_da"),
                authPolicy=policy,
                dataSize=8,
            )
        ),
    )
    esapi.nv_increment(index, index, session1=session(tss.TPM2_SE.POLICY))
    public, name = esapi.nv_read_public(index)
    counter = NvPublic.decode_sized(public.marshal())
    assert counter.name == bytes(name)
    require_epoch_counter(counter, policy=bytes(policy))
    value = bytes(esapi.nv_read(index, 8, auth_handle=index))
    arguments: dict[str, Any] = {
        "key": ak,
        "nonce": NONCE,
        "index_name": counter.name,
        "size": 8,
        "signer": qualified_name(ak.name, hierarchy=ENDORSEMENT),
    }
    scheme = tss.TPMT_SIG_SCHEME(scheme=tss.TPM2_ALG.NULL)
    message, signature = esapi.nv_certify(ak_handle, index, NONCE, scheme, 8, 0, index)
    claims = verify_nv_certify(bytes(message), signature.marshal(), **arguments)
    assert claims.contents == value
    assert claims.value == int.from_bytes(value, "big") > 0
    message, signature = esapi.nv_certify(ak_handle, index, NONCE, scheme, 7, 1, index)
    with pytest.raises(CertifiedNameError):
        verify_nv_certify(bytes(message), signature.marshal(), **arguments)
