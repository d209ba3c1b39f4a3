"""What the documentation takes from the source, so that it cannot say anything else.

    reference/*.md ──{generated} NAME──▶ PAGES[NAME]() ──▶ Markdown ──▶ the page
    api/*.md ──{modules} PACKAGE──▶ every module of it ──▶ its docstrings

errors, findings, commands, http, settings, events, registers   a page's Markdown each
markdown     how text becomes Markdown without meaning more than it says
docstrings   docstrings as the API pages show them
diagrams     Graphviz drawings inside the page, in its colours
links        links between the repository's files, as links between pages

Rules:
1. A generator gives Markdown and nothing else: its page looks like every other page.
2. What has no words in the source, and needs some, gets them in the body of the
   directive; a name without words, and words without a name, stop the build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwtrust_docs import diagrams, directives, docstrings, links

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register all of it with Sphinx."""
    for part in (directives, docstrings, diagrams, links):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
