"""References to what is ours: each leads somewhere, or the build stops.

Rules:
1. An error leads to its entry in the reference, where its cure is.
2. A name leads to the page that documents it, also by the module that it is taken from.
3. Names of other projects, and of the product's inside, are shown and lead nowhere:
   `nitpick_ignore_regex` in conf.py says which those are.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sphinx.util.nodes import make_refnode

from hwtrust.errors import all_errors
from hwtrust_docs.markdown import anchor

if TYPE_CHECKING:
    from docutils import nodes  # type: ignore[import-untyped]
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

_ERRORS_PAGE = "reference/errors"


@cache
def errors() -> dict[str, str]:
    """The anchor of each error's entry, by its class."""
    return {
        cls.__name__: anchor("error", code)
        for code, cls in all_errors().items()
        if cls.__module__.startswith("hwtrust.errors")
    }


def lead(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element
) -> nodes.Element | None:
    """Where a name of ours leads that Sphinx does not find; None for all others."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or app.builder.format != "html":
        return None
    page, name = node["refdoc"], target.rpartition(".")[2]
    if name in errors():
        return make_refnode(app.builder, page, _ERRORS_PAGE, errors()[name], shown, target)
    if not target.startswith("hwtrust"):
        return None
    objects: dict[str, Any] = env.domaindata["py"]["objects"]
    documented = [one for one in objects if one.rpartition(".")[2] == name and "hwtrust" in one]
    if len(documented) != 1:
        return None
    there = objects[documented[0]]
    return make_refnode(app.builder, page, there.docname, there.node_id, shown, documented[0])


def setup(app: Sphinx) -> None:
    """Be asked for what Sphinx does not find."""
    app.connect("missing-reference", lead)
