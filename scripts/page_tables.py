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
from experiments.files import ROOT, markdown_table, read_json, write_text
from experiments.reproduce import table, versions
from experiments.reproduce.table1_presets import COLUMNS

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
_CLOSE = 1.0  # nats


def table1(results: Path) -> str:
    """Table 1 beside the paper's."""
    return f"""\
**Table 1 of the paper**

{(results / "table1.md").read_text(encoding="utf-8")}"""


def by_both_protocols(results: Path) -> str:
    """Each cell of the paper's Table 1 by its own protocol, as far as run, and by the short one."""
    full, short = (_means(results / folder / "table1.json") for folder in ("full", "."))
    run = [cell for cell in full if "mean" in full[cell]]
    close = [cell for cell in run if full[cell]["mean"] <= full[cell]["paper"] + _CLOSE]
    header = ("model", "estimator", "500,000 steps", "paper", "50,000 steps")
    lines = (
        (row.replace("_", ", "), f"`{name}`", *_numbers(full[row, name], short[row, name]))
        for row, name in run
    )
    return f"""\
By the paper's own protocol, `results/full/` has {len(run)} of the {len(full)} cells. {len(close)}
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


def _means(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The cells of the paper's columns, by row and estimator."""
    found = read_json(path)
    seeds = {"planned_seeds": found["preset"]["seeds"]}
    return {
        (cell["row"], cell["estimator"]): cell | seeds
        for cell in found["cells"]
        if cell["estimator"] in COLUMNS
    }


def _numbers(full: Mapping[str, Any], short: Mapping[str, Any]) -> tuple[str, str, str]:
    return _shown(full), f"{full['paper']:.1f}", _shown(short)


def _shown(cell: Mapping[str, Any]) -> str:
    return table.shown(
        cell["mean"], cell["ci95"], cell["seeds"], cell["planned_seeds"]
    ) + versions.mark(cell)


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
