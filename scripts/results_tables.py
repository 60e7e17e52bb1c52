"""Tables of results in Markdown, for the README and the documentation, from files of `results/`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.files import Maybe, markdown_table, read_json
from experiments.reproduce import table1
from experiments.sweeps.progress import nats
from experiments.training.rundir import RESULT_SHAPE
from scripts.collect import SHORT

COLUMNS = [(task, latent) for task in SHORT for latent in ("bernoulli", "categorical")]
FIGURES = {
    1: "Samples of a Gumbel-Softmax variable by temperature, and their means.",
    3: "Structured prediction (SBN): single-sample validation bound while training.",
    4: "Generative modeling (VAE): single-sample validation bound while training.",
    5: "Semi-supervised classification: speed by number of classes, and analogies.",
}
_FULL = "By the paper's protocol, the cells that have run."
_TABLES = {
    "table1": "## Table 1",
    "full/table1": "### Table 1, by the paper's protocol",
    "table2": "## Table 2",
    "full/table2": "### Table 2, with ten draws of the labels",
}

Run = dict[str, Any]

# What is read of the files under `results/`.
_RUN = RESULT_SHAPE | {
    "config": {
        "task": str,
        "latent": str,
        "estimator.name": str,
        "dataset": str,
        "optimizer": str,
        "momentum": float,
        "batch_size": int,
        "learning_rate": float,
        "layers": [int],
    },
    "curve": [{"step": int, "validation_bound": float}],
}
_FIGURE5A = {
    "device": {"platform": str, "kind": str},
    "cores": int | None,
    "rows": [{"num_classes": int, "estimator": str, "steps_per_second": float}],
    "ratios": [{"num_classes": int, "speedup": float, "flop_ratio": float, "paper": float | None}],
}
_BENCHMARK = {
    "torch": Maybe(str),
    "trained": Maybe(str),
    "processes": Maybe(int),
    "jax_steps_per_second": [float],
    "products_steps_per_second": Maybe([float]),
    "median_ratio": Maybe(float),
    "median_limit": Maybe(float),
    "median_share": Maybe(float),
}


def cells_of(path: Path) -> dict[tuple[str, str], Run]:
    """The cells of a table by row and estimator, with how many seeds each is to have."""
    if not path.exists():
        return {}
    found = read_json(path)
    planned = {"planned_seeds": found["preset"]["seeds"]}
    return {(cell["row"], cell["estimator"]): cell | planned for cell in found["cells"]}


def bound_of(cell: Run | None) -> str:
    """A cell's mean with half the width of its interval, as the tables print it.

    Example:
      >>> bound_of({"mean": 58.34, "ci95": [58.14, 58.54], "seeds": 2, "planned_seeds": 3})
      '58.3 ± 0.2, 2 of 3 seeds'
      >>> bound_of(None)
      ''
    """
    if cell is None or "mean" not in cell:
        return ""
    return table1.bound_of(cell, cell["planned_seeds"])


def load_runs(directory: Path) -> list[Run]:
    """The collected runs, in the order of their names."""
    return [read_json(path, _RUN) for path in sorted(directory.glob("*.json"))]


def figure(results: Path, name: str, caption: str) -> str:
    """A figure of the results in a page of `docs/reproduction`; nothing if it is not there.

    Args:
      results: the directory.
      name: of the figure, below `figures`, or `full/NAME` for one of the paper's protocol.
      caption: below it.
    """
    folder, _, stem = name.rpartition("/")
    path = Path(folder) / "figures" / f"{stem}.png"
    if not (results / path).exists():
        return ""
    return f"![{caption}](../../results/{path.as_posix()})\n\n*{caption}*\n\n"


def _as_said(run: Run) -> bool:
    """Whether the set-up is the one that the text above the tables of single runs names."""
    config = run["config"]
    return (
        config["dataset"] == "binarized_mnist"
        and (config["optimizer"], config["momentum"], config["batch_size"]) == ("sgd", 0.9, 100)
        and config["learning_rate"] == 1e-3
        and config.get("learning_rate_schedule", "constant") == "constant"
    )


def full_runs(runs: Iterable[Run]) -> str:
    """The table of single runs of 200,000 steps."""
    runs = [run for run in runs if _as_said(run)]
    rows = [
        (
            f"`{SHORT[run['config']['task']]}`, {run['config']['latent']}",
            f"`{run['config']['estimator.name']}`",
            f"{run['steps']:,}",
            f"{run['seed']}",
            nats(run["validation_bound"]),
            nats(run["test_bound"]),
        )
        for run in runs
        if run["steps"] >= 200_000
    ]
    header = ("model", "estimator", "steps", "seed", "validation", "test")
    return markdown_table(header, rows)


def short_runs(runs: Iterable[Run]) -> str:
    """The table of 20,000-step runs: where each estimator starts and what it reaches."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for run in runs:
        if run["steps"] != 20_000 or run["seed"] != 0 or not _as_said(run):
            continue
        config, start = run["config"], run["curve"][0]["validation_bound"]
        last = run["curve"][-1]["validation_bound"]
        row = cells.setdefault(config["estimator.name"], {})
        units = "x".join(map(str, config["layers"]))
        note = "" if min(config["layers"]) >= 200 else f" (layers {units})"
        row[config["task"], config["latent"]] = f"{start:.1f} → {last:.1f}{note}"
    rows = [
        (f"`{name}`", *(row.get(column, "not run") for column in COLUMNS))
        for name, row in cells.items()
    ]
    return markdown_table(
        ("estimator", *(f"`{SHORT[task]}`, {latent}" for task, latent in COLUMNS)), rows
    )


def speed_by_classes(path: Path) -> str:
    """Steps per second by number of classes, and Gumbel-Softmax over marginalization."""
    measured = read_json(path, _FIGURE5A)
    speeds = {
        (row["num_classes"], row["estimator"]): f"{row['steps_per_second']:.3g}"
        for row in measured["rows"]
    }
    rows = [
        (
            str(ratio["num_classes"]),
            speeds[ratio["num_classes"], "marginalization"],
            speeds[ratio["num_classes"], "gumbel_softmax"],
            speeds[ratio["num_classes"], "st_gumbel_softmax"],
            f"{ratio['speedup']:.1f}x",
            f"{ratio['flop_ratio']:.1f}x",
            "" if ratio["paper"] is None else f"{ratio['paper']:.1f}x",
        )
        for ratio in measured["ratios"]
    ]
    header = (
        "classes",
        "`marginalization`",
        "`gumbel_softmax`",
        "`st_gumbel_softmax`",
        "Gumbel-Softmax over marginalization",
        "by arithmetic alone",
        "paper",
    )
    cpu = measured["device"]["platform"] == "cpu"
    device = f"{measured['cores']} CPU cores" if cpu else measured["device"]["kind"]
    shown = markdown_table(header, rows)
    return f"Steps per second on {device}, batch 100, excluding compilation:\n\n{shown}"


_MODELS = {
    "sbn": "the Bernoulli SBN",
    "vae": "the categorical VAE",
    "semi_supervised": "the semi-supervised model",
}


def pytorch_ratios(results: Path) -> str:
    """What `scripts.benchmark_pytorch` measured: a row for each file."""
    files = sorted(results.glob("benchmark_pytorch*.json"))
    found = [(path.name, read_json(path, _BENCHMARK)) for path in files]
    rows = [
        (
            _MODELS[speed.get("trained", "sbn")],
            str(speed.get("processes", 1)),
            f"**{speed['median_ratio']:.2f}x**" if "median_ratio" in speed else "",
            f"{speed['median_limit']:.2f}x" if "median_limit" in speed else "",
            f"{100 * speed['median_share']:.0f}%" if "median_share" in speed else "",
            ", ".join([*_torch(speed), f"{len(speed['jax_steps_per_second'])} rounds"]),
            f"`{name}`",
        )
        for name, speed in found
    ]
    header = (
        "model",
        "processes",
        "over PyTorch",
        "upper limit",
        "share of the upper limit",
        "PyTorch",
        "file",
    )
    return markdown_table(header, rows)


def _torch(speed: dict[str, Any]) -> list[str]:
    return [speed["torch"].split("+")[0]] if "torch" in speed else []


def results_page(results: Path) -> str:
    """The tables and figures of all results."""
    text = "# Results\n\nTables and figures are made from the files under `results/`.\n\n"
    for name, title in _TABLES.items():
        if (path := results / f"{name}.md").exists():
            text += f"{title}\n\n{path.read_text(encoding='utf-8')}\n"
    for number, caption in FIGURES.items():
        if shown := figure(results, f"figure{number}", caption):
            text += f"## Figure {number}\n\n{shown}"
            text += figure(results, f"full/figure{number}", f"{_FULL} {caption}")
    if (results / "figure5a.json").exists():
        text += "### The numbers of Figure 5a\n\n"
        text += f"{speed_by_classes(results / 'figure5a.json')}\n"
    return text + single_runs(results)


def single_runs(results: Path) -> str:
    """The runs of `results/runs`, and the comparison with PyTorch."""
    runs = load_runs(results / "runs")
    return f"""\
## Single runs

Fixed-binarized MNIST, batch 100, SGD with momentum 0.9 at a constant learning rate of 1e-3. Bounds
in nats with 1,000 discrete samples:

{full_runs(runs)}
Every estimator for 20,000 steps of the same setup: the single-sample validation bound at the start
and at the end.

{short_runs(runs)}
## Speed

Steps per second under `gumbel_softmax` over those of the same model in eager PyTorch, each process
on a core of its own; medians over rounds of turns. Upper limit: the step's matrix products and
convolutions alone, in float32.

{pytorch_ratios(results)}
`python -m scripts.benchmark_pytorch --model=MODEL` (after `pip install torch`) measures it again;
with `--sides=jax,products` it needs no PyTorch.
"""
