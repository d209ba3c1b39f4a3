"""What the documentation takes from the source: text, words, links, docstrings, drawings."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from docutils import nodes  # type: ignore[import-untyped]
from sphinx import addnodes
from sphinx.errors import ExtensionError

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def _extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))


def part(name: str) -> ModuleType:
    """A module of the extension, which lies with the documents."""
    return importlib.import_module(f"hwtrust_docs.{name}")


def words_of(page: str, name: str) -> str:
    """The body of a page's directive."""
    text = (DOCS / "reference" / page).read_text()
    return text.partition(f"```{{generated}} {name}\n")[2].partition("```")[0]


WORDS = {"audit": "audit.md", "pcrs": "pcrs.md", "webhooks": "audit.md"}


@pytest.mark.parametrize("name", WORDS)
def test_words_that_a_page_lacks_stop_the_build(name: str) -> None:
    """An event, a topic or a register that is new cannot stay without words."""
    body = words_of(WORDS[name], name)
    assert part("directives").generate(name, body)
    with pytest.raises(ExtensionError):
        part("directives").generate(name, body.partition("\n")[2])


@pytest.mark.parametrize("name", WORDS)
def test_words_for_what_is_not_there_stop_the_build(name: str) -> None:
    """An event that is gone takes its words with it."""
    body = words_of(WORDS[name], name) + "device:nothing:happened: Nothing did.\n"
    with pytest.raises(ExtensionError):
        part("directives").generate(name, body)


def test_a_page_of_no_generator_stops_the_build() -> None:
    """A misspelt name is no empty page."""
    with pytest.raises(ExtensionError):
        part("directives").generate("erors", "")


def test_words_go_on_in_indented_lines() -> None:
    """A long meaning is written in several lines."""
    read = part("directives").read_words("a:b: first\n  and more\nc: second\n")
    assert dict(read) == {"a:b": "first and more", "c": "second"}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a *b* [c](d) <e>", r"a \*b\* \[c\](d) \<e\>"),
        ("an `a|b` of\n  two", r"an `a\|b` of two"),
        ("snake_case", r"snake\_case"),
    ],
)
def test_text_of_the_source_means_nothing_more_in_markdown(text: str, written: str) -> None:
    """Help and hints are sentences, not markup, but for what stands in backticks."""
    assert part("markdown").plain(text) == written


LINKS = {
    "a page beside it": ("[a](policies.md)", "[a](/policies.md)"),
    "a heading of a page": ("[a](policies.md#enclaves)", "[a](/policies.md#enclaves)"),
    "a document with a page": ("[a](../THREATS.md)", "[a](/project/threats.md)"),
    "a file without a page": ("[the list](../pyproject.toml)", "the list (`pyproject.toml`)"),
    "a file that is not there": ("[a](../nothing.md)", "[a](../nothing.md)"),
    "an address": ("[a](https://example.org)", "[a](https://example.org)"),
    "a block of code": ("```\n[a](policies.md)\n```\n", "```\n[a](policies.md)\n```\n"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links_between_files_lead_to_pages(case: str) -> None:
    """The same document is right in a checkout and on the site."""
    text, led = LINKS[case]
    rewritten = part("links").rewritten(text, file=DOCS / "operations.md", root=ROOT)
    assert rewritten == led


DOCSTRINGS = {
    "code": (["Gives `a`."], ["Gives ``a``.", ""]),
    "a list without a blank line": (
        ["Rules:", "1. One.", "2. Two."],
        ["Rules:", "", "1. One.", "2. Two.", ""],
    ),
    "a block with a blank line in it": (
        ["    a", "", "      b `c`"],
        [".. code-block:: text", "", "       a", "", "         b `c`", ""],
    ),
    "what is raised": (
        ["Raises:", "    TpmError: it refused."],
        ["Raises:", "    TpmError: it refused.", ""],
    ),
    "columns": (
        ["api    the class", "load   all of it"],
        [".. code-block:: text", "", "   api    the class", "   load   all of it", ""],
    ),
}


@pytest.mark.parametrize("case", DOCSTRINGS)
def test_docstrings_keep_their_form(case: str) -> None:
    """What is drawn in the source is drawn in the page, and code is code."""
    lines, written = DOCSTRINGS[case]
    assert part("docstrings").as_rst(lines) == written


def test_a_drawing_has_the_colour_of_the_text_and_says_what_it_shows() -> None:
    """It is seen on light and dark, and read aloud."""
    svg = (
        '<?xml version="1.0"?><svg width="62pt" height="44pt"\n viewBox="0 0 1 1">\n'
        '<polygon fill="white" stroke="transparent" points="0,0"/>\n<title>%3</title>\n'
        '<g id="node1"><path fill="none" stroke="black"/><path stroke="#0e857c"/>'
        '<text x="1">TPM</text></g></svg>'
    )
    drawn = part("diagrams").drawn(svg, alt='the "TPM"')
    assert drawn.startswith('<svg role="img" aria-label="the &quot;TPM&quot;"')
    assert 'stroke="currentColor"' in drawn
    assert 'stroke="#0e857c"' in drawn
    assert '<text fill="currentColor"' in drawn
    assert "polygon" not in drawn
    assert 'id="node1"' not in drawn


def test_each_register_is_said_to_be_what_a_configuration_may_use_it_as() -> None:
    """The registry and the check of a configuration cannot differ."""
    uses = part("registers").uses
    assert uses(7) == ["`tpm.platform_pcrs`"]
    assert uses(11) == ["`tpm.pcr`", "`tpm.platform_pcrs`"]
    assert uses(12) == ["`tpm.pcr`", "`tpm.quoted_pcrs`"]
    assert uses(17) == []
    assert uses(23) == ["`tpm.pcr` where `unsafe_resettable_pcr` is set"]


def test_the_navigation_needs_titles_alone() -> None:
    """Pages below a page stay in it; headings are left away, and the page's own contents whole."""
    entry = nodes.list_item("", nodes.paragraph("", "A page"))
    below = addnodes.toctree(entries=[("", "b")])
    entry += nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "A heading")), below)
    plain = nodes.list_item("", nodes.paragraph("", "B"), nodes.bullet_list("", nodes.list_item()))
    toc = nodes.bullet_list("", entry, plain)
    short = part("navigation").titles(toc)
    assert [len(one) for one in short] == [2, 1]
    assert [type(one) for one in short[0][1]] == [addnodes.toctree]
    assert "A heading" not in short.astext()
    assert "A heading" in toc.astext()


def test_every_error_has_a_place_that_its_name_leads_to() -> None:
    """Its class in a docstring is a link to its cure."""
    assert part("references").errors()["LayerMismatchError"] == "error-layer-mismatch"
