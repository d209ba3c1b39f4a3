"""Every error: its code, what it says, its cure, its class, its exit code and its HTTP status."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hwtrust
import hwtrust_backend
from hwtrust.cli import exit_code
from hwtrust.errors import HwTrustError, all_errors
from hwtrust_backend.app.problems import status_of
from hwtrust_docs.markdown import code, codes, link, paragraphs, plain, target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNSAID = {"hint", "cause"}
"""Keywords of an error that are shown as something else."""


def documented() -> dict[str, type[HwTrustError]]:
    """The errors of the product by their codes."""
    return {
        name: cls
        for name, cls in all_errors().items()
        if cls.__module__.startswith("hwtrust.errors")
    }


def page(_: Mapping[str, str]) -> list[str]:
    """A section for each subject, and an entry for each error of it."""
    found = documented()
    lines = [f"There are {len(found)} errors.", ""]
    subject = None
    for name, cls in found.items():
        if (beginning := name.partition(":")[0]) != subject:
            subject = beginning
            lines += [f"## {beginning}", ""]
        lines += _entry(name, cls)
    return lines


def _entry(name: str, cls: type[HwTrustError]) -> list[str]:
    lines = [target("error", name), f"### {code(name)}", ""]
    lines += paragraphs(inspect.cleandoc(cls.__doc__ or ""))
    if cls.hint:
        lines += [f"**What to do:** {plain(cls.hint)}.", ""]
    parent = cls.__mro__[1]
    above = f" (a {link('error', parent.code)})" if issubclass(parent, HwTrustError) else ""
    lines.append(f"- Class: {code(f'hwtrust.errors.{cls.__name__}')}{above}")
    carried = sorted(attributes().get(cls.__name__, set()) - _UNSAID)
    if carried:
        lines.append(f"- In `data`: {codes(carried)}")
    instance = cls("")
    status = status_of(instance)
    lines.append(f"- Exit code of `hwtrust`: {exit_code(instance)}; HTTP status: {status.value}")
    return [*lines, ""]


@cache
def attributes() -> dict[str, set[str]]:
    """The keywords that each class is raised with, anywhere in the product."""
    found: dict[str, set[str]] = {}
    for package in (hwtrust, hwtrust_backend):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            for call in _calls(path):
                name = ast.unparse(call.func).rpartition(".")[2]
                found.setdefault(name, set()).update(
                    keyword.arg for keyword in call.keywords if keyword.arg
                )
    return found


def _calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
            yield node
