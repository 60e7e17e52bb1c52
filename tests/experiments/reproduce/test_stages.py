"""The laboratory while a model trains: measured once at every step, and drawn."""

import pytest

from experiments.errors import UserError
from experiments.reproduce import drawings, stages
from experiments.reproduce.step_times import StepTimes
from experiments.training import records
from gumbel.lab import Comparison, Row

pytestmark = pytest.mark.usefixtures("shared_programs")

PRESET = stages.PRESETS["smoke"]._replace(
    rows=("sbn_bernoulli",),
    steps=(0, 20),
    request=stages.PRESETS["smoke"].request._replace(
        estimators=("st", "gumbel_softmax"),
        num_draws=10,
        num_warmup=0,
        reference_draws=20,
        batch_size=4,
    ),
)


def test_an_estimator_that_is_new_is_measured_beside_the_others(tmp_path):
    """And a setting that is new has had its default."""
    preset = PRESET._replace(steps=(0,))

    def run():
        [stage] = stages.stages(preset, tmp_path, tmp_path, lambda *_: None)
        return {(row.estimator, row.group, row.variance) for row in stage.found.rows}

    first = run()
    [path] = (tmp_path / "lab").glob("*.json")
    for file in (path, tmp_path / "lab" / "measured" / path.stem / "lab.json"):
        numbers = records.read_json(file)
        numbers["rows"] = [row for row in numbers["rows"] if row["estimator"] != "st"]
        del numbers["request"]["config"]["standardize"]
        records.write_json(file, numbers)
    assert run() == first


def test_every_stage_is_measured_once_and_drawn(tmp_path, monkeypatch):
    def run():
        return list(stages.stages(PRESET, tmp_path / "work", tmp_path / "results", lambda *_: None))

    first = run()
    assert [(stage.row, stage.step) for stage in first] == [
        ("sbn_bernoulli", 0),
        ("sbn_bernoulli", 20),
    ]
    norms = {stage.found.of_group()[0].norm for stage in first}
    assert len(norms) == 2  # the model has learned in between
    paths = sorted(path.name for path in (tmp_path / "results" / "lab").iterdir())
    assert paths == [f"sbn_bernoulli-{step}.json" for step in (0, 20)]

    monkeypatch.setattr(stages.run, "train", None)  # what is recorded is not trained again
    monkeypatch.setattr(stages.measure, "measure", None)
    assert run() == first
    other = PRESET._replace(request=PRESET.request._replace(num_draws=20))
    with pytest.raises(UserError, match=r"sbn_bernoulli-0\.json is of another request: delete it"):
        next(stages.stages(other, tmp_path / "work", tmp_path / "results", lambda *_: None))
    monkeypatch.undo()
    (tmp_path / "results" / "lab" / "sbn_bernoulli-20.json").unlink()
    assert run()[1].found.of_group()[0].norm == first[1].found.of_group()[0].norm
    (tmp_path / "results" / "lab" / "sbn_bernoulli-0-old.json").write_text("no stage")
    drawing = drawings.of_lab(tmp_path / "results")
    assert list(drawing.lines) == [f"sbn_bernoulli-{step}" for step in (0, 20)]
    drawing.write(tmp_path / "lab.png")
    assert (tmp_path / "lab.png").stat().st_size > 10_000


def test_a_comparison_takes_the_times_of_steps_where_they_are_known():
    def row(name):
        return Row(name, None, "all", True, 0.0, (0.0, 0.0), 4.0, 4.0, 0.5, 2.0, 2, 3.0)

    found = Comparison("enumeration", (row("sf"), row("rloo")), {})
    times = StepTimes({("sbn_bernoulli", "sf"): 0.007, ("vae_bernoulli", "rloo"): 0.009}, 2)
    timed = stages.at_step_times(found, "sbn_bernoulli", times)
    assert [row.milliseconds for row in timed.rows] == [7.0, 3.0]
    assert timed.rows[1] == found.rows[1]
