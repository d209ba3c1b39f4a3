"""A policy document says one thing, or is refused with the line that does not."""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrust.errors import PolicyDocumentError
from hwtrust.verify.policy import Effect
from hwtrust.wire.messages import TlsKeyKind
from hwtrust_backend.policies import DEFAULT_DOCUMENT, next_open, policy_schema, read_policy
from hwtrust_backend.policies.document import DOCUMENT_LIMIT
from hwtrust_backend.policies.windows import parse_window
from hwtrust_backend.publishing.schedule import Reason
from hwtrust_backend.testing import DAY, HOUR, MINUTE, policy_document

FULL: Final = policy_document(
    releases=["1.0", "1.1"],
    tls_keys=["tpm"],
    root_lifetime="10d",
    clock={"max_lag": "1m", "max_drift": 0.5},
    firmware={"floor": 7},
    pcrs={"required": [0, 7], "values": {"7": ["ab" * 32]}, "unsafe_any": [0]},
    on_failure={"default": "locked", "firmware:": "alert", "log:": "limited"},
    rotation={"windows": ["01:00-05:00"], "jitter": "0s", "per_minute": 5},
    updates={"within": "14d"},
)


def test_what_init_writes_down_is_complete() -> None:
    """The first policy leaves nothing unsaid."""
    policy = read_policy(DEFAULT_DOCUMENT)
    assert policy.absent == ()
    assert policy.releases is None
    assert policy.on_failure == (("", Effect.LOCKED),)


def test_every_field_is_read() -> None:
    """What stands in the document is what the policy says."""
    policy = read_policy(FULL)
    assert policy.releases == frozenset({"1.0", "1.1"})
    assert policy.tls_keys == frozenset({TlsKeyKind.TPM})
    assert (policy.root_lifetime_ms, policy.heartbeat_ms) == (10 * DAY, 5 * MINUTE)
    assert (policy.clock.max_lag_ms, policy.clock.max_drift) == (MINUTE, 0.5)
    assert policy.clock.firmware_floor == 7
    assert policy.pcrs.required == frozenset({0, 7})
    assert policy.pcrs.values == {7: frozenset({bytes.fromhex("ab" * 32)})}
    assert policy.pcrs.unsafe_any == frozenset({0})
    assert set(policy.on_failure) == {
        ("", Effect.LOCKED),
        ("firmware:", Effect.ALERT),
        ("log:", Effect.LIMITED),
    }
    assert policy.rotation.jitter_ms == 0
    assert policy.rotation.per_minute == 5
    assert policy.update_within_ms == 14 * DAY
    assert policy.absent == ()


FIELDS: Final = (
    *("releases", "evidence", "tls_keys", "root_lifetime", "offline_grace", "heartbeat"),
    *("watchdog", "clock.max_lag", "clock.max_ahead", "clock.max_drift", "firmware.floor"),
    *("pcrs.required", "pcrs.values", "log.max_records", "log.outdated_loads"),
    *("on_failure.default", "rotation.triggers", "rotation.events", "rotation.windows"),
    *("rotation.jitter", "rotation.per_minute"),
)


@pytest.mark.parametrize("field", FIELDS)
def test_what_is_left_out_is_named(field: str) -> None:
    """Every field that is absent is told, so that it can refuse."""
    table, dot, name = field.rpartition(".")
    changes: dict[str, object] = {table: {name: None}} if dot else {field: None}
    assert read_policy(policy_document(**changes)).absent == (field,)


def test_a_term_for_updates_may_be_left_out() -> None:
    """Without one an older release may run for ever; that is the one table that may be absent."""
    for text in ("", "[updates]", DEFAULT_DOCUMENT):
        assert read_policy(text).update_within_ms is None
    assert "updates.within" not in read_policy("").absent


def test_an_empty_document_leaves_everything_unsaid() -> None:
    """The table above is complete: no field has a silent default."""
    assert sorted(read_policy("").absent) == sorted(FIELDS)


WRONG: Final[dict[str, tuple[str, int]]] = {
    "no TOML": ("a = 1\nroot_lifetime = 30d\n", 2),
    "a document that breaks off": ("a = 1\nroot_lifetime = [\n\n", 2),
    "the same field twice": ("watchdog = '1m'\n\nwatchdog = '2m'", 3),
    "a misspelt field": ("\nrot_lifetime = '1d'", 2),
    "a misspelt field of a table": ("[clock]\n\nmax_lagg = '1m'", 3),
    "a misspelt table": ("\n[clocks]\nmax_lag = '1m'", 2),
    "a number for a span": ("a = 1", 1),
    "a span without a unit": ("[clock]\nmax_lag = '10'", 2),
    "a span of nothing": ("\nwatchdog = ''", 2),
    "a drift beyond the whole": ("[clock]\nmax_drift = 2.0", 2),
    "a PCR that does not exist": ("[pcrs]\nrequired = [\n  24,\n]", 2),
    "a value of another size": ("[pcrs.values]\n7 = ['00']", 2),
    "a value that is no number": ("[pcrs]\nvalues = { 7 = ['zz'] }", 2),
    "a value of another size in a long list": (
        f"[pcrs.values]\n7 = [\n  '{'00' * 32}',\n  'beef',\n]",
        4,
    ),
    "a PCR in two spellings": (f"[pcrs.values]\n7 = ['{'00' * 32}']\n07 = []", 3),
    "an effect that does not exist": ("[on_failure]\ndefault = 'ignore'", 2),
    "a code that is empty": ("[on_failure]\ndefault = 'locked'\n'' = 'alert'", 3),
    "evidence of an unknown kind": ("\nevidence = [\n'TPM']", 3),
    "a code that no finding has": ("[on_failure]\ndefault = 'locked'\n'lag:' = 'alert'", 3),
    "less for a revoked epoch": ("[on_failure]\n'epoch:revoked' = 'alert'", 2),
    "less for an absent field of a table": ("[on_failure]\n'snp:absent' = 'alert'", 2),
    "less for an administrator's lock": ("[on_failure]\n'admin:' = 'limited'", 2),
    "a trigger that does not exist": ("[rotation]\ntriggers = ['moon']", 2),
    "a window that is none": ("[rotation]\nwindows = ['night']", 2),
    "a window among others that is none": (
        "[rotation]\nwindows = [\n '01:00-02:00',\n '25:00-26:00',\n]\njitter = '25:00-26:00'",
        4,
    ),
    "a term of nothing": ("[updates]\nwithin = '0d'", 2),
    "a term without a unit": ("[updates]\n\nwithin = '14'", 3),
    "a term that is a number": ("[updates]\nwithin = 14", 2),
    "a misspelt term": ("[updates]\nwithn = '14d'", 2),
    "a rate of nothing": ("[rotation]\nper_minute = 0", 2),
    "a kind of key that does not exist": ("\n\ntls_keys = ['software']", 3),
    "a watchdog before the heartbeat": ("watchdog = '1m'\nheartbeat = '2m'", 2),
    "a grace beyond the root": ("root_lifetime = '1d'\noffline_grace = '2d'", 2),
    "a floor beyond any number": ("[firmware]\nfloor = 9223372036854775808", 2),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_document_is_refused_with_its_line(case: str) -> None:
    """Nothing that is misspelt or impossible is taken, and the line is told."""
    text, line = WRONG[case]
    with pytest.raises(PolicyDocumentError) as caught:
        read_policy(text)
    assert caught.value.code == "policy:document"
    assert caught.value.data["line"] == line
    assert caught.value.message.startswith(f"line {line}")


def test_the_schema_takes_what_is_a_policy_and_refuses_what_is_none() -> None:
    """Editors that go by the schema say the same of names and kinds as the backend."""
    schema = jsonschema_rs.validator_for(policy_schema())
    assert schema.is_valid(tomllib.loads(DEFAULT_DOCUMENT))
    assert schema.is_valid(tomllib.loads(FULL))
    assert schema.is_valid(tomllib.loads(f"[firmware_log.digests]\n0 = ['{'5e' * 32}']"))
    for wrong in (
        "rot_lifetime = '1d'",
        "tls_keys = ['software']",
        "[pcrs]\nrequired = [24]",
        "[firmware_log.digests]\n0 = ['5e']",
        f"[firmware_log.digests]\n24 = ['{'5e' * 32}']",
    ):
        assert not schema.is_valid(tomllib.loads(wrong))


def test_the_schemas_patterns_are_those_of_json_schema() -> None:
    """Python's own anchors are none there: an editor would refuse every value, or take any."""
    patterns = re.findall(r'"pattern": ?"(.*?)"', json.dumps(policy_schema()))
    assert len(patterns) > 10
    assert [each for each in patterns if r"\\A" in each or r"\\Z" in each] == []


def test_the_documentation_tells_every_field_and_its_example_is_complete() -> None:
    """What an administrator copies says everything, and no field is without words."""
    text = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()
    example, *_ = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert read_policy(example).absent == ()
    rows = "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    assert {*FIELDS, "pcrs.unsafe_any", "updates.within"} <= set(re.findall(r"`([a-z_.]+)`", rows))
    assert {reason.value for reason in Reason} <= set(re.findall(r"`([a-z_.]+)`", rows))


def test_a_document_has_a_size_limit() -> None:
    """A document that nobody can read is not read."""
    with pytest.raises(PolicyDocumentError):
        read_policy("#" * (DOCUMENT_LIMIT + 1))


def test_a_deeply_nested_document_is_refused() -> None:
    """The parser's recursion ends in an error of ours."""
    with pytest.raises(PolicyDocumentError):
        read_policy("a = " + "[" * 20_000)


SLOW: Final = {
    "an unclosed table of blanks in a value": 'evidence = """\n[' + " " * 30_000,
    "an unclosed table of brackets": 'evidence = """\n' + "[" * 30_000,
    "a key of many parts": "a" + ".a" * 30_000 + " = 1",
    "a table of many parts": "[a" + ".a" * 30_000 + "]",
    "a number of many digits": "a = " + "1" * 30_000,
}


@pytest.mark.parametrize("case", SLOW)
def test_no_text_takes_longer_than_it_is_long(case: str) -> None:
    """What would keep a parser busy for minutes, and with it every caller, is refused at once."""
    with pytest.raises(PolicyDocumentError) as caught:
        read_policy(SLOW[case])
    assert caught.value.code == "policy:document"


@given(st.text(max_size=200))
def test_no_text_ends_outside_the_error_tree(text: str) -> None:
    """Whatever is given is a policy, or a typed error."""
    with suppress(PolicyDocumentError):
        assert read_policy(text).absent


# --- windows ---------------------------------------------------------------------------


def at(text: str) -> int:
    """A moment, UTC milliseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


OPENS: Final = {
    "before it": (["01:00-05:00"], "2026-11-22T00:30", "2026-11-22T01:00"),
    "in it": (["01:00-05:00"], "2026-11-22T04:59", "2026-11-22T04:59"),
    "at its end": (["01:00-05:00"], "2026-11-22T05:00", "2026-11-23T01:00"),
    "past midnight": (["22:00-06:00"], "2026-11-22T03:00", "2026-11-22T03:00"),
    "between two": (["01:00-02:00", "13:00-14:00"], "2026-11-22T03:00", "2026-11-22T13:00"),
    "on a day": (["Sat 22:00-23:00"], "2026-11-22T03:00", "2026-11-28T22:00"),
    "of a day before": (["Sat 22:00-06:00"], "2026-11-22T03:00", "2026-11-22T03:00"),
    "without windows": ([], "2026-11-22T03:00", "2026-11-22T03:00"),
}


@pytest.mark.parametrize("case", OPENS)
def test_a_window_opens_when_it_says(case: str) -> None:
    """2026-11-22 is a Sunday; all times are UTC."""
    windows, now, expected = OPENS[case]
    assert next_open(tuple(parse_window(text) for text in windows), at(now)) == at(expected)


@given(st.integers(0, 10**13), st.sampled_from(["00:00-23:59", "Mon 10:00-11:00", "23:00-01:00"]))
def test_a_window_is_open_when_it_is_said_to_open(now: int, text: str) -> None:
    """The moment that is given is never before now, and asking at it gives it again."""
    windows = (parse_window(text),)
    opens = next_open(windows, now)
    assert now <= opens <= now + 7 * DAY + HOUR
    assert next_open(windows, opens) == opens


@pytest.mark.parametrize(
    "text", ["", "1:00-2:00", "01:00-01:00", "24:00-01:00", "Moon 01:00-02:00", "01:00-25:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    """One spelling, no surprises."""
    with pytest.raises(PolicyDocumentError):
        parse_window(text)
