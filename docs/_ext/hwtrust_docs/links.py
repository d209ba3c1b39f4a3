"""Links between files of the repository, as links between pages.

The same Markdown is read in a checkout and here. There a link leads to any file; here
a file that has a page leads to it, and one that has none is named.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sphinx.application import Sphinx

PAGES: Mapping[str, str] = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/project/changelog.md",
    "CONTRIBUTING.md": "/project/contributing.md",
    "LIMITATIONS.md": "/project/limitations.md",
    "MEASUREMENTS.md": "/project/measurements.md",
    "SECURITY.md": "/project/security.md",
    "THREATS.md": "/project/threats.md",
    "backend/README.md": "/reference/backend.md",
}
"""Documents outside docs/, and the pages that have them in."""

_LINK = re.compile(
    r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|#|/)([^)\s#]+)(#[^)\s]*)?\)"
)
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)


def rewritten(text: str, *, file: Path, root: Path) -> str:
    """A document with its links led to pages; code blocks stay."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_of_prose(text[end : fence.start()], file, root), fence.group()]
        end = fence.end()
    return "".join([*parts, _of_prose(text[end:], file, root)])


def _of_prose(text: str, file: Path, root: Path) -> str:
    def lead(found: re.Match[str]) -> str:
        words, target, heading = found.group(1), found.group(2), found.group(3) or ""
        path = Path(os.path.normpath(file.parent / target))
        if not path.exists() or not path.is_relative_to(root):
            return found.group()  # the builder says that it leads nowhere
        name = path.relative_to(root).as_posix()
        if name in PAGES:
            return f"[{words}]({PAGES[name]}{heading})"
        if name.startswith("docs/") and name.endswith(".md"):
            return f"[{words}](/{name.removeprefix('docs/')}{heading})"
        # A picture or a download that lies with the pages.
        if name.startswith("docs/") and path.is_file():
            return found.group()
        return f"{words} (`{name}`)" if name not in words else words

    return _LINK.sub(lead, text)


def on_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Lead the links of a page."""
    file = Path(app.env.doc2path(page))
    source[0] = rewritten(source[0], file=file, root=Path(app.srcdir).parent)


def on_include(app: Sphinx, path: Path, _: str, source: list[str]) -> None:
    """Lead the links of a document that a page has in."""
    file = Path(os.path.normpath(Path(app.srcdir) / path))
    source[0] = rewritten(source[0], file=file, root=Path(app.srcdir).parent)


def setup(app: Sphinx) -> None:
    """Lead links as documents are read."""
    app.connect("source-read", on_page)
    app.connect("include-read", on_include)
