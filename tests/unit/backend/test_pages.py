"""What stands behind the pages: protection, plots, words, documents, and what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import msgspec
import pytest

from hwtrust.errors import FormForgedError, LoginThrottledError, TlsKeyRefusedError
from hwtrust.verify import appraise, platform
from hwtrust.verify.enclaves import judge, kinds
from hwtrust.verify.policy import POLICY_FINDINGS, PcrRules
from hwtrust.wire.cel import RELOAD, Event, EventKind
from hwtrust.wire.messages import Finding, Severity
from hwtrust_backend import pages
from hwtrust_backend.config.clock import MINUTE
from hwtrust_backend.monitor.fleet import Counts, Distributions, Fleet
from hwtrust_backend.monitor.service import advice_on
from hwtrust_backend.pages import rendering
from hwtrust_backend.pages.assets import asset_path, assets, find_asset
from hwtrust_backend.pages.attempts import Attempts
from hwtrust_backend.pages.changes import difference, numbered
from hwtrust_backend.pages.explanations import EXPLANATIONS, explain
from hwtrust_backend.pages.measured import MOST_EVENTS, Measured, measured
from hwtrust_backend.pages.overview import (
    activity_plot,
    age_plot,
    day_plot,
    epoch_plot,
    week_plot,
)
from hwtrust_backend.pages.plots import Plot, plot, round_up
from hwtrust_backend.pages.protection import (
    CONTENT_SECURITY_POLICY,
    check_form,
    check_origin,
    form_token,
    local_path,
)
from simulators.attester import Attester, make_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwtrust.wire.messages import Release

NOW = 1_900_000_000_000
URL = "https://backend.example:8443"
TEMPLATES = Path(pages.__file__).parent / "templates"
FINDINGS = {
    **appraise.FINDINGS,
    **POLICY_FINDINGS,
    **platform.ALL_FINDINGS,
    **kinds.FINDINGS,
    **judge.ENCLAVE_FINDINGS,
}
"""Every code that any appraisal can give."""
ANYTHING = PcrRules(required=frozenset(), values={}, unsafe_any=frozenset(range(24)))


# --- protection ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "origin"),
    [("same-origin", None), ("same-origin", "null"), (None, URL)],
    ids=["the browser says so", "without a referrer the origin is null", "an older browser"],
)
def test_a_form_of_our_own_page_passes(site: str | None, origin: str | None) -> None:
    """What a browser sends for a form of this host is taken."""
    check_origin(site=site, origin=origin, url=URL)


@pytest.mark.parametrize(
    ("site", "origin"),
    [
        ("cross-site", URL),
        ("same-site", URL),
        ("none", URL),
        (None, "https://evil.example"),
        (None, "https://backend.example"),
        (None, "http://backend.example:8443"),
        (None, "null"),
        (None, None),
    ],
    ids=[
        "another site",
        "another host of the site",
        "typed into the address line",
        "an older browser, another site",
        "an older browser, another port",
        "an older browser, without TLS",
        "an older browser that hides where it comes from",
        "nothing says where it comes from",
    ],
)
def test_a_form_of_anybody_else_is_refused(site: str | None, origin: str | None) -> None:
    """Nobody else's page changes anything here."""
    with pytest.raises(FormForgedError) as caught:
        check_origin(site=site, origin=origin, url=URL)
    assert caught.value.code == "page:form:forged"


def test_a_forms_token_is_of_its_session_alone() -> None:
    """A token of one session is none of another's, and does not tell the cookie."""
    check_form(cookie="mine", token=form_token("mine"))
    assert "mine" not in form_token("mine")
    for token in (form_token("yours"), "", "é"):
        with pytest.raises(FormForgedError):
            check_form(cookie="mine", token=token)


@pytest.mark.parametrize(
    "text",
    [
        "//evil.example/",
        "https://evil.example/ui/",
        "/\\evil.example",
        "/ui/\\..",
        "/ui/\r\nset-cookie: a=b",
        "/ui/ x",
        "/ui/é",
        "/v1/devices",
        "/ui/login?next=/ui/",
        "javascript:alert(1)",
        "",
    ],
)
def test_sign_in_leads_to_no_other_host(text: str) -> None:
    """Where one goes on to after signing in is a page of ours, or the first one."""
    assert local_path(text) == "/ui/"


def test_sign_in_leads_where_one_wanted_to_go() -> None:
    """A page's address comes through with its query."""
    assert local_path("/ui/devices?search=a%20b&mode=locked") == (
        "/ui/devices?search=a%20b&mode=locked"
    )


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    """Every source is this host or none."""
    rules = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert set(rules.values()) == {"'none'", "'self'"}


def test_ten_failures_a_minute_are_enough() -> None:
    """An address that failed ten times waits for a minute; another one does not."""
    attempts = Attempts()
    for second in range(10):
        attempts.check("a", now=second)
        attempts.failed("a", now=second)
    with pytest.raises(LoginThrottledError) as caught:
        attempts.check("a", now=10)
    assert caught.value.code == "login:throttled"
    attempts.check("b", now=10)
    attempts.check("a", now=MINUTE)


def test_failures_of_all_addresses_together_have_a_limit_too() -> None:
    """Who comes from many addresses is slowed as well, and costs a bounded memory."""
    attempts = Attempts(altogether=100)
    for number in range(150):
        attempts.failed(str(number), now=number)
    with pytest.raises(LoginThrottledError):
        attempts.check("new", now=150)
    attempts.check("new", now=150 + MINUTE)


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    """Failures of the future do not count."""
    attempts = Attempts(per_peer=1)
    attempts.failed("a", now=10 * MINUTE)
    attempts.check("a", now=0)


# --- templates and files ----------------------------------------------------------------


def test_templates_escape_whatever_they_show() -> None:
    """A page that shows a hostile text shows it, and does not obey it."""
    hostile = "<script>alert(1)</script>\"' onload='x"
    page = rendering.render(
        "error.html", title=hostile, status=400, code=hostile, detail=hostile, hint=hostile
    )
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 5


def test_one_template_makes_the_head_of_every_page() -> None:
    """What a browser is told first stands in one place."""
    heads = [path.name for path in TEMPLATES.glob("*.html") if "<head>" in path.read_text()]
    assert heads == ["frame.html"]


def test_a_list_shows_of_a_digest_its_beginning() -> None:
    """Two digests in a message do not fill a row; words and numbers stay whole."""
    message = f"digest {'5' * 64}; expected is {'ab' * 32}, version 20260401"
    assert rendering.brief(message) == (
        "digest 555555555555…; expected is abababababab…, version 20260401"
    )


def test_a_template_that_lacks_a_value_fails() -> None:
    """A misspelt name is no empty place in a page."""
    with pytest.raises(jinja2.UndefinedError):
        rendering.render("error.html", title="x")


def test_no_template_holds_style_script_or_a_foreign_address() -> None:
    """What the policy forbids is not even tried; nothing switches escaping off."""
    templates = sorted(TEMPLATES.glob("*.html"))
    assert len(templates) > 10
    for template in templates:
        text = template.read_text()
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|javascript:", text), template.name
        assert not re.search(r"<script(?! src=\"\{\{ asset)", text), template.name
        assert not re.search(r"(src|href|action)=\"(https?:)?//", text), template.name
        assert not re.search(r"\|\s*safe\b|Markup|autoescape", text), template.name


def test_every_form_that_changes_something_carries_the_sessions_token() -> None:
    """No form of a session is without its token; the one for signing in has no session yet."""
    forms = {
        (template.name, form)
        for template in TEMPLATES.glob("*.html")
        for form in re.findall(
            r"<form[^>]*method=\"post\".*?</form>", template.read_text(), re.DOTALL
        )
    }
    assert len(forms) > 8
    assert {name for name, form in forms if "parts.token()" not in form} == {"login.html"}


def test_a_file_is_found_by_its_content_alone() -> None:
    """A name that says other content, or none, leads nowhere."""
    assert set(assets()) == {"page.css", "page.js", "icon.svg"}
    name = asset_path("page.css").removeprefix("/ui/static/")
    found = find_asset(name)
    assert found is not None
    assert found.content == assets()["page.css"].content
    assert find_asset("page.css") is None
    assert find_asset("../templates/base.html") is None


def test_files_load_nothing_from_anywhere() -> None:
    """Style sheet and script name no other file and no other host."""
    for name in ("page.css", "page.js"):
        text = assets()[name].content.decode()
        assert not re.search(r"url\(|@import|https?://|eval\(|innerHTML", text), name


# --- words, numbers, pictures -----------------------------------------------------------


def test_every_finding_is_explained() -> None:
    """Whatever code an appraisal can give, a page says what it means and what to do."""
    assert set(EXPLANATIONS) == set(FINDINGS)
    for code, words in EXPLANATIONS.items():
        assert len(words.meaning) > 40, code
        assert words.meaning.endswith("."), code
        assert words.advice.endswith("."), code


def test_every_failure_has_a_next_step() -> None:
    """What a list of devices says to do is about the finding, whatever has failed."""
    failing = [
        Finding(code=code, severity=severity, message="")
        for code, (severity, _) in FINDINGS.items()
        # A device that is locked by hand has its next step whatever is found.
        if severity is Severity.FAIL and code != "admin:locked"
    ]
    none = advice_on(())
    assert len(failing) > 15
    assert [finding.code for finding in failing if advice_on((finding,)) == none] == []


def test_a_finding_of_a_newer_version_has_words_too() -> None:
    """A code that this version does not know is shown, not an error."""
    assert explain("future:code").meaning


def test_a_refusal_that_a_dry_run_foretells_has_words() -> None:
    """A TLS key of a kind that the policy does not take is no finding, and is explained too."""
    assert explain(TlsKeyRefusedError.code) != explain("future:code")


@pytest.mark.parametrize(
    ("utc_ms", "words"), [(1000, "9s ago"), (20_500, "in 10s"), (10_400, "just now")]
)
def test_moments_are_told_by_their_distance(utc_ms: int, words: str) -> None:
    """Past and future are told apart."""
    assert rendering.relative(utc_ms, 10_500) == words


@pytest.mark.parametrize(
    ("value", "top"), [(0, 2), (1, 2), (3, 4), (5, 10), (11, 20), (101, 200), (4001, 10_000)]
)
def test_a_scale_ends_at_a_round_number(value: int, top: int) -> None:
    """The highest bar fits, and the middle of the scale is a whole number."""
    assert round_up(value) == top


def test_bars_stand_on_the_floor_in_proportion() -> None:
    """Twice the number is twice the height; nothing has no height, one in a million shows."""
    made = plot(
        "x",
        "X",
        summary="",
        unit="",
        values=[("none", 0), ("half", 500), ("all", 1000), ("one", 1)],
        ticks=[(0, "a"), (2, "b"), (4, "c")],
    )
    none, half, full, one = made.bars
    assert none.height == 0
    assert full.height == 2 * half.height == made.height
    assert one.height > 0
    assert {bar.y + bar.height for bar in made.bars} == {made.height}
    assert [(tick.at, tick.anchor) for tick in made.across] == [
        (0, "start"),
        (50, "middle"),
        (100, "end"),
    ]
    assert made.up == ("1k", "500", "0")
    assert made.rows == (("none", 0), ("half", 500), ("all", 1000), ("one", 1))


def test_very_many_bars_are_one_outline() -> None:
    """Four hours of minutes are one path, which ends where it began."""
    values = [(str(number), number % 7) for number in range(240)]
    made = plot("x", "X", summary="", unit="", values=values, ticks=[])
    assert made.is_dense
    assert made.outline.startswith("M0 100V100")
    assert made.outline.endswith("H1000.00V100Z")


def fleet_of(**slow: dict[int, int]) -> Fleet:
    """A fleet in numbers, of which only the given ones matter."""
    numbers: dict[str, dict[int, int]] = {"epochs": {}, "root_ages": {}, "rotations": {}, **slow}
    return Fleet(
        at=NOW,
        counts=Counts(standing={}, mode={}, kind={}, silent=0, retired=0),
        failed=(),
        silent=(),
        activity={NOW // MINUTE - 2: 30, NOW // MINUTE - 61: 7},
        slow=Distributions(at=NOW, **numbers),
    )


def test_attestations_are_shown_minute_by_minute() -> None:
    """Four hours, which end where all is written down; the table adds up quarters of an hour."""
    made = activity_plot(fleet_of())
    assert len(made.bars) == 240
    assert (made.bars[-1].value, made.bars[-60].value) == (30, 7)
    assert sum(count for _, count in made.rows) == 37
    assert "3 a minute in the last ten minutes, 30 at most" in made.summary


def test_rotations_are_shown_by_hour_and_by_day() -> None:
    """What is due in 25 hours is in the week, on its second day, and not in the day."""
    fleet = fleet_of(rotations={0: 5, 23: 2, 24: 1, 167: 3})
    assert [bar.value for bar in day_plot(fleet).bars] == [5, *[0] * 22, 2]
    assert [bar.value for bar in week_plot(fleet).bars] == [7, 1, 0, 0, 0, 0, 3]


@pytest.mark.parametrize("spread", [1, 19, 21, 400, 10**6])
def test_every_epoch_and_age_is_in_a_bar(spread: int) -> None:
    """However wide numbers spread, at most twenty bars hold all of them."""
    counts = {3: 10, 3 + spread // 2: 20, 2 + spread: 30}
    for made in (epoch_plot(fleet_of(epochs=counts)), age_plot(fleet_of(root_ages=counts))):
        assert sum(bar.value for bar in made.bars) == sum(counts.values())
        assert len(made.bars) <= 20
        assert len(made.across) <= 7


@pytest.mark.parametrize("draw", [day_plot, week_plot, age_plot, epoch_plot])
def test_an_empty_fleet_has_pictures_too(draw: Callable[[Fleet], Plot]) -> None:
    """Nothing is enrolled, and nothing fails by that."""
    made = draw(fleet_of())
    assert {bar.value for bar in made.bars} == {0}
    assert made.up == ("2", "1", "0")


def test_a_difference_shows_both_documents_with_their_numbers() -> None:
    """What was removed, what was added and what stayed, each with its line's number."""
    lines = difference("a\nb\nc\n", "a\nB\nB2\nc\n")
    assert [(line.kind, line.old, line.new, line.text) for line in lines] == [
        ("same", 1, 1, "a"),
        ("removed", 2, None, "b"),
        ("added", None, 2, "B"),
        ("added", None, 3, "B2"),
        ("same", 3, 4, "c"),
    ]
    assert difference("a\nb", "a\nb") == numbered("a\nb")


# --- what was measured -------------------------------------------------------------------


def told(device: Attester, *releases: Release, rules: PcrRules = ANYTHING) -> Measured:
    """What a page tells of a device's evidence, as plain data."""
    content = msgspec.json.encode(device.evidence(b"n" * 32))
    known = {release.name: release for release in releases}
    found = measured(content, at=1, releases=known, pcr=device.pcr, rules=rules)
    assert found is not None
    return found


def states(device: Attester, *releases: Release) -> list[tuple[str, str]]:
    """Each layer with its state."""
    found = told(device, *releases)
    return [(layer.name, layer.state) for layer in found.layers]


RELEASE = make_release()


def test_a_good_device_matches_layer_by_layer() -> None:
    """What was expected is what was measured."""
    device = Attester()
    device.load(RELEASE)
    expected = [("root-of-trust", "match"), ("kernel", "match"), ("frontend", "match")]
    assert states(device, RELEASE) == expected


def test_only_the_last_load_is_compared() -> None:
    """What ran before a reload is in the log, and not among the layers."""
    device = Attester()
    device.append(Event(EventKind.LAYER, "old", "0", b"\1" * 32), RELOAD)
    device.append(*(event for event in loaded(RELEASE)[:1]))
    assert states(device, RELEASE) == [
        ("root-of-trust", "match"),
        ("kernel", "missing"),
        ("frontend", "missing"),
    ]


def test_a_changed_a_foreign_and_a_missing_layer_are_told_apart() -> None:
    """Each layer that is not as it should be says how."""
    device = Attester()
    first, second, _ = loaded(RELEASE)
    device.append(
        Event(EventKind.LAYER, first.name, first.version, b"\2" * 32),
        Event(EventKind.LAYER, "rootkit", "6.6", b"\3" * 32),
        second,
    )
    assert states(device, RELEASE) == [
        ("root-of-trust", "changed"),
        ("kernel", "missing"),
        ("rootkit", "extra"),
        ("frontend", "missing"),
        ("kernel", "extra"),
    ]


def test_a_layer_that_was_found_changed_later_does_not_match() -> None:
    """What a watch found counts, though what was loaded before was good."""
    device = Attester()
    device.load(RELEASE)
    device.append(Event(EventKind.VIOLATION, "kernel", "1.0", loaded(RELEASE)[1].digest))
    assert dict(states(device, RELEASE))["kernel"] == "changed"
    device.load(RELEASE)
    assert dict(states(device, RELEASE))["kernel"] == "match"


def test_layers_of_an_unknown_release_are_all_surplus() -> None:
    """Without the release there is nothing to compare with."""
    device = Attester()
    device.load(RELEASE)
    assert [state for _, state in states(device)] == ["extra"] * 3


def test_each_pcr_says_how_the_policy_sees_it() -> None:
    """The application's own, one with a good value, one with a bad one, one that is not named."""
    device = Attester(selection="sha256:0,1,2,3,12")
    rules = PcrRules(
        required=frozenset(),
        values={0: frozenset({device.platform[0]}), 1: frozenset({bytes(32)})},
        unsafe_any=frozenset({3}),
    )
    found = told(device, rules=rules)
    rows = {row.number: row.state for row in found.pcrs}
    assert rows == {0: "match", 1: "changed", 2: "changed", 3: "any", 12: "match"}


def test_a_long_log_is_cut_at_its_old_end() -> None:
    """A page stays a page; what was left out is counted."""
    device = Attester()
    device.append(*[RELOAD] * (MOST_EVENTS + 7))
    found = told(device)
    assert len(found.events) == MOST_EVENTS
    assert found.events_left_out == 7
    assert found.events[-1].number == MOST_EVENTS + 6


def test_damaged_evidence_is_shown_as_none() -> None:
    """What cannot be read is no page of errors."""
    assert measured(b"{", at=1, releases={}, pcr=12, rules=ANYTHING) is None
    device = Attester()
    evidence = msgspec.structs.replace(device.evidence(b"n"), log=b"\xff")
    content = msgspec.json.encode(evidence)
    assert measured(content, at=1, releases={}, pcr=12, rules=ANYTHING) is None


def loaded(release: Release) -> list[Event]:
    """The events of a release's layers."""
    return [
        Event(EventKind.LAYER, layer.name, layer.version, layer.digest) for layer in release.layers
    ]
