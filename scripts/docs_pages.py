"""Writes the documentation's pages that are made from the registry and from `results/`.

  python -m scripts.docs_pages

A page for each registered estimator, from its `Spec`, its docstring and the survey's records; the
overview of all of them; and the tables of results. `make docs` calls it, so a new estimator has its
page as soon as it is registered. What a person has to say about one goes into `docs/notes/NAME.md`,
which its page includes if the file exists.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import command
from experiments.files import ROOT, markdown_table, read_json, write_text
from experiments.settings import SHARED_OPTIONS
from gumbel import estimators
from gumbel.estimators import Spec
from scripts import beyond_tables, results_tables

RESULTS = ROOT / "results"
ROWS = {
    "sbn_bernoulli": "SBN, Bernoulli",
    "sbn_categorical": "SBN, categorical",
    "vae_bernoulli": "VAE, Bernoulli",
    "vae_categorical": "VAE, categorical",
}
Record = dict[str, Any]


def write(docs: Path) -> None:
    """Writes all generated pages below `docs`, and leaves pages alone that would not change."""
    finals = finals_of(RESULTS)
    cells = results_tables.cells_of(RESULTS / "survey.json")
    folder = docs / "estimators"
    pages = {f"{name}.md": estimator_page(name, cells, docs) for name in estimators.names()}
    pages["index.md"] = overview(cells)
    for name, text in pages.items():
        _replace(folder / name, text)
    for name in {estimator for _, estimator in finals}:
        _draw_curves(folder / "curves" / f"{name}.svg", name, finals)
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    results = results_tables.results_page(RESULTS) + beyond_tables.sections(RESULTS)
    _replace(docs / "reproduction" / "results.md", results)


def finals_of(results: Path) -> dict[tuple[str, str], list[Record]]:
    """The records of Table 1's final runs, by row and estimator."""
    found: dict[tuple[str, str], list[Record]] = {}
    for directory in sorted((results / "table1" / "final").glob("*-*")):
        row, _, estimator = directory.name.partition("-")
        found[row, estimator] = [read_json(path) for path in sorted(directory.glob("*"))]
    return found


def overview(cells: Mapping[tuple[str, str], Record]) -> str:
    """The page that lists all estimators."""
    header = ("estimator", "gradient", "passes", "families", *ROWS.values(), "ms per step")
    lines = [
        (
            f"[`{name}`]({name}.md)",
            "unbiased" if spec.unbiased else "biased",
            spec.passes,
            "both" if len(spec.families) == 2 else ", ".join(spec.families),
            *(results_tables.bound_of(cells.get((row, name))) for row in ROWS),
            _ms(cells.get(("sbn_bernoulli", name))),
        )
        for name, spec in ((name, estimators.spec(name)) for name in estimators.names())
    ]
    pages = "\n".join(estimators.names())
    return f"""\
# Estimators

`gumbel.estimators.make(name, family, **options)` makes an estimator. All share one signature.
[](../choose.md) says which one to use.

{markdown_table(header, lines)}
*Passes*: forward + backward passes through the objective in one step, with `L` layers, `m` samples
(`num_samples`), `N` joint values, and `V` changes of one variable to another value. *Bounds*: test
set, nats, lower is better, mean over seeds ± half the width of the 95% interval, from
`results/survey.json`; blank cells were not run. *ms per step*: time of a step of the Bernoulli SBN
at batch size 100, from `results/step_times.json`.

```{{toctree}}
:hidden:

{pages}
```
"""


def _ms(cell: Record | None) -> str:
    return "" if cell is None or cell["ms"] is None else f"{cell['ms']:.2g}"


def estimator_page(name: str, cells: Mapping[tuple[str, str], Record], docs: Path) -> str:
    """The page of one estimator."""
    spec = estimators.spec(name)
    note = docs / "notes" / f"{name}.md"
    text = f"# `{name}`\n\n{markdown_table(('', ''), facts(spec))}\n"
    if note.exists():
        text += f"{note.read_text(encoding='utf-8').strip()}\n\n"
    factory = f"{spec.factory.__module__}.{getattr(spec.factory, '__qualname__', name)}"
    text += f"## Definition\n\n```{{eval-rst}}\n.. autofunction:: {factory}\n```\n\n"
    if spec.options:
        header = ("option", "default", "values")
        lines = ((f"`{o.name}`", f"`{_default(o)}`", _values(o)) for o in spec.options.values())
        text += f"## Options\n\n{markdown_table(header, lines)}\n"
    of_rows = {row: cells.get((row, name), {}) for row in ROWS}
    measured = {row: cell for row, cell in of_rows.items() if "mean" in cell}
    if measured:
        text += _measured(name, measured)
    return text + _commands(spec, measured)


def facts(spec: Spec) -> list[tuple[str, str]]:
    """What `Spec` says of an estimator, a line each."""
    needs = []
    if spec.independent:
        needs.append("independent examples, or a scalar cost")
    if spec.smooth:
        needs.append("a cost that is differentiable in the samples")
    elif spec.slopes:
        needs.append("derivatives of the cost in the samples, where they exist")
    derivatives = {
        "all": "of any order, unbiased",
        "relaxed": "of any order, of the relaxed cost",
        "first": "an error",
    }
    target = "multi-sample (importance-weighted) bound" if spec.multi_sample else "expected cost"
    exact = "exact" if spec.enumerates else "unbiased"
    return [
        ("gradient of the " + target, exact if spec.unbiased else "biased"),
        ("passes per step, forward + backward", f"{spec.passes}"),
        ("families", ", ".join(spec.families)),
        ("reads the temperature", "yes" if spec.relaxes else "no"),
        ("requires", "; ".join(needs) or "nothing else"),
        ("second derivatives", derivatives[spec.derivatives]),
    ]


def _default(option: Any) -> str:
    """As it is written: a function by its name, since its repr holds an address."""
    return getattr(option.default, "__name__", None) or repr(option.default)


def _values(option: Any) -> str:
    kind = "any" if option.kind is None else f"`{option.kind.__name__}`"
    return f"{kind} {str(option.range).replace('|', ' ')}".strip()


def _measured(name: str, cells: Mapping[str, Record]) -> str:
    header = (
        "model",
        "test bound, nats",
        "paper",
        "seeds",
        "learning rate",
        "inputs",
        "ms per step",
    )
    lines = (
        (
            ROWS[row],
            results_tables.bound_of(cell),
            "" if cell["paper"] is None else f"{cell['paper']:.1f}",
            str(len(cell["values"])),
            f"{cell['setting'].get('learning_rate', '')}",
            "standardized" if cell["setting"].get("standardize", True) else "as they are",
            _ms(cell),
        )
        for row, cell in cells.items()
    )
    options = ", ".join(
        f"`{key}={value}`"
        for key, value in SHARED_OPTIONS.items()
        if key in estimators.spec(name).options
    )
    ours = (
        f" It ran with {options}, the experiments' defaults, not the library's." if options else ""
    )
    steps = " and ".join(f"{n:,}" for n in sorted({cell["steps"] for cell in cells.values()}))
    return f"""\
## Measured

{markdown_table(header, lines)}
The models of Table 1 after {steps} steps ([protocol](../reproduction/protocol.md)), from
`results/survey.json` and `results/table1/final`. The learning rate and the form of the inputs were
picked on the validation set.{ours}

![Validation bounds of {name} and of the other estimators during training](curves/{name}.svg)

*Single-sample validation bound during training, in nats: `{name}` in color, the others in gray.*

"""


def _commands(spec: Spec, cells: Mapping[str, Record]) -> str:
    """How to use the estimator; with the setting that was picked for it, if there is one."""
    config = "semi_supervised" if spec.enumerates else "sbn"
    row = "sbn_bernoulli" if "bernoulli" in spec.families else "sbn_categorical"
    flags = [f"--config.estimator.name={spec.name}"]
    if row == "sbn_categorical":
        flags.append("--config.latent=categorical")
    if row in cells:
        setting = {"num_steps": cells[row]["steps"], "learning_rate_schedule": "cosine"}
        flags += [
            f"--config.{key}={value}" for key, value in (setting | cells[row]["setting"]).items()
        ]
    lines = " \\\n    ".join(flags)
    return f"""\
## Train with it

```python
estimator = gumbel.estimators.make("{spec.name}", gumbel.{spec.families[0].upper()})
```

```bash
python -m experiments.train --config=configs/{config}.py --workdir=runs/{spec.name} \\
    {lines}
```
"""


def _draw_curves(path: Path, name: str, finals: Mapping[tuple[str, str], Iterable[Record]]) -> None:
    """Validation bounds against steps: one estimator's runs among all others'."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots(2, 2).flat
        for (row, title), axis in zip(ROWS.items(), axes, strict=True):
            for (other_row, other), runs in finals.items():
                if other_row != row:
                    continue
                ours = other == name
                color, order = ("tab:red", 3) if ours else ("0.8", 1)
                for run in runs:
                    steps = [point["step"] for point in run["curve"][1:]]
                    bounds = [point["validation_bound"] for point in run["curve"][1:]]
                    axis.plot(steps, bounds, color=color, zorder=order, linewidth=1 + 0.4 * ours)
            axis.set_title(title, fontsize=9)
            axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
        figure.supxlabel("steps", fontsize=9)
        figure.supylabel("nats", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def main(_given: Mapping[str, Any]) -> int:
    """Writes the pages."""
    write(ROOT / "docs")
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main))
