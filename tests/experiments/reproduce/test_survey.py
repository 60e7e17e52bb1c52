"""The survey's bookkeeping on made-up results, and what has run before beside what has not."""

import shutil
from pathlib import Path

import pytest

from experiments.reproduce import plan, survey
from experiments.reproduce import table1_presets as presets
from experiments.reproduce.ranking import best_of, ranks
from experiments.reproduce.survey import MAX_COST, Survey
from experiments.reproduce.table1_order import batches
from experiments.reproduce.table1_presets import Cell, Part
from experiments.sweeps.engines import Options
from gumbel import estimators
from tests.experiments.reproduce.test_tables import finish

pytestmark = pytest.mark.usefixtures("shared_programs")

RESULTS = Path(__file__).parents[3] / "results"


@pytest.fixture(name="table")
def fixture_table(tmp_path):
    preset = survey.preset("smoke")._replace(rows=("sbn_bernoulli",))
    return Survey(preset, tmp_path / "work", tmp_path / "results")


def test_every_estimator_that_does_not_enumerate_has_a_column():
    missing = set(estimators.names()) - set(survey.columns())
    assert all(estimators.spec(name).enumerates for name in missing)
    assert survey.columns()[:9] == (*presets.COLUMNS, *presets.EXTRA_COLUMNS)


def test_more_passes_get_fewer_steps(tmp_path):
    table = Survey(survey.preset("short"), tmp_path / "work", tmp_path / "results")
    shares = {name: table.share(Cell("sbn_bernoulli", name)) for name in survey.columns()}
    assert shares["gumbel_softmax"] == (1, 50_000)
    assert shares["rloo"] == (4, 12_500)
    assert shares["muprop"] == (3, 16_666)  # a pass for each of two layers
    assert shares["double_cv"] == (8, 6_250)
    assert shares["indecater"].cost == 201 > MAX_COST  # 400 units, each flipped


def test_it_trains_for_equal_steps_and_at_equal_cost(table):
    lengths = {}
    for wave in table.waves():
        for job in wave.jobs:
            stage, name, _ = job.workdir.relative_to(table.runs.directory).parts
            lengths.setdefault((stage, name.partition("-")[2]), []).append(job.settings.num_steps)
            finish(job, valid=60.0, test=60.0 + len(lengths))
    assert lengths["final", "rloo"] == [200, 200]
    assert lengths["equal", "rloo"] == [50, 50]
    assert ("equal", "reinmax") not in lengths  # a step of one pass: the same runs
    written = table.write()
    entries = {entry["estimator"]: entry for entry in written["equal_cost"]}
    assert (entries["rloo"]["equal_steps"], entries["rloo"]["seeds"]) == (50, 2)
    assert entries["reinmax"]["values"] == [
        value
        for entry in written["cells"]
        if entry["estimator"] == "reinmax"
        for value in entry["values"]
    ]
    shown = (table.results / "survey.md").read_text()
    assert "**Equal cost: 200 steps of a single pass, fewer of more passes**" in shown
    assert "| `rloo` | 4 |" in shown
    assert "not run" not in shown
    assert "rank" in shown


def test_a_part_trains_alone_and_the_table_shows_all(tmp_path):
    part = Part(("sbn_bernoulli",), ("rloo", "reinmax"), seeds=1)
    preset = survey.preset("short")._replace(rows=("sbn_bernoulli", "vae_bernoulli"))
    table = Survey(preset, tmp_path / "work", tmp_path / "results", part)
    left = [wave for wave in plan.waves(table, "process", Options()) if wave.left]
    trained = {}
    for wave in table.waves():
        for job in wave.jobs:
            stage, name, _ = job.workdir.relative_to(table.runs.directory).parts
            trained[stage, name] = trained.get((stage, name), 0) + 1
            finish(job, valid=60.0, test=60.0)
    assert trained == {
        ("pick", "sbn_bernoulli-rloo"): 5,
        ("pick", "sbn_bernoulli-reinmax"): 5,
        ("final", "sbn_bernoulli-rloo"): 1,
        ("final", "sbn_bernoulli-reinmax"): 1,
        ("equal", "sbn_bernoulli-rloo"): 1,
    }
    assert sum(len(wave.left) for wave in left) == 13
    cells = {(e["row"], e["estimator"]): e for e in table.write()["cells"]}
    assert cells["sbn_bernoulli", "rloo"]["seeds"] == 1
    assert cells["vae_bernoulli", "rloo"]["missing"] == "not run"


@pytest.mark.parametrize("name", ["full", "short"])
@pytest.mark.parametrize("together", [False, True])
def test_what_a_cell_borrows_is_picked_first(name, together, tmp_path):
    """Also where the part has no cell that would pick it; the plan says as much."""
    part = Part(("sbn_bernoulli",), ("indecater",), together=together)
    preset = survey.preset(name)
    table = Survey(preset, tmp_path / "work", tmp_path / "results", part)
    left = [job for wave in plan.waves(table, "process", Options()) for job in wave.left]
    trained = []
    for wave in table.waves():
        for job in wave.jobs:
            trained.append(job.workdir.relative_to(table.runs.directory).parts[:2])
            finish(job, valid=60.0, test=60.0)
    assert {("pick", "sbn_bernoulli-rloo"), ("equal", "sbn_bernoulli-indecater")} == set(trained)
    assert trained.count(("equal", "sbn_bernoulli-indecater")) == preset.seeds
    assert len(left) == len(trained)


@pytest.mark.parametrize("name", ["full", "short"])
def test_seeds_of_a_cell_may_train_together(name):
    apart, together = (
        list(batches(presets.PRESETS[name], Part(together=one))) for one in (False, True)
    )

    def runs(order):
        return sorted((*cell[:2], seed) for b in order for cell in b.cells for seed in b.seeds)

    assert runs(apart) == runs(together)
    assert {len(batch.seeds) for batch in apart} == {1}
    if name == "full":
        assert {tuple(batch.seeds) for batch in together} == {(0, 1, 2)}
        assert together[0].seeds_label == "seeds 0, 1, 2"


def test_what_has_not_run_says_so_and_what_table1_trained_counts(tmp_path):
    preset = survey.preset("short")
    for stage in ("pick", "final"):  # of one cell alone: the committed records grow
        cell = Path("table1") / stage / "vae_categorical-gumbel_softmax"
        shutil.copytree(RESULTS / cell, tmp_path / "results" / cell)
    table = Survey(preset, tmp_path / "work", tmp_path / "results")
    cells = {(e["row"], e["estimator"]): e for e in table.collect()["cells"]}
    assert cells["vae_categorical", "gumbel_softmax"]["mean"] == pytest.approx(95.6, abs=0.1)
    assert cells["vae_categorical", "rloo"]["missing"] == "not run"
    assert cells["sbn_bernoulli", "indecater"]["missing"] == "too costly"


def test_the_best_are_those_that_its_interval_does_not_exclude():
    def entry(name, mean, ci95=None):
        return {"row": "r", "estimator": name, "mean": mean, "ci95": ci95}

    assert best_of([entry("a", 60.0), entry("b", 60.1)]) == {"a"}
    assert best_of([entry("a", 60.0, [59.0, 61.0]), entry("b", 60.9)]) == {"a", "b"}
    assert best_of([{"row": "r", "estimator": "a", "missing": "not run"}]) == set()
    assert best_of([entry("a", 60.0) | {"failed": 1}, entry("b", 60.1)]) == {"b"}


def test_ranks_are_of_the_estimators_that_have_all_rows():
    means = {("x", "a"): 1.0, ("x", "b"): 2.0, ("y", "a"): 3.0, ("y", "b"): 2.0, ("x", "c"): 0.0}
    entries = [{"row": row, "estimator": name, "mean": mean} for (row, name), mean in means.items()]
    assert ranks([*entries, {"row": "y", "estimator": "c"}]) == {"a": 1.5, "b": 1.5}
    tied = [{"row": "x", "estimator": name, "mean": 1.0} for name in "ab"]
    assert ranks(tied) == {"a": 1.5, "b": 1.5}
    assert ranks([{"row": "x", "estimator": "a"}]) == {}
    assert ranks([entry | {"failed": 1} if entry["row"] == "x" else entry for entry in tied]) == {}
