"""The navigation beside every page: made of titles, and not of all that is below them.

A page's navigation has every page's title and no heading. Sphinx copies every heading of
the site for it and throws them away, for each page anew: an eighth of a build's time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx import addnodes

if TYPE_CHECKING:
    from docutils import nodes  # type: ignore[import-untyped]
    from sphinx.application import Sphinx


def titles(toc: nodes.Element) -> nodes.Element:
    """A page's table of contents with its title and the pages below it alone."""
    kept = toc.deepcopy()
    for top in kept.children:
        if len(top) > 1:
            if below := list(top[1].findall(addnodes.toctree)):
                top[1][:] = below
            else:
                top.pop(1)
    return kept


def shorten(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Have the page's `toctree` see titles where it is asked for nothing else."""
    del page, template, doctree
    whole = context.get("toctree")
    if whole is None:
        return

    def toctree(**options: Any) -> str:  # noqa: ANN401 - as Sphinx's own
        if not options.get("titles_only"):
            return str(whole(**options))
        tocs = app.env.tocs
        app.env.tocs = _short(app, tocs)
        try:
            return str(whole(**options))
        finally:
            app.env.tocs = tocs

    context["toctree"] = toctree


def _short(app: Sphinx, tocs: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] | None = getattr(app, "_hwtrust_titles", None)
    if found is None:
        found = {page: titles(toc) for page, toc in tocs.items()}
        app._hwtrust_titles = found  # type: ignore[attr-defined]  # noqa: SLF001 - named as ours
    return found


def setup(app: Sphinx) -> None:
    """Come before the theme, which asks for the navigation at 500."""
    app.connect("html-page-context", shorten, priority=400)
