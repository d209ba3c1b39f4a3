"""How Sphinx builds the documentation: `scripts/docs`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "hwtrust"
author = "the hwtrust authors"
copyright = "the hwtrust authors, Apache-2.0"  # noqa: A001 - Sphinx's name
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"][
    "version"
]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.graphviz",
    "sphinx_copybutton",
    "hwtrust_docs",
]
exclude_patterns = ["_ext", "_static", "_templates", "ci", "grafana"]
nitpicky = True
# Other projects' names are documented elsewhere, and nothing is fetched. Ours lead somewhere, but
# for those of the product's inside that a signature of the outside mentions.
nitpick_ignore_regex = [
    ("py:.*", pattern)
    for pattern in (
        r"(?!hwtrust).*",
        r"hwtrust(_\w+)?\..*\.(T|_\w+)",
        r"hwtrust\.(files|keys|tpm)\..*",
        r"hwtrust\.(device|enclave)\.(context|push|state)\..*",
        r"hwtrust\.verify\.(attestation\.Info|signature\.\w+)",
        r"hwtrust\.verify\.logs\.\w+_rules\..*",
        r"hwtrust\.verify\.enclaves\.(dcap|\w+_(chain|keys|rules))\..*",
        r"hwtrust\.wire\.(codec|enclave|enclave_parts|nv|params|policy|protect|statement)\..*",
        r"hwtrust\.wire\.(enclaves|logs)\..*",
        r"hwtrust\.wire\.(envelope\.Message|root\.Recipe)",
        r"hwtrust_backend\.app\..*",
    )
]
default_role = "code"
# One short name of several classes: an annotation names it without its module.
suppress_warnings = ["ref.python"]

# --- Markdown --------------------------------------------------------------------

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# --- the API, from docstrings ----------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries = False

# --- drawings --------------------------------------------------------------------

graphviz_output_format = "svg"
graphviz_dot_args = [
    "-Gbgcolor=transparent",
    "-Gfontname=Helvetica,Arial,sans-serif",
    "-Nfontname=Helvetica,Arial,sans-serif",
    "-Efontname=Helvetica,Arial,sans-serif",
    "-Gfontsize=12",
    "-Nfontsize=12",
    "-Efontsize=11",
    "-Nshape=box",
    "-Nstyle=rounded",
]

# --- pages -----------------------------------------------------------------------

templates_path = ["_templates"]
html_theme = "furo"
html_title = f"hwtrust {version}"
html_static_path = ["_static"]
html_css_files = ["hwtrust.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = True
html_domain_indices = True
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5c56",
        "color-brand-content": "#0b5c56",
        "color-brand-visited": "#0b5c56",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5ec8bd",
        "color-brand-content": "#5ec8bd",
        "color-brand-visited": "#5ec8bd",
    },
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
copybutton_prompt_text = "$ "
