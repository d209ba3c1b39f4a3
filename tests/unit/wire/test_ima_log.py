"""IMA logs as bytes: both forms, every template, and what is cut short."""

from __future__ import annotations

import struct

import pytest

from hwtrust.errors import HwTrustError, MalformedError, UnsupportedError
from hwtrust.wire.algorithms import Alg
from hwtrust.wire.logs import ima, ima_binary
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_template import MAX_DATA, TEMPLATES, read_digest
from simulators.ima_log import ImaKernel, Measured
from vectors.make_ima import kernel


def names(raw: bytes) -> list[str]:
    """The paths in a log."""
    return [entry.path for entry in ImaLog.decode(raw).entries()]


@pytest.mark.parametrize("bank", [Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512])
def test_both_forms_say_the_same(bank: Alg) -> None:
    """A log of any bank and the log of lines have the same data, which is what is hashed."""
    measured = kernel()
    binary, text = ImaLog.decode(measured.log(bank=bank)), ImaLog.decode(measured.text())

    assert [entry.data for entry in binary.entries()] == [one.data for one in measured.entries]
    assert [entry.fields for entry in text.entries()] == [e.fields for e in binary.entries()]
    assert binary.template_data(10) == text.template_data(10)
    assert [entry.violation for entry in text.entries()].count(True) == 1
    assert all(entry.hash_fits in {True, None} for entry in binary.entries())
    assert binary.form.hash_size == len(measured.pcr(bank))


def test_a_log_of_a_big_endian_machine_is_read() -> None:
    """The byte order of the headers is found; what is hashed stays as it was received."""
    entry = ImaKernel().file("/bin/a", b"a").entries[0]
    digest, name = entry.fields
    data = b"".join(struct.pack(">I", len(one)) + one for one in (digest, name))
    raw = struct.pack(">I20sI6sI", 10, b"h" * 20, 6, b"ima-ng", len(data)) + data

    log = ImaLog.decode(raw)

    assert log.form.order == "big"
    assert log.template_data(10) == [data]
    assert names(raw) == ["/bin/a"]
    assert list(log.files(10, (0,))) == [(0, b"", b"")]


def test_a_log_that_ends_anywhere_has_a_tail_and_no_error() -> None:
    """A log that was read while it grew: whole records count, the rest is set aside."""
    measured = (
        ImaKernel().file("boot_aggregate").file("/bin/a", b"a").file("/b", template="ima-sig")
    )
    raw = measured.log()
    ends = [len(raw) - len(measured.log(begin=count)) for count in range(4)]
    for end in range(ends[1], len(raw)):
        log = ImaLog.decode(raw[:end])
        count = len(list(log.entries()))
        assert ends[count] <= end < ends[count + 1]
        assert len(log.template_data(10)) == count
        assert log.tail == end - ends[count] == log.facts()["tail"]


def test_a_line_without_its_end_counts_only_if_its_hash_fits() -> None:
    """A path that was cut is not taken for another path."""
    text = ImaKernel().file("boot_aggregate").file("/bin/abcd", b"a").text()

    assert names(text[:-1]) == ["boot_aggregate", "/bin/abcd"]
    assert names(text[:-3]) == ["boot_aggregate"]
    assert ImaLog.decode(text[:-3]).tail > 0


def test_records_of_other_pcrs_are_kept_apart() -> None:
    """Only what was added to the PCR that is asked for is given."""
    measured = ImaKernel().file("a").file("b", pcr=11).file("c")

    log = ImaLog.decode(measured.log())

    assert log.template_data(10) == [measured.entries[0].data, measured.entries[2].data]
    assert log.template_data(11) == [measured.entries[1].data]
    assert [(at, one.path) for at, one in log.numbered(10, (1,))] == [(1, "c")]


def test_plain_files_are_told_without_making_entries() -> None:
    """Only `ima-ng` and `ima-sig`, and only where they are exactly of their form."""
    measured = ImaKernel().file("/a", b"a").file("/b", template="ima-sig", signature=b"sig")
    digest, name = measured.entries[0].fields
    plain = [tuple(entry.fields[:2]) for entry in measured.entries]
    measured.file("/c", template="d-ng|n-ng").buffer("kexec-cmdline", b"quiet")
    for template, fields in (
        ("ima-ng", [digest, name, b""]),
        ("ima-sig", [digest, name]),
        ("ima-ng", [digest, b"/a"]),
        ("ima-ng", [digest, b"/\0a\0"]),
        ("ima-ng", [digest, b""]),
        ("ima-ng", [digest]),
        ("ima-sig", [digest, name, bytes(MAX_DATA)]),
    ):
        measured.entries.append(Measured(template, fields))
    others = range(2, len(measured.entries))

    log = ImaLog.decode(measured.log())
    assert list(log.files(10, (0, 1))) == [(0, *plain[0]), (1, *plain[1])]
    assert list(log.files(10, others)) == [(number, b"", b"") for number in others]
    assert list(ImaLog.decode(ImaKernel().file("/a").text()).files(10, (0,))) == [(0, b"", b"")]
    cut = struct.pack("<I20sI6sI", 10, b"h" * 20, 6, b"ima-ng", 3) + b"\0\0\0"
    assert list(ImaLog.decode(WELL + cut).files(10, (1,))) == [(1, b"", b"")]


@pytest.mark.parametrize(
    "template", ["ima-ng", "ima-sig", "ima-sigv2", "ima", "d-ng|sig", "n-ng|d-ng"]
)
def test_templates_are_read_in_a_row_or_mixed(template: str) -> None:
    """The way a header was read last does not decide how the next one is."""
    measured = ImaKernel()
    for number in range(6):
        measured.file(f"/a{number}", b"x", template=template, digest=b"d" * 20, algorithm="sha1")
        measured.file(
            f"/b{number}",
            b"y",
            template=("ima-sig", "ima", "ima-ng")[number % 3],
            digest=b"e" * 20,
            algorithm="sha1",
        )
    log = ImaLog.decode(measured.log())

    assert log.template_data(10) == [one.data for one in measured.entries]
    assert [entry.data for entry in log.entries()] == log.template_data(10)


def test_every_template_of_the_kernel_is_read() -> None:
    """Fields of numbers and of extended attributes as well."""
    texts = {"d-ng": f"sha256:{'ab' * 32}", "d-ngv2": f"verity:sha256:{'ab' * 32}", "n-ng": "/a"}
    texts |= {"d": "ab" * 20, "n": "/a", "iuid": "1000", "igid": "0", "imode": "33188"}
    texts |= {"d-modsig": f"sha1:{'cd' * 20}", "xattrnames": "security.ima|security.selinux"}
    for template, fields in TEMPLATES.items():
        line = " ".join(texts.get(field, "0102") for field in fields)
        raw = f"10 {'12' * 20} {template} {line}\n".encode()
        (entry,) = ImaLog.decode(raw).entries()
        assert entry.path == "/a"
        assert tuple(entry.fields) == fields
        assert entry.digest is not None
        assert entry.facts()["template"] == template


def head(*, pcr: int = 10, name: bytes = b"ima-ng", size: int | None = None) -> bytes:
    """The start of a record."""
    return struct.pack("<I20sI", pcr, b"h" * 20, len(name) if size is None else size) + name


WELL = ImaKernel().file("/bin/a", b"a").log()
REFUSED = {
    "a PCR that no TPM has": head(pcr=24) + WELL[34:],
    "a template of no name": head(name=b"") + WELL[34:],
    "a template that is not known": head(name=b"ima-xy") + WELL[34:],
    "a format that names a field twice": head(name=b"d-ng|d-ng") + WELL[34:],
    "a template name that is longer than any": head(size=256) + WELL[34:],
    "data of 4 GiB": WELL + head() + b"\xff" * 4 + WELL[38:],
    "data that is longer than any": WELL + head() + struct.pack("<I", MAX_DATA + 1),
    "a field that is longer than its record": WELL[:38] + b"\xff\xff\0\0" + WELL[42:],
    "a field too few": head(name=b"ima-sig") + WELL[34:],
    "a field too many": head(name=b"d-ng") + WELL[34:],
    "a digest that is too short": ImaKernel().file("a", digest=b"x" * 31).log(),
    "a digest without algorithm": ImaKernel().file("a", algorithm="", digest=b"x" * 32).log(),
    "a name with a zero in it": ImaKernel().file("a\0b").log(),
    "a line of text": b"this is text",
    "a line with too many fields": b"10 " + b"12" * 20 + b" ima-ng sha1:" + b"ab" * 20 + b" /a b\n",
    "a number beyond its size": b"10 " + b"12" * 20 + b" imode|n-ng 99999 /a\n",
    "an odd number of hexadecimal digits": b"10 "
    + b"12" * 20
    + b" ima-ng sha1:"
    + b"a" * 39
    + b" /a\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_log_is_refused(case: str) -> None:
    """Sizes and forms that cannot be are errors of the tree, never a part of a log."""
    with pytest.raises((MalformedError, UnsupportedError)) as refused:
        list(ImaLog.decode(REFUSED[case]).entries())
    assert refused.value.code in {"wire:malformed", "wire:unsupported"}


def test_the_fast_walk_refuses_sizes_that_cannot_be() -> None:
    """What is not looked into is still within its bounds."""
    for case in ("data of 4 GiB", "data that is longer than any"):
        with pytest.raises(MalformedError):
            ImaLog.decode(REFUSED[case]).template_data(10)


def test_the_number_of_entries_and_the_size_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log can not make a verifier work, or remember, without end."""
    monkeypatch.setattr(ima_binary, "MAX_ENTRIES", 2)
    raw = ImaKernel().file("a").file("b").file("c")
    for log in (raw.log(), raw.text()):
        with pytest.raises(MalformedError):
            ImaLog.decode(log).template_data(10)
        with pytest.raises(MalformedError):
            list(ImaLog.decode(log).entries())
    monkeypatch.setattr(ima, "MAX_LOG", 100)
    with pytest.raises(MalformedError):
        ImaLog.decode(raw.log())


def test_a_form_that_is_not_certain_is_refused() -> None:
    """Where nothing says how large the template hash is, nothing is guessed."""
    for raw in (bytes(4), bytes(400), b"\x0a\0\0\0" + bytes(100)):
        with pytest.raises(HwTrustError):
            ImaLog.decode(raw)


def test_an_empty_log_has_nothing() -> None:
    """No entries is a log too; the rules say what they think of it."""
    log = ImaLog.decode(b"")
    assert log.template_data(10) == []
    assert log.facts()["entries"] == 0


def test_algorithms_that_are_not_known_keep_their_names() -> None:
    """A digest of an unknown algorithm is read, so that it can be reported."""
    assert str(read_digest(b"sm4:\0abc")) == "sm4:616263"
    with pytest.raises(MalformedError):
        read_digest(b"sm4:\0")
