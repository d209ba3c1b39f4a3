"""Pictures of the documentation and of the backend's pages; `scripts/screenshots` runs it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwtrust_backend.admin.devices import change_device
from hwtrust_backend.admin.principals import local_administrator
from hwtrust_backend.pages.sessions import COOKIE

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from simulators.browser import Visitor, chromium
from simulators.fleet import EVIL, fleet_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playwright.sync_api import Browser

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
SCHEMES: tuple[Any, ...] = ("light", "dark")


def take(visitor: Visitor, pages: Mapping[str, str], directory: Path) -> None:
    """Photograph each page in every size and both schemes."""
    page = visitor.page
    for name, address in pages.items():
        for size, (width, height) in SIZES.items():
            page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                page.goto(address)
                file = directory / f"{name}-{size}-{scheme}.png"
                page.screenshot(path=file, full_page=True)
                print(file)  # noqa: T201 - says what it has written
    if visitor.trespasses:
        sys.exit("screenshots: " + "; ".join(visitor.trespasses))


def documentation(browser: Browser, site: Path, directory: Path) -> None:
    """The first page, and the one with most drawings."""
    pages = {
        "docs": (site / "index.html").as_uri(),
        "docs-dynamic-root": (site / "explanation" / "dynamic-root.html").as_uri(),
    }
    with Visitor(browser, site.as_uri(), reduced_motion="reduce") as visitor:
        take(visitor, pages, directory)


def backend(browser: Browser, directory: Path) -> None:
    """The overview, the devices, and a device with a changed layer."""
    with tempfile.TemporaryDirectory() as provider, fleet_at(Path(provider)) as fleet:
        # A label that attacks a page is for tests.
        with fleet.server.session() as session:
            name = fleet.name(EVIL[:190])
            clock = fleet.server.clock()
            change_device(session, name, label="press 3", by=local_administrator(), now=clock)
        pages = {
            "backend": "/ui/",
            "backend-devices": "/ui/devices",
            "backend-device": f"/ui/devices/{fleet.name('changed')}",
        }
        with Visitor(browser, fleet.url, reduced_motion="reduce") as visitor:
            visitor.hold(COOKIE, fleet.cookie("administrator"))
            take(visitor, pages, directory)


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="the documentation, built")
    parser.add_argument("directory", type=Path, help="where the pictures go")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        documentation(browser, options.site.resolve(), options.directory)
        backend(browser, options.directory)


if __name__ == "__main__":
    main()
