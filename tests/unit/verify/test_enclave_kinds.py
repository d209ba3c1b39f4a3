"""`hwtrust.verify.enclaves.kinds`: evidence of every kind through one door."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from hwtrust.errors import EmptyNonceError, HwTrustError, MalformedError, StaleQuoteError
from hwtrust.errors.cmw import CmwError, CmwLabelError, CmwTypeError
from hwtrust.errors.dcap import (
    DcapCertificationError,
    DcapCollateralAbsentError,
    DcapReportDataError,
)
from hwtrust.errors.forms import EnclaveSoftwareError
from hwtrust.errors.nitro import NitroUserDataError
from hwtrust.errors.nvidia import NvidiaNonceError
from hwtrust.errors.snp import SnpChainError, SnpRevokedError
from hwtrust.verify.certificates import read_certificate
from hwtrust.verify.enclaves.kinds import (
    ABSENT,
    FINDINGS,
    EnclaveClaims,
    EnclaveRules,
    EnclaveTrust,
    Unsafe,
    appraise_enclave,
    gpu_nonce,
    verify_enclave,
    verify_parts,
)
from hwtrust.verify.enclaves.kinds_trust import certificates_in, crls_in
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.cmw import COMPOSITE, Collection, MediaType, Record, encode_cbor, encode_json
from hwtrust.wire.enclave import EnclaveKind
from hwtrust.wire.enclave_parts import (
    MEDIA_TYPES,
    EnclaveParts,
    kind_of,
    pem,
    pem_of_table,
    split_quote,
    unwrap,
    wrap,
)
from hwtrust.wire.enclaves.dcap import Collateral, Quote
from hwtrust.wire.enclaves.snp import Product, SigningKey
from hwtrust.wire.logs.firmware import EventType, FirmwareEvent
from hwtrust.wire.messages import Severity
from simulators.azure_vtpm import CHIP
from simulators.dcap_signer import DcapSigner, Platform, td_report
from simulators.enclaves import (
    GPU,
    INTEL,
    KINDS,
    MACHINES,
    NITRO,
    NOW,
    REPORT_DATA,
    TRUST,
    Machine,
)
from simulators.firmware_log import Firmware
from simulators.nitro_signer import USER_DATA
from simulators.snp_signer import Chip, root

OTHER = bytes(64)[:-1] + b"\1"
SNP = Machine(EnclaveKind.SNP)
AZURE = Machine(EnclaveKind.AZURE)


def verified(
    machine: Machine,
    evidence: str | bytes | None = None,
    *,
    kind: EnclaveKind | None = None,
    report_data: bytes = REPORT_DATA,
    trust: EnclaveTrust = TRUST,
) -> EnclaveClaims:
    """Claims of a machine's evidence."""
    return verify_enclave(
        machine.evidence() if evidence is None else evidence,
        kind=kind or machine.kind,
        report_data=report_data,
        now_ms=machine.now_ms,
        trust=trust,
    )


def with_parts(machine: Machine, **changes: bytes) -> str:
    """Evidence of a machine with other parts."""
    return wrap(msgspec.structs.replace(machine.parts(), **changes), kind=machine.kind)


# --- verification ------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_evidence_of_every_kind_verifies(machine: Machine) -> None:
    """What the device wraps the backend takes, and tells what it is."""
    claims = verified(machine)
    assert claims.kind is machine.kind
    assert claims.facts()["kind"] == machine.kind
    assert (claims.gpu is not None) is machine.has_gpu


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_evidence_for_other_report_data_is_refused(machine: Machine) -> None:
    """A replay, of whatever kind, does not answer."""
    with pytest.raises((StaleQuoteError, DcapReportDataError)):
        verified(machine, report_data=OTHER)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_verified_without_report_data(kind: EnclaveKind) -> None:
    """Report data that are empty, or not 64 bytes, are refused before anything is believed."""
    with pytest.raises(EmptyNonceError):
        verified(Machine(kind), report_data=b"")
    with pytest.raises(MalformedError):
        verified(Machine(kind), report_data=REPORT_DATA[:32])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_evidence_of_one_kind_is_not_taken_for_another(
    kind: EnclaveKind, other: EnclaveKind
) -> None:
    """The kind is the caller's; the label may neither differ nor lie about the bytes."""
    if kind is other:
        return
    machine = Machine(kind)
    with pytest.raises(CmwTypeError):
        verified(machine, kind=other)
    with pytest.raises(HwTrustError):
        verified(machine, wrap(machine.parts(), kind=other), kind=other)


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_of_strangers_is_refused(kind: EnclaveKind) -> None:
    """By default the vendors are trusted, and no fake under a test root."""
    with pytest.raises(HwTrustError):
        verified(Machine(kind), trust=EnclaveTrust())


def test_evidence_in_cbor_is_taken_as_in_json() -> None:
    """A collection has two encodings and one meaning."""
    parts = SNP.parts()
    items: dict[str | int, Record | Collection] = {
        "tee": Record(MediaType.SNP, parts.tee),
        "certificates": Record(MediaType.CERTIFICATE_CHAIN, parts.certificates),
    }
    assert verified(SNP, encode_cbor(Collection(items))).kind is EnclaveKind.SNP


def test_a_kind_that_is_not_known_is_refused() -> None:
    """No member of the enumeration: a coded error, and no KeyError."""
    with pytest.raises(HwTrustError) as refused:
        verify_parts(
            SNP.parts(),
            kind="sev",  # type: ignore[arg-type]
            challenge=REPORT_DATA,
            gpu_challenge=REPORT_DATA,
            now=NOW,
            trust=TRUST,
        )
    assert refused.value.code == "wire:unsupported"


def test_claims_are_made_by_verification_alone() -> None:
    """Nobody calls evidence authentic that was not verified."""
    with pytest.raises(TypeError):
        EnclaveClaims(
            kind=EnclaveKind.SNP,
            tee=None,
            gpu=None,
            firmware=None,
            registers={},
            extends=(),
            verified=object(),
        )


REGISTERS = {
    EnclaveKind.SNP: (),
    EnclaveKind.SGX: (),
    EnclaveKind.TDX: ("mrtd", "rtmr0", "rtmr3"),
    EnclaveKind.NITRO: ("pcr0",),
    EnclaveKind.CCA: ("rem0", "rem3"),
    EnclaveKind.AZURE: ("pcr0", "pcr15"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_register_has_the_name_that_the_device_gives_it(kind: EnclaveKind) -> None:
    """What is not there is None: nothing stands in for it."""
    claims = verified(Machine(kind))
    assert all(claims.register(name) for name in REGISTERS[kind])
    assert claims.register("pcr99") is None
    assert bool(claims.registers) is bool(REGISTERS[kind])


def test_a_pcr_that_any_program_resets_is_no_register() -> None:
    """The quote shows it, and what it holds says nothing of what was measured."""
    claims = verified(Machine(EnclaveKind.AZURE))
    assert {16, 23} <= claims.tee.quote.pcrs[Alg.SHA256].keys()
    assert claims.register("pcr16") is None
    assert claims.register("pcr23") is None


def test_who_goes_without_a_challenge_says_so() -> None:
    """`Unsafe.NO_NONCE` reaches the kind as its own spelling of it."""
    for machine in MACHINES.values():
        claims = verify_parts(
            machine.parts(OTHER),
            kind=machine.kind,
            challenge=Unsafe.NO_NONCE,
            gpu_challenge=Unsafe.NO_NONCE,
            now=machine.now,
            trust=TRUST,
        )
        assert claims.kind is machine.kind


# --- parts -------------------------------------------------------------------------

NEEDED = {
    ("snp", "certificates"): SNP,
    ("azure", "quote"): AZURE,
    ("azure", "pcrs"): AZURE,
    ("azure", "certificates"): AZURE,
    ("azure in a TD", "td_quote"): MACHINES["azure in a TD"],
    ("snp with a GPU", "gpu_certificates"): MACHINES["snp with a GPU"],
}


@pytest.mark.parametrize("case", NEEDED, ids=" without ".join)
def test_a_part_that_is_needed_and_missing_is_named(case: tuple[str, str]) -> None:
    """A coded error says which part it is."""
    machine, part = NEEDED[case], case[1]
    with pytest.raises(CmwLabelError) as refused:
        verified(machine, with_parts(machine, **{part: b""}))
    assert refused.value.data["part"] == part.replace("_", "-")


def tee(type_: str = MediaType.SNP) -> Record:
    """A part of that type."""
    return Record(type_, b"report")


WRAPPERS: dict[str, tuple[Record | Collection, type[HwTrustError]]] = {
    "one record": (tee(), CmwError),
    "nothing of a TEE": (Collection({"quote": tee()}), CmwLabelError),
    "a TEE that is a collection": (Collection({"tee": Collection({"x": tee()})}), CmwLabelError),
    "of another kind": (Collection({"tee": tee(MediaType.TDX)}), CmwTypeError),
    "of no kind": (Collection({"tee": tee("text/plain")}), CmwTypeError),
    "a part that is not known": (Collection({"tee": tee(), "x": tee()}), CmwLabelError),
    "a part of another type": (Collection({"tee": tee(), "gpu": tee()}), CmwTypeError),
    "a collection of something else": (Collection({"tee": tee()}, "urn:other"), CmwTypeError),
}


@pytest.mark.parametrize("case", WRAPPERS)
def test_what_is_wrapped_otherwise_is_refused(case: str) -> None:
    """One form, and no part that nobody would look at."""
    wrapper, error = WRAPPERS[case]
    with pytest.raises(error):
        unwrap(encode_json(wrapper), kind=EnclaveKind.SNP)


def test_text_that_is_none_is_refused() -> None:
    """A lone surrogate is no UTF-8."""
    with pytest.raises(MalformedError):
        unwrap("\ud800", kind=EnclaveKind.SNP)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_come_back_as_they_were_wrapped(kind: EnclaveKind) -> None:
    """Whatever is there, and nothing else."""
    parts = Machine(kind, has_gpu=True).parts()
    assert unwrap(wrap(parts, kind=kind), kind=kind) == parts


def test_a_collection_tells_its_kind() -> None:
    """By the media type of its part `tee`; one of none is refused."""
    for kind, media_type in MEDIA_TYPES.items():
        assert kind_of(Collection({"tee": tee(media_type)}, COMPOSITE)) is kind
    with pytest.raises(HwTrustError):
        kind_of(Collection({"tee": tee("text/plain")}))


def test_nothing_is_wrapped_without_the_report_of_the_tee() -> None:
    """An empty report is a failure."""
    with pytest.raises(CmwLabelError):
        wrap(EnclaveParts(tee=b""), kind=EnclaveKind.SNP)


def test_a_quote_is_message_and_signature_and_nothing_else() -> None:
    """Bytes behind them are refused."""
    with pytest.raises(MalformedError):
        split_quote(AZURE.parts().quote + b"\0")


def test_the_table_of_the_host_becomes_pem() -> None:
    """An empty table is the common one; one that points outside of itself is refused."""
    assert pem_of_table(b"") == b""
    assert certificates_in([pem_of_table(CHIP.table().encode())]) == CHIP.certificates()
    with pytest.raises(MalformedError):
        pem_of_table(b"\1" * 48)


# --- what an operator adds ---------------------------------------------------------


def test_certificates_that_the_host_lacks_the_operator_gives() -> None:
    """Of many chips and all products: the one of this report is found among them."""
    others = [
        certificate
        for chip in (
            Chip(Product.GENOA),
            Chip(Product.TURIN),
            *(Chip(Product.MILAN, seed=bytes([at])) for at in range(20)),
        )
        for certificate in chip.certificates()
    ]
    trust = replace(TRUST, certificates=certificates_in([*others, *CHIP.certificates()]))
    for machine in (SNP, AZURE):
        claims = verified(machine, with_parts(machine, certificates=b""), trust=trust)
        assert claims.kind is machine.kind


def test_a_key_s_certificate_of_the_operator_does_not_stand_beside_the_host_s() -> None:
    """Two of one kind would be refused; what came with the report counts."""
    trust = replace(TRUST, certificates=CHIP.certificates())
    assert verified(SNP, trust=trust).kind is EnclaveKind.SNP
    renewed = replace(TRUST, certificates=(CHIP.certificate(serial=9),))
    assert verified(SNP, trust=renewed).kind is EnclaveKind.SNP
    leaf, *above = CHIP.certificates()
    alone = with_parts(SNP, certificates=pem([leaf]))
    added = verified(SNP, alone, trust=replace(TRUST, certificates=tuple(above)))
    assert added.kind is EnclaveKind.SNP
    with pytest.raises(HwTrustError):
        verified(SNP, alone)


def test_a_certificate_of_another_tcb_version_is_passed_over() -> None:
    """The operator has those of all versions; without the right one there is none."""
    older = Chip(Product.MILAN, tcb=msgspec.structs.replace(CHIP.level, snp=1))
    trust = replace(TRUST, certificates=older.certificates())
    with pytest.raises(SnpChainError):
        verified(SNP, with_parts(SNP, certificates=b""), trust=trust)


def test_certificates_that_are_none_of_amd_s_keep_no_guest_from_being_verified() -> None:
    """An operator's bundle of other CAs, and a leaf that says nothing of a chip."""
    others = [root(Product.MILAN, name=f"CA {at}").der for at in range(17)]
    trust = replace(TRUST, certificates=(*others, *CHIP.certificates()))
    assert verified(SNP, trust=trust).kind is EnclaveKind.SNP
    empty = CHIP.certificate(change={"3.1": None})
    trust = replace(TRUST, certificates=(empty, *CHIP.certificates()))
    assert verified(SNP, with_parts(SNP, certificates=b""), trust=trust).kind is EnclaveKind.SNP


def test_revocation_lists_of_the_operator_count() -> None:
    """AMD's list of the key above takes the report's."""
    authority = CHIP.authority
    serial = read_certificate(authority.issuer(SigningKey.VCEK).der).serial
    crl = authority.ark.revoke(serial)
    with pytest.raises(SnpRevokedError):
        verified(SNP, trust=TRUST.with_crls([crl]))


@pytest.mark.parametrize("reader", [certificates_in, crls_in])
@pytest.mark.parametrize("file", [b"", b"nothing", b"-----BEGIN X-----\nAA==\n-----END X-----\n"])
def test_files_that_hold_nothing_are_refused(reader: object, file: bytes) -> None:
    """Whoever gives a wrong file is told."""
    assert callable(reader)
    with pytest.raises(MalformedError):
        reader([file])


def quote_of(machine: Machine) -> Quote:
    """The quote of a machine."""
    return Quote.decode(machine.parts().tee)


def test_collateral_is_chosen_by_tee_fmspc_and_age() -> None:
    """Of several that fit the newest counts that had been issued by then."""
    stranger = DcapSigner(platform=Platform(fmspc=bytes.fromhex("00906ed50000")))
    other = Collateral.decode(stranger.collateral("tdx"))
    old, new, future = (
        Collateral.decode(INTEL.collateral("tdx", tcb_info={"issueDate": f"{day}T00:00:00Z"}))
        for day in ("2026-04-01", "2026-05-20", "2026-07-01")
    )
    trust = replace(TRUST, collateral=(other, *TRUST.collateral[1:], future, new, old))
    tdx, sgx = (quote_of(Machine(kind)) for kind in (EnclaveKind.TDX, EnclaveKind.SGX))
    assert trust.collateral_of(tdx, now=NOW) is new
    assert trust.collateral_of(sgx, now=NOW) is TRUST.collateral[1]
    for unfit in ((other,), TRUST.collateral[1:], ()):
        with pytest.raises(DcapCollateralAbsentError) as refused:
            replace(TRUST, collateral=unfit).collateral_of(tdx, now=NOW)
        assert refused.value.data["fmspc"] == Platform().fmspc.hex()


def test_a_quote_that_names_no_platform_chooses_nothing() -> None:
    """Its certificates are absent, no PEM, or name no FMSPC: a coded error."""
    quote = quote_of(Machine(EnclaveKind.TDX))
    changed = msgspec.structs.replace
    with pytest.raises(DcapCertificationError):
        TRUST.collateral_of(changed(quote, certification_type=1), now=NOW)
    for chain in (b"", pem([b"\x30\x00"]), pem([INTEL.ca.der])):
        with pytest.raises(MalformedError):
            TRUST.collateral_of(changed(quote, certification_data=chain), now=NOW)


# --- what is beside the report -----------------------------------------------------


def test_a_gpu_answers_a_nonce_of_its_own() -> None:
    """Neither the report data themselves, nor another GPU's report, will do."""
    machine = MACHINES["snp with a GPU"]
    for nonce in (REPORT_DATA[:32], gpu_nonce(OTHER)):
        with pytest.raises(NvidiaNonceError):
            verified(machine, with_parts(machine, gpu=GPU.report(nonce)))


@pytest.mark.parametrize("name", ["quote", "pcrs", "td_quote", "gpu_certificates"])
def test_a_part_that_nothing_looks_at_is_refused(name: str) -> None:
    """It would be kept and shown beside what was verified, whosoever it is."""
    with pytest.raises(CmwLabelError):
        verified(SNP, with_parts(SNP, **{name: b"of another machine"}))


def test_an_event_of_another_bank_is_in_no_log_of_a_td() -> None:
    """It has no digest that was extended, and is no reason to fail."""
    firmware = Firmware("sha256", "sha384", confidential=True).measure(2, EventType.IPL, b"", b"k")
    values = {f"rtmr{number}": value for number, value in firmware.rtmrs.items()}
    quote = INTEL.tdx(td_report(report_data=REPORT_DATA, **values))
    event = FirmwareEvent(3, int(EventType.IPL), {int(Alg.SHA256): bytes(32)}, b"")
    firmware.events.append(event)
    parts = EnclaveParts(tee=quote, firmware_log=firmware.raw)
    claims = verified(Machine(EnclaveKind.TDX), wrap(parts, kind=EnclaveKind.TDX))
    assert [register for register, _ in claims.extends] == [1]


def test_a_nitro_document_carries_no_user_data() -> None:
    """The device binds the nonce alone; others are taken by who says so."""
    machine = Machine(EnclaveKind.NITRO)
    document = NITRO.document(nonce=REPORT_DATA, user_data=USER_DATA)
    with pytest.raises(NitroUserDataError):
        verified(machine, with_parts(machine, tee=document))
    claims = verify_parts(
        EnclaveParts(tee=document),
        kind=EnclaveKind.NITRO,
        challenge=REPORT_DATA,
        gpu_challenge=REPORT_DATA,
        now=machine.now,
        trust=TRUST,
        unsafe_any_user_data=True,
    )
    assert claims.tee.user_data == USER_DATA


# --- appraisal ---------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_kind_without_rules_is_not_accepted(machine: Machine) -> None:
    """The table that is absent is named; the GPU needs one of its own."""
    found = appraise_enclave(verified(machine), rules=EnclaveRules())
    assert [finding.code for finding in found] == [ABSENT] * (1 + machine.has_gpu)
    assert all(finding.severity is Severity.FAIL for finding in found)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_empty_rules_accept_nothing(machine: Machine) -> None:
    """What the table does not say is not accepted; every code is one of the list."""
    table: dict[str, object] = {machine.kind.value: {}, "nvidia": {}}
    rules = msgspec.convert(table, EnclaveRules)
    found = appraise_enclave(verified(machine), rules=rules)
    codes = {finding.code for finding in found}
    assert f"{machine.kind}:absent" in codes
    assert ("nvidia:absent" in codes) is machine.has_gpu
    assert codes <= FINDINGS.keys()


def test_rules_for_a_gpu_ask_for_one() -> None:
    """A machine whose GPU is none of NVIDIA's would rather show no report of it."""
    rules = msgspec.convert({"snp": {}, "nvidia": {}}, EnclaveRules)
    codes = [finding.code for finding in appraise_enclave(verified(SNP), rules=rules)]
    assert codes.count("nvidia:missing") == 1
    found = appraise_enclave(verified(MACHINES["snp with a GPU"]), rules=rules)
    assert "nvidia:missing" not in [finding.code for finding in found]


def test_rules_of_one_kind_accept_no_other() -> None:
    """Tables of all kinds but one leave that one without rules."""
    for kind in KINDS:
        rules = msgspec.convert(
            {other.value: {} for other in KINDS if other is not kind}, EnclaveRules
        )
        (finding,) = appraise_enclave(verified(Machine(kind)), rules=rules)
        assert finding.code == ABSENT


# --- what is not installed ---------------------------------------------------------


@pytest.mark.parametrize("module", ["kinds", "kinds_rules", "kinds_trust"])
def test_the_door_opens_without_the_extra(module: str) -> None:
    """Loading it, and reading rules, needs neither dcap-qvl nor cbor2."""
    program = (
        "import sys; sys.modules['cbor2'] = sys.modules['dcap_qvl'] = None; "
        f"import hwtrust.verify.enclaves.{module}"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("kind", "module", "loaded"),
    [
        (EnclaveKind.TDX, "dcap_qvl", "dcap"),
        (EnclaveKind.SGX, "dcap_qvl", "dcap"),
        (EnclaveKind.NITRO, "cbor2", "nitro"),
        (EnclaveKind.CCA, "cbor2", "cca"),
    ],
)
def test_what_a_kind_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: EnclaveKind, module: str, loaded: str
) -> None:
    """A coded error with the command that installs it."""
    evidence = Machine(kind).evidence()
    for name in list(sys.modules):
        if name.startswith(("hwtrust.verify.enclaves.", "hwtrust.wire.enclaves.")) and (
            name.endswith((".dcap", ".tdx", ".sgx", ".cose", ".cbor", f".{loaded}"))
        ):
            monkeypatch.delitem(sys.modules, name)
    import hwtrust.verify.enclaves as package  # noqa: PLC0415

    for name in ("dcap", "tdx", "sgx", "nitro", "cca"):
        monkeypatch.delattr(package, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnclaveSoftwareError) as refused:
        verified(Machine(kind), evidence)
    assert refused.value.data["module"] == module
    assert "hwtrust[enclaves]" in refused.value.hint
