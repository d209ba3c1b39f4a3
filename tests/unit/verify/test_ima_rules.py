"""Is what the kernel measured accepted? Every rule of the runtime policy, and its lack."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hwtrust.errors import HwTrustError
from hwtrust.errors.logs import ImaReplayError, ImaRulesError
from hwtrust.verify.logs.ima import START, ImaClaims, verify_ima
from hwtrust.verify.logs.ima_reference import reference_from_ima, reference_from_tree
from hwtrust.verify.logs.ima_rules import (
    FINDINGS,
    LONGEST_GLOB,
    MOST_OF_A_CODE,
    ImaRules,
    PreparedImaRules,
    Unsafe,
    appraise_ima,
    boot_aggregates,
    glob,
    state_to_keep,
)
from hwtrust.wire.algorithms import Alg, new_hash
from hwtrust.wire.logs.ima import ImaLog
from hwtrust.wire.logs.ima_template import FileDigest
from hwtrust.wire.messages import Finding, Severity
from simulators.ima_log import (
    ImaKernel,
    Measured,
    Way,
    ec_key,
    other_key,
    public_pem,
    rsa_key,
    sign,
)

PCRS = {number: hashlib.sha256(b"%d" % number).digest() for number in range(10)}
A, B = (hashlib.sha256(content).digest() for content in (b"a", b"b"))


def booted() -> ImaKernel:
    """A kernel that has begun its log."""
    return ImaKernel().boot(PCRS)


def claims_of(
    measured: ImaKernel, rules: PreparedImaRules | None = None, bank: Alg = Alg.SHA256
) -> ImaClaims:
    """What its log says."""
    known = rules.known if rules else None
    log = ImaLog.decode(measured.log())
    return verify_ima(log, bank=bank, value=measured.pcr(bank), state=START, known=known)


def findings(measured: ImaKernel, **rules: Any) -> tuple[Finding, ...]:  # noqa: ANN401
    """What is found; with what the rules know, without it, and once more."""
    prepared = PreparedImaRules(msgspec.convert({"digests": {}} | rules, ImaRules))
    pcrs = {Alg.SHA256: PCRS}
    plain = appraise_ima(claims_of(measured), rules=prepared, pcrs=pcrs)
    for _ in range(2):
        known = appraise_ima(claims_of(measured, prepared), rules=prepared, pcrs=pcrs)
        assert known == plain
    return plain


def codes(measured: ImaKernel, **rules: Any) -> list[str]:  # noqa: ANN401
    """The codes of what is found."""
    found = findings(measured, **rules)
    assert {one.code for one in found} <= set(FINDINGS)
    return [one.code for one in found]


def signed(*args: Any, path: str = "/a", **changes: Any) -> ImaKernel:  # noqa: ANN401
    """A kernel that has measured a signed file."""
    key = args[0] if args else ec_key()
    made = sign(key, A, **changes)
    return booted().file(path, b"a", template="ima-sig", signature=made)


PINNED = {"digests": {"/a": [A.hex()]}}
KEYS = {"keys": [public_pem(ec_key()), public_pem(rsa_key())]}
SHA1 = new_hash(Alg.SHA1, b"a").hex()
MD5 = hashlib.md5(b"a", usedforsecurity=False).hexdigest()
PADDED: tuple[Way, ...] = ("padded", "padded-ones")


def buffered(fields: list[bytes], template: str = "ima-buf") -> ImaKernel:
    """A kernel that has measured data that is no file, in these fields."""
    return ImaKernel(entries=[*booted().entries, Measured(template, fields)])


ACCEPTED: dict[str, tuple[ImaKernel, dict[str, Any]]] = {
    "a file with its digest": (booted().file("/a", b"a"), PINNED),
    "the same, as ima-sig": (booted().file("/a", b"a", template="ima-sig"), PINNED),
    "the same, as ima-ngv2": (booted().file("/a", b"a", template="ima-ngv2"), PINNED),
    "the same, of a format of its own": (booted().file("/a", b"a", template="d-ng|n-ng"), PINNED),
    "one of several digests": (booted().file("/a", b"b"), {"digests": {"/a": [A.hex(), B.hex()]}}),
    "a digest at any path": (
        booted().file("/x", b"a"),
        {"digests_anywhere": [f"sha256:{A.hex()}"]},
    ),
    "an excluded path": (booted().file("/var/log/x", b"?"), {"excludes": ["/var/log/*"]}),
    "a file signed with ECDSA": (signed(), KEYS),
    "a file signed with RSA": (signed(rsa_key()), KEYS),
    "a signature of version 3": (signed(version=3), KEYS),
    "a file of fs-verity": (
        booted().verity("/a", A, sign(ec_key(), A, version=3, kind=6)),
        KEYS,
    ),
    "a digest of fs-verity": (
        booted().verity("/a", A, b""),
        {"digests": {"/a": [f"verity:sha256:{A.hex()}"]}},
    ),
    "a known command line": (
        booted().buffer("kexec-cmdline", b"a"),
        {"buffers": {"kexec-cmdline": [A.hex()]}},
    ),
    "any data": (booted().buffer(".ima", b"a"), {"unsafe_any_buffer": True}),
    "a violation that is allowed": (
        booted().file("/a", violation=True),
        {"unsafe_allow_violations": True},
    ),
    "SHA-1 that is allowed": (
        booted().file("/a", b"a", template="ima", algorithm="sha1"),
        {"digests": {"/a": [SHA1]}, "unsafe_allow_sha1": True},
    ),
    "an aggregate over PCRs 0 to 7": (ImaKernel().boot(PCRS, last=7), {}),
    **{
        f"entries that are bound by SHA-1, {way}, where that is allowed": (
            ImaKernel(way).boot(PCRS).file("/a", violation=True),
            {"unsafe_allow_sha1": True, "unsafe_allow_violations": True},
        )
        for way in PADDED
    },
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_the_rules_accept_gives_no_finding(case: str) -> None:
    """Each way to accept something works, and goes on working from memory."""
    measured, rules = ACCEPTED[case]
    assert codes(measured, **rules) == []


REFUSED: dict[str, tuple[ImaKernel, dict[str, Any], str]] = {
    "a file of no digest": (booted().file("/b", b"a"), PINNED, "ima:unknown"),
    "a changed file": (booted().file("/a", b"b"), PINNED, "ima:digest"),
    "a file at a path that is pinned to no digest": (
        booted().file("/a", b"a"),
        {"digests": {"/a": []}, "digests_anywhere": [A.hex()]},
        "ima:digest",
    ),
    "a changed file that is signed": (
        signed(),
        KEYS | {"digests": {"/a": [B.hex()]}},
        "ima:digest",
    ),
    "a path of which one is the beginning": (booted().file("/ab", b"a"), PINNED, "ima:unknown"),
    "the digest of fs-verity for a file's": (booted().verity("/a", A, b""), PINNED, "ima:digest"),
    "a file for the digest of fs-verity": (
        booted().file("/a", b"a"),
        {"digests": {"/a": [f"verity:sha256:{A.hex()}"]}},
        "ima:digest",
    ),
    "a digest of another algorithm": (
        booted().file("/a", digest=A, algorithm="sm3"),
        PINNED,
        "ima:digest",
    ),
    "no signature": (booted().file("/a", b"a", template="ima-sig"), KEYS, "ima:unknown"),
    "a signature, and no keys": (signed(), {}, "ima:unknown"),
    "a signature by another key": (signed(other_key()), KEYS, "ima:key"),
    "a signature by another key under the id of a known one": (
        signed(other_key(), key_id=sign(ec_key(), A)[3:7]),
        KEYS,
        "ima:signature",
    ),
    "a signature over another file": (
        booted().file("/a", b"b", template="ima-sig", signature=sign(ec_key(), A)),
        KEYS,
        "ima:signature",
    ),
    "a signature with a wrong size": (
        booted().file("/a", b"a", template="ima-sig", signature=sign(ec_key(), A) + b"\0"),
        KEYS,
        "ima:signature",
    ),
    "a signature that is cut": (
        booted().file("/a", b"a", template="ima-sig", signature=b"\x03\x02\x04"),
        KEYS,
        "ima:signature",
    ),
    "a signature for fs-verity over a file": (signed(version=3, kind=6), KEYS, "ima:signature"),
    "a signature for a file over fs-verity": (
        booted().verity("/a", A, sign(ec_key(), A, version=3)),
        KEYS,
        "ima:signature",
    ),
    "a signature of version 2 for fs-verity": (
        booted().verity("/a", A, sign(ec_key(), A, version=2, kind=6)),
        KEYS,
        "ima:signature",
    ),
    "a signature of an HMAC's type": (signed(kind=2), KEYS, "ima:signature"),
    "a signature under another algorithm's number": (signed(number=5), KEYS, "ima:signature"),
    "a signature over SHA-1": (
        booted().file(
            "/a", b"a", algorithm="sha1", template="ima-sig", signature=sign(ec_key(), A, number=2)
        ),
        KEYS,
        "ima:weak",
    ),
    "a signature of version 1": (signed(version=1), KEYS, "ima:weak"),
    "an unknown command line": (
        booted().buffer("kexec-cmdline", b"b"),
        {"buffers": {"kexec-cmdline": [A.hex()]}},
        "ima:buffer",
    ),
    "a file that the log calls a buffer": (
        buffered(signed().entries[1].fields),
        {"unsafe_any_buffer": True},
        "ima:buffer",
    ),
    "a buffer under an algorithm that nobody knows": (
        buffered([b"none:\0" + A, b"k\0", b"a"]),
        {"unsafe_any_buffer": True},
        "ima:buffer",
    ),
    "a buffer under an algorithm whose digests have no size": (
        buffered([b"shake_128:\0" + A, b"k\0", b"a"]),
        {"unsafe_any_buffer": True},
        "ima:buffer",
    ),
    "a buffer without a digest": (
        buffered([b"k\0", b"a"], "n-ng|buf"),
        {"unsafe_any_buffer": True},
        "ima:buffer",
    ),
    "a buffer with the digest of another": (
        booted().buffer(".ima", b"a"),
        {"buffers": {"kexec-cmdline": [A.hex()], ".ima": [B.hex()]}},
        "ima:buffer",
    ),
    "an empty buffer under an excluded name": (
        booted().buffer("/a", b""),
        {"excludes": ["*"]},
        "ima:buffer",
    ),
    "a buffer that is known by SHA-1": (
        buffered([b"sha1:\0" + bytes.fromhex(SHA1), b"k\0", b"a"]),
        {"buffers": {"k": [SHA1]}},
        "ima:weak",
    ),
    "a key on a keyring": (booted().buffer(".ima", b"a"), {}, "ima:buffer"),
    "a file's digest for a buffer": (booted().buffer("/a", b"a"), PINNED, "ima:buffer"),
    "an excluded name for a buffer": (
        booted().buffer("/a", b"a"),
        {"excludes": ["*"]},
        "ima:buffer",
    ),
    "a violation": (booted().file("/a", violation=True), PINNED, "ima:violation"),
    "a violation at an excluded path": (
        booted().file("/var/x", violation=True),
        {"excludes": ["/var/*"]},
        "ima:violation",
    ),
    "a digest of zeros": (
        booted().file("/a", digest=bytes(32)),
        {"digests": {"/a": ["00" * 32]}},
        "ima:unknown",
    ),
    "SHA-1": (
        booted().file("/a", b"a", template="ima", algorithm="sha1"),
        {"digests": {"/a": [SHA1]}},
        "ima:weak",
    ),
    "MD5": (booted().file("/a", b"a", algorithm="md5"), {"digests": {"/a": [MD5]}}, "ima:weak"),
    "RIPEMD-160": (
        booted().file("/a", digest=A[:20], algorithm="rmd160"),
        {"digests_anywhere": [f"rmd160:{A[:20].hex()}"]},
        "ima:weak",
    ),
    **{
        f"entries that are bound by SHA-1, {way}": (
            ImaKernel(way).boot(PCRS).file("/a", violation=True),
            {"unsafe_allow_violations": True},
            "ima:weak",
        )
        for way in PADDED
    },
    "another boot's aggregate": (
        ImaKernel().file("boot_aggregate", b"?"),
        {"digests_anywhere": [hashlib.sha256(b"?").hexdigest()], "excludes": ["*"]},
        "ima:boot-aggregate",
    ),
    "no aggregate": (ImaKernel().file("/a", b"a"), PINNED, "ima:boot-aggregate"),
    "an empty log": (ImaKernel(), {}, "ima:empty"),
    "an entry without a digest": (
        ImaKernel().boot(PCRS).file("/a", template="n-ng|sig"),
        {},
        "ima:malformed",
    ),
    "an entry that cannot be read": (
        booted().file("/a", digest=b"x" * 31),
        {},
        "ima:malformed",
    ),
    "rules that say nothing": (booted(), {"digests": msgspec.UNSET}, "ima:absent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_rules_do_not_accept_is_found(case: str) -> None:
    """Every code, for every reason there is."""
    measured, rules, code = REFUSED[case]
    if case == "rules that say nothing":
        prepared = PreparedImaRules(ImaRules())
        claims = claims_of(measured)
        found = appraise_ima(claims, rules=prepared, pcrs={Alg.SHA256: PCRS})
    else:
        found = findings(measured, **rules)
    assert [(one.code, one.severity) for one in found] == [(code, Severity.FAIL)]


def test_each_code_is_met_by_a_case() -> None:
    """No finding is without its test."""
    assert {code for _, _, code in REFUSED.values()} == set(FINDINGS)


def test_the_sha1_bank_alone_is_weak() -> None:
    """Replay in the SHA-1 bank binds by SHA-1."""
    rules = PreparedImaRules(ImaRules(digests={}))
    found = appraise_ima(claims_of(booted(), bank=Alg.SHA1), rules=rules, pcrs={Alg.SHA256: PCRS})
    assert [one.code for one in found] == ["ima:weak"]


def test_without_pcr_values_the_aggregate_cannot_be_checked() -> None:
    """That it is not checked has to be spelled out."""
    rules = PreparedImaRules(ImaRules(digests={}))
    claims = claims_of(booted())
    assert [one.code for one in appraise_ima(claims, rules=rules, pcrs={})] == [
        "ima:boot-aggregate"
    ]
    assert appraise_ima(claims, rules=rules, pcrs=Unsafe.ANY_BOOT_AGGREGATE) == ()


@pytest.mark.parametrize("last", [number for number in range(10) if number not in {7, 9}])
def test_an_aggregate_over_fewer_or_other_pcrs_is_another_boots(last: int) -> None:
    """Nothing of what firmware and boot loader measured is left out."""
    assert codes(ImaKernel().boot(PCRS, last=last)) == ["ima:boot-aggregate"]


def test_the_aggregate_is_of_pcrs_that_are_quoted_by_the_kernels_hashes() -> None:
    """One that is left out leaves no aggregate to compare with."""
    names = ("sha1", "sha256", "sha384", "sha512")
    joined = [b"".join(PCRS[number] for number in range(last + 1)) for last in (7, 9)]
    expected = {
        FileDigest(name, hashlib.new(name, one).digest()) for name in names for one in joined
    }
    assert boot_aggregates({Alg.SHA256: PCRS}) == expected
    for left_out in range(8):
        quoted = {number: value for number, value in PCRS.items() if number != left_out}
        assert boot_aggregates({Alg.SHA256: quoted}) == frozenset()


def test_a_violation_is_found_whatever_the_log_shows_in_its_place() -> None:
    """Nothing binds what it shows: not even the digest of a file that is accepted helps."""
    measured = booted().file("/a", b"a")
    measured.entries[1].violation = True
    rules = PreparedImaRules(msgspec.convert(PINNED, ImaRules))
    found = appraise_ima(claims_of(measured), rules=rules, pcrs={Alg.SHA256: PCRS})
    assert [one.code for one in found] == ["ima:violation"]
    with pytest.raises(ImaReplayError) as refused:
        claims_of(measured, rules)
    assert refused.value.code == "evidence:ima-log:replay"


def test_what_one_set_of_rules_knows_is_nothing_to_another() -> None:
    """Entries that other rules accepted are looked at."""
    lax = PreparedImaRules(ImaRules(digests_anywhere=(A.hex(),)))
    strict = PreparedImaRules(ImaRules(digests={}))
    measured = booted().file("/a", b"a")
    claims = claims_of(measured, lax)
    assert appraise_ima(claims, rules=lax, pcrs={Alg.SHA256: PCRS}) == ()
    claims = claims_of(measured, lax)
    assert claims.unknown == (0,)
    found = appraise_ima(claims, rules=strict, pcrs={Alg.SHA256: PCRS})
    assert [one.code for one in found] == ["ima:unknown"]


def test_what_is_accepted_unseen_is_not_remembered() -> None:
    """Else one machine could make another's log explain nothing, or fill the memory."""
    rules = {"excludes": ["/var/*"], "digests": {}} | {
        "unsafe_allow_violations": True,
        "unsafe_any_buffer": True,
    }
    prepared = PreparedImaRules(msgspec.convert(rules, ImaRules))
    hostile = booted().file("/var/x", digest=bytes(32)).buffer("k", b"key")
    honest = booted().file("/var/x", violation=True)
    for measured in (hostile, honest):
        claims = claims_of(measured, prepared)
        assert appraise_ima(claims, rules=prepared, pcrs={Alg.SHA256: PCRS}) == ()
    assert prepared.known.digests(Alg.SHA256) == {}


def test_a_signature_is_checked_each_time() -> None:
    """What a signature accepts is never remembered."""
    prepared = PreparedImaRules(msgspec.convert(KEYS, ImaRules))
    for _ in range(2):
        claims = claims_of(signed(), prepared)
        assert claims.unknown == (0, 1)
        assert appraise_ima(claims, rules=prepared, pcrs={Alg.SHA256: PCRS}) == ()


def test_nothing_is_accepted_unread_that_reading_would_not_accept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With any bit changed, what is found is the same as where every entry is read."""
    measured = (
        signed()
        .file("/a", b"a")
        .file("/b", b"b")
        .file("/a", b"b")
        .file("/z", digest=bytes(32))
        .file("/s", b"a", algorithm="sha1")
        .file("boot_aggregate", b"b")
        .buffer("/a", b"a")
    )
    rules = PreparedImaRules(
        msgspec.convert(
            PINNED | {"digests_anywhere": [B.hex(), "00" * 32, SHA1]} | {"excludes": ["/x*"]},
            ImaRules,
        )
    )

    def found(raw: bytes) -> tuple[str, ...]:
        try:
            log = ImaLog.decode(raw)
            value = bytes(32)
            for one in log.template_data(10):
                value = hashlib.sha256(value + hashlib.sha256(one).digest()).digest()
            claims = verify_ima(log, bank=Alg.SHA256, value=value, state=START)
            made = appraise_ima(claims, rules=rules, pcrs={Alg.SHA256: PCRS})
            return tuple(f"{one.code} {one.message}" for one in made)
        except HwTrustError as error:
            return (error.code,)

    raw = measured.log()
    logs = [raw]
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        logs.append(bytes(changed))
    short = [found(one) for one in logs]
    assert [one.split()[0] for one in short[0]] == [
        *("ima:digest", "ima:unknown", "ima:weak", "ima:boot-aggregate", "ima:buffer")
    ]
    monkeypatch.setattr(
        ImaLog, "files", lambda _log, _pcr, numbers: ((one, b"", b"") for one in numbers)
    )
    assert short == [found(one) for one in logs]


def test_findings_are_bounded_and_names_cut() -> None:
    """A hostile log cannot fill a database."""
    measured = booted()
    for number in range(100):
        measured.file(f"/{number}" + "x" * 4000, b"?")
    found = findings(measured)
    assert len(found) == MOST_OF_A_CODE + 1
    assert found[-1].message == f"and {100 - MOST_OF_A_CODE} times more"
    assert max(len(one.message) for one in found) < 300


def test_as_many_findings_as_are_spelled_out_are_not_counted() -> None:
    """The sentence about others stands only where there are some."""
    measured = booted()
    for number in range(MOST_OF_A_CODE):
        measured.file(f"/{number}", b"?")
    assert codes(measured) == ["ima:unknown"] * MOST_OF_A_CODE


def test_the_state_stays_where_it_was_after_a_failure() -> None:
    """What failed comes again with the next evidence, and fails again."""
    rules = PreparedImaRules(ImaRules(digests={}))
    good, bad = claims_of(booted()), claims_of(booted().file("/a", violation=True))
    pcrs = {Alg.SHA256: PCRS}
    assert state_to_keep(good, appraise_ima(good, rules=rules, pcrs=pcrs)) == good.state
    assert state_to_keep(bad, appraise_ima(bad, rules=rules, pcrs=pcrs)) is None
    measured = booted()
    before = claims_of(measured).state
    log = ImaLog.decode(measured.file("/a", b"a").log(begin=1))
    later = verify_ima(log, bank=Alg.SHA256, value=measured.pcr(Alg.SHA256), state=before)
    assert state_to_keep(later, appraise_ima(later, rules=rules, pcrs=pcrs)) == before
    alert = Finding(code="ima:unknown", severity=Severity.ALERT, message="")
    assert state_to_keep(later, (alert,)) == later.state


def test_only_a_boot_begins_with_its_aggregate() -> None:
    """What goes on from a state does not."""
    rules = PreparedImaRules(msgspec.convert(PINNED, ImaRules))
    measured = booted()
    state = claims_of(measured).state
    log = ImaLog.decode(measured.file("/a", b"a").log(begin=1))
    value = measured.pcr(Alg.SHA256)
    claims = verify_ima(log, bank=Alg.SHA256, value=value, state=state, known=rules.known)
    assert appraise_ima(claims, rules=rules, pcrs={Alg.SHA256: PCRS}) == ()
    nothing = ImaLog.decode(b"")
    claims = verify_ima(nothing, bank=Alg.SHA256, value=value, state=claims.state)
    assert appraise_ima(claims, rules=rules, pcrs={Alg.SHA256: PCRS}) == ()


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/var/*", "/var/log/x", True),
        ("/var/*", "/usr/var/x", False),
        ("*.pyc", "/a/b.pyc", True),
        ("*.pyc", "/a/b.pyc.x", False),
        ("/a/*/b*c", "/a/x/y/bbc", True),
        ("/a*a", "/a", False),
        ("/a", "/a", True),
        ("/a", "/ab", False),
        ("/a.b", "/axb", False),
        ("a*b*b", "a-b", False),
        ("/a*b*b*c", "/a-b-c", False),
        ("/a*b*b*c", "/a-b-b-c", True),
        ("/a*x*c", "/a-c", False),
        ("*", "", True),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    """Only `*` is a sign, and it stands for any characters."""
    assert glob(pattern)(path.encode()) is matches


def test_a_glob_takes_no_longer_than_the_path_is_long() -> None:
    """No name of a file makes it search without end."""
    start = time.process_time()
    assert not glob("*a" * 200 + "b")(b"a" * 4096)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "rules",
    [
        {"digests": {"/a": ["zz"]}},
        {"digests_anywhere": ["ab" * 31]},
        {"excludes": [""]},
        {"excludes": ["x" * (LONGEST_GLOB + 1)]},
        {"unknown": 1},
        {"digests": {"/a": A.hex()}},
    ],
)
def test_rules_of_another_form_are_refused(rules: dict[str, Any]) -> None:
    """A typing error in a policy does not pass as a rule."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rules, ImaRules)


@pytest.mark.parametrize(
    "rules",
    [
        ImaRules(keys=("no key",)),
        ImaRules(keys=("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",)),
        ImaRules(digests={"/a": ("sha512:" + "ab" * 32,)}),
        ImaRules(digests={"/a": ("zz",)}),
        ImaRules(digests_anywhere=("ab" * 31,)),
        ImaRules(buffers={"k": ("sha256:" + "ab" * 31,)}),
        ImaRules(keys=(public_pem(rsa.generate_private_key(65537, 1024)),)),  # noqa: S505
    ],
)
def test_rules_with_no_key_or_digest_are_refused(rules: ImaRules) -> None:
    """What cannot be used is told when the rules are prepared, not when evidence comes."""
    with pytest.raises(ImaRulesError) as refused:
        PreparedImaRules(rules)
    assert refused.value.code == "rules:ima"


def test_rules_that_allow_short_rsa_keys_take_them() -> None:
    """A file that one has signed is accepted."""
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is allowed
    assert codes(signed(key), keys=[public_pem(key)], unsafe_allow_rsa1024=True) == []


def test_nothing_unsafe_is_allowed_that_is_not_spelled_out() -> None:
    """Each permission has to be given."""
    rules = ImaRules()
    names = [name for name in rules.__struct_fields__ if name.startswith("unsafe")]
    assert len(names) == 4
    assert not any(getattr(rules, name) for name in names)


def test_rules_from_a_log_accept_that_log_and_leave_out_what_they_cannot() -> None:
    """TOML that can be used as it is, with what was left out counted."""
    import tomllib  # noqa: PLC0415

    measured = booted().file('/a"\\ü\x7f', b"a").buffer(".ima", b"key")
    text = reference_from_ima(ImaLog.decode(measured.log()).entries())
    assert codes(measured, **tomllib.loads(text)["ima"]) == []

    measured.file("/v", violation=True).file("/s", algorithm="sha1").file(b"/\xff", b"x")
    text = reference_from_ima(ImaLog.decode(measured.log()).entries())
    assert text.count("# left out: 1 ") == 3
    assert "boot_aggregate" not in text
    assert codes(measured, **tomllib.loads(text)["ima"]) == [
        "ima:violation",
        "ima:unknown",
        "ima:unknown",
    ]


@pytest.mark.parametrize("digest", [b"unknown:" + bytes(range(29)), b"unknown:" + bytes(range(32))])
def test_digests_that_are_not_known_do_not_become_rules(digest: bytes) -> None:
    """By an algorithm that there is not, of a size that rules have or have not."""
    line = b"10 " + b"11" * 20 + b" ima-ng "
    name, _, value = digest.partition(b":")
    log = line + name + b":" + value.hex().encode() + b" /data\n"
    with pytest.raises(ImaRulesError) as refused:
        reference_from_ima(ImaLog.decode(log).entries())
    assert "1 entries" in refused.value.message


def test_rules_from_a_tree_accept_its_files() -> None:
    """Paths as the kernel writes them."""
    import tomllib  # noqa: PLC0415

    text = reference_from_tree([("/a b", A), ("/b", B), ("/\udcff", B)])
    measured = booted().file("/a_b", b"a").file("/b", b"b")
    assert codes(measured, **tomllib.loads(text)["ima"]) == []
    assert "# left out: 1 " in text
    for entries in ([], [("b", B)]):
        with pytest.raises(ImaRulesError):
            reference_from_tree(entries)
