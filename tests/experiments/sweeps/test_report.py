"""What a sweep comes to: its table and its plot."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs import semi_supervised
from experiments.config import load
from experiments.files import read_json
from experiments.sweeps import curves, grids, jobs, live, plot, progress
from experiments.sweeps import report as report_of
from experiments.sweeps.intervals import half_width
from experiments.sweeps.report import Row
from experiments.sweeps.window import window
from experiments.training import records
from experiments.training.job import Job
from tests.experiments import small


def report(tmp_path: Path, bounds: dict[str, float | None]) -> tuple[list[Any], str]:
    """The rows and the text for runs whose trials are given as the text of a grid."""
    config = small.config("vae")
    ours = []
    for text, bound in bounds.items():
        [job] = jobs.jobs_of(config, grids.parse(text, config), tmp_path)
        ours.append(job)
        if bound is not None:
            job.workdir.mkdir(parents=True)
            # The test bounds rank the other way round.
            result = {
                "config": job.settings.flat(),
                "validation_bound": bound,
                "test_bound": -bound,
                "seed": job.settings.seed,
            }
            records.write_json(job.workdir / "result.json", result)
    text = report_of.write(tmp_path, ours, {ours[-1].workdir: "a | b"})
    return read_json(tmp_path / "table.json")["rows"], text


def test_the_report_averages_seeds_and_ranks_settings(tmp_path):
    rows, text = report(
        tmp_path,
        {
            "learning_rate=0.1;seed=0": 70.0,
            "learning_rate=0.1;seed=1": 72.0,
            "learning_rate=0.2;seed=0": 60.0,
            "learning_rate=0.2;seed=1": None,
            "learning_rate=0.3;seed=0": float("inf"),
            "learning_rate=0.4;seed=0": None,
        },
    )
    assert [row["overrides"]["learning_rate"] for row in rows] == [0.2, 0.1, 0.3, 0.4]
    assert [row["mean"] for row in rows] == [60.0, 71.0, None, None]
    lines = text.splitlines()
    assert (
        lines[0]
        == "| learning_rate | validation bound, nats, 5 discrete samples | seeds | missing |"
    )
    missing = grids.name({"learning_rate": 0.2, "seed": 1})
    assert lines[2] == f"| 0.2 | 60.00 | 1 | {missing}: not started |"
    assert lines[3] == "| 0.1 | 71.00 (70.00 to 72.00) | 2 |  |"
    assert lines[4] == "| 0.3 | not finite | 1 |  |"
    assert lines[5].endswith(": a \\| b |")


def test_a_classifier_is_ranked_by_its_error(tmp_path):
    """The better accuracy has the worse bound."""
    config = load(semi_supervised.__file__)
    ours = jobs.jobs_of(config, grids.product({"alpha": (0.1, 1.0)}), tmp_path)
    for job, accuracy, bound in zip(ours, (90.0, 95.0), (100.0, 110.0), strict=True):
        job.workdir.mkdir(parents=True)
        result = {"validation_bound": bound, "validation_accuracy": accuracy, "seed": 0}
        result["config"] = job.settings.flat()
        records.write_json(job.workdir / "result.json", result)
    lines = report_of.write(tmp_path, ours, {}).splitlines()
    assert lines[0] == "| alpha | validation error, % | seeds |"
    assert lines[2:] == ["| 1.0 | 5.00 | 1 |", "| 0.1 | 10.00 | 1 |"]
    assert read_json(tmp_path / "table.json")["loss"] == "validation error, %"


@pytest.mark.parametrize(
    ("counts", "loss"),
    [
        ([1], "validation bound, nats, 1 discrete sample"),
        ([1, 20], "validation bound, nats, 1 or 20 discrete samples"),
    ],
)
def test_the_table_says_by_how_many_samples_a_bound_is(tmp_path, counts, loss):
    report(tmp_path, {f"validation_num_samples={count}": None for count in counts})
    assert read_json(tmp_path / "table.json")["loss"] == loss


@pytest.mark.parametrize(
    "trials",
    [
        {"seed=0": 1.0},
        {"learning_rate=0.1": 1.0, "learning_rate=0.2": None},
        {"learning_rate=0.1": 1.0, "learning_rate=0.2": 1e30, "learning_rate=0.3": 2.0},
        {"estimator.name=sf": 1.0, "estimator.name=st": 2.0},
        {f"learning_rate={a};momentum={b}": 1.0 + a + b for a in (0.1, 0.2) for b in (0.1, 0.2)},
        {
            f"learning_rate={a};momentum={b};temperature.interval={c}": 1.0 + a + b
            for a in (0.1, 0.2)
            for b in (0.1, 0.2)
            for c in (500, 1000, 2000)
        },
        {"temperature.name=constant": 1.0, "temperature.name=linear;temperature.floor=0.2": 2.0},
    ],
)
def test_every_kind_of_grid_has_a_plot(tmp_path, trials):
    report(tmp_path, trials | {"learning_rate=0.7;momentum=0.7": None})
    report(tmp_path / "whole", trials)
    for directory in (tmp_path, tmp_path / "whole"):
        assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_of_many_settings_is_still_readable(tmp_path):
    """The terminal and the plot have the best, the files have all."""
    settings = {f"learning_rate={n / 100}": float(n) for n in range(1, 100)}
    rows, text = report(tmp_path, settings | {"momentum=0.7": 0.5})
    assert len(rows) == 100
    assert (tmp_path / "table.md").read_text() == text
    shown = report_of.shown(text, tmp_path / "table.md").splitlines()
    assert "| 0.7 |" in shown[2]
    assert len(shown) == 2 + 40 + 1
    assert shown[-1] == f"and 60 more settings in {tmp_path / 'table.md'}"
    height = int.from_bytes((tmp_path / "sweep.png").read_bytes()[20:24], "big")
    assert height < 120 * 17, "some 60 settings, a quarter of an inch each"
    assert report_of.shown("a\nb\nc\n", tmp_path) == "a\nb\nc\n"


def test_the_settings_of_one_key_are_its_values_and_failures_say_so():
    rows = [Row({"estimator.name": name}, {0: 20.0}, {}) for name in ("gumbel_softmax", "st")]
    rows.append(Row({"estimator.name": "marginalization"}, {}, {"a": "too many values"}))
    [axes] = plot.figure_of(rows, ["estimator.name"], "nats").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["gumbel_softmax", "st", "marginalization"]
    assert axes.get_ylabel() == "estimator.name"
    assert texts(axes) == ["no result"]


def test_a_whole_grid_of_many_values_is_a_list():
    """A heat map of a hundred rows has its numbers on top of each other."""
    settings = [{"learning_rate": a, "momentum": b} for a in range(100) for b in (0.5, 0.9)]
    rows = [Row(setting, {0: float(place)}, {}) for place, setting in enumerate(settings)]
    [axes] = plot.figure_of(rows, ["learning_rate", "momentum"], "nats").axes
    assert axes.get_title() == "the best 60 of 200 settings"


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_outliers_are_marked_and_squeeze_nobody():
    """Two of twelve settings at 70 nats, as a learned temperature once had them."""
    names = ("a name that is so long that nobody would want to read it " * 2, "b", "c")
    settings = [{"name": n, "floor": f} for n in names for f in (0.1, 0.2, 0.3, 0.4)]
    means = [19.7 + 0.03 * index for index in range(10)] + [66.0, 70.0]
    rows = [
        Row(setting, {seed: mean + 0.02 * seed for seed in (-1, 0, 1)}, {})
        for setting, mean in zip(settings, means, strict=True)
    ]
    [axes] = plot.figure_of(rows[:-1], ["name", "floor"], "nats").axes  # no whole grid: a list
    low, high = axes.get_xlim()
    assert low < 19.7 - half_width([19.68, 19.7, 19.72])
    assert high < 20.2
    assert texts(axes) == ["66.00"]
    lines = axes.get_yticklabels()[0].get_text().split("\n")
    assert max(map(len, lines)) <= 48
    curve = plot.figure_of([Row({"floor": m}, {0: m}, {}) for m in means], ["floor"], "nats")
    assert texts(curve.axes[0]) == ["66.00", "70.00"]
    assert curve.axes[0].get_ylim()[1] < 20.2


def test_a_window_leaves_out_nothing_that_squeezes_nobody():
    assert window([60.0, 63.0, 69.0]) == (60.0, 69.0, False)
    assert window([]) == (0.0, 1.0, False)
    assert window([60.0, 1e30, float("inf")]) == (60.0, 60.0, True)


def begun(trials: grids.Grid, directory: Path) -> list[Job]:
    """The jobs of the trials, with a log of three rows each."""
    ours = jobs.jobs_of(small.config("vae"), trials, directory)
    for place, job in enumerate(ours):
        job.workdir.mkdir(parents=True)
        log = [
            {"step": step, "temperature": job.settings.temperature.value, "validation_bound": bound}
            for step, bound in ((0, 90.0), (20, 12.0 + place), (40, 11.0 + place))
        ]
        text = "".join(json.dumps(row) + "\n" for row in log)
        (job.workdir / "metrics.jsonl").write_text(text)
    return ours


def test_the_picture_of_schedules_has_each_over_the_steps(tmp_path):
    ours = begun(grids.product({"temperature.value": (0.5, 1.0), "seed": (0, 1)}), tmp_path)
    rows = [Row({"temperature.value": v}, {0: b, 1: b + 1}, {}) for v, b in ((0.5, 11), (1.0, 13))]
    figure = curves.figure_of(ours, rows, ["temperature.value"], "nats")
    temperatures, bounds, final = figure.axes
    assert [list(line.get_ydata()) for line in temperatures.lines] == [[0.5] * 3, [1.0] * 3]
    assert [list(line.get_ydata()) for line in bounds.lines] == [[90, 12.5, 11.5], [90, 14.5, 13.5]]
    assert bounds.get_ylim()[1] < 20
    assert [label.get_text() for label in final.get_yticklabels()] == ["0.5", "1.0"]
    assert final.get_ylabel() == "temperature.value"
    assert bounds.get_ylabel() == "validation bound, nats, 1 discrete sample"
    report_of.write(tmp_path, ours, {})
    assert [path.name for path in report_of.plots_in(tmp_path)] == ["sweep.png", "schedules.png"]


def test_a_run_whose_metrics_are_damaged_is_left_out_of_the_picture(tmp_path, caplog):
    ours = begun(grids.product({"temperature.value": (0.5, 1.0)}), tmp_path)
    path = ours[0].workdir / "metrics.jsonl"
    path.write_text("{\n" + path.read_text())
    rows = [Row({"temperature.value": v}, {0: 11.0}, {}) for v in (0.5, 1.0)]
    temperatures, *_ = curves.figure_of(ours, rows, ["temperature.value"], "nats").axes
    assert [list(line.get_ydata()) for line in temperatures.lines] == [[1.0] * 3]
    assert f"line 1 of {path} is damaged" in caplog.text


def test_schedules_that_override_different_keys_are_drawn_and_list_what_they_read(tmp_path):
    config = small.config("vae")
    texts = (
        "temperature.name=constant;temperature.value=0.5,1",
        "temperature.name=linear;temperature.floor=0.1,0.5",
    )
    ours = begun(grids.union(grids.parse(text, config) for text in texts), tmp_path)
    rows = report_of.rows_of(ours, {})
    constant, linear = {"temperature.name": "constant"}, {"temperature.name": "linear"}
    assert [row.setting for row in rows] == [
        constant | {"temperature.value": 0.5},
        constant | {"temperature.value": 1.0},
        linear | {"temperature.value": 1.0, "temperature.floor": 0.1},
        linear | {"temperature.value": 1.0, "temperature.floor": 0.5},
    ]
    keys = grids.varied([row.setting for row in rows])
    temperatures, bounds, _ = curves.figure_of(ours, rows, keys, "nats").axes
    assert len(temperatures.lines) == len(bounds.lines) == 4
    standings = [progress.standing(job) for job in ours]
    terminal = Console(file=io.StringIO(), width=200)
    terminal.print(live.view(ours, standings, {}, ""))
    assert all(grids.label(row.setting) in terminal.file.getvalue() for row in rows)
