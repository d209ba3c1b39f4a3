"""What hwtrust keeps in a TPM is made as it must be, found again, and taken out whole."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from tpm2_pytss import ESYS_TR, TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC
from tpm2_pytss.constants import TPM2_RH

from hwtrust.errors import (
    HwTrustError,
    MalformedError,
    TpmBankError,
    TpmError,
    TpmFailureModeError,
    TpmObjectConflictError,
    TpmOwnerAuthError,
    TpmTamperedError,
    TpmTransportError,
)
from hwtrust.testing import bus
from hwtrust.testing.faults import RC_FAILURE, At, Cut, Fault, FaultPlan, FaultyTcti, Respond
from hwtrust.testing.manufacture import write_certificate
from hwtrust.testing.swtpm import Swtpm
from hwtrust.tpm import commands, provision
from hwtrust.tpm.connection import Tpm
from hwtrust.tpm.discover import identify
from hwtrust.tpm.handles import Handles
from hwtrust.tpm.templates import EK_P256, EK_P384_HIGH, EK_RSA2048, STORAGE_KEY
from hwtrust.verify.roles import (
    require_attestation_key,
    require_endorsement_key,
    require_epoch_counter,
    require_storage_key,
)
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.codec import u8, u16, u32
from hwtrust.wire.policy import fold
from hwtrust.wire.protect import make_credential
from hwtrust.wire.root import counter_policy
from hwtrust.wire.structures import EccParams, NvAttributes, NvPublic, RsaParams
from simulators.anchored_tpm import AnchoredTpm, PolicyKey, loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hwtrust.tpm.templates import EkTemplate

HANDLES = Handles()
SECRET = b"S" * 32
FMT1_CURVE = 0x2E6  # TPM_RC_CURVE for parameter 2
RC_COMMAND_CODE = 0x143


@pytest.fixture
def opened(tpm: Swtpm) -> Iterator[Tpm]:
    """A connection to a new TPM; after the test nothing is loaded."""
    with Tpm(tpm.tcti) as made:
        yield made
        assert loaded(tpm) == {}


def activates(tpm: Tpm, template: EkTemplate) -> bool:
    """Whether a credential made for the EK of `template` and an AK comes back."""
    with provision.endorsement_key(tpm, template) as (_, ek):
        require_endorsement_key(ek)
    storage, _ = provision.make_storage_key(tpm, HANDLES.storage_key)
    ak, public = provision.make_attestation_key(tpm, HANDLES.ak, unique=bytes(32))
    credential = make_credential(ek, public.name, SECRET)
    recovered = provision.activate(
        tpm,
        template,
        ak,
        storage,
        id_object=credential.id_object,
        encrypted_secret=credential.encrypted_secret,
    )
    return recovered == SECRET


# --- endorsement keys ------------------------------------------------------------

EKS: dict[str, tuple[str, EkTemplate, bool]] = {
    "a P-256 certificate": ("ecc256", EK_P256, True),
    "an RSA-2048 certificate": ("rsa2048", EK_RSA2048, True),
    "no certificate": ("none", EK_P256, False),
}


@pytest.mark.parametrize("case", EKS)
def test_the_ek_that_the_vendor_certified_is_found_and_activates(
    case: str, tpm_factory: Callable[..., Swtpm]
) -> None:
    """The certificate tells which EK; with none it is P-256. A credential for it comes back."""
    algorithm, template, certified = EKS[case]
    swtpm = tpm_factory(algorithm=algorithm)
    with Tpm(swtpm.tcti) as tpm:
        found = provision.find_endorsement_key(tpm)
        assert found.template is template
        assert bool(found.certificate) is certified
        assert found.intermediates == ()
        assert activates(tpm, template)
        with provision.endorsement_key(tpm, template) as (_, ek):
            pass
        if certified:
            certificate = x509.load_der_x509_certificate(found.certificate)
            assert certificate.public_key() == ek.key()
        assert loaded(swtpm) == {}


def test_a_tpm_that_swtpm_setup_manufactured_has_a_p384_ek(tmp_path: Path) -> None:
    """Template H-3, as libvirt's virtual machines have it, is found and activates."""
    state, authority = tmp_path / "state", tmp_path / "ca"
    state.mkdir()
    authority.mkdir()
    files = ("signkey.pem", "issuercert.pem", "certserial")
    options = zip(("signingkey", "issuercert", "certserial"), files, strict=True)
    local_ca = [f"statedir = {authority}", *(f"{name} = {authority / at}" for name, at in options)]
    (tmp_path / "localca.conf").write_text("\n".join(local_ca) + "\n")
    (tmp_path / "options").write_text("")
    (tmp_path / "setup.conf").write_text(
        "create_certs_tool = /usr/bin/swtpm_localca\n"
        f"create_certs_tool_config = {tmp_path / 'localca.conf'}\n"
        f"create_certs_tool_options = {tmp_path / 'options'}\n"
    )
    try:
        made = subprocess.run(
            [
                *("swtpm_setup", "--tpm2", "--tpmstate", str(state), "--create-ek-cert"),
                *("--pcr-banks", "sha256", "--config", str(tmp_path / "setup.conf")),
                *("--logfile", str(tmp_path / "log")),
            ],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("swtpm_setup is not installed (Debian: package swtpm-tools)")
    if made.returncode:
        log = tmp_path / "log"
        pytest.skip(f"swtpm_setup makes no certificates here: {log.read_text()[-300:]}")
    with Swtpm.start(state) as swtpm, Tpm(swtpm.tcti) as tpm:
        found = provision.find_endorsement_key(tpm)
        assert found.template is EK_P384_HIGH
        assert activates(tpm, found.template)
        with provision.endorsement_key(tpm, found.template) as (_, ek):
            pass
        assert x509.load_der_x509_certificate(found.certificate).public_key() == ek.key()
        assert provision.active_banks(tpm) == (Alg.SHA256,)
        assert loaded(swtpm) == {}


def test_intermediate_certificates_come_in_the_order_of_their_indices(
    tpm: Swtpm, opened: Tpm
) -> None:
    """Whatever a vendor put into 0x01C00100 and up goes with the EK certificate."""
    for index, content in [(0x01C00101, b"second" * 300), (0x01C00100, b"first")]:
        write_certificate(tpm.bus, index, content)
    found = provision.find_endorsement_key(opened)
    assert found.intermediates == (b"first", b"second" * 300)


def test_an_index_that_was_never_written_is_no_certificate(
    tpm_factory: Callable[..., Swtpm],
) -> None:
    """An empty place for a certificate, or a chain, does not stand in the way of the EK."""
    swtpm = tpm_factory(algorithm="rsa2048")
    with Tpm(swtpm.tcti) as tpm:
        attributes = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
        for index in (EK_P256.certificate_index, 0x01C00100):
            commands.nv_define(tpm, NvPublic(index, Alg.SHA256, attributes, b"", 100))
        found = provision.find_endorsement_key(tpm)
        assert found.template is EK_RSA2048
        assert found.intermediates == ()


GUARDED = NvAttributes.OWNERWRITE | NvAttributes.AUTHREAD
READABLE: dict[str, tuple[NvAttributes, bool]] = {
    "by its password, which counts towards the lockout": (GUARDED, False),
    "by a policy": (NvAttributes.OWNERWRITE | NvAttributes.POLICYREAD, False),
    "by its password and by the owner": (GUARDED | NvAttributes.OWNERREAD, True),
}


@pytest.mark.parametrize("case", READABLE)
def test_no_password_is_tried_on_a_vendor_s_index_that_counts_it(
    case: str, tpm_factory: Callable[..., Swtpm]
) -> None:
    """Whoever looks for a certificate brings the TPM no nearer to its lockout."""
    attributes, read = READABLE[case]
    swtpm = tpm_factory(algorithm="rsa2048")
    with Tpm(swtpm.tcti) as tpm:
        area = NvPublic(EK_P256.certificate_index, Alg.SHA256, attributes, b"", 8).encode()
        public, _ = TPMS_NV_PUBLIC.unmarshal(area)
        index = tpm.esapi.nv_define_space(b"vendor's", TPM2B_NV_PUBLIC(nvPublic=public))
        tpm.esapi.nv_write(index, b"contents", auth_handle=ESYS_TR.OWNER)
        before = identify(tpm)
        found = provision.find_endorsement_key(tpm)
        after = identify(tpm)
        assert after.lockout_counter == before.lockout_counter
        assert found.template is (EK_P256 if read else EK_RSA2048)
        assert (found.certificate == b"contents") is read


CREDENTIALS: dict[str, Callable[[bytes], bytes]] = {
    "changed": lambda blob: bytes([*blob[:-1], blob[-1] ^ 1]),
    "cut short": lambda blob: blob[:-1],
    "empty": lambda _: b"",
    "longer than any": lambda _: bytes(5000),
    "longer than can be said": lambda _: bytes(70000),
}


@pytest.mark.parametrize("part", ["id_object", "encrypted_secret"])
@pytest.mark.parametrize("case", CREDENTIALS)
def test_a_credential_that_is_none_is_an_error_of_the_tree(
    anchored: AnchoredTpm, case: str, part: str
) -> None:
    """What a backend sends is data: any bytes end in a typed error, and nothing stays loaded."""
    tpm = anchored.tpm
    with provision.endorsement_key(tpm, EK_P256) as (_, ek):
        pass
    credential = make_credential(ek, anchored.ak_public.name, SECRET)
    parts = {
        "id_object": credential.id_object,
        "encrypted_secret": credential.encrypted_secret,
    }
    parts[part] = CREDENTIALS[case](parts[part])
    with pytest.raises(HwTrustError) as caught:
        provision.activate(tpm, EK_P256, anchored.ak, anchored.storage, **parts)
    assert isinstance(caught.value, TpmError | MalformedError)
    assert loaded(anchored.swtpm) == {}


def test_a_credential_for_another_key_does_not_come_back(anchored: AnchoredTpm) -> None:
    """The TPM itself holds the credential against the AK's Name (39)."""
    tpm = anchored.tpm
    with provision.endorsement_key(tpm, EK_P256) as (_, ek):
        pass
    credential = make_credential(ek, anchored.storage.name, SECRET)
    with pytest.raises(TpmError) as caught:
        provision.activate(
            tpm,
            EK_P256,
            anchored.ak,
            anchored.storage,
            id_object=credential.id_object,
            encrypted_secret=credential.encrypted_secret,
        )
    assert caught.value.code == "tpm:command:failed"
    assert loaded(anchored.swtpm) == {}


@pytest.mark.parametrize("template", [EK_P256, EK_RSA2048, EK_P384_HIGH])
def test_activation_leaves_nothing_loaded_wherever_it_fails(
    anchored: AnchoredTpm, template: EkTemplate
) -> None:
    """Each command of an activation breaks once; the slots are free, and it works again."""
    tpm = anchored.tpm
    with provision.endorsement_key(tpm, template) as (_, ek):
        pass
    credential = make_credential(ek, anchored.ak_public.name, SECRET)
    parts = {
        "id_object": credential.id_object,
        "encrypted_secret": credential.encrypted_secret,
    }
    with anchored.counted() as (counted, counting):
        # The first time the TPM may test an algorithm, and ask to be asked again.
        for _ in range(2):
            counting.reset()
            assert provision.activate(counted, template, anchored.ak, anchored.storage, **parts)
        number = counting.total
    assert number > 3
    for nth in range(1, number + 1):
        with anchored.through(At(Cut("after"), nth=nth)) as broken:
            with pytest.raises(TpmTransportError):
                provision.activate(broken, template, anchored.ak, anchored.storage, **parts)
            assert loaded(anchored.swtpm) == {}
            again = provision.activate(broken, template, anchored.ak, anchored.storage, **parts)
            assert again == SECRET


# --- keys ------------------------------------------------------------------------


def test_keys_have_the_attributes_of_their_roles(anchored: AnchoredTpm) -> None:
    """What the device makes is what the backend requires (29, 40)."""
    require_attestation_key(anchored.ak_public)
    require_storage_key(anchored.storage_public)
    assert isinstance(anchored.ak_public.params, EccParams)
    assert anchored.ak.name == anchored.ak_public.name
    assert anchored.storage.name == anchored.storage_public.name


def test_keys_are_the_same_when_made_again(anchored: AnchoredTpm) -> None:
    """A second try finds the first one's keys, and writes nothing."""
    storage, _ = provision.make_storage_key(anchored.tpm, anchored.handles.storage_key)
    ak, _ = provision.make_attestation_key(anchored.tpm, anchored.handles.ak, unique=bytes(32))
    assert (storage, ak) == (anchored.storage, anchored.ak)


def test_another_enrolment_nonce_makes_another_attestation_key(opened: Tpm) -> None:
    """The AK is of one enrolment."""
    first, _ = provision.make_attestation_key(opened, 0x81018048, unique=b"1" * 32)
    second, _ = provision.make_attestation_key(opened, 0x81018049, unique=b"2" * 32)
    assert first.name != second.name


REFUSALS = {"the curve": FMT1_CURVE, "a value": 0x1C4, "the command": RC_COMMAND_CODE}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_tpm_without_p256_gets_rsa_keys(tpm: Swtpm, case: str) -> None:
    """Where the TPM does not take the curve, EK, storage key and AK are RSA-2048."""
    plan = FaultPlan(At(Respond(REFUSALS[case]), command="TPM2_TestParms", times=None))
    with Tpm(tpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as opened:
        storage, storage_public = provision.make_storage_key(opened, HANDLES.storage_key)
        ak, ak_public = provision.make_attestation_key(opened, HANDLES.ak, unique=bytes(32))
        assert isinstance(storage_public.params, RsaParams)
        assert isinstance(ak_public.params, RsaParams)
        require_storage_key(storage_public)
        require_attestation_key(ak_public)
        with provision.endorsement_key(opened, EK_RSA2048) as (_, ek):
            pass
        credential = make_credential(ek, ak_public.name, SECRET)
        recovered = provision.activate(
            opened,
            EK_RSA2048,
            ak,
            storage,
            id_object=credential.id_object,
            encrypted_secret=credential.encrypted_secret,
        )
        assert recovered == SECRET
        assert plan.done
        assert loaded(tpm) == {}


def test_a_tpm_without_p256_and_without_certificate_has_an_rsa_ek(
    tpm_factory: Callable[..., Swtpm],
) -> None:
    """The default EK is what the TPM can make."""
    swtpm = tpm_factory(algorithm="none")
    plan = FaultPlan(At(Respond(FMT1_CURVE), command="TPM2_TestParms"))
    with Tpm(swtpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as tpm:
        assert provision.find_endorsement_key(tpm).template is EK_RSA2048
    assert plan.done


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(Cut("before"), TpmTransportError), (Respond(RC_FAILURE), TpmFailureModeError)],
)
def test_a_tpm_in_trouble_is_not_taken_for_one_without_p256(
    anchored: AnchoredTpm,
    fault: Fault,
    expected: type[TpmError],
) -> None:
    """A broken connection makes no RSA keys."""
    with anchored.through(At(fault, command="TPM2_TestParms")) as tpm, pytest.raises(expected):
        provision.has_p256(tpm)


def foreign_key(tpm: Tpm, handle: int) -> bytes:
    """Put a key that is not hwtrust's at `handle`; gives its Name."""
    made, public = commands.create_primary(tpm, TPM2_RH.ENDORSEMENT, EK_P256.public)
    with tpm.flushing(made):
        commands.evict_control(tpm, made, handle)
    return public.name


def test_a_handle_that_holds_something_else_is_a_conflict_and_left_alone(opened: Tpm) -> None:
    """Another program's key is never overwritten."""
    name = foreign_key(opened, HANDLES.storage_key)
    for make in (
        lambda: provision.make_storage_key(opened, HANDLES.storage_key),
        lambda: provision.make_attestation_key(opened, HANDLES.storage_key, unique=bytes(32)),
        lambda: provision.require_free(opened, HANDLES),
    ):
        with pytest.raises(TpmObjectConflictError) as caught:
            make()
        assert caught.value.code == "tpm:object:conflict"
        assert caught.value.data["handle"] == HANDLES.storage_key
    opened.unpin(HANDLES.storage_key)
    assert opened.pin(HANDLES.storage_key).name == name


def test_a_counter_does_not_take_the_place_of_another_index(opened: Tpm) -> None:
    """An NV index that is there is refused by the TPM, and keeps its content."""
    attributes = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    public = NvPublic(HANDLES.counter, Alg.SHA256, attributes, b"", 8)
    index = commands.nv_define(opened, public)
    opened.call("TPM2_NV_Write", opened.esapi.nv_write, index, b"theirs!!", auth_handle=index)
    with pytest.raises(TpmObjectConflictError):
        provision.require_free(opened, HANDLES)
    policy = counter_policy(PolicyKey().public, b"\x00\x0b" + bytes(32))
    with pytest.raises(TpmError):
        provision.define_counter(opened, HANDLES.counter, policy=policy)
    assert commands.nv_read(opened, index, 8) == b"theirs!!"


def inventory(tpm: Tpm) -> tuple[frozenset[int], frozenset[int]]:
    """What is kept in a TPM."""
    return provision.persistent_handles(tpm), provision.nv_indices(tpm)


def test_removing_leaves_the_tpm_as_it_was(tpm: Swtpm, opened: Tpm) -> None:
    """Everything that hwtrust put there goes, and nothing else; twice is harmless."""
    name = foreign_key(opened, 0x81000001)
    before = inventory(opened)
    provision.require_free(opened, HANDLES)
    with AnchoredTpm(tpm) as anchored:
        assert provision.occupied(anchored.tpm, HANDLES) == (
            HANDLES.ak,
            HANDLES.storage_key,
            HANDLES.counter,
        )
        provision.remove(anchored.tpm, HANDLES)
        provision.remove(anchored.tpm, HANDLES)
        assert loaded(tpm) == {}
    assert inventory(opened) == before
    assert opened.pin(0x81000001).name == name
    provision.require_free(opened, HANDLES)
    with AnchoredTpm(tpm):
        assert provision.occupied(opened, HANDLES)


@pytest.mark.parametrize("nth", range(1, 9))
def test_removing_goes_on_where_it_was_interrupted(anchored: AnchoredTpm, nth: int) -> None:
    """Cut off at any command, the next try finishes."""
    plan = FaultPlan(At(Cut("after"), nth=nth))
    with Tpm(anchored.swtpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as tpm:
        with pytest.raises(TpmTransportError):
            provision.remove(tpm, HANDLES)
        assert plan.done
        assert loaded(anchored.swtpm) == {}
        provision.remove(tpm, HANDLES)
        assert provision.occupied(tpm, HANDLES) == ()


# --- the owner's password --------------------------------------------------------

OWNER_PASSWORDS = {"missing": b"", "wrong": b"not that one"}
RIGHT = b"correct horse"

OWNER_COMMANDS: dict[str, Callable[[Tpm], object]] = {
    "making a storage key": lambda tpm: provision.make_storage_key(tpm, HANDLES.storage_key),
    "persisting a key": lambda tpm: foreign_key(tpm, HANDLES.ak),
    "defining a counter": lambda tpm: provision.define_counter(
        tpm, HANDLES.counter, policy=counter_policy(PolicyKey().public, b"")
    ),
    "setting the clock": lambda tpm: commands.clock_set(tpm, 2**41),
}


@pytest.mark.parametrize("password", OWNER_PASSWORDS)
@pytest.mark.parametrize("case", OWNER_COMMANDS)
def test_what_needs_the_owner_says_that_its_password_is_missing_or_wrong(
    case: str, password: str, tpm_factory: Callable[..., Swtpm]
) -> None:
    """The error names the password, changes nothing, and leaves nothing loaded."""
    swtpm = tpm_factory(owner_auth=RIGHT)
    with Tpm(swtpm.tcti, owner_auth=OWNER_PASSWORDS[password]) as tpm:
        before = inventory(tpm)
        with pytest.raises(TpmOwnerAuthError) as caught:
            OWNER_COMMANDS[case](tpm)
        assert caught.value.code == "tpm:owner:auth"
        assert "horse" not in str(caught.value)
        assert inventory(tpm) == before
        assert loaded(swtpm) == {}


def test_with_the_owners_password_everything_works(tpm_factory: Callable[..., Swtpm]) -> None:
    """Set up, clock and removal; a wrong password on the way removes nothing."""
    swtpm = tpm_factory(owner_auth=RIGHT)
    with AnchoredTpm(swtpm, owner_auth=RIGHT) as anchored:
        commands.clock_set(anchored.tpm, 2**41)
        with Tpm(swtpm.tcti, owner_auth=b"wrong") as intruder:
            with pytest.raises(TpmOwnerAuthError):
                provision.remove(intruder, HANDLES)
            with pytest.raises(TpmOwnerAuthError):
                commands.nv_undefine(intruder, HANDLES.counter)
        assert len(provision.occupied(anchored.tpm, HANDLES)) == 3
        provision.remove(anchored.tpm, HANDLES)
        assert provision.occupied(anchored.tpm, HANDLES) == ()


def test_the_endorsement_hierarchys_password_is_not_called_the_owners(
    tpm: Swtpm, opened: Tpm
) -> None:
    """A device whose endorsement hierarchy is locked is told no wrong cause."""
    tpm.bus.run(
        bus.HIERARCHY_CHANGE_AUTH,
        u16(6) + b"locked",
        handles=(bus.ENDORSEMENT,),
        passwords=(b"",),
    )
    with pytest.raises(TpmError) as caught:
        provision.make_attestation_key(opened, HANDLES.ak, unique=bytes(32))
    assert caught.value.code == "tpm:command:failed"


# --- the counter -----------------------------------------------------------------


def test_the_counter_is_an_epoch_counter(anchored: AnchoredTpm) -> None:
    """Type, attributes and policy are those that the backend requires (41)."""
    tpm = anchored.tpm
    public = commands.nv_read_public(tpm, tpm.at(anchored.counter))
    policy = fold(counter_policy(anchored.key.public, anchored.device))
    require_epoch_counter(public, policy=policy)
    assert NvAttributes.ORDERLY not in public.attributes
    assert public.name == anchored.counter.name


def test_counting_is_not_lost_by_a_power_cut(anchored: AnchoredTpm) -> None:
    """The counter is not orderly: after a power cut it stands where it stood (64)."""
    anchored.count(anchored.leave(anchored.epoch))
    anchored.swtpm.power_cut()
    with Tpm(anchored.swtpm.tcti) as tpm:
        assert provision.read_counter(tpm, anchored.counter) == anchored.epoch + 1


def test_the_first_count_changes_the_counters_name(anchored: AnchoredTpm) -> None:
    """The pin that comes back is the one to keep; the earlier one is refused."""
    provision.remove(anchored.tpm, HANDLES)
    storage, _ = provision.make_storage_key(anchored.tpm, HANDLES.storage_key)
    anchored.storage = storage
    policy = counter_policy(anchored.key.public, anchored.device)
    fresh = provision.define_counter(anchored.tpm, HANDLES.counter, policy=policy)
    counted = anchored.count(anchored.leave(None, counter=fresh), counter=fresh)
    assert counted.name != fresh.name
    with Tpm(anchored.swtpm.tcti) as tpm:
        assert provision.read_counter(tpm, counted) > anchored.epoch
        with pytest.raises(TpmObjectConflictError):
            tpm.require(fresh)


# --- banks and lists -------------------------------------------------------------


@pytest.mark.parametrize(
    ("banks", "expected"),
    [
        (("sha256",), {Alg.SHA256}),
        (("sha1", "sha256"), {Alg.SHA1, Alg.SHA256}),
        (("sha256", "sha384", "sha512"), {Alg.SHA256, Alg.SHA384, Alg.SHA512}),
    ],
)
def test_the_banks_are_those_that_are_allocated(
    banks: tuple[str, ...], expected: set[Alg], tpm_factory: Callable[..., Swtpm]
) -> None:
    """Implemented and not allocated is not a bank."""
    with Tpm(tpm_factory(banks=banks).tcti) as tpm:
        assert set(provision.active_banks(tpm)) == expected


def test_a_tpm_without_a_sha256_bank_is_refused(tpm_factory: Callable[..., Swtpm]) -> None:
    """SHA-1 alone is not trusted."""
    with Tpm(tpm_factory(banks=("sha1",)).tcti) as tpm:
        with pytest.raises(TpmBankError) as caught:
            provision.active_banks(tpm)
        assert caught.value.code == "tpm:bank:unusable"


class ForEver:
    """Answers TPM2_GetCapability with the same handle and the promise of more."""

    def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
        """Answer."""
        del request, forward
        body = u8(1) + u32(1) + u32(1) + u32(0x81000001)
        return u16(0x8001) + u32(10 + len(body)) + u32(0) + body


def test_a_list_of_handles_without_end_ends(tpm: Swtpm) -> None:
    """A TPM, or a bus, that promises more for ever does not hang the device."""
    plan = FaultPlan(At(ForEver(), command="TPM2_GetCapability", times=None))
    with Tpm(tpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as opened:
        with pytest.raises(TpmTamperedError) as caught:
            provision.persistent_handles(opened)
        assert caught.value.code == "tpm:response:tampered"


class Nothing:
    """Answers TPM2_NV_Read with no bytes."""

    def apply(self, request: bytes, forward: Callable[[bytes], bytes]) -> bytes:
        """Answer."""
        del request, forward
        body = u32(2) + u16(0) + u16(0) + b"\x01" + u16(0)
        return u16(0x8002) + u32(10 + len(body)) + u32(0) + body


def test_an_index_that_reads_as_nothing_for_ever_ends(anchored: AnchoredTpm) -> None:
    """Reading NV does not wait for bytes that never come."""
    plan = FaultPlan(At(Nothing(), command="TPM2_NV_Read", times=None))
    with Tpm(anchored.swtpm.tcti, wrap=lambda inner: FaultyTcti(inner, plan)) as tpm:
        with pytest.raises(TpmTamperedError) as caught:
            provision.read_counter(tpm, anchored.counter)
        assert caught.value.code == "tpm:response:tampered"


def test_more_handles_than_one_answer_holds_are_all_found(tpm: Swtpm, opened: Tpm) -> None:
    """Lists are read to their end."""
    attributes = NvAttributes.AUTHWRITE | NvAttributes.AUTHREAD | NvAttributes.NO_DA
    wanted = set(range(0x01800000, 0x01800000 + 10))
    for index in wanted:
        commands.nv_define(opened, NvPublic(index, Alg.SHA256, attributes, b"", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provision, "_HANDLES_A_READ", 3)
        assert wanted <= provision.nv_indices(opened)


def test_a_storage_key_is_what_its_template_says(anchored: AnchoredTpm) -> None:
    """Nothing of the template is lost on the way to the TPM and back."""
    assert replace(anchored.storage_public, unique=STORAGE_KEY.unique) == STORAGE_KEY
