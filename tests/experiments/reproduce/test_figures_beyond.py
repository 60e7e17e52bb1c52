"""What the lines of the figures show: the numbers that they were given, at their places."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.reproduce import figures_beyond
from experiments.reproduce.step_times import StepTimes
from experiments.training import plots
from gumbel.lab import Comparison, Row

NOWHERE = Path("not-written.png")


@pytest.fixture(name="drawn")
def fixture_drawn(monkeypatch):
    """The figure that is drawn instead of a file."""
    figure = Figure(layout="constrained")
    monkeypatch.setattr(plots, "figure_at", lambda *_, **__: contextlib.nullcontext(figure))
    return figure


def axes_of(figure, unbiased):
    """The panels of one half, in rows."""
    above, below = figure.subfigs
    return (above if unbiased else below).axes


def points(axes, name):
    """The coordinates of the line of an estimator, which panels below the first do not label."""
    [line] = [line for line in axes.get_lines() if line.get_label() == name]
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def curve(*bounds):
    steps = (0, 100, 200, 300)
    pairs = zip(steps, bounds, strict=True)
    return {"curve": [{"step": step, "validation_bound": bound} for step, bound in pairs]}


def test_the_survey_shows_the_mean_of_the_seeds_by_step_and_by_second(drawn):
    found = {"rloo": [curve(200.0, 90.0, 80.0, 70.0), curve(200.0, 94.0, 82.0, 76.0)]}
    times = StepTimes({("sbn_bernoulli", "rloo"): 0.5}, 2)
    figures_beyond.survey(NOWHERE, {"sbn_bernoulli": found}, times)
    by_step, by_second = axes_of(drawn, unbiased=True)
    assert points(by_step, "rloo") == ([0, 100, 200, 300], [200.0, 92.0, 81.0, 73.0])
    [line] = by_second.get_lines()
    assert line.get_xdata().tolist() == [50.0, 100.0, 150.0]  # from the first step on
    assert line.get_ydata().tolist() == [92.0, 81.0, 73.0]
    assert by_second.get_xlabel() == "seconds of training, CPU cores: 2"
    assert not [line for axes in axes_of(drawn, unbiased=False) for line in axes.get_lines()]


def row(name, *, unbiased, bias, variance, temperature=None, milliseconds=2.0):
    return Row(
        estimator=name,
        temperature=temperature,
        group="all",
        unbiased=unbiased,
        bias=bias,
        bias_interval=(bias, bias),
        variance=variance,
        error=variance + bias**2,
        cosine=0.5,
        norm=2.0,
        passes=2,
        milliseconds=milliseconds,
    )


def test_the_laboratory_shows_one_estimate_above_and_equal_time_below(drawn):
    """At equal time, 200 ms, a hundred estimates are averaged: bias decides, not noise."""
    rows = (
        row("st_gumbel_softmax", unbiased=False, bias=3.0, variance=7.0, temperature=1.0),
        row("st_gumbel_softmax", unbiased=False, bias=1.0, variance=300.0, temperature=0.1),
        row("sf", unbiased=True, bias=0.0, variance=400.0),
    )
    later = (row("sf", unbiased=True, bias=0.0, variance=36.0),)
    found = {0: Comparison("", rows, {}), 5000: Comparison("", later, {})}
    figures_beyond.lab(NOWHERE, {"sbn_bernoulli": found})
    once, averaged = axes_of(drawn, unbiased=False)
    assert points(once, "st_gumbel_softmax") == ([0], [np.sqrt(7 + 9) / 2])
    [x], [y] = points(averaged, "st_gumbel_softmax")
    assert (x, y) == (0, pytest.approx(np.sqrt(1 + 300 / 100) / 2))
    once, averaged = axes_of(drawn, unbiased=True)
    assert points(once, "sf") == ([0, 1], [np.sqrt(400) / 2, np.sqrt(36) / 2])
    assert points(averaged, "sf")[1] == pytest.approx([np.sqrt(4) / 2, np.sqrt(0.36) / 2])
    assert averaged.get_title() == "in 200 ms"
    assert [label.get_text() for label in averaged.get_xticklabels()] == ["0", "5,000"]


def test_the_toys_show_cost_and_variance_of_each_target(drawn):
    rows = [
        {
            "target": target,
            "estimator": name,
            "steps": [0, 10],
            "cost": [0.25, target],
            "log_variance": [-1.0, -2.0 * target],
        }
        for target in (0.45, 0.49)
        for name in ("reinmax", "rebar")
    ]
    figures_beyond.toys(NOWHERE, rows, (0.45, 0.49))
    for unbiased, name in ((True, "rebar"), (False, "reinmax")):
        costs, variances = np.reshape(axes_of(drawn, unbiased), (2, 2))
        for column, target in enumerate((0.45, 0.49)):
            assert points(costs[column], name) == ([0, 10], [0.25, target])
            assert costs[column].get_title() == f"t = {target}"
            lines = [line.get_ydata()[-1] for line in variances[column].get_lines()]
            assert -2.0 * target in lines
