"""`hwtrust evidence`: what is shown is not believed, and what is verified is held to a policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hwtrust.cli import evidence_verify, run
from hwtrust.cli.evidence_verify import EvidencePolicy
from hwtrust.cli.output import printable
from hwtrust.errors import ConfigError, WireError
from hwtrust.verify.certificates import read_certificate
from hwtrust.verify.enclaves.kinds import EnclaveTrust, gpu_nonce
from hwtrust.verify.enclaves.kinds_rules import EnclaveRules
from hwtrust.verify.forms import TITLES, Form, recognise
from hwtrust.verify.logs.reference import reference_from_eventlog
from hwtrust.verify.shown import show
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.cmw import Collection, MediaType, Record, encode_cbor, encode_json
from hwtrust.wire.enclave import EnclaveEvidence, EnclaveKind
from hwtrust.wire.enclave_parts import EnclaveParts, pem, wrap
from hwtrust.wire.enclaves.snp import Product
from hwtrust.wire.logs.firmware import EventType
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.messages import Binding, Evidence, Signed
from simulators.azure_vtpm import CHIP, PCRS, AzureVm
from simulators.dcap_signer import td_report
from simulators.enclaves import GPU, INTEL, MACHINES, NITRO, REALM, REPORT_DATA, TRUST, Machine
from simulators.firmware_log import Firmware, booted
from simulators.good_quote import GOOD
from simulators.snp_signer import START as CRL_START

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "evidence.md").read_text()
BLOCKS = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
TABLES = "\n".join(block for block in BLOCKS if not block.startswith("[nvidia]"))
EVERY_TABLE = "\n".join(BLOCKS)
"""With that of a GPU, which has to be there where its table is."""
TIME = "2026-06-01T00:00:00Z"
NITRO_TIME = "2026-03-01T12:00:00Z"
FIRMWARE = booted("sha256")
IMA_LINE = b"10 " + b"0" * 40 + b" ima-ng sha256:" + b"0" * 64 + b" /usr/bin/true\n"

BINDING = Binding(
    purpose=Purpose.ATTEST,
    nonce=b"nonce",
    tls_key=b"key",
    epoch=1,
    release="1.0",
    log_digest=hashlib.sha256(b"").digest(),
)
EVIDENCE = {
    kind: EnclaveEvidence(
        kind=kind, binding=BINDING, log=b"", evidence=Machine(kind).evidence(BINDING.report_data())
    )
    for kind in EnclaveKind
}
TPM = Evidence(
    binding=BINDING,
    quote=Signed(message=GOOD.message, signature=GOOD.signature),
    pcrs={0: bytes(32)},
    log=b"",
    counter=Signed(message=GOOD.message, signature=GOOD.signature),
)
PARTS = {name: machine.parts() for name, machine in MACHINES.items()}
COLLECTION = Collection({"tee": Record(MediaType.SNP, PARTS["snp"].tee)})
AZURE_QUOTE = AzureVm().bare_quote(REPORT_DATA)
AZURE_EVIDENCE = json.dumps(
    {
        "version": 1,
        "hcl_report": base64.urlsafe_b64encode(AzureVm().hcl_report()).decode().rstrip("="),
        "tpm_quote": {
            "message": AZURE_QUOTE.message.hex(),
            "signature": AZURE_QUOTE.signature.hex(),
            "pcrs": [value.hex() for value in PCRS[Alg.SHA256].values()],
        },
        "vcek": base64.urlsafe_b64encode(CHIP.certificates()[0]).decode(),
    }
).encode()
FILES: dict[str, tuple[bytes, Form]] = {
    **{kind: (PARTS[kind].tee, Form(kind)) for kind in EnclaveKind},
    "hex": (PARTS["snp"].tee.hex().encode() + b"\n", Form.SNP),
    "base64": (base64.encodebytes(PARTS["nitro"].tee), Form.NITRO),
    "base64url": (base64.urlsafe_b64encode(PARTS["cca"].tee).rstrip(b"="), Form.CCA),
    "evidence of an Azure machine": (AZURE_EVIDENCE, Form.AZURE_EVIDENCE),
    "a GPU": (GPU.report(bytes(32)), Form.NVIDIA),
    "a collection": (MACHINES["snp with a GPU"].evidence().encode(), Form.CMW),
    "a record": (encode_json(Record(MediaType.SNP, PARTS["snp"].tee)), Form.CMW),
    "a collection in CBOR": (encode_cbor(COLLECTION), Form.CMW),
    "a record in CBOR": (encode_cbor(Record(MediaType.SNP, PARTS["snp"].tee)), Form.CMW),
    "evidence of an enclave": (msgspec.json.encode(EVIDENCE[EnclaveKind.SNP]), Form.ENCLAVE),
    "evidence of a TPM": (msgspec.json.encode(TPM), Form.TPM),
    "a quote": (GOOD.message, Form.TPM_QUOTE),
    "a quote behind its size": (
        len(GOOD.message).to_bytes(2, "big") + GOOD.message,
        Form.TPM_QUOTE,
    ),
    "a firmware log": (FIRMWARE.raw, Form.FIRMWARE_LOG),
    "an IMA log": (IMA_LINE, Form.IMA_LOG),
    "a certificate": (CHIP.certificates()[0], Form.CERTIFICATES),
    "certificates": (pem(CHIP.certificates()), Form.CERTIFICATES),
    "a revocation list": (CHIP.authority.ark.revoke(7), Form.CRL),
    "collateral": (INTEL.collateral("tdx"), Form.COLLATERAL),
}


def ran(
    *arguments: str | Path, capture: pytest.CaptureFixture[str], code: int
) -> tuple[str, list[str]]:
    """Run the command: what is on standard output, and the lines on standard error."""
    assert run(["evidence", *map(str, arguments)]) == code
    said = capture.readouterr()
    return said.out, said.err.splitlines()


def file_of(directory: Path, content: bytes | str, name: str = "file") -> Path:
    """A file with that content."""
    path = directory / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- show --------------------------------------------------------------------------


@pytest.mark.parametrize("case", FILES)
def test_every_form_is_recognised_and_shown_as_not_verified(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its bytes alone, in words and as JSON; both say that nothing was verified."""
    data, form = FILES[case]
    assert recognise(data)[0] is form
    path = file_of(tmp_path, data)
    out, err = ran("show", path, capture=capsys, code=0)
    assert out.startswith("NOT VERIFIED")
    assert TITLES[form] in out
    assert not err
    told = json.loads(ran("show", path, "--json", capture=capsys, code=0)[0])
    assert told["verified"] is False
    assert told["form"] == form
    assert told["facts"]


def test_every_form_has_a_case() -> None:
    """A form that is added later is not forgotten."""
    assert {form for _, form in FILES.values()} == set(Form)


def test_the_parts_of_a_wrapper_are_shown_in_their_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by its label; of Azure's, the quote among them."""
    path = file_of(tmp_path, MACHINES["azure"].evidence())
    parts = json.loads(ran("show", path, "--json", capture=capsys, code=0)[0])["parts"]
    assert list(parts) == ["tee", "certificates", "quote", "pcrs"]
    assert parts["quote"]["facts"]["type"] == "quote"
    assert parts["tee"]["form"] == "azure"


def test_a_part_that_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told where it stands, and the exit code says so."""
    broken = Collection(
        {"a": Record("text/plain", b"nothing"), "b": Record(MediaType.SNP, PARTS["snp"].tee)}
    )
    path = file_of(tmp_path, encode_json(broken))
    out, err = ran("show", path, capture=capsys, code=1)
    assert "a: cannot be read" in out
    assert f"b: {TITLES[Form.SNP]}" in out
    assert err[0].endswith("[wire:evidence:unknown]")
    told = json.loads(ran("show", path, "--json", capture=capsys, code=1)[0])["parts"]
    assert told["a"]["error"] == "wire:evidence:unknown"
    assert told["b"]["form"] == "snp"


def test_the_parts_of_an_azure_machine_are_shown_in_their_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Confidential Containers sends them, in one JSON."""
    out, _ = ran("show", file_of(tmp_path, AZURE_EVIDENCE), "--json", capture=capsys, code=0)
    parts = json.loads(out)["parts"]
    assert {label: part["form"] for label, part in parts.items()} == {
        "tee": "azure",
        "certificates": "certificates",
        "quote": "tpm-quote",
        "pcrs": None,
    }
    assert parts["quote"]["facts"]["extra_data"] == REPORT_DATA.hex()


def test_wrappers_in_wrappers_end() -> None:
    """However deep they are nested, and whatever they are said to be."""
    data = PARTS["snp"].tee
    for _ in range(12):
        data = encode_json(Record("application/cmw+json", data))
    assert [problem.code for problem in show(data).problems()] == ["wire:malformed"]


UNKNOWN = {
    "nothing": b"",
    "text": b"hello, this is no evidence at all\n",
    "ones": b"\xff" * 4096,
    "JSON of something else": b'{"hello": [1, 2, 3]}',
    "JSON of two kinds": b'{"tcb_info":"","qe_identity":"","binding":"","quote":"","counter":""}',
    "text of nothing": b"A" * 400,
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_recognised_is_refused_with_what_would_be(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint lists every form."""
    out, (line, hint) = ran("show", file_of(tmp_path, UNKNOWN[case]), capture=capsys, code=1)
    assert not out
    assert line.endswith("[wire:evidence:unknown]")
    assert all(title in hint for title in TITLES.values())


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0", b"\x0a\0\0\0", b"\x30\x81\0", b"\xb8", b"\xa1"])
def test_what_is_cut_off_at_once_is_refused(data: bytes) -> None:
    """Bytes that are looked at are there first."""
    with pytest.raises(WireError):
        show(data)


def test_what_is_recognised_and_malformed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quote that is cut short is no longer one."""
    path = file_of(tmp_path, PARTS["tdx"].tee[:700])
    _, err = ran("show", path, capture=capsys, code=1)
    assert err[0].endswith("[wire:malformed]")


CONTROL = "\x1b]0;owned\x07\x9b31m\x7f\r\n\u202e"


def test_evidence_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what it says, nor its labels, nor an error that quotes it, in words or as JSON."""
    evil = msgspec.structs.replace(BINDING, release=CONTROL)
    path = file_of(tmp_path, msgspec.json.encode(msgspec.structs.replace(TPM, binding=evil)))
    for options in ((), ("--json",)):
        out, _ = ran("show", path, *options, capture=capsys, code=0)
        assert all(one.isprintable() or one == "\n" for one in out)
        assert "owned" in out
    wrong = file_of(tmp_path, json.dumps({"__cmwc_t": CONTROL}))
    _, err = ran("show", wrong, capture=capsys, code=1)
    assert all(line.isprintable() for line in err)
    named = file_of(tmp_path, "[snp]\n", CONTROL.replace("\n", "") + "file")
    _, err = ran("verify", named, "--policy", named, capture=capsys, code=1)
    assert all(line.isprintable() for line in err)


def test_what_is_printable_stays_as_it_is() -> None:
    """Names in any script are for reading."""
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("a\x1b") == r"a\x1b"


def test_an_extra_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""

    def missing(_: bytes) -> dict[str, Any]:
        raise ModuleNotFoundError(name="cbor2")

    monkeypatch.setattr("hwtrust.verify.shown._DECODERS", {Form.NITRO: missing})
    path = file_of(tmp_path, PARTS["nitro"].tee)
    _, err = ran("show", path, capture=capsys, code=9)
    assert err[0].endswith("[config:enclaves:missing]")
    assert err[1] == "hint: pip install 'hwtrust[enclaves]'"


# --- verify ------------------------------------------------------------------------


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test roots in the vendors' place."""
    monkeypatch.setattr(evidence_verify, "EnclaveTrust", lambda **_: TRUST)


def options(machine: Machine, policy: Path) -> list[str | Path]:
    """What a machine's evidence is verified with."""
    when = NITRO_TIME if machine.kind is EnclaveKind.NITRO else TIME
    return ["--policy", policy, "--time", when]


ACCEPTED = {name: machine for name, machine in MACHINES.items() if name != "azure in a TD"}


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ACCEPTED)
def test_the_documents_tables_accept_what_they_are_for(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is complete: copied, and with values of one's own, it accepts."""
    machine = ACCEPTED[name]
    tables = EVERY_TABLE if machine.has_gpu else TABLES
    policy = file_of(tmp_path, tables, "policy.toml")
    path = file_of(tmp_path, machine.evidence())
    asked = ["--report-data", REPORT_DATA.hex()]
    out, err = ran("verify", path, *options(machine, policy), *asked, capture=capsys, code=0)
    assert out.startswith("authentic: ")
    assert out.endswith("accepted\n")
    assert "not checked" not in out
    assert not err
    out, _ = ran(
        "verify", path, *options(machine, policy), *asked, "--json", capture=capsys, code=0
    )
    told = json.loads(out)
    assert (told["authentic"], told["accepted"], told["findings"]) == (True, True, [])
    assert told["facts"]["kind"] == machine.kind


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ACCEPTED)
def test_evidence_for_another_is_refused_with_its_code(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3, and as JSON the code on standard output, too."""
    machine = ACCEPTED[name]
    policy = file_of(tmp_path, TABLES, "policy.toml")
    path = file_of(tmp_path, machine.evidence())
    asked = ["--report-data", bytes(63).hex() + "01"]
    out, err = ran("verify", path, *options(machine, policy), *asked, capture=capsys, code=3)
    assert out.startswith("refused")
    out, err = ran(
        "verify", path, *options(machine, policy), *asked, "--json", capture=capsys, code=3
    )
    told = json.loads(out)
    assert (told["authentic"], told["accepted"]) == (False, False)
    assert err[0].endswith(f"[{told['error']}]")


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_state_that_no_table_accepts_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Authentic, every finding, and exit code 3; without report data it says what is lost."""
    machine = ACCEPTED[name]
    path = file_of(tmp_path, machine.evidence())
    policy = file_of(tmp_path, "", "policy.toml")
    arguments = ["verify", path, *options(machine, policy), "--unsafe-no-report-data"]
    out, err = ran(*arguments, capture=capsys, code=3)
    assert "not checked: report data" in out
    assert "[policy:absent]" in out
    assert out.endswith("not accepted\n")
    assert err[0].endswith("[evidence:verdict:untrusted]")


RAW = [kind for kind in EnclaveKind if kind not in {EnclaveKind.AZURE, EnclaveKind.SNP}]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("kind", RAW)
def test_a_bare_file_is_verified_as_well(
    kind: EnclaveKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the hardware made it, without a wrapper."""
    machine = Machine(kind)
    policy = file_of(tmp_path, TABLES, "policy.toml")
    path = file_of(tmp_path, machine.parts().tee)
    asked = ["--report-data", REPORT_DATA.hex()]
    ran("verify", path, *options(machine, policy), *asked, capture=capsys, code=0)


BESIDE = ("--certificates", "--crl", "--collateral", "--endorsements")


@pytest.mark.parametrize("option", BESIDE)
def test_a_file_beside_the_evidence_that_is_none_is_told_from_a_refusal(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file that is not what it should be the option is named; the exit code is 1."""
    policy = file_of(tmp_path, TABLES, "policy.toml")
    path = file_of(tmp_path, PARTS["cca"].tee)
    arguments: list[str | Path] = ["verify", path, "--policy", policy, "--unsafe-no-report-data"]
    for content in (b"", b"none", PARTS["cca"].tee):
        wrong = file_of(tmp_path, content, "wrong")
        out, err = ran(*arguments, option, wrong, capture=capsys, code=1)
        assert not out
        assert err[0].startswith(f"hwtrust: {option}: ")
        assert err[0].endswith("[wire:malformed]")


@pytest.mark.parametrize("case", ["snp", "a GPU"])
def test_a_report_without_certificates_asks_for_them(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It carries none itself."""
    policy = file_of(tmp_path, "", "policy.toml")
    path = file_of(tmp_path, FILES[case][0])
    _, err = ran(
        *("verify", path, "--policy", policy, "--unsafe-no-report-data"), capture=capsys, code=2
    )
    assert "--certificates" in err[0]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("kind", EnclaveKind)
def test_evidence_as_devices_send_it_is_verified_for_its_binding(
    kind: EnclaveKind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its report data are the binding's digest; its log the one that the binding names."""
    policy = file_of(tmp_path, TABLES, "policy.toml")
    evidence = EVIDENCE[kind]
    path = file_of(tmp_path, msgspec.json.encode(evidence))
    with_policy = options(Machine(kind), policy)
    asked = ["--report-data", BINDING.report_data().hex()]
    ran("verify", path, *with_policy, *asked, capture=capsys, code=0)
    ran("verify", path, *with_policy, "--report-data", "00" * 64, capture=capsys, code=3)
    longer = msgspec.structs.replace(evidence, log=b"another")
    path = file_of(tmp_path, msgspec.json.encode(longer))
    _, err = ran("verify", path, *with_policy, *asked, capture=capsys, code=3)
    assert err[0].endswith("[evidence:log:mismatch]")


def test_files_beside_the_evidence_are_what_it_is_verified_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Certificates, collateral, endorsements, roots and revocation lists, each by its option."""
    policy = file_of(tmp_path, TABLES, "policy.toml")
    asked = ["--report-data", REPORT_DATA.hex()]
    chain = file_of(tmp_path, pem(CHIP.certificates()), "chain.pem")
    report = file_of(tmp_path, PARTS["snp"].tee, "report")
    rest = ["--certificates", chain, *options(MACHINES["snp"], policy), *asked]
    own = ["--root", CHIP.authority.ark.sha256]
    ran("verify", report, *rest, *own, capture=capsys, code=0)
    _, err = ran("verify", report, *rest, capture=capsys, code=3)
    assert err[0].endswith("[evidence:snp:root]")
    ask = read_certificate(CHIP.certificates()[1])
    for serial, code in ((ask.serial + 1, 0), (ask.serial, 3)):
        crl = file_of(tmp_path, CHIP.authority.ark.revoke(serial), "crl")
        ran("verify", report, *rest, *own, "--crl", crl, capture=capsys, code=code)

    quote = file_of(tmp_path, PARTS["tdx"].tee, "quote")
    collateral = file_of(tmp_path, INTEL.collateral("tdx"), "collateral.json")
    own = ["--root", hashlib.sha256(INTEL.root.der).hexdigest()]
    rest = [*options(MACHINES["tdx"], policy), *asked, *own]
    ran("verify", quote, *rest, "--collateral", collateral, capture=capsys, code=0)
    _, err = ran("verify", quote, *rest, capture=capsys, code=3)
    assert err[0].endswith("[evidence:dcap:collateral-absent]")
    ran("verify", quote, *rest, *own[:1], "00" * 32, capture=capsys, code=2)

    token = file_of(tmp_path, PARTS["cca"].tee, "token")
    keys = file_of(tmp_path, msgspec.json.encode([REALM.endorsement]), "keys.json")
    others = msgspec.structs.replace(REALM.endorsement, implementation_id="00" * 32)
    unknown = file_of(tmp_path, msgspec.json.encode([others]), "unknown.json")
    rest = [*options(MACHINES["cca"], policy), *asked]
    ran("verify", token, *rest, "--endorsements", keys, capture=capsys, code=0)
    ran(
        "verify",
        token,
        *rest,
        "--endorsements",
        unknown,
        "--endorsements",
        keys,
        capture=capsys,
        code=0,
    )
    nothing: list[str | Path] = []
    for without in (nothing, ["--endorsements", unknown]):
        _, err = ran("verify", token, *rest, *without, capture=capsys, code=3)
        assert err[0].endswith("[evidence:cca:platform]")

    document = file_of(tmp_path, PARTS["nitro"].tee, "document")
    own = ["--root", hashlib.sha256(NITRO.certificates[0]).hexdigest().upper()]
    ran(
        "verify",
        document,
        *options(MACHINES["nitro"], policy),
        *asked,
        *own,
        capture=capsys,
        code=0,
    )


def test_the_evidence_of_an_azure_machine_is_verified_as_it_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its quote answers the nonce itself; AMD's ASK and ARK come beside it."""
    policy = file_of(tmp_path, TABLES, "policy.toml")
    path = file_of(tmp_path, AZURE_EVIDENCE)
    chain = file_of(tmp_path, pem(CHIP.certificates()[1:]), "chain.pem")
    rest: list[str | Path] = [*options(MACHINES["azure"], policy), "--certificates", chain]
    rest += ["--root", CHIP.authority.ark.sha256, "--report-data"]
    ran("verify", path, *rest, REPORT_DATA.hex(), capture=capsys, code=0)
    _, err = ran("verify", path, *rest, "00" * 64, capture=capsys, code=3)
    assert err[0].endswith("[evidence:nonce:mismatch]")


def logged(*, register: int = 2) -> tuple[str, Firmware]:
    """The wrapped quote of a TD that has measured its kernel, with its log, and its firmware."""
    firmware = Firmware("sha384", confidential=True).variable("SecureBoot", b"\x01").separate(1)
    firmware.measure(2, EventType.IPL, b"/vmlinuz\0", b"kernel")
    values = {f"rtmr{number}": value for number, value in firmware.rtmrs.items()}
    report = td_report(report_data=REPORT_DATA, **values)
    firmware.events[-1] = msgspec.structs.replace(firmware.events[-1], register=register)
    parts = EnclaveParts(tee=INTEL.tdx(report), firmware_log=firmware.raw)
    return wrap(parts, kind=EnclaveKind.TDX), firmware


@pytest.mark.usefixtures("trusted")
def test_a_firmware_log_beside_an_enclave_is_held_to_its_registers_and_to_the_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replayed to the RTMRs; what it tells needs a table; a kind without registers has none."""
    evidence, firmware = logged()
    path = file_of(tmp_path, evidence)
    asked = ["--time", TIME, "--report-data", REPORT_DATA.hex(), "--policy"]
    empty = file_of(tmp_path, "", "empty.toml")
    out, _ = ran("verify", path, *asked, empty, capture=capsys, code=3)
    assert "firmware_secure_boot: on" in out
    assert "there is no [firmware_log]" in out
    rules = reference_from_eventlog(firmware.log, pcrs=range(3), bank=Alg.SHA384)
    policy = file_of(tmp_path, rules, "policy.toml")
    out, _ = ran("verify", path, *asked, policy, "--json", capture=capsys, code=3)
    assert [found["message"] for found in json.loads(out)["findings"]] == [
        "the policy has no rules for evidence of this kind: there is no [tdx]"
    ]
    moved = file_of(tmp_path, logged(register=3)[0])
    _, err = ran("verify", moved, *asked, empty, capture=capsys, code=3)
    assert err[0].endswith("[evidence:firmware-log:unlogged]")
    parts = msgspec.structs.replace(PARTS["nitro"], firmware_log=firmware.raw)
    other = file_of(tmp_path, wrap(parts, kind=EnclaveKind.NITRO))
    asked[1] = NITRO_TIME
    _, err = ran("verify", other, *asked, empty, capture=capsys, code=1)
    assert err[0].endswith("[wire:unsupported]")


def test_a_gpus_report_is_verified_by_its_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own certificate first; the nonce is the report data."""
    policy = file_of(tmp_path, EVERY_TABLE, "policy.toml")
    path = file_of(tmp_path, GPU.report(gpu_nonce(REPORT_DATA)))
    chain = file_of(tmp_path, pem(GPU.chain), "chain.pem")
    own = ["--root", hashlib.sha256(GPU.chain[-1]).hexdigest()]
    rest: list[str | Path] = ["--policy", policy, "--time", TIME, "--certificates", chain, *own]
    ran(
        "verify", path, *rest, "--report-data", gpu_nonce(REPORT_DATA).hex(), capture=capsys, code=0
    )
    _, err = ran("verify", path, *rest, "--report-data", "00" * 32, capture=capsys, code=3)
    assert err[0].endswith("[nvidia:nonce:mismatch]")
    empty = file_of(tmp_path, "", "empty.toml")
    rest = ["--policy", empty, *rest[2:], "--unsafe-no-report-data"]
    out, _ = ran("verify", path, *rest, capture=capsys, code=3)
    assert "[policy:absent]" in out


USELESS = ("a quote", "evidence of a TPM", "azure", "a record", "certificates", "collateral")


@pytest.mark.parametrize("case", USELESS)
def test_what_is_not_verified_by_itself_says_what_to_do(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A coded error and a hint, and exit code 1."""
    policy = file_of(tmp_path, "", "policy.toml")
    path = file_of(tmp_path, FILES[case][0])
    rest: list[str | Path] = ["--policy", policy, "--unsafe-no-report-data"]
    _, err = ran("verify", path, *rest, capture=capsys, code=1)
    assert err[0].endswith("[wire:evidence:incomplete]")
    assert err[1].startswith("hint: ")


# --- logs --------------------------------------------------------------------------


def test_a_firmware_log_is_verified_by_quoted_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are the operator's word, and the output says so."""
    path = file_of(tmp_path, FIRMWARE.raw)
    values = {str(number): value.hex() for number, value in FIRMWARE.pcrs[Alg.SHA256].items()}
    pcrs = file_of(tmp_path, json.dumps({"sha256": values}), "pcrs.json")
    rules = reference_from_eventlog(FIRMWARE.log, pcrs=range(8), bank=Alg.SHA256)
    policy = file_of(tmp_path, rules, "policy.toml")
    out, _ = ran("verify", path, "--policy", policy, "--pcrs", pcrs, capture=capsys, code=0)
    assert "not checked: PCR values" in out
    empty = file_of(tmp_path, "", "empty.toml")
    out, _ = ran("verify", path, "--policy", empty, "--pcrs", pcrs, capture=capsys, code=3)
    assert "[policy:absent]" in out
    values["0"] = "00" * 32
    pcrs = file_of(tmp_path, json.dumps({"sha256": values}), "pcrs.json")
    ran("verify", path, "--policy", policy, "--pcrs", pcrs, capture=capsys, code=3)


def test_an_ima_log_is_verified_by_pcr_10(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that the log does not come to is refused; so is none."""
    kernel = ima_kernel()
    path = file_of(tmp_path, kernel.log())
    policy = file_of(tmp_path, "[ima]\ndigests_anywhere = []\n", "policy.toml")
    for value, code in ((kernel.pcr(Alg.SHA256).hex(), "verdict"), ("11" * 32, "ima-log")):
        pcrs = file_of(tmp_path, json.dumps({"sha256": {"10": value}}), "pcrs.json")
        _, err = ran("verify", path, "--policy", policy, "--pcrs", pcrs, capture=capsys, code=3)
        assert f"[evidence:{code}:" in err[0]
    pcrs = file_of(tmp_path, json.dumps({"sha256": {"1": "11" * 32}}), "pcrs.json")
    _, err = ran("verify", path, "--policy", policy, "--pcrs", pcrs, capture=capsys, code=3)
    assert err[0].endswith("[evidence:firmware-log:pcr]")


def ima_kernel() -> Any:  # noqa: ANN401 - of the simulator
    """A kernel that has measured one file."""
    from simulators.ima_log import ImaKernel  # noqa: PLC0415

    kernel = ImaKernel()
    kernel.file("/usr/bin/true", b"true")
    assert list(ImaLog.decode(kernel.log()).entries())
    return kernel


# --- options -----------------------------------------------------------------------

WRONG = {
    "no report data": [],
    "report data twice": ["--report-data", "00", "--unsafe-no-report-data"],
    "report data that are none": ["--report-data", "xyz"],
    "a time without a zone": ["--report-data", "00", "--time", "2026-06-01"],
    "a time that is none": ["--report-data", "00", "--time", "noon"],
    "a root that is none": ["--report-data", "00", "--root", "abc"],
}


@pytest.mark.parametrize("case", WRONG)
def test_options_that_are_wrong_are_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, before anything is verified; nobody goes without report data unsaid."""
    policy = file_of(tmp_path, "", "policy.toml")
    path = file_of(tmp_path, PARTS["snp"].tee)
    _, err = ran("verify", path, "--policy", policy, *WRONG[case], capture=capsys, code=2)
    assert err[0].endswith("[usage]")


def test_options_of_logs_are_for_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And those of reports are not."""
    policy = file_of(tmp_path, "", "policy.toml")
    report = file_of(tmp_path, PARTS["snp"].tee, "report")
    log = file_of(tmp_path, FIRMWARE.raw, "log")
    for arguments in (
        [report, "--unsafe-no-report-data", "--pcrs", policy],
        [log, "--unsafe-no-report-data", "--pcrs", policy],
        [log],
    ):
        ran("verify", *arguments, "--policy", policy, capture=capsys, code=2)


POLICIES = {
    "no TOML": "[snp",
    "a table that there is not": "[sev]\n",
    "an option that there is not": "[snp]\ndebug = true\n",
    "a value of another form": "[snp]\nmeasurements = 1\n",
}


@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_that_cannot_be_read_is_a_wrong_configuration(case: str, tmp_path: Path) -> None:
    """Nothing is accepted by mistake in a name."""
    with pytest.raises(ConfigError):
        evidence_verify.read_policy(file_of(tmp_path, POLICIES[case]))


def test_the_vendors_are_trusted_unless_told_otherwise() -> None:
    """An empty trust is theirs, and no root of a test."""
    given = evidence_verify.Given(
        certificates=(),
        crls=(),
        collateral=(),
        endorsements=(),
        roots=(),
        pcrs=None,
        now=CRL_START,
    )
    assert evidence_verify._trust(given) == EnclaveTrust()
    assert set(Product) == set(EnclaveTrust().snp.roots)


# --- the document ------------------------------------------------------------------


def test_the_document_has_a_table_for_every_kind() -> None:
    """Each is read, and none is missing."""
    policy = msgspec.toml.decode(EVERY_TABLE, type=EvidencePolicy)
    assert [
        name for name in EvidencePolicy.__struct_fields__ if getattr(policy, name) is msgspec.UNSET
    ] == []
    assert set(EnclaveRules.__struct_fields__) < set(EvidencePolicy.__struct_fields__)


def test_the_document_names_the_options_that_there_are() -> None:
    """Those of `verify` in its table, and no other."""
    from hwtrust.cli.evidence import verify  # noqa: PLC0415

    there = {option for item in verify.params for option in item.opts if option.startswith("--")}
    named = set(re.findall(r"^\| `(--[a-z-]+)", DOCUMENT, re.MULTILINE))
    assert there - {"--json", "--policy"} == named


def test_the_document_says_of_every_kind_what_it_proves() -> None:
    """In the first table, by the names that policies use."""
    named = set(re.findall(r"^\| `([a-z]+)` \|", DOCUMENT, re.MULTILINE))
    assert named == {"tpm", "nvidia", *EnclaveKind}
