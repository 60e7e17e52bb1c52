"""The sections of the results page on what the paper does not have: all estimators, compared."""

from pathlib import Path

from experiments.files import markdown_table, read_json
from experiments.lab.measure import SHAPE
from gumbel.lab import Comparison
from scripts.results_tables import figure


def sections(results: Path) -> str:
    """Those for which there are files below `results`."""
    return full_protocol(results) + survey(results) + stages(results)


def full_protocol(results: Path) -> str:
    """Table 1 by `--preset=full`."""
    path = results / "full" / "table1.md"
    if not path.exists():
        return ""
    return f"## Table 1, by the paper's protocol\n\n{path.read_text(encoding='utf-8')}\n"


def survey(results: Path) -> str:
    """Table 1's rows under every estimator, and their curves."""
    path = results / "survey.md"
    if not path.exists():
        return ""
    text = f"## Every estimator on the rows of Table 1\n\n{path.read_text(encoding='utf-8')}\n"
    return text + figure(
        results, "survey_curves", "Every estimator, by step, and by second where it was timed."
    )


def stages(results: Path) -> str:
    """Which estimator is best at each stage of training, by the lab's comparisons."""
    found: dict[tuple[str, int], Comparison] = {}
    for path in (results / "lab").glob("*.json"):
        of_row, _, of_step = path.stem.rpartition("-")
        found[of_row, int(of_step)] = Comparison.from_dict(read_json(path, SHAPE))
    if not found:
        return ""
    header = ("model", "step", "true gradient", "in the time of one estimate", "in 100 times that")
    rows = []
    for (row, step), comparison in sorted(found.items()):
        best = [(comparison.best(time), time) for time in comparison.budgets()]
        cells = [f"{e.label}: {_share(e.error_at(time), e.norm)}" for e, time in best]
        rows.append((row.replace("_", ", "), f"{step:,}", comparison.reference, *cells))
    return (
        "## Gradients while a model trains\n\n"
        "The estimator with the least mean squared error, and that error as a share of the\n"
        "squared norm of the gradient. The time is the median over the estimators.\n\n"
        f"{markdown_table(header, rows)}\n"
        + figure(results, "lab", "The error of every estimator while four models train.")
    )


def _share(error: float, norm: float) -> str:
    return f"{error / max(norm**2, 1e-30):.2g}"
