"""The sections of the results page on what the paper does not have: all estimators, compared."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.files import markdown_table, read_json
from experiments.reproduce import lab_stages
from scripts.results_tables import figure

# What is read of `survey.json`.
_SURVEY = {"cells": [{"row": str, "estimator": str}]}


def sections(results: Path) -> str:
    """Those for which there are files below `results`."""
    return survey(results) + stages_of_training(results) + toys(results)


def survey(results: Path) -> str:
    """Table 1's rows under every estimator, and their curves."""
    path = results / "survey.md"
    if not path.exists():
        return ""
    text = f"## Every estimator on the rows of Table 1\n\n{path.read_text(encoding='utf-8')}\n"
    if (results / "survey.json").exists():
        text += versions(read_json(results / "survey.json", _SURVEY)["cells"])
    caption = (
        "Every estimator, by step, and by second where it was timed; "
        "`gumbel_softmax` is black in all panels."
    )
    return text + figure(results, "survey_curves", caption)


def versions(cells: Sequence[Mapping[str, Any]]) -> str:
    """A paragraph that names the cells by the versions of jax that trained them; none for one.

    Example:
      >>> cells = [
      ...     ("x", "st", "0.10.2"),
      ...     ("y", "st", "0.9"),
      ...     ("x", "sf", "0.9"),
      ...     ("y", "sf", "0.9"),
      ... ]
      >>> print(versions([{"row": r, "estimator": e, "jax": [v]} for r, e, v in cells]).strip())
      Several versions of jax trained the final runs at equal steps ([](protocol.md)): with 0.10.2,
      `st` (x); with 0.9, `st` (y), `sf`.
    """
    of: dict[str, dict[str, list[str]]] = {}
    ran: dict[str, int] = {}
    for cell in (cell for cell in cells if "jax" in cell):
        name = cell["estimator"]
        ran[name] = ran.get(name, 0) + 1
        rows = of.setdefault(" and ".join(cell["jax"]), {}).setdefault(name, [])
        rows.append(cell["row"].replace("_", ", "))
    if len(of) < 2:
        return ""
    lists = []
    for version, found in of.items():
        names = [
            f"`{name}`" if len(rows) == ran[name] else f"`{name}` ({'; '.join(rows)})"
            for name, rows in found.items()
        ]
        lists.append((version, ", ".join(names)))
    text = "; ".join(f"with {version}, {trained}" for version, trained in lists)
    intro = "Several versions of jax trained the final runs at equal steps ([](protocol.md)):"
    return f"{textwrap.fill(f'{intro} {text}.', 100, break_on_hyphens=False)}\n\n"


def stages_of_training(results: Path) -> str:
    """Which estimator is best at each stage of training, by the lab's comparisons."""
    found = lab_stages.recorded(results)
    if not found:
        return ""
    header = ("model", "step", "true gradient", "in the time of one estimate", "in 100 times that")
    rows = []
    for row, by_step in found.items():
        for step, comparison in by_step.items():
            best = [(comparison.best(time), time) for time in comparison.budgets()]
            cells = [f"{e.label}: {_share(e.error_at(time), e.norm)}" for e, time in best]
            rows.append((row.replace("_", ", "), f"{step:,}", comparison.reference, *cells))
    return (
        "## Gradients while a model trains\n\n"
        "The estimator with the least mean squared error, and that error as a share of the\n"
        "squared norm of the gradient. The time of an estimate is that of a training step\n"
        "(`results/step_times.json`), or the lab's own where no step was timed; the headings have\n"
        "the median over the estimators.\n\n"
        f"{markdown_table(header, rows)}\n"
        + figure(results, "lab", "The error of every estimator while four models train.")
    )


def toys(results: Path) -> str:
    """The toys of the control-variate papers."""
    caption = (
        "Mean over five seeds of the expected cost, and the log variance of the estimate, by step; "
        "`gumbel_softmax` is black in all panels."
    )
    shown = figure(results, "toys", caption)
    if not shown:
        return ""
    return (
        "## A single Bernoulli variable\n\n"
        "Every estimator of the single-sample cost minimizes `E[(b - t)^2]`, the toy problem of\n"
        "the papers on control variates, with Adam (`results/toys.json`).\n\n"
        f"{shown}"
    )


def _share(error: float, norm: float) -> str:
    return f"{error / max(norm**2, 1e-30):.2g}"
