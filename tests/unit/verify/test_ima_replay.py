"""Does an IMA log explain the quoted PCR? Replay in every bank, prefixes, states."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from hwtrust.errors.logs import ImaReplayError, ImaStateError
from hwtrust.verify.logs.ima import (
    START,
    Extend,
    ImaClaims,
    ImaState,
    KnownEntries,
    verify_ima,
)
from hwtrust.wire.algorithms import Alg, digest_size, new_hash
from hwtrust.wire.logs.ima import ImaLog
from simulators.ima_log import ImaKernel, Way
from vectors.make_ima import kernel

BANKS = (Alg.SHA1, Alg.SHA256, Alg.SHA384, Alg.SHA512)
WAYS: tuple[Way, ...] = ("hashed", "padded", "padded-ones")


def verify(raw: bytes, value: bytes, bank: Alg = Alg.SHA256) -> ImaClaims:
    """From the start of the boot."""
    return verify_ima(ImaLog.decode(raw), bank=bank, value=value, state=START)


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("way", WAYS)
def test_a_log_explains_every_bank_however_it_was_extended(bank: Alg, way: Way) -> None:
    """The way is found out, from the value alone."""
    measured = kernel(way)
    for raw in (measured.log(), measured.log(bank=bank), measured.text()):
        claims = verify(raw, measured.pcr(bank), bank)
        assert claims.new == claims.state.entries == len(measured.entries)
        assert claims.violations == (6,)
        expected = "hashed" if bank is Alg.SHA1 else way
        assert claims.state.extend == Extend(expected)


def test_the_ways_are_never_mixed() -> None:
    """A log of which one half is hashed and the other padded explains nothing."""
    half = ImaKernel().file("a").file("b")
    value = half.pcr(Alg.SHA256)
    last = ImaKernel("padded").file("c").entries[0]
    added = new_hash(Alg.SHA1, last.data).ljust(32, b"\0")
    with pytest.raises(ImaReplayError):
        verify(half.file("c").log(), hashlib.sha256(value + added).digest())


@pytest.mark.parametrize("count", [0, 1, 3, 7])
@pytest.mark.parametrize("way", WAYS)
def test_a_log_longer_than_the_quote_saw_is_believed_as_far_as_it_saw(count: int, way: Way) -> None:
    """What comes after is counted, and not claimed."""
    measured = kernel(way)
    claims = verify(measured.log(), measured.pcr(Alg.SHA256, entries=count))
    assert (claims.new, claims.beyond) == (count, len(measured.entries) - count)
    assert len(list(claims.entries())) == count
    assert claims.unknown == tuple(range(count))
    assert claims.violations == tuple(at for at in (6,) if at < count)


def test_the_quoted_value_is_found_behind_thousands_of_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search goes back over every step, not the last alone."""
    monkeypatch.setattr("hwtrust.verify.logs.ima._STEP", 4)
    measured = ImaKernel()
    for number in range(20):
        measured.file(f"/{number}")
    for count in range(21):
        claims = verify(measured.log(), measured.pcr(Alg.SHA256, entries=count))
        assert claims.new == count


def test_a_log_that_is_cut_is_refused() -> None:
    """Whoever hides the last entries cannot explain the value."""
    measured = kernel()
    end = len(measured.log()) - len(measured.log(begin=7))
    for cut in (measured.log()[:end], measured.log()[:-1], measured.log(begin=1), b""):
        with pytest.raises(ImaReplayError) as refused:
            verify(cut, measured.pcr(Alg.SHA256))
        assert refused.value.code == "evidence:ima-log:replay"


def test_every_changed_bit_of_template_data_is_refused() -> None:
    """What is hashed cannot be changed; what is not is the entries' headers."""
    measured = ImaKernel().file("boot_aggregate").file("/bin/sh", b"shell")
    raw, value = measured.log(), measured.pcr(Alg.SHA256)
    place = len(raw) - len(measured.entries[1].data)
    for bit in range(place * 8, len(raw) * 8):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ImaReplayError):
            verify(bytes(changed), value)


def test_the_template_hash_in_the_log_is_not_believed() -> None:
    """A wrong one changes nothing: it is made anew from the data."""
    measured = ImaKernel().file("boot_aggregate").file("/bin/sh", b"shell")
    raw = measured.log().replace(new_hash(Alg.SHA1, measured.entries[1].data), b"x" * 20)
    assert verify(raw, measured.pcr(Alg.SHA256)).new == 2
    hidden = measured.log().replace(new_hash(Alg.SHA1, measured.entries[1].data), bytes(20))
    with pytest.raises(ImaReplayError):
        verify(hidden, measured.pcr(Alg.SHA256))


def test_a_violation_cannot_be_shown_as_a_file() -> None:
    """An entry that the kernel extended as all ones is one."""
    measured = ImaKernel().file("boot_aggregate").file("/a", violation=True)
    value = measured.pcr(Alg.SHA256)
    measured.entries[1].violation = False
    with pytest.raises(ImaReplayError):
        verify(measured.log(), value)


def test_known_entries_change_nothing_but_the_time() -> None:
    """A violation, and whatever is not known, is treated as without them."""
    measured = kernel()
    known = KnownEntries([measured.entries[1].data, measured.entries[2].data])
    for bank in BANKS:
        for way in WAYS:
            measured.way = way
            claims = verify_ima(
                ImaLog.decode(measured.log()),
                bank=bank,
                value=measured.pcr(bank),
                state=START,
                known=known,
            )
            assert claims.unknown == (0, 3, 4, 5, 6, 7)
            assert claims.violations == (6,)


def test_known_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their number nor their size grows without end."""
    monkeypatch.setattr("hwtrust.verify.logs.ima.KNOWN", 2)
    known = KnownEntries([b"a"])
    measured = ImaKernel().file("x" * 2000).file("b").file("c")
    claims = verify(measured.log(), measured.pcr(Alg.SHA256))
    known.learn(claims, range(3))
    data = measured.entries[1].data
    assert known.digests(Alg.SHA256) == {one: hashlib.sha256(one).digest() for one in (b"a", data)}
    assert set(KnownEntries([b"a", b"b", b"c"]).digests(Alg.SHA256)) == {b"a", b"b"}


@pytest.mark.parametrize("way", WAYS[1:])
def test_what_was_added_filled_up_is_no_digest_to_be_known(way: Way) -> None:
    """Where the kernel adds SHA-1 filled up with zeros, nothing is remembered."""
    known = KnownEntries([])
    measured = ImaKernel(way).file("a").file("b", violation=True)
    known.learn(verify(measured.log(), measured.pcr(Alg.SHA256)), range(1))
    assert known.digests(Alg.SHA256) == {}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("begin", range(9))
def test_a_log_goes_on_from_a_state(way: Way, begin: int) -> None:
    """After so many verified entries the next evidence carries only the others."""
    measured = kernel(way)
    first = verify(measured.log(), measured.pcr(Alg.SHA256, entries=begin))
    kept = msgspec.json.decode(msgspec.json.encode(first.state), type=ImaState)
    log = ImaLog.decode(measured.log(begin=begin))
    claims = verify_ima(log, bank=Alg.SHA256, value=measured.pcr(Alg.SHA256), state=kept)

    whole = verify(measured.log(), measured.pcr(Alg.SHA256))
    assert claims.state == whole.state
    assert (claims.first, claims.new) == (begin, 8 - begin)
    assert claims.before == kept


def test_a_state_holds_the_way() -> None:
    """What was hashed before is not padded in the same boot."""
    measured = ImaKernel().file("boot_aggregate")
    state = verify(measured.log(), measured.pcr(Alg.SHA256)).state
    new = ImaKernel("padded").file("/a")
    added = new_hash(Alg.SHA1, new.entries[0].data).ljust(32, b"\0")
    value = hashlib.sha256(state.value + added).digest()
    with pytest.raises(ImaReplayError):
        verify_ima(ImaLog.decode(new.log()), bank=Alg.SHA256, value=value, state=state)


@pytest.mark.parametrize("way", WAYS)
def test_the_way_shows_once_there_is_more_than_violations(way: Way) -> None:
    """Until then it is left open, as far as the state leaves it; after that it holds."""
    measured = ImaKernel(way).file("/a", violation=True).file("/b").file("/c", violation=True)
    whole = verify(measured.log(), measured.pcr(Alg.SHA256))
    assert whole.state.extend == Extend(way)
    for begin in range(4):
        value = measured.pcr(Alg.SHA256, entries=begin)
        state = verify(measured.log(), value).state
        log = ImaLog.decode(measured.log(begin=begin))
        claims = verify_ima(log, bank=Alg.SHA256, value=whole.state.value, state=state)
        assert claims.state == whole.state


@pytest.mark.parametrize("way", WAYS)
def test_a_violation_in_the_state_holds_the_way_too(way: Way) -> None:
    """What one kernel adds for a violation, no other adds for the next one."""
    measured = ImaKernel(way).file("/a").file("/b", violation=True)
    state = verify(measured.log(), measured.pcr(Alg.SHA256)).state
    log = ImaLog.decode(ImaKernel().file("/c", violation=True).log())
    ones, short = b"\xff" * 32, (b"\xff" * 20).ljust(32, b"\0")
    good, bad = (short, ones) if way == "padded-ones" else (ones, short)
    value = hashlib.sha256(state.value + good).digest()
    assert verify_ima(log, bank=Alg.SHA256, value=value, state=state).state.violations == 2
    value = hashlib.sha256(state.value + bad).digest()
    with pytest.raises(ImaReplayError):
        verify_ima(log, bank=Alg.SHA256, value=value, state=state)


def test_a_way_that_is_told_is_the_only_one() -> None:
    """Another one, though it explains the value, is not tried."""
    measured = kernel()
    log, value = ImaLog.decode(measured.log()), measured.pcr(Alg.SHA256)
    for way in Extend:
        if way is Extend.HASHED:
            assert verify_ima(log, bank=Alg.SHA256, value=value, state=START, extend=way).new == 8
            continue
        with pytest.raises(ImaReplayError):
            verify_ima(log, bank=Alg.SHA256, value=value, state=START, extend=way)


def test_a_state_of_something_else_is_refused() -> None:
    """PCR, bank and size are those of the state."""
    measured = ImaKernel().file("boot_aggregate")
    value = measured.pcr(Alg.SHA256)
    state = verify(measured.log(), value).state
    log = ImaLog.decode(b"")
    cases = {
        "another bank": (Alg.SHA384, bytes(48), state, 10),
        "another bank of the same size": (Alg.SHA3_256, value, state, 10),
        "another PCR": (Alg.SHA256, value, state, 11),
        "a damaged state": (Alg.SHA256, value, msgspec.structs.replace(state, value=b""), 10),
    }
    for name, (bank, quoted, given, pcr) in cases.items():
        with pytest.raises(ImaStateError) as refused:
            verify_ima(log, bank=bank, value=quoted, state=given, pcr=pcr)
        assert refused.value.code == "evidence:ima-log:state", name
    with pytest.raises(ImaStateError):
        verify(measured.log(), value[:31])


def test_another_pcr_is_replayed_if_it_is_asked_for() -> None:
    """A kernel that measures by rules with `pcr=` has several logs in one."""
    measured = ImaKernel().file("boot_aggregate").file("/a", pcr=11).file("/b").file("/c", pcr=11)
    log = ImaLog.decode(measured.log())
    for pcr in (10, 11):
        value = measured.pcr(Alg.SHA256, pcr=pcr)
        claims = verify_ima(log, bank=Alg.SHA256, value=value, state=START, pcr=pcr)
        assert claims.new == 2


def test_claims_are_made_by_verification_alone() -> None:
    """Nobody else can make them, nor change what was verified."""
    measured = kernel()
    claims = verify(measured.log(), measured.pcr(Alg.SHA256))
    with pytest.raises(TypeError):
        msgspec.structs.replace(claims, new=1)
    assert claims.facts()["entries"] == 8
    assert claims.boot_aggregate == str(next(claims.log.entries()).digest)
    assert digest_size(claims.bank) == len(claims.state.value)


def test_only_the_first_entry_of_the_boot_is_its_aggregate() -> None:
    """Not one of that name behind a state, nor one of another name."""
    measured = ImaKernel().file("/a").file("boot_aggregate")
    claims = verify(measured.log(), measured.pcr(Alg.SHA256))
    assert claims.boot_aggregate is None
    state = verify(measured.log(), measured.pcr(Alg.SHA256, entries=1)).state
    log = ImaLog.decode(measured.log(begin=1))
    later = verify_ima(log, bank=Alg.SHA256, value=claims.state.value, state=state)
    assert (later.first, later.boot_aggregate) == (1, None)
