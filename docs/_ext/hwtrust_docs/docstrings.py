"""Docstrings as reStructuredText: they are written for who reads the source.

Rules:
1. A single backtick is code. An indented block, a diagram or a table of words in
   columns is shown as it stands.
2. A list needs no blank line before it.
3. What a module imports for type checkers alone is there when its signatures are read.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from sphinx.application import Sphinx

_ITEM = re.compile(r"(\d+\.|-) \S")
_COLUMNS = re.compile(r"\S.*? {2,}\S")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Note|Notes|Example|Examples):$")


def as_rst(lines: list[str]) -> list[str]:
    """A docstring's lines with what reStructuredText wants around blocks and lists."""
    written: list[str] = []
    in_section = in_block = False
    for part in _parts(lines):
        indented = part[0].startswith("  ")
        in_section = bool(_SECTION.match(part[0])) or (in_section and indented)
        as_it_stands = not in_section and (indented or _is_drawn(part))
        if as_it_stands and not in_block:
            written += [".. code-block:: text", ""]
        in_block = as_it_stands
        written += [f"   {line}" for line in part] if as_it_stands else _prose(part)
        written.append("")
    return written


def _parts(lines: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            parts[-1].append(line.rstrip())
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _prose(part: list[str]) -> list[str]:
    written: list[str] = []
    for line in _CODE.sub(r"``\1``", "\n".join(part)).split("\n"):
        before = written[-1] if written else ""
        if _ITEM.match(line) and before and not _ITEM.match(before) and before[:1] != " ":
            written.append("")
        written.append(line)
    return written


def _is_drawn(part: list[str]) -> bool:
    """Whether spaces in it are more than between words."""
    in_columns = sum(bool(_COLUMNS.match(line)) for line in part)
    return in_columns * 2 > len(part) or any(mark in line for line in part for mark in "├└│┐┘")


def process(  # noqa: PLR0917 - as Sphinx calls it
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Rewrite a docstring in place, before its sections are."""
    del app, what, name, thing, options
    lines[:] = as_rst(lines)


def complete(module: ModuleType) -> None:
    """Import what a module imports only where types are checked: by now nothing goes in circles."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            imports = ast.Module([each for each in node.body if _imports(each)], [])
            exec(compile(imports, module.__name__, "exec"), vars(module))  # noqa: S102 - our own


def _imports(node: ast.stmt) -> bool:
    """Whether it imports by name what is there at run time too."""
    if not isinstance(node, ast.Import | ast.ImportFrom) or node.names[0].name == "*":
        return False
    module = getattr(node, "module", None) or node.names[0].name
    return importlib.util.find_spec(module) is not None


def complete_all() -> None:
    """Do so for every module of ours that is loaded, until no more are."""
    done: set[str] = set()
    while todo := {name for name in sys.modules if name.startswith("hwtrust.")} - done:
        for name in sorted(todo):
            complete(sys.modules[name])
        done |= todo


def setup(app: Sphinx) -> None:
    """Rewrite every docstring that the API pages show."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", process, priority=100)
