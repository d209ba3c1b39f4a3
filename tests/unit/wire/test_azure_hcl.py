"""An HCL report is read as it is, and anything else is refused."""

from __future__ import annotations

import hashlib
import json

import pytest

from hwtrust.errors import MalformedError, UnsupportedError, WireError
from hwtrust.wire.enclaves.azure import MAX_REPORT, HclReport, RuntimeData, TeeKind
from simulators.azure_vtpm import AzureVm, framed

VM = AzureVm()
DATA = VM.runtime_data()
REPORT = VM.hcl_report()
TEE = REPORT[32 : 32 + 1184]


def test_an_hcl_report_is_read() -> None:
    """Report, JSON and its digest, with padding and without."""
    for raw in (REPORT, REPORT.rstrip(b"\0"), framed(TEE, DATA, version=2)):
        found = HclReport.decode(raw)
        assert (found.kind, found.tee_report, found.runtime_data) == (TeeKind.SNP, TEE, DATA)
        assert found.report_data == hashlib.sha256(DATA).digest() + bytes(32)
    facts = HclReport.decode(REPORT).facts()
    assert facts["secure_boot"] is True
    assert facts["keys"] == ["HCLAkPub (RSA)", "HCLEkPub (RSA)"]


@pytest.mark.parametrize(("hash_", "name"), [(1, "sha256"), (2, "sha384"), (3, "sha512")])
def test_the_digest_is_by_the_hash_that_is_named(hash_: int, name: str) -> None:
    """With zeros behind it, up to 64 bytes."""
    found = HclReport.decode(framed(TEE, DATA, hash_=hash_))
    assert found.report_data == hashlib.new(name, DATA).digest().ljust(64, b"\0")


def test_a_tdreport_is_read() -> None:
    """It is shorter than the place for it."""
    found = HclReport.decode(AzureVm(kind=TeeKind.TDX).hcl_report())
    assert (found.kind, len(found.tee_report)) == (TeeKind.TDX, 1024)


BAD = {
    "another start": (framed(TEE, DATA, magic=b"HCLB"), MalformedError),
    "another version": (framed(TEE, DATA, version=3), UnsupportedError),
    "another version of the runtime data": (framed(TEE, DATA, runtime_version=2), UnsupportedError),
    "another TEE": (framed(TEE, DATA, kind=3), UnsupportedError),
    "another hash": (framed(TEE, DATA, hash_=4), UnsupportedError),
    "a size that is not that of the JSON": (framed(TEE, DATA, size_off=1), MalformedError),
    "a JSON longer than there is": (
        framed(TEE, DATA, size_off=9999, length_off=9999),
        MalformedError,
    ),
    "a JSON that goes on": (framed(TEE, DATA, size_off=-1, length_off=-1), MalformedError),
    "no JSON": (framed(TEE, b""), MalformedError),
    "something behind it": (framed(TEE, DATA, padding=b"\0\x01"), MalformedError),
    "something behind a TDREPORT": (framed(TEE[:-1] + b"\1", DATA, kind=4), MalformedError),
    "far too many bytes": (REPORT + bytes(MAX_REPORT), MalformedError),
    "nothing": (b"", MalformedError),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_hcl_report_is_refused(case: str) -> None:
    """By its form alone."""
    data, error = BAD[case]
    with pytest.raises(WireError) as refused:
        HclReport.decode(data)
    assert type(refused.value) is error


def test_every_cut_of_an_hcl_report_is_refused() -> None:
    """Up to the last byte that is no padding."""
    for end in range(len(REPORT.rstrip(b"\0"))):
        with pytest.raises(WireError):
            HclReport.decode(REPORT[:end])


BAD_JSON = {
    "nothing": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "no keys": b'{"vm-configuration":{}}',
    "no configuration": b'{"keys":[]}',
    "keys that are none": b'{"keys":[1],"vm-configuration":{}}',
    "a key's name that is no plain text": VM.runtime_data(keys=[{"kid": "\x1b", "kty": "RSA"}]),
    "far too many keys": VM.runtime_data(keys=[{"kid": "a", "kty": "RSA"}] * 17),
    "user data that are no hex": VM.runtime_data(user_text="xy"),
    "user data that are too long": VM.runtime_data(user_data=bytes(65)),
    "levels without end": b'{"keys":[],"vm-configuration":{"a":' + b"[" * 100_000,
    "no UTF-8": b'{"keys":[],"vm-configuration":{"a":"\xff"}}',
    "followed by something": DATA + b"x",
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_runtime_data_that_cannot_be_read_are_refused(case: str) -> None:
    """By one error, whatever is wrong with them."""
    with pytest.raises(MalformedError) as refused:
        RuntimeData.decode(BAD_JSON[case])
    assert refused.value.code == "wire:malformed"


def test_what_the_configuration_says_in_another_form_is_not_told() -> None:
    """A yes is `true`; `"true"` and 1 are none, and a text is one that can be printed."""
    changes = {"secure-boot": "true", "tpm-enabled": 1, "vmUniqueId": "a\nb", "new": {"a": []}}
    found = RuntimeData.decode(VM.runtime_data(configuration=changes))
    assert found.flag("secure-boot") is found.flag("tpm-enabled") is found.flag("no") is None
    assert found.text("vmUniqueId") == found.text("secure") == ""
    assert json.dumps(found.facts())
