"""A headless Chromium for tests of pages, that notices what a page must never do.

    with chromium() as browser, Visitor(browser, url) as visitor:
        visitor.page.goto(…)
    visitor.trespasses               # violations of the policy, errors, foreign requests

One browser serves all tests of a session; each visitor has cookies of its own.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_NOTE_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


FAINT_TEXT = """
() => {
  const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const read = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = read(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const svg = element instanceof SVGElement;
    const pair = [light(read(svg ? style.fill : style.color)), light(ground(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return found;
}
"""
"""Where a text's contrast with what is behind it is less than 4.5 to 1 (WCAG 2.2, 1.4.3)."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; where there is none its tests are skipped, but never on CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing = "Chromium is not installed: scripts/setup --test"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Visitor:
    """Somebody with a browser of their own, who may go to `hosts` and nowhere else."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        also: tuple[str, ...] = (),
        **options: Any,  # noqa: ANN401 - as playwright's own
    ) -> None:
        self.url = url
        self.trespasses: list[str] = []
        """What a page did that it must not."""
        self.requests: list[str] = []
        self._hosts = {urlsplit(one).netloc for one in (url, *also)}
        self._context = browser.new_context(
            ignore_https_errors=True, base_url=url, locale="en-GB", **options
        )
        self._context.add_init_script(_NOTE_VIOLATIONS)
        self._context.set_default_timeout(10_000)
        self._context.on("request", self._on_request)
        self._context.on("console", self._on_console)
        self._context.on("weberror", lambda error: self.trespasses.append(str(error.error)))
        self.page: Page = self._context.new_page()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the browser's window."""
        self._context.close()

    def allow(self, url: str) -> None:
        """Let requests to this host pass."""
        self._hosts.add(urlsplit(url).netloc)

    def hold(self, name: str, value: str) -> None:
        """Have a cookie of this host, as if it had been set here."""
        self._context.add_cookies(
            [
                {
                    "name": name,
                    "value": value,
                    "url": self.url,
                    "secure": True,
                    "httpOnly": True,
                    "sameSite": "Strict",
                }
            ]
        )

    def cookies(self) -> dict[str, dict[str, Any]]:
        """The cookies that this browser keeps, by name."""
        return {str(cookie["name"]): dict(cookie) for cookie in self._context.cookies()}

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc not in self._hosts:
            self.trespasses.append(f"a request to {request.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.trespasses.append(message.text)
