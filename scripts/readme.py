"""Writes the results section of README.md from the files under `results/`.

  python -m scripts.readme [--check]

With `--check` nothing is written, and the exit status says whether the section is up to date.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.files import Maybe, read_json, write_text
from experiments.sweeps.progress import nats
from experiments.training.rundir import RESULT_SHAPE
from scripts.collect import SHORT

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
COLUMNS = [(task, latent) for task in SHORT for latent in ("bernoulli", "categorical")]

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
    "torch": str,
    "jax_steps_per_second": [float],
    "median_ratio": float,
    "median_limit": Maybe(float),
}


def load_runs(directory: Path) -> list[Run]:
    """The collected runs, in the order of their names."""
    return [read_json(path, _RUN) for path in sorted(directory.glob("*.json"))]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
    return table(header, rows)


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
    return table(("estimator", *(f"`{SHORT[task]}`, {latent}" for task, latent in COLUMNS)), rows)


def tables(results: Path) -> str:
    """The paper's tables and figures, as far as they have been run."""
    text = ""
    for name in ("table1", "table2"):
        if (results / f"{name}.md").exists():
            text += f"### {_title(name)}\n\n{(results / f'{name}.md').read_text()}\n"
    if (results / "figure5a.json").exists():
        text += f"### Figure 5a of the paper\n\n{speed_by_classes(results / 'figure5a.json')}\n"
    for name in ("figure1", "figure3", "figure4", "figure5"):
        if (results / "figures" / f"{name}.png").exists():
            text += f"![{_title(name)}](results/figures/{name}.png)\n\n"
    return text


def _title(name: str) -> str:
    return f"{name[:-1].capitalize()} {name[-1]} of the paper"


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
    return f"Steps per second on {device}, batch 100, compiling left out:\n\n{table(header, rows)}"


def pytorch_ratio(speed: dict[str, Any]) -> str:
    """What `scripts.benchmark_pytorch` measured, in a phrase."""
    processes, pairs = speed.get("processes", 1), len(speed["jax_steps_per_second"])
    on = "on one core" if processes == 1 else f"with {processes} processes each, a core a process"
    torch = speed["torch"].split("+")[0]
    limit = f", of at most {speed['median_limit']:.2f}x" if "median_limit" in speed else ""
    return (
        f"**{speed['median_ratio']:.2f}x**{limit} {on} "
        f"(PyTorch {torch}, median of {pairs} rounds of turns)"
    )


def section(results: Path) -> str:
    """The results section."""
    runs = load_runs(results / "runs")
    files = sorted(results.glob("benchmark_pytorch*.json"))
    speeds = "; ".join(pytorch_ratio(read_json(path, _BENCHMARK)) for path in files)
    return f"""\
{tables(results)}### Single runs

Bounds with 1,000 discrete samples on fixed-binarized MNIST, in nats (batch 100, SGD with momentum
0.9, learning rate 1e-3):

{full_runs(runs)}
Every estimator for 20,000 steps of the same set-up: the hard one-sample validation bound at the
start and at the end, in nats:

{short_runs(runs)}
Steps per second of the Bernoulli SBN under `gumbel_softmax` over those of the same model in eager
PyTorch: {speeds}. Upper limit: the step's matrix products alone, in float32.
"""


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
