"""The toys of the control-variate papers, of which everything is known."""

import numpy as np
import pytest

from experiments.errors import UserError
from experiments.reproduce import figures_beyond, measurements, toys
from experiments.training import provenance
from gumbel import estimators


def test_the_cost_falls_and_the_variance_is_that_of_the_formula(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "names", lambda: ["reinmax"])
    path = tmp_path / "toys.json"
    rows = toys.write(path, num_steps=3000, num_draws=200)
    assert [(row["estimator"], row["target"]) for row in rows] == [
        ("reinmax", target) for target in toys.TARGETS
    ]
    for row in rows:
        target = row["target"]
        assert row["cost"][0] == pytest.approx((target**2 + (1 - target) ** 2) / 2, abs=1e-5)
    assert rows[0]["cost"][-1] < 0.22  # from 0.2525; the least is 0.2025
    # The straight-through estimates that are exact for quadratics: slope times a half, by value.
    values = np.array([0.0, 1.0])
    slopes = 0.25 * 2 * (values - 0.45)
    # That of 200 draws is smaller by a chi-square over 200 and this is its mean over 5 seeds: more
    # than 4% once in a million.
    found = np.exp(rows[0]["log_variance"][0])
    assert found == pytest.approx(slopes.var(), rel=0.04)

    monkeypatch.setattr(toys, "train", None)  # what is there is not trained again
    assert toys.write(path, num_steps=3000, num_draws=200) == rows
    before = path.read_text()
    with pytest.raises(
        UserError, match=r"of another setting \(num_steps is 3000 there, 4000 here\)"
    ):
        toys.write(path, num_steps=4000, num_draws=200)
    assert path.read_text() == before
    assert toys.read(path) == rows
    figures_beyond.toys(tmp_path / "toys.png", rows, toys.TARGETS)
    assert (tmp_path / "toys.png").stat().st_size > 10_000


def test_rows_record_the_commit_at_which_measuring_began(tmp_path, monkeypatch):
    def train(name, **_):
        monkeypatch.setattr(provenance, "code_state", lambda: {"commit": "later", "dirty": False})
        row = {"estimator": name, "target": 0.45, "steps": [0], "cost": [0.2]}
        return [row | {"log_variance": [0.0]}]

    monkeypatch.setattr(provenance, "code_state", lambda: {"commit": "first", "dirty": False})
    monkeypatch.setattr(toys, "names", lambda: ["st", "sf"])
    monkeypatch.setattr(toys, "train", train)
    rows = toys.write(tmp_path / "toys.json")
    assert [row["from"]["git"]["commit"] for row in rows] == ["first", "first"]


def test_two_processes_do_not_measure_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(toys, "train", pytest.fail)
    path = tmp_path / "toys.json"
    in_use = pytest.raises(UserError, match=f"--results={tmp_path} is in use by another process")
    with measurements.locked(path), in_use:
        toys.write(path)


def test_every_estimator_of_this_cost_takes_part():
    assert set(estimators.names()) - set(toys.names()) == {"vimco"}
