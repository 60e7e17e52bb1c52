"""Sphinx: MyST-NB pages, executed while they are read, and the pages that are made from `Spec`."""

import os
import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# The kernels of the pages import this checkout, and run on CPU.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Pages compile much and compute little: as in the tests, without LLVM's optimizations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

from scripts import docs_pages  # noqa: E402

project = "gumbel"
author = "The gumbel authors"
copyright = "2026, The gumbel authors"  # noqa: A001
release = version = metadata.version("gumbel-jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["notes/*"]
html_theme = "furo"
html_title = "gumbel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = False  # a warning, which -W makes an error
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, too
nb_mime_priority_overrides = [("html", "image/svg+xml", 5)]

default_role = "code"
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

SECTIONS = (
    "Args", "Arguments", "Attributes", "Example", "Examples", "Raises", "Returns", "Yields",
)  # fmt: skip


def literal_blocks(lines: list[str]) -> list[str]:
    """Docstrings set equations off by indenting them: as literal blocks, they keep their layout."""
    found: list[str] = []
    section, block = False, False
    for number, line in enumerate(lines):
        indented, blank = line.startswith("    "), not line.strip()
        if line and not line[0].isspace():
            section = line.rstrip(":") in SECTIONS and line.endswith(":")
        starts = indented and not section and number and not lines[number - 1].strip()
        if starts and not block and not line.lstrip().startswith((">>>", "* ", "- ")):
            found += [".. code-block:: none", ""]
            block = True
        elif not indented and not blank:
            block = False
        found.append(line)
    return found


def process_docstring(app, what, name, obj, options, lines):  # noqa: D103
    lines[:] = literal_blocks(lines)


# What jaxtyping's aliases expand to, and how the sources name them.
NAMES = [
    (r"~?\b(?:jaxtyping|jaxlib\._jax)\.", ""),
    (r"~?\b(?:gumbel|jax|numpy|collections|typing|optax)(?:\.\w+)*\.(?=[A-Z])", ""),
    (r"Key\[Array, ''\] \| UInt32\[Array, '2'\]", "PRNGKey"),
    (
        r"Array \| ndarray \| bool \| number \| bool \| int \| float \| complex \| TypedNdArray",
        "ArrayLike",
    ),
    (r"Family \| str \| Mapping\[str, Family \| str\] \| Families \| None", "FamilyLike"),
]


def process_signature(app, what, name, obj, options, signature, returns):  # noqa: D103
    def shorten(text):
        for pattern, replacement in NAMES:
            text = re.sub(pattern, replacement, text)
        return text

    return signature and shorten(signature), returns and shorten(returns)


def skip_member(app, what, name, obj, skip, options):  # noqa: D103
    # A field of a NamedTuple: its class describes it under "Attributes".
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):  # noqa: D103
    docs_pages.write(Path(__file__).parent)
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-skip-member", skip_member)
