"""Writes the results section of README.md, Table 1 beside the paper's, from `results/`.

  python -m scripts.readme [--check]

With `--check` nothing is written, and the exit status says whether the section is up to date.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.files import ROOT, write_text

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def section(results: Path) -> str:
    """The results section: Table 1 beside the paper's."""
    return f"""\
**Table 1 of the paper**

{(results / "table1.md").read_text(encoding="utf-8")}"""


def rendered(readme: str, text: str) -> str:
    """The README with its results section replaced."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def define_flags(values: flags.FlagValues) -> None:
    """The command's flag."""
    flags.DEFINE_bool("check", False, "write nothing, only compare", flag_values=values)


def main(given: Mapping[str, Any]) -> int:
    """Writes or checks the section."""
    path = ROOT / "README.md"
    new = rendered(path.read_text(), section(ROOT / "results"))
    if given["check"]:
        up_to_date = path.read_text() == new
        print("up to date" if up_to_date else "README.md differs: run python -m scripts.readme")
        return 0 if up_to_date else 1
    write_text(path, new)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
