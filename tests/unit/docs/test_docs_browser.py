"""The documentation site in a real browser: it fits, it can be read, and keys reach its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from simulators.browser import FAINT_TEXT, Visitor, chromium

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.docs
PAGES = (
    "index.html",
    "explanation/dynamic-root.html",
    "reference/event-log.html",
    "reference/findings.html",
    "api/device.html",
    "tutorial/first-root.html",
    "glossary.html",
)
SCHEMES: tuple[Any, ...] = ("light", "dark")
UNMARKED = """
() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2;
}
"""
"""Whether nothing is drawn around what has the focus."""


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Page]:
    """A browser's window, which shows the files as they are."""
    options: dict[str, Any] = {
        "reduced_motion": "reduce",
        "viewport": {"width": 1280, "height": 900},
    }
    with chromium() as browser, Visitor(browser, site.as_uri(), **options) as visitor:
        yield visitor.page
        assert visitor.trespasses == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_in_light_and_dark(name: str, site: Path, page: Page) -> None:
    """Each text stands out from what is behind it, drawings' texts too."""
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.goto((site / name).as_uri())
        assert page.evaluate(FAINT_TEXT) == [], scheme
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(ground) != dark


def test_faint_text_is_found(site: Path, page: Page) -> None:
    """Grey on white is not enough."""
    page.goto((site / "index.html").as_uri())
    page.evaluate("document.querySelector('h1').style.color = 'rgb(160, 160, 160)'")
    assert [one.partition(".")[0] for one in page.evaluate(FAINT_TEXT)] == ["H1"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_telephone(name: str, site: Path, page: Page) -> None:
    """Tables and drawings scroll by themselves; the page does not."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto((site / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.set_viewport_size({"width": 1280, "height": 900})


def test_what_has_the_focus_is_seen(site: Path, page: Page) -> None:
    """Whoever has no mouse sees where they are, from the search to the links of the text."""
    page.goto((site / "index.html").as_uri())
    unmarked, seen = [], set()
    for _ in range(200):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.outerHTML.slice(0, 120)")
        if name.startswith("<body"):  # behind the last link
            break
        seen.add(name)
        if page.evaluate(UNMARKED):
            unmarked.append(name)
    assert len(seen) > 40
    assert unmarked == []
