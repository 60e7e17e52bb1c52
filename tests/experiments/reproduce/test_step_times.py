"""The times of a step: measured once in turns, and what the survey makes of them."""

import pytest

from experiments.errors import UserError
from experiments.files import read_json
from experiments.reproduce import figure5a, figures_beyond, step_times, survey
from experiments.reproduce.survey import Survey
from experiments.training import records
from experiments.training.provenance import num_cores
from tests.experiments.reproduce.test_tables import finish


@pytest.fixture(name="table")
def fixture_table(tmp_path):
    preset = survey.preset("smoke")._replace(
        rows=("sbn_bernoulli",), columns=("gumbel_softmax",), extra_columns=("rloo",)
    )
    return Survey(preset, tmp_path / "work", tmp_path / "results")


def test_estimators_are_timed_once_beside_gumbel_softmax(table, monkeypatch):
    path = table.results / "step_times.json"
    path.parent.mkdir()
    sizes = {"rounds": 2, "num_steps": 3}

    def write():
        return step_times.write(
            path, table.settings_of, table.preset.rows, table.affordable, **sizes
        )

    rows = write()
    assert [row["estimator"] for row in rows] == ["gumbel_softmax", "rloo"]
    assert step_times.read(table.results).cores == num_cores()
    assert all(row["milliseconds"] > 0 for row in rows)
    monkeypatch.setattr(step_times, "Side", None)  # what is there is not measured again
    assert write() == rows
    kept = read_json(path)
    older = {key: value for key, value in kept.items() if key != "program"}
    older["device"] = {key: value for key, value in kept["device"].items() if key != "cores"}
    records.write_json(path, older)
    assert write() == rows  # what an older file does not say is not compared
    elsewhere = {"device": kept["device"] | {"cores": 96}}
    elsewhere |= {"setting": kept["setting"] | {"cores": 96}}
    records.write_json(path, kept | elsewhere)
    assert write() == rows  # with nothing left to measure, any machine may draw it
    records.write_json(path, kept | elsewhere | {"rows": rows[:1]})
    with pytest.raises(UserError, match=r"of another setting \(cores is 96 there, \d+ here\)"):
        write()
    records.write_json(path, kept)
    sizes["num_steps"] = 4
    with pytest.raises(UserError, match=r"of another setting \(num_steps is 3 there, 4 here\)"):
        write()
    sizes["num_steps"] = 3
    larger = table.preset._replace(changes=table.preset.changes | {"batch_size": 21})
    table = Survey(larger, table.runs.directory.parent, table.results)
    with pytest.raises(UserError, match=r"of another program \(batch_size is \d+ there, 21 here\)"):
        write()


def test_the_survey_shows_them_and_draws_its_runs_by_second(table):
    rows = [
        {
            "row": "sbn_bernoulli",
            "estimator": name,
            "milliseconds": 9.0,
            "ratio": ratio,
            "beside": 2.0,
        }
        for name, ratio in (("gumbel_softmax", 1.15), ("rloo", 2.5))  # to itself: noise
    ]
    table.results.mkdir()
    measured = {"setting": {"cores": 2}, "rows": rows, "device": {"platform": "cpu"}}
    records.write_json(table.results / "step_times.json", measured)
    table = Survey(table.preset, table.runs.directory.parent, table.results)
    for wave in table.waves():
        for job in wave.jobs:
            finish(job, valid=60.0, test=60.0)
    assert {cell["estimator"]: cell["ms"] for cell in table.write()["cells"]} == {
        "gumbel_softmax": 2.0,
        "rloo": 5.0,
    }
    figures_beyond.survey(table.results / "curves.png", table.curves(), table.times)
    assert (table.results / "curves.png").stat().st_size > 10_000


class Turns:
    def __init__(self, *milliseconds):
        self.milliseconds = iter(milliseconds).__next__


def test_a_ratio_is_an_estimator_s_time_over_that_beside_it_turn_by_turn():
    found = step_times.measure(Turns(2.0, 4.0, 2.0), Turns(6.0, 8.0, 10.0), 3)
    assert found == {"milliseconds": 8.0, "ratio": 3.0, "beside": 2.0}
    side = object.__new__(step_times.Side)
    side.num_steps, side.seconds = 4, lambda calls: 0.02 * calls
    assert side.milliseconds() == 5.0


def test_a_speedup_is_that_of_gumbel_softmax_over_marginalization():
    rows = [
        {"num_classes": 5, "estimator": name, "steps_per_second": speed, "flops": flops}
        for name, speed, flops in (
            ("marginalization", 10.0, 600.0),
            ("gumbel_softmax", 40.0, 200.0),
            ("st_gumbel_softmax", 20.0, 100.0),
        )
    ]
    [found] = figure5a._ratios(rows)
    assert (found["speedup"], found["flop_ratio"]) == (4.0, 3.0)
