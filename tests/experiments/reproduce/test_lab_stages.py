"""The laboratory while a model trains: measured once at every step, and drawn."""

import shutil

import pytest

from experiments.errors import UserError
from experiments.files import read_json
from experiments.reproduce import lab_stages, recorded_figures
from experiments.reproduce.step_times import StepTimes
from experiments.training import records
from gumbel.lab import Comparison, Row

pytestmark = pytest.mark.usefixtures("shared_programs")

PRESET = lab_stages.PRESETS["smoke"]._replace(
    rows=("sbn_bernoulli",),
    steps=(0, 20),
    request=lab_stages.PRESETS["smoke"].request._replace(
        estimators=("st", "gumbel_softmax"),
        num_draws=10,
        num_warmup=0,
        reference_draws=20,
        batch_size=4,
    ),
)


@pytest.fixture(scope="module", name="measured")
def fixture_measured(tmp_path_factory):
    """The stages, and the directory of their runs and records."""
    home = tmp_path_factory.mktemp("stages")
    return run(home), home


@pytest.fixture(name="copy")
def fixture_copy(measured, tmp_path):
    return shutil.copytree(measured[1], tmp_path / "copy")


def run(home, preset=PRESET):
    return list(lab_stages.stages(preset, home / "work", home / "results", lambda *_: None))


def test_an_estimator_that_is_new_is_measured_beside_the_others(measured, copy):
    """And a setting that is new has had its default."""

    def numbers(stage):
        return {(row.estimator, row.group, row.variance) for row in stage.found.rows}

    name = "sbn_bernoulli-0"
    record = copy / "results" / "lab" / f"{name}.json"
    for file in (record, copy / "work" / "lab" / "measured" / name / "lab.json"):
        kept = read_json(file)
        kept["rows"] = [row for row in kept["rows"] if row["estimator"] != "st"]
        del kept["request"]["config"]["standardize"]
        records.write_json(file, kept)
    assert numbers(run(copy)[0]) == numbers(measured[0][0])


def test_every_stage_is_measured_once_and_drawn(measured, copy, tmp_path, monkeypatch):
    first, _ = measured
    assert [(stage.row, stage.step) for stage in first] == [
        ("sbn_bernoulli", 0),
        ("sbn_bernoulli", 20),
    ]
    norms = {stage.found.of_group()[0].norm for stage in first}
    assert len(norms) == 2  # the model has learned in between
    results = copy / "results"
    paths = sorted(path.name for path in (results / "lab").iterdir())
    assert paths == [f"sbn_bernoulli-{step}.json" for step in (0, 20)]

    monkeypatch.setattr(lab_stages.run, "train", None)  # what is recorded is not trained again
    monkeypatch.setattr(lab_stages.measure, "measure", None)
    assert run(copy) == first
    other = PRESET._replace(request=PRESET.request._replace(num_draws=20))
    with pytest.raises(UserError, match=r"sbn_bernoulli-0\.json is of another request: delete it"):
        run(copy, other)
    monkeypatch.undo()
    (results / "lab" / "sbn_bernoulli-20.json").unlink()
    assert run(copy)[1].found.of_group()[0].norm == first[1].found.of_group()[0].norm
    (results / "lab" / "sbn_bernoulli-0-old.json").write_text("no stage")
    drawing = recorded_figures.of_lab(results)
    assert list(drawing.lines) == [f"sbn_bernoulli-{step}" for step in (0, 20)]
    drawing.write(tmp_path / "lab.png")
    assert (tmp_path / "lab.png").stat().st_size > 10_000


def test_a_comparison_takes_the_times_of_steps_where_they_are_known():
    def row(name):
        return Row(name, None, "all", True, 0.0, (0.0, 0.0), 4.0, 4.0, 0.5, 2.0, 2, 3.0)

    found = Comparison("enumeration", (row("sf"), row("rloo")), {})
    times = StepTimes({("sbn_bernoulli", "sf"): 0.007, ("vae_bernoulli", "rloo"): 0.009}, 2)
    timed = lab_stages.at_step_times(found, "sbn_bernoulli", times)
    assert [row.milliseconds for row in timed.rows] == [7.0, 3.0]
    assert timed.rows[1] == found.rows[1]
