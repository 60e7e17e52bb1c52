"""Files: written atomically, read with their shape checked, under safe names.

Whole files are written by `replacing` or `write_text`, so no reader ever sees half a file, and a
killed or a second writer does no harm. `read_json` says what is wrong with a file that was damaged
or written by something else.
"""

from experiments.files.markdown import markdown_table
from experiments.files.paths import ROOT, home, name_part, path_of
from experiments.files.reading import read_arrays, read_json
from experiments.files.scratch import scratch
from experiments.files.shapes import Maybe, Shape, mismatch
from experiments.files.writing import is_no_space, naming, remove_partial, replacing, write_text

__all__ = [
    "ROOT",
    "Maybe",
    "Shape",
    "home",
    "is_no_space",
    "markdown_table",
    "mismatch",
    "name_part",
    "naming",
    "path_of",
    "read_arrays",
    "read_json",
    "remove_partial",
    "replacing",
    "scratch",
    "write_text",
]
