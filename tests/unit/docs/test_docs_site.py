"""The documentation site: it is built without a warning, nothing is left out, no link is dead."""

from __future__ import annotations

import importlib
import pkgutil
import re
import types
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import click
import msgspec
import pytest

from hwtrust.agent.config import AgentConfig
from hwtrust.cli import cli as device_cli
from hwtrust.device.config import DeviceConfig, HandleConfig, TpmConfig, UpdateConfig
from hwtrust.enclave.config import EnclaveConfig
from hwtrust_backend.app.routes import create_app
from hwtrust_backend.cli import cli as backend_cli
from hwtrust_backend.config.reference import all_settings
from hwtrust_backend.pages.explanations import EXPLANATIONS
from hwtrust_backend.testing import BackendServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.docs
ROOT = Path(__file__).resolve().parents[3]


class Page(HTMLParser):
    """What a page holds that others may lead to, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids.update(filter(None, [found.get("id")]))
        if tag == "a":
            self.links.extend(filter(None, [found.get("href")]))
        elif tag == "link" and found.get("rel") not in {"next", "prev", "index", "search"}:
            self.loaded.extend(filter(None, [found.get("href")]))
        else:
            self.loaded.extend(filter(None, [found.get("src")]))


def text_of(site: Path, name: str) -> str:
    """A page of the site."""
    return (site / name).read_text()


@cache
def page_at(path: Path) -> Page:
    """A page, read once."""
    return Page(path.read_text())


def test_the_script_builds_as_these_tests_do(docs_flags: str) -> None:
    """A warning stops whoever runs it."""
    assert docs_flags in (ROOT / "scripts" / "docs").read_text()


# --- nothing is left out -----------------------------------------------------------


def error_codes() -> set[str]:
    """Every code that a class of the tree has, as its source says."""
    text = "".join(path.read_text() for path in (ROOT / "hwtrust" / "errors").glob("*.py"))
    return set(re.findall(r'^    code(?:: ClassVar\[str\])? = "(.+)"$', text, re.MULTILINE))


def commands_of(path: str, command: click.Command) -> Iterator[str]:
    """The path of a command and of all below it."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            if not below.hidden:
                yield from commands_of(f"{path} {name}", below)


def routes() -> set[str]:
    """Every method and path that is part of the API, as the application has them."""
    with BackendServer() as server:
        return {
            f"{method} {route.path_format}"
            for route in create_app(server.backend).routes
            for handler in getattr(route, "route_handlers", ())
            if handler.resolve_include_in_schema()
            for method in handler.http_methods
            if method != "OPTIONS"
        }


def keys() -> set[str]:
    """Every key of every configuration file that is no table itself."""
    tables: dict[str, type[msgspec.Struct]] = {
        "": DeviceConfig,
        "tpm.": TpmConfig,
        "tpm.handles.": HandleConfig,
        "updates.": UpdateConfig,
        "agent.": AgentConfig,
    }
    named = {prefix + field for prefix, one in tables.items() for field in one.__struct_fields__}
    enclaves = set(EnclaveConfig.__struct_fields__)
    of_backend = {setting.name for setting in all_settings()}
    return (named - {"tpm", "tpm.handles", "updates", "agent"}) | enclaves | of_backend


def anchor(kind: str, name: str) -> str:
    """The anchor of a thing, as links from elsewhere name it."""
    return f'id="{kind}-' + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + '"'


def row(_: str, name: str) -> str:
    """How a table's cell holds a key."""
    return f'<td><p><code class="docutils literal notranslate"><span class="pre">{name}</span>'


COMPLETE: dict[str, tuple[str, str, Callable[[str, str], str], Callable[[], set[str]], int]] = {
    "every error": ("reference/errors.html", "error", anchor, error_codes, 200),
    "every finding": ("reference/findings.html", "finding", anchor, lambda: {*EXPLANATIONS}, 100),
    "every command of a device": (
        "reference/hwtrust.html",
        "command",
        anchor,
        lambda: {*commands_of("hwtrust", device_cli)},
        20,
    ),
    "every command of the backend": (
        "reference/hwtrust-backend.html",
        "command",
        anchor,
        lambda: {*commands_of("hwtrust-backend", backend_cli)},
        50,
    ),
    "every route": ("reference/http.html", "http", anchor, routes, 50),
    "every key": ("reference/keys.html", "", row, keys, 60),
}


def missing(text: str, kind: str, mark: Callable[[str, str], str], names: set[str]) -> set[str]:
    """The names that a page does not have."""
    return {name for name in names if mark(kind, name) not in text}


@pytest.mark.parametrize("case", COMPLETE)
def test_the_reference_leaves_nothing_out(case: str, site: Path) -> None:
    """Whoever looks something up finds it; and one that is taken away is missed."""
    page, kind, mark, there, least = COMPLETE[case]
    text, names = text_of(site, page), there()
    assert len(names) >= least
    assert missing(text, kind, mark, names) == set()
    gone = max(names)
    assert missing(text.replace(mark(kind, gone), ""), kind, mark, names) == {gone}


EXPORTS = ("hwtrust", "hwtrust.device", "hwtrust.enclave", "hwtrust.testing")


def exported() -> set[str]:
    """What the packages that programs import export, and what is in the modules for tests."""
    found: set[str] = set()
    for package in EXPORTS:
        module = importlib.import_module(package)
        found.update(getattr(module, "__all__", ()))
        if package == "hwtrust.testing":
            for name in (one.name for one in pkgutil.iter_modules(module.__path__)):
                inner = importlib.import_module(f"{package}.{name}")
                found.update(
                    one
                    for one, thing in vars(inner).items()
                    if not one.startswith("_")
                    and getattr(thing, "__module__", "") == inner.__name__
                    and isinstance(thing, type | types.FunctionType)
                )
    return found


def test_all_that_is_exported_is_documented(site: Path) -> None:
    """Whoever imports a name finds what it is, in the API."""
    ids = {one for path in (site / "api").glob("*.html") for one in page_at(path).ids}
    documented = {one.rpartition(".")[2] for one in ids if "." in one}
    names = exported()
    assert len(names) > 40
    assert names - documented == set()


def test_what_a_function_raises_leads_to_its_cure(site: Path) -> None:
    """From a docstring to the error's entry, with its code."""
    page = page_at(site / "api" / "device.html")
    assert "../reference/errors.html#error-state-not-enrolled" in page.links


# --- links -------------------------------------------------------------------------


def dead_links(site: Path) -> set[str]:
    """Links within a site that lead to no page, or to no place in it."""
    dead = set()
    for path in sorted(site.rglob("*.html")):
        for link in page_at(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = other.is_file() and (
                not parts.fragment
                or other.suffix != ".html"
                or unquote(parts.fragment) in page_at(other).ids
            )
            if not there:
                dead.add(f"{path.relative_to(site)}: {link}")
    return dead


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    """A page, and a place in it."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert sum(len(page_at(path).links) for path in pages) > 1000
    assert dead_links(site) == set()


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """A page that is not there, and a place that is not in one."""
    links = ("b.html", "b.html#there", "b.html#gone", "c.html", "#here", "#gone", "https://c.org/")
    body = "".join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path / "a.html").write_text(f'<p id="here">{body}</p>')
    (tmp_path / "b.html").write_text('<p id="there"></p>')
    assert dead_links(tmp_path) == {"a.html: b.html#gone", "a.html: c.html", "a.html: #gone"}


# --- for everybody -----------------------------------------------------------------


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """The site is read without a network, and tells nobody who reads it."""
    loaded = {
        address
        for path in site.rglob("*.html")
        for address in page_at(path).loaded
        if urlsplit(address).netloc
    }
    assert loaded == set()
    styles = "".join(path.read_text() for path in (site / "_static").rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//|@import", styles) == []


def test_pages_are_for_readers_who_do_not_see_them(site: Path) -> None:
    """A language, one heading of the first level, a main part; drawings have words."""
    wrong = set()
    for path in site.rglob("*.html"):
        tags = page_at(path).tags
        names = [name for name, _ in tags]
        roles = [found.get("role") for _, found in tags]
        silent = any(
            name == "svg" and found.get("role") == "img" and not found.get("aria-label")
            for name, found in tags
        )
        has_main = "main" in names or "main" in roles
        if names.count("h1") != 1 or not has_main or not dict(tags)["html"].get("lang") or silent:
            wrong.add(str(path.relative_to(site)))
    assert wrong == set()


def test_the_site_says_nothing_of_the_machine_that_built_it(site: Path) -> None:
    """No path of a checkout is in a page, or in the index that is searched."""
    pages = [*site.rglob("*.html"), *site.glob("*.js")]
    assert [path.name for path in pages if str(ROOT) in path.read_text()] == []
    assert "keystore" in text_of(site, "searchindex.js")
