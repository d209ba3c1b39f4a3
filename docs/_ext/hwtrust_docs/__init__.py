"""What the documentation takes from the source, so that it cannot say anything else.

    reference/*.md ──{generated} NAME──▶ PAGES[NAME]() ──▶ Markdown ──▶ the page
    api/*.md ──{modules} PACKAGE──▶ every module of it ──▶ its docstrings

errors, findings, commands, http, settings, events, registers   a page's Markdown each
markdown     how text becomes Markdown without meaning more than it says
docstrings   docstrings as the API pages show them
diagrams     Graphviz drawings inside the page, in its colours
links        links between the repository's files, as links between pages
references   names in signatures and docstrings, as links to what they name
navigation   the titles beside each page

Rules:
1. A generator gives Markdown and nothing else: its page looks like every other page.
2. What has no words in the source, and needs some, gets them in the body of the
   directive; a name without words, and words without a name, stop the build.
"""

from __future__ import annotations

import gc
import importlib
from typing import TYPE_CHECKING

from hwtrust_docs import diagrams, directives, docstrings, links, navigation, references

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata


SHARED = ("hwtrust.testing", "hwtrust_backend.app.routes", "hwtrust_backend.cli")
"""What the processes of a parallel build would import again, each for itself."""


def prepare(app: Sphinx) -> None:
    """Import what pages are made from, before Sphinx forks."""
    del app
    for name in SHARED:
        importlib.import_module(name)
    # A build's trees live until it ends; to look for garbage in them is a tenth of its time.
    gc.freeze()
    gc.set_threshold(200_000, 50, 50)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register all of it with Sphinx."""
    app.connect("builder-inited", prepare)
    for part in (directives, docstrings, diagrams, links, navigation, references):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
