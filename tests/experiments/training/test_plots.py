"""The picture of a run."""

import warnings

from matplotlib.figure import Figure

from experiments.training import plots


def drawn(metrics):
    axes = Figure().subplots()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_curves(axes, metrics)
    return axes


def test_the_curves_of_a_run_with_the_temperature_if_it_changes():
    metrics = [
        {"step": step, "train_cost": cost, "temperature": temperature, "validation_bound": bound}
        for step, cost, temperature, bound in ((0, None, 1.0, 90.0), (10, 20.0, 0.7, 30.0))
    ]
    axes = drawn(metrics)
    curves = {line.get_label(): list(line.get_xydata()[:, 1]) for line in axes.lines}
    assert curves == {"train cost": [20.0], "validation bound, hard": [90.0, 30.0]}
    left, right = axes.figure.axes
    assert left is axes
    assert list(right.lines[0].get_ydata()) == [1.0, 0.7]
    constant = drawn([row | {"temperature": 1.0} for row in metrics])
    assert len(constant.figure.axes) == 1


def test_a_run_without_metrics_has_no_legend():
    """Its `metrics.jsonl` was deleted while it was stopped."""
    axes = drawn([])
    assert axes.get_legend() is None
    assert not axes.lines
