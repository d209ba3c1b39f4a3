"""What the anchors take from the kernel, the verifiers believe: under test roots, end to end."""

from __future__ import annotations

from hwtrust.anchors.cca import cca_attester
from hwtrust.anchors.gramine import GramineAttester, GramineFiles
from hwtrust.anchors.nsm import Nsm, NsmAttester
from hwtrust.anchors.sev_guest import GuestState, SevGuest, SevGuestAttester
from hwtrust.anchors.tdx import tdx_attester
from hwtrust.anchors.tsm import Tsm, TsmAttester
from hwtrust.verify.enclaves.cca import verify_cca
from hwtrust.verify.enclaves.nitro import verify_nitro
from hwtrust.verify.enclaves.snp import verify_snp
from hwtrust.wire.enclaves.snp import CertificateTable, Product, SnpReport
from simulators import cca_signer, dcap_signer, nitro_signer, snp_signer
from simulators.fake_gramine import FILES, FakeGramine
from simulators.fake_machine import FakeMachine
from simulators.fake_nsm import FakeNsm
from simulators.fake_sev_guest import FakeSevGuest
from simulators.fake_tsm import REPORTS, FakeTsm
from unit.anchors.shapes import DATA

CHIP = snp_signer.Chip(Product.MILAN)


def snp_report(report_data: bytes) -> bytes:
    """A report that the chip signed."""
    return CHIP.report(report_data=report_data)


def test_an_snp_report_and_its_certificates_verify() -> None:
    """By both ways, with the certificates that the host gave along."""
    table = CHIP.table().encode()
    device = FakeSevGuest(snp_report)
    device.certificates = table
    reports = FakeTsm(snp_report, certificates=table)
    port = FakeMachine({REPORTS: reports, "/dev/sev-guest": device})
    for attester in (
        TsmAttester(Tsm(port), provider="sev_guest"),
        SevGuestAttester(SevGuest(port), vmpl=0),
    ):
        made = attester.attest(DATA)
        certificates = [der for _, der in CertificateTable.decode(made.certificates).entries]
        claims = verify_snp(
            made.evidence,
            certificates=certificates,
            report_data=DATA,
            now=snp_signer.NOW,
            trust=snp_signer.trust(),
        )
        assert claims.report.report_data == DATA


def test_what_keys_depend_on_is_read_as_the_verifier_reads_it() -> None:
    """One layout of the report, on both sides."""
    raw = snp_report(DATA)
    read, state = SnpReport.decode(raw), GuestState.of(raw)
    assert (state.guest_svn, state.vmpl, state.measurement) == (
        read.guest_svn,
        read.vmpl,
        read.measurement,
    )
    assert state.policy == read.policy.to_bytes(8, "little")
    assert state.committed_tcb.to_bytes(8, "little") == read.committed_tcb


def test_a_nitro_document_verifies() -> None:
    """The report data is its nonce; there is no user data."""
    signer = nitro_signer.NitroSigner()
    kernel = FakeNsm(lambda nonce: signer.document(nonce=nonce, user_data=None))
    made = NsmAttester(Nsm(FakeMachine({"/dev/nsm": kernel}))).attest(DATA)
    claims = verify_nitro(
        made.evidence, nonce=DATA, user_data=None, now=nitro_signer.NOW, trust=signer.trust
    )
    assert claims.nonce == DATA


def test_a_cca_token_verifies() -> None:
    """The report data is the realm's challenge."""
    signer = cca_signer.CcaSigner()
    kernel = FakeTsm(lambda data: signer.token(realm={10: data}), provider="arm_cca_guest")
    made = cca_attester(Tsm(FakeMachine({REPORTS: kernel}))).attest(DATA)
    assert verify_cca(made.evidence, challenge=DATA, trust=signer.trust).realm.challenge == DATA


def test_dcap_quotes_are_taken() -> None:
    """TDX of both versions, and SGX: the report data is where the attester looks for it."""
    signer = dcap_signer.DcapSigner()
    for version in (4, 5):
        kernel = FakeTsm(
            lambda data, version=version: signer.tdx(  # type: ignore[misc]
                dcap_signer.td_report(report_data=data), version=version
            ),
            provider="tdx_guest",
        )
        assert DATA in tdx_attester(Tsm(FakeMachine({REPORTS: kernel}))).attest(DATA).evidence
    enclave = FakeGramine(lambda data: signer.sgx(dcap_signer.enclave_report(report_data=data)))
    made = GramineAttester(GramineFiles(FakeMachine({FILES: enclave}))).attest(DATA)
    assert DATA in made.evidence
