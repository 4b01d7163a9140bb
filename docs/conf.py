"""Sphinx configuration; build with ``sphinx-build -W -b html docs docs/_build/html``."""

import os
import sys

sys.path.insert(0, os.path.abspath(".."))
sys.path.insert(0, os.path.abspath("."))

import snode

project = "snode"
author = "The snode developers"
copyright = "2025, The snode developers"
release = version = snode.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # the formulas need no network
    "myst_nb",
    "claims",  # docs/claims.py
    "notebooks",  # docs/notebooks.py
]
# of the notebooks, the lessons are pages; the demos can only be downloaded
exclude_patterns = [
    "_build", "_templates", "exercises", "notebooks/snode", "notebooks/contractivity",
]  # fmt: skip
nb_execution_mode = "cache"
nb_execution_cache_path = os.path.abspath("_build/notebooks")
nb_execution_timeout = 120
nb_execution_raise_on_error = True
highlight_language = "default"  # Python where it is Python
copybutton_exclude = ".linenos, .gp, .go"
templates_path = ["_templates"]
html_theme = "furo"
html_title = "snode"
html_static_path = ["_static"]
html_css_files = ["snode.css"]
html_theme_options = {"navigation_with_keys": True}

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings give types with shapes
autodoc_mock_imports = ["art"]  # an extra
numpydoc_show_class_members = False  # the class template lists them
numpydoc_xref_param_type = False
default_role = "py:obj"  # `snode.ncg` links to the API, `x` is shown as code

plot_formats = [("png", 100)]  # pictures of docstrings: drawn when the pages are built
plot_html_show_formats = plot_html_show_source_link = False
plot_rcparams = {"figure.figsize": (6.4, 4.4), "savefig.facecolor": "white"}
plot_apply_rcparams = True

# The examples of the pages are doctests: sphinx-build -b doctest, or pytest --doctest-glob='*.rst'.
doctest_test_doctest_blocks = "default"


def escape_bars(app, what, name, obj, options, lines):
    """Let ``|x|`` in a docstring be a norm: to reStructuredText it is a substitution."""
    if name.startswith("snode.sklearn") and name.endswith(("_request", "metadata_routing")):
        del lines[1:]  # inherited; the rest refers to pages of scikit-learn
    block = None  # indentation of the math block or doctest that we are in
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = indent if line.lstrip().startswith(".. math::") else None
        if block is None and not line.lstrip().startswith((">>>", "...")):
            parts = line.split("`")
            lines[i] = "`".join(p if k % 2 else p.replace("|", r"\|") for k, p in enumerate(parts))


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    app.connect("builder-inited", use_svg)


def use_svg(app):
    """Draw formulas without fonts: some browsers load none for a page opened from a file."""
    app.config.mathjax_path = "mathjax/tex-svg.js"
