"""Graphviz drawings inside the page: its text colour in light and dark, read aloud by its title.

Rules:
1. What the source draws in black takes the colour of the page's text; a colour that
   it names stays. Nothing is drawn behind it.
2. Every drawing has words for who cannot see it: `:alt:`, or the build stops.
"""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.ext.graphviz import graphviz, render_dot

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

_BLACK = re.compile(r'(stroke|fill)="(?:black|#000000)"')
_TEXT = re.compile(r"<text (?![^>]*fill=)")
_PAPER = re.compile(r'<polygon fill="(?:white|none)" stroke="(?:none|transparent)"[^>]*/>\n?')
_TITLE = re.compile(r"<title>.*?</title>\n?", re.DOTALL)
_SMALLEST = 0.7
"""How small a drawing becomes: then it scrolls, for its words are to be read on a phone too."""
_SIZE = re.compile(r'<svg width="(\d+)pt" height="\d+pt"\n?')


def drawn(svg: str, *, alt: str) -> str:
    """What dot has written, as a part of a page."""
    body = svg[svg.index("<svg") :]
    body = _TITLE.sub("", _PAPER.sub("", body, count=1))
    body = _TEXT.sub('<text fill="currentColor" ', _BLACK.sub(r'\1="currentColor"', body))
    mark = hashlib.sha256(svg.encode()).hexdigest()[:8]
    body = re.sub(r'\bid="', f'id="drawing-{mark}-', body)
    label = html.escape(alt, quote=True)
    return _SIZE.sub(
        lambda found: (
            f'<svg role="img" aria-label="{label}" width="100%" '
            f'style="max-width: {found[1]}pt; min-width: {int(found[1]) * _SMALLEST:.0f}pt" '
        ),
        body,
        count=1,
    )


def visit(self: HTML5Translator, node: graphviz) -> None:
    """Write the drawing into the page."""
    alt = node.get("alt") or ""
    _, file = render_dot(self, node["code"], node["options"], "svg", "graphviz")
    if file is None:
        raise nodes.SkipNode
    self.body.append(f'<div class="drawing">{drawn(Path(file).read_text(), alt=alt)}</div>\n')
    raise nodes.SkipNode


def require_words(app: Sphinx, doctree: Any, _: str) -> None:  # noqa: ANN401 - docutils is untyped
    """Warn of a drawing that says nothing to who cannot see it."""
    from sphinx.util import logging  # noqa: PLC0415 - named like the standard library's

    del app
    for node in doctree.findall(graphviz):
        if not node.get("alt"):
            logging.getLogger(__name__).warning("a drawing needs :alt:", location=node)


def setup(app: Sphinx) -> None:
    """Draw in our way."""
    app.setup_extension("sphinx.ext.graphviz")
    app.add_node(graphviz, override=True, html=(visit, None))
    app.connect("doctree-resolved", require_words)
