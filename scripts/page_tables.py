"""Writes the tables that stand between two markers in pages that people write, from `results/`.

  python -m scripts.page_tables [--check]

With `--check` nothing is written, and the exit status says whether all pages are up to date.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.files import ROOT, markdown_table, write_text
from experiments.reproduce import versions
from experiments.reproduce.table1_presets import COLUMNS
from scripts.results_tables import bound_of, cells_of

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_CLOSE = 1.0  # nats


def table1(results: Path) -> str:
    """Table 1 beside the paper's."""
    return f"""\
**Table 1 of the paper**

{(results / "table1.md").read_text(encoding="utf-8")}"""


def by_both_protocols(results: Path) -> str:
    """Each cell of the paper's Table 1 by its own protocol, as far as run, and by the short one."""
    full, short = (cells_of(results / folder / "table1.json") for folder in ("full", "."))
    papers = [cell for cell in full if full[cell]["estimator"] in COLUMNS]
    run = [cell for cell in papers if "mean" in full[cell]]
    close = [cell for cell in run if full[cell]["mean"] <= full[cell]["paper"] + _CLOSE]
    of_full, of_short = (f"{cells[run[0]]['steps']:,} steps" for cells in (full, short))
    header = ("model", "estimator", of_full, "paper", of_short)
    lines = (
        (
            row.replace("_", ", "),
            f"`{name}`",
            bound_of(full[row, name]),
            f"{full[row, name]['paper']:.1f}",
            bound_of(short[row, name]) + versions.mark(short[row, name]),
        )
        for row, name in run
    )
    return f"""\
By the paper's own protocol, `results/full/` has {len(run)} of the {len(papers)} cells. {len(close)}
of them are within {_CLOSE:g} nat of the paper or better:

{markdown_table(header, lines)}
Test bound in nats, as in [Table 1](results.md#table-1).{versions.footnote([short[c] for c in run])}
"""


PAGES = {
    "README.md": table1,
    "docs/reproduction/findings.md": by_both_protocols,
}


def rendered(page: str, text: str) -> str:
    """The page with what is between its markers replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def define_flags(values: flags.FlagValues) -> None:
    """The command's flag."""
    flags.DEFINE_bool("check", False, "write nothing, only compare", flag_values=values)


def main(given: Mapping[str, Any]) -> int:
    """Writes or checks the tables."""
    outdated = []
    for name, made in PAGES.items():
        page = (ROOT / name).read_text(encoding="utf-8")
        new = rendered(page, made(ROOT / "results"))
        if new != page:
            outdated.append(name)
            if not given["check"]:
                write_text(ROOT / name, new)
    if not given["check"]:
        return 0
    if outdated:
        print(f"{', '.join(outdated)} differ: run python -m scripts.page_tables")
        return 1
    print("up to date")
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
