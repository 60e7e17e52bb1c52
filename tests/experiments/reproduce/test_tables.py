"""The tables' bookkeeping on made-up results: what trains when, what is picked, what is shown.

And the smoke preset for real, from picking to figures.
"""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments import command
from experiments.command import launch
from experiments.config import from_flat, get
from experiments.errors import DivergedError, UserError
from experiments.files import read_json
from experiments.reproduce import figures, table, table2, targets, waves
from experiments.reproduce import table1_presets as presets
from experiments.reproduce import table1_protocol as protocol
from experiments.reproduce.__main__ import define_flags, main
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import PRESETS, Cell
from experiments.reproduce.table2 import Table2
from experiments.sweeps.engines import Options, attempt
from experiments.sweeps.intervals import interval
from experiments.training import records, rundir
from gumbel import estimators

pytestmark = pytest.mark.usefixtures("shared_programs")

RESULTS = Path(__file__).parents[3] / "results"
SMALL = PRESETS["smoke"]._replace(
    learning_rates=(1e-3, 3e-3),
    extra_columns=("vimco",),
    standardize={"sbn": (True, False), "vae": (True,)},
)


@pytest.fixture(name="table")
def fixture_table(tmp_path):
    return Table1(SMALL, tmp_path / "work", tmp_path / "results")


SBN = "sbn_bernoulli"


def finish(job, *, valid, test, **more):
    """Leaves what a finished run of the job leaves."""
    job.workdir.mkdir(parents=True)
    result = {
        "validation_bound": valid,
        "test_bound": test,
        "steps": job.settings.num_steps,
        "test_num_samples": job.settings.test_num_samples,
        "seed": job.settings.seed,
        "config": job.settings.flat(),
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "git": {"commit": "abc", "dirty": False},
        "versions": {"jax": "0.9"},
        **more,
    }
    records.write_json(job.workdir / "result.json", result)
    lines = [json.dumps({"step": step, "validation_bound": valid + 1}) for step in (0, 100)]
    (job.workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_cell_names_all_that_its_runs_come_from():
    own = {"versions": {"jax": "0.9"}, "device": {"kind": "cpu"}, "git": None}
    size = {"steps": 10, "test_num_samples": 5}
    clean, changed = ({"commit": "abc", "dirty": dirty} for dirty in (False, True))
    gpu = {"from_step": 0, "jax": "0.10", "device": "H200", "git": clean}
    resumed = [gpu, {"from_step": 5, "jax": "0.9", "device": "cpu", "git": changed}]
    assert table.provenance_of([size | own, size | own | {"origins": resumed}]) == {
        **size,
        "devices": ["H200", "cpu"],
        "jax": ["0.10", "0.9"],
        "commits": ["abc", "abc+changes"],
    }


def test_curves_have_the_steps_that_all_seeds_have():
    def record(*steps):
        return {"curve": [{"step": step, "validation_bound": 60.0 + step} for step in steps]}

    steps, bounds = figures.steps_and_bounds([record(0, 10, 20), record(0, 20)])
    assert steps == [0, 20]
    assert bounds.tolist() == [[60, 80], [60, 80]]


def test_every_number_of_the_paper_has_its_cell():
    cells = presets.cells(PRESETS["full"])
    assert len(cells) == 36
    assert sum(cell.paper is not None for cell in cells) == 28
    assert Cell("vae_categorical", "gumbel_softmax").paper == 101.5
    assert Cell("sbn_bernoulli", "nvil").paper is None


def test_cells_pick_from_the_papers_grid():
    full, gumbel_softmax = PRESETS["full"], Cell("vae_bernoulli", "gumbel_softmax")
    for cell in presets.cells(full):
        trials = protocol.first_trials(cell, full)
        assert [trial["learning_rate"] for trial in trials] == [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
        assert all(trial.get("estimator.variance_normalization", True) for trial in trials)
    picked = {"learning_rate": 1e-3}
    assert len(protocol.schedule_trials(gumbel_softmax, full, picked)) == 4
    # No schedule where the temperature is fixed, or is not read.
    assert protocol.schedule_trials(Cell("sbn_bernoulli", "gumbel_softmax"), full, picked) == []
    assert protocol.schedule_trials(Cell("vae_bernoulli", "sf"), full, picked) == []


def test_short_picks_from_standardized_inputs_and_not_and_no_biased_muprop():
    trials = protocol.first_trials(Cell(SBN, "muprop"), PRESETS["short"])
    # Three learning rates; and the larger two for inputs that are not standardized.
    assert len(trials) == 3 + 2
    assert not any("estimator.scale_correction" in trial for trial in trials)


def trained(table):
    """Finishes what `full` trains; the names of the waves and the jobs of each.

    By 25,000 steps 1e-3 leads 3e-3; by 100,000 it is behind, and inputs as they are lead.
    """
    waves = []
    for wave in filter(lambda wave: wave.jobs, table.waves()):
        waves.append(wave)
        for job in wave.jobs:
            config, early = job.settings, job.settings.num_steps == 25_000
            valid = 60.0 + abs(config.learning_rate - (1e-3 if early else 3e-3))
            valid += 1e-4 * (config.temperature.rate == 1e-5) + 1e-3 * config.standardize
            finish(job, valid=valid, test=100.0 - valid)
    return waves


def test_full_halves_its_way_to_a_setting(tmp_path):
    preset = PRESETS["full"]._replace(rows=("vae_bernoulli",), columns=("gumbel_softmax",))
    table = Table1(preset._replace(extra_columns=()), tmp_path / "work", tmp_path / "results")
    first, second, schedules, *finals = trained(table)
    assert [job.settings.num_steps for job in first.jobs] == 6 * [25_000]
    assert all(job.settings.standardize for job in first.jobs)
    assert [
        (job.settings.learning_rate, job.settings.standardize, job.settings.num_steps)
        for job in second.jobs
    ] == [(1e-3, True, 100_000), (3e-4, True, 100_000), (1e-3, False, 100_000)]
    # One of the four schedules is that of the round before, and is not trained again.
    assert {
        (job.settings.temperature.rate, job.settings.temperature.interval, job.settings.standardize)
        for job in schedules.jobs
    } == {(1e-4, 1000, False), (1e-5, 500, False), (1e-5, 1000, False)}
    setting = table.setting(Cell("vae_bernoulli", "gumbel_softmax"))
    assert setting == {
        "learning_rate": 1e-3,
        "standardize": False,
        "temperature.rate": 1e-4,
        "temperature.interval": 500,
    }
    assert [wave.jobs[0].settings.seed for wave in finals] == [0, 1, 2]
    for job in (wave.jobs[0] for wave in finals):
        found = job.settings
        assert {key: found.flat()[key] for key in setting} == setting
        assert (found.num_steps, found.test_num_samples, found.momentum) == (500_000, 1000, 0.9)
        assert (found.optimizer, found.learning_rate_schedule) == ("sgd", "constant")


def test_full_trains_cell_by_cell_within_its_budget(tmp_path):
    table = Table1(PRESETS["full"], tmp_path / "work", tmp_path / "results")
    waves = trained(table)
    steps = {"pick": 0, "final": 0}
    for job in (job for wave in waves for job in wave.jobs):
        stage, name, _ = job.workdir.relative_to(table.runs.directory).parts
        if not name.endswith(("nvil", "vimco")):
            steps[stage] += job.settings.num_steps
    assert steps["final"] == 28 * 3 * 500_000
    assert steps["pick"] == 13_800_000  # 0.33 of the finals of three seeds, 0.99 of those of one
    assert steps["pick"] <= steps["final"] / 3
    finals = [wave.name for wave in waves if "seed" in wave.name]
    rows = ("sbn_bernoulli", "sbn_categorical", "vae_bernoulli", "vae_categorical")
    own, others = ("gumbel_softmax", "st_gumbel_softmax"), ("sf", "darn", "muprop", "st")
    others = (*others, "slope_annealed_st")
    order = [(own + others, (0,)), (own, (1, 2)), (others, (1, 2)), (("nvil", "vimco"), (0, 1, 2))]
    assert finals == [
        f"{row}-{column}, seed {seed}"
        for columns, seeds in order
        for seed in seeds
        for column in columns
        for row in rows
    ]
    assert all(
        "picking" in waves[index - 1].name
        for index, wave in enumerate(waves)
        if wave.name.endswith("seed 0")
    )


def test_picking_then_final_runs_then_the_table(table):
    for wave in table.waves():
        for job in wave.jobs:
            best = job.settings.learning_rate == 3e-3
            slow = 0.0 if job.settings.temperature.interval == 500 else 0.5
            slow += 10.0 * job.settings.estimator.values["variance_normalization"]
            slow += 5.0 * (job.settings.standardize == (job.settings.estimator.name == "sf"))
            valid = (60.0 if best else 70.0) + slow
            # The test bounds rank the other way round.
            finish(job, valid=valid, test=130.0 - valid + job.settings.seed)
    assert table.setting(Cell("sbn_bernoulli", "sf")) == {
        "learning_rate": 3e-3,
        "estimator.variance_normalization": False,
        "standardize": False,
    }
    cell = Cell("vae_categorical", "gumbel_softmax")
    assert table.setting(cell) == {
        "learning_rate": 3e-3,
        "temperature.rate": 1e-4,
        "temperature.interval": 500,
    }
    written = table.write()
    [entry] = [e for e in written["cells"] if (e["row"], e["estimator"]) == cell]
    assert entry["values"] == [60.0, 61.0]  # seeds 0 and 1, not the seed of the picking
    assert entry["mean"] == 60.5
    assert entry["ci95"] == pytest.approx([60.5 - 6.35, 60.5 + 6.35], abs=0.01)
    assert "60.5 ± 6.4 (101.5)" in Table1.markdown(written)
    assert not any(wave.jobs for wave in table.waves())


def test_records_count_as_done_where_the_runs_are_gone(table, tmp_path):
    wave = next(table.waves())
    # In each row at two learning rates: sf with variance normalization and without, and another;
    # in one row at a learning rate without standardized inputs, too.
    assert len(wave.jobs) == 12 + 3
    for job in wave.jobs:
        finish(job, valid=60.0, test=60.0)
        assert table.runs.store.record(job)
    elsewhere = Table1(SMALL, tmp_path / "other", tmp_path / "results")
    assert next(elsewhere.waves()).jobs == []


def test_committed_records_count_as_done(tmp_path):
    """They lack the keys and the provenance that came after them."""
    table = Table1(PRESETS["short"], tmp_path / "work", RESULTS)
    for row in presets.ROWS:
        cell = Cell(row, "gumbel_softmax")
        assert [record["seed"] for record in table.finals(cell)] == [0, 1, 2]
    assert not (tmp_path / "work").exists()


def test_a_record_of_another_config_is_neither_taken_nor_written_over(table):
    job = next(table.waves()).jobs[0]
    finish(job, valid=60.0, test=60.0)
    table.runs.store.record(job)
    changed = job._replace(settings=from_flat(job.settings.flat() | {"batch_size": 7}))
    shutil.rmtree(job.workdir)
    finish(changed, valid=50.0, test=50.0)
    refused = r"is of another config \(batch_size is 20 there, 7 here\): delete it, or give another"
    with pytest.raises(UserError, match=refused):
        table.runs.store.record(changed)
    assert table.runs.store.record(job)["validation_bound"] == 60.0
    (path,) = table.results.rglob("*/pick/*/*.json")
    path.unlink()
    assert table.runs.store.record(changed)["validation_bound"] == 50.0


def test_a_record_outlives_keys_that_are_added_to_the_config(table):
    job = next(table.waves()).jobs[0]
    finish(job, valid=60.0, test=60.0)
    path = job.workdir / "result.json"
    result = read_json(path)
    del result["config"]["learning_rate_schedule"]  # at its default, which the run used unknowing
    records.write_json(path, result)
    assert table.runs.store.record(job)
    decaying = from_flat(job.settings.flat() | {"learning_rate_schedule": "cosine"})
    with pytest.raises(UserError, match=r"is of another config \(learning_rate_schedule is 'co"):
        table.runs.store.record(job._replace(settings=decaying))


def test_a_finished_run_of_another_config_is_in_the_way(table):
    """It would be taken for done by the sweep, and never be trained."""
    job = next(table.waves()).jobs[0]
    finish(
        job._replace(settings=from_flat(job.settings.flat() | {"batch_size": 7})),
        valid=1.0,
        test=1.0,
    )
    with pytest.raises(
        UserError, match=r"belongs to another config \(batch_size is 7 there, 20 here\): choose"
    ):
        next(table.waves())


def test_results_that_cannot_be_written_are_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    table = Table1(PRESETS["smoke"], tmp_path / "work", tmp_path / "file")
    with pytest.raises(UserError, match=r"--results=.* cannot be used"):
        waves.train(table, "process", Options(), waves.Slice())
    assert not (tmp_path / "work").exists()


def test_a_record_lacks_nothing_that_its_table_reads(tmp_path):
    made = Table2(table2.PRESETS["smoke"], tmp_path / "work", tmp_path / "results")
    job = next(made.waves()).jobs[0]
    finish(job, valid=70.0, test=70.0, validation_accuracy=90.0, test_accuracy=90.0)
    made.runs.store.record(job)
    [path] = (tmp_path / "results" / "table2").rglob("*.json")
    record = read_json(path)
    del record["validation_accuracy"]
    records.write_json(path, record)
    with pytest.raises(UserError, match=r"validation_accuracy.*: delete it, to have it made"):
        made.runs.store.record(job)


# An option that is not set is None in a record. So where a default changes, delete the records that
# were made with the old one, and the runs beside them; then change it here.
_DECAY = {"decay": 0.99}
_CONTROL = {"control_optimizer": "adam", "control_learning_rate": 0.01}
_RELAXED = {"eta": 1.0, "learn_temperature": True, **_CONTROL}
_BASELINE = {
    "baseline_hidden": 200,
    "baseline_learning_rate": 0.001,
    "baseline_sees_samples": True,
}
DEFAULTS = {
    "arm": {"num_samples": 2},
    "arms": {"num_samples": 4},
    "darn": _DECAY,
    "decoupled_st": {"draw_temperature": 1.0},
    "disarm": {"num_samples": 2},
    "double_cv": {"num_samples": 4, **_DECAY},
    "gapped_st": {"gap": 1.0},
    "gumbel_rao": {"num_noises": 10},
    "indecater": {"num_samples": 1},
    "muprop": {"expansion": "local", "scale_correction": True, **_DECAY},
    "nvil": _BASELINE | _DECAY,
    "rebar": _RELAXED,
    "reinmax": {"mean_temperature": 1.0},
    "relax": {"residual_hidden": 50, **_RELAXED},
    "rloo": {"num_samples": 4},
    "rodeo": {"num_samples": 4, "control_hidden": 8, **_CONTROL, **_DECAY},
    "sf": _DECAY,
    "slope_annealed_st": {"slope": None, "slope_maximum": 5.0, "slope_interval": 1},
    "unordered_set": {"num_samples": 2},
    "vimco": {"num_samples": 5, **_DECAY},
}


RECORDED = {path.name.partition("-")[2] for path in RESULTS.glob("table1/*/*-*")}


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_the_defaults_that_records_rely_on(name):
    """Of all options but those that every record sets, that change no number or are functions."""
    apart = {"centering", "variance_normalization", "slope_rate", "chunk_size", "max_values"}
    apart |= {"features"}
    options = estimators.spec(name).options
    found = {key: option.default for key, option in options.items() if key not in apart}
    assert found == DEFAULTS.get(name, {})


def test_nothing_is_picked_before_all_is_done_or_has_diverged(table):
    cell = Cell("sbn_bernoulli", "gumbel_softmax")
    first, *others = (job for job in next(table.waves()).jobs if cell.name in str(job.workdir))
    finish(first, valid=70.0, test=70.0)
    for other in others:
        assert table.setting(cell) is None
        attempt.fail(other, MemoryError())  # says nothing of the setting
        assert table.setting(cell) is None
        attempt.fail(other._replace(settings=first.settings), DivergedError("not finite"))
        assert table.setting(cell) is None  # another run's
        attempt.fail(other, DivergedError("the cost is not finite"))
    assert table.setting(cell) == {"learning_rate": first.settings.learning_rate}


def test_what_diverged_is_known_without_the_directories_of_the_runs(table, tmp_path):
    cell = Cell("sbn_bernoulli", "gumbel_softmax")
    first, *others = (job for job in next(table.waves()).jobs if cell.name in str(job.workdir))
    finish(first, valid=70.0, test=70.0)
    for other in others:
        attempt.fail(other, DivergedError("the cost is not finite"))
    finals = [job for wave in table.waves() for job in wave.jobs if "final" in str(job.workdir)]
    finish(finals[0], valid=60.0, test=60.0)
    attempt.fail(finals[1], DivergedError("the cost is not finite"))
    text = Table1.markdown(table.write())
    assert "| `gumbel_softmax` | 60.0, one seed, 1 diverged (58.5) |" in text
    for other in others:
        shutil.rmtree(other.workdir)
    assert Table1.markdown(table.fresh().write()) == text
    elsewhere = Table1(table.preset, tmp_path / "elsewhere", table.results)
    assert Table1.markdown(elsewhere.write()) == text
    # An attempt that does not diverge counts.
    finish(others[0], valid=65.0, test=65.0)
    assert table.fresh().setting(cell) == {"learning_rate": others[0].settings.learning_rate}
    assert len(list(table.results.rglob("diverged/pick/*/*.json"))) == len(others) - 1


def test_damaged_pictures_are_named(tmp_path):
    path = tmp_path / "pictures.npz"
    np.savez_compressed(path, rows=np.zeros((2, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"pictures\.npz is damaged \(.*\): delete it"):
        figures.figure5(tmp_path / "a.png", read_json(RESULTS / "figure5a.json"), path)


def test_a_cell_whose_runs_have_all_failed_says_so(table):
    cell = Cell("sbn_bernoulli", "gumbel_softmax")
    runs = [job for job in next(table.waves()).jobs if cell.name in str(job.workdir)]
    for job in runs:
        assert "| `gumbel_softmax` | not run (58.5) |" in Table1.markdown(table.write())
        attempt.fail(job, MemoryError())
    assert "| `gumbel_softmax` | failed (58.5) |" in Table1.markdown(table.write())


def test_what_is_annealed_goes_through_its_course_in_picking_runs():
    short = PRESETS["short"]
    for row, estimator, key in (
        ("vae_bernoulli", "gumbel_softmax", "temperature.rate"),
        ("sbn_bernoulli", "slope_annealed_st", "estimator.slope_rate"),
    ):
        cell = Cell(row, estimator)
        picking, final = (
            get(protocol.base_config(cell, short, pick_steps=steps), key)
            for steps in (short.pick_steps, None)
        )
        assert picking * short.pick_steps == pytest.approx(final * short.final_steps)
    # Where the schedule is picked, its rates are the paper's.
    full = protocol.base_config(Cell("vae_bernoulli", "st"), PRESETS["full"], pick_steps=25_000)
    assert full.temperature.rate == 1e-5
    # The slope ends at 2 in every round of `full`.
    for steps in (25_000, 100_000, None):
        cell = Cell("sbn_bernoulli", "slope_annealed_st")
        rate = protocol.base_config(cell, PRESETS["full"], pick_steps=steps).estimator.slope_rate
        assert rate * (steps or 500_000) == pytest.approx(1.0)


def test_a_table_of_another_preset_is_not_written_over(table, tmp_path):
    table.write()
    table.refuse_another()
    full = Table1(PRESETS["full"], tmp_path / "work", tmp_path / "results")
    with pytest.raises(UserError, match=r"table1.json is of --preset=smoke: give that, or"):
        full.refuse_another()


def test_processes_that_share_results_take_turns_to_write(table, monkeypatch):
    """Else a table could lack what the other process has finished."""
    begun = threading.Event()
    monkeypatch.setattr(table, "refuse_another", begun.set)  # the first thing under the lock
    writer = threading.Thread(target=table.write)
    with rundir.locked(table.results, name=".table1.lock"):
        writer.start()
        assert not begun.wait(1)
    assert begun.wait(30)
    writer.join()


def test_a_cell_that_has_not_run_says_so(table):
    shown = Table1.markdown(table.write())
    assert "| `gumbel_softmax` | not run (58.5) |" in shown


def test_interval_is_students():
    assert interval([1.0]) is None
    assert interval([59.0, 60.0, 61.0]) == pytest.approx([57.516, 62.484], abs=1e-3)


def test_figure1_is_drawn(tmp_path):
    figures.figure1(tmp_path / "figure1.png", num_samples=100)
    assert (tmp_path / "figure1.png").stat().st_size > 10_000


def test_table2_picks_alpha_by_validation_accuracy(tmp_path):
    preset = table2.PRESETS["smoke"]._replace(draws=3)
    table = Table2(preset, tmp_path / "work", tmp_path / "results")
    assert "| `gumbel_softmax` | not run (-109.6) | not run (92.4) | 0 | 0 |" in Table2.markdown(
        table.write()
    )
    trained = []
    for wave in table.waves():
        trained.append((wave.name, len(wave.jobs)))
        for job in wave.jobs:
            draw, better = job.settings.seed - 10, job.settings.options.alpha == 1.0
            # The better accuracy has the worse bound, and the worse test accuracy.
            finish(
                job,
                valid=110.0 if better else 100.0,
                test=100.0 + draw,
                validation_accuracy=95.0 if better else 90.0,
                test_accuracy=90.0 + draw,
            )
    assert trained == [
        ("picking alpha", 2),
        ("training", 7),
        ("training the rest", 2),
    ]
    assert table.setting("marginalization") == {"alpha": 1.0}  # that of the one picked with
    written = table.write()
    [entry] = [e for e in written["cells"] if e["estimator"] == "st_gumbel_softmax"]
    assert entry["label_draws"] == 3
    assert entry["elbo"]["mean"] == -101.0
    assert entry["accuracy"]["ci95"] == pytest.approx([91 - 2.48, 91 + 2.48], abs=0.01)
    assert "-101.0 ± 2.5 (-110.7) | 91.0 ± 2.5 (93.6) | 3 | 20 |" in Table2.markdown(written)


def test_table2_in_full_picks_for_the_estimators_that_sample(tmp_path):
    full = table2.PRESETS["full"]
    made = Table2(full, tmp_path / "work", tmp_path / "results")
    picks = next(made.waves()).jobs
    assert [job.settings.estimator.name for job in picks] == (
        ["gumbel_softmax"] * 5 + ["st_gumbel_softmax"] * 5
    )
    best = {"gumbel_softmax": 0.2, "st_gumbel_softmax": 0.8}
    for job in picks:
        name = job.settings.estimator.name
        accuracy = 90.0 + (job.settings.flat()["alpha"] == best[name])
        finish(job, valid=100.0, test=100.0, validation_accuracy=accuracy, test_accuracy=accuracy)
    finals = {job.settings.estimator.name: job for wave in made.waves() for job in wave.jobs}
    assert {name: job.settings.flat()["alpha"] for name, job in finals.items()} == (
        best | {"marginalization": 0.2}
    )
    final = finals["gumbel_softmax"].settings
    courses = [run.temperature.rate * run.num_steps for run in (picks[0].settings, final)]
    assert courses[0] == pytest.approx(courses[1])


def test_table2_in_full_has_ten_draws_of_long_runs_for_each_estimator(tmp_path):
    table = Table2(table2.PRESETS["full"], tmp_path / "work", tmp_path / "results")
    for wave in table.waves():
        for job in wave.jobs:
            finish(job, valid=1.0, test=1.0, validation_accuracy=90.0, test_accuracy=90.0)
    for name in table2.ESTIMATORS:
        found = table.finals(name)
        assert {record["seed"] for record in found} == set(range(10, 20))
        least = 10_000 if name == "marginalization" else 30_000
        assert all(record["steps"] >= least for record in found)


def test_cells_of_an_excluded_release_of_jax_are_marked(table):
    cell = Cell("sbn_bernoulli", "gumbel_softmax")
    for wave in table.waves():
        for job in wave.jobs:
            old = cell.name in str(job.workdir)
            finish(job, valid=60.0, test=60.0, versions={"jax": "0.10.2" if old else "0.12.0.1"})
    shown = Table1.markdown(table.write())
    assert "| `gumbel_softmax` | 60.0 ± 0.0 † (58.5) | 60.0 ± 0.0 (101.5) |" in shown
    assert "†: trained with jax 0.10.2, which is no longer supported." in shown


def given(*arguments):
    """The flags and arguments of a command line."""
    values, rest = command.parse_flags(arguments, define_flags)
    return values.flag_values_dict(), rest


def reproduce(target, tmp_path, *options):
    return main(*given(target, f"--workdir={tmp_path}", "--preset=smoke", *options))


def test_targets_are_listed_where_none_is_given(capsys):
    for argv, status in (([], 2), (["--help"], 0)):
        found = launch(main, define_flags, argv, takes="TARGET", choices=targets.ALL)
        assert found == status
        printed = capsys.readouterr()
        assert "table1, table2, survey, figure1" in printed.out + printed.err


def test_figures_need_their_runs(tmp_path):
    for target, needed in (("figure3", "table1"), ("figure5", "table2")):
        with pytest.raises(UserError, match=f"run `reproduce {needed}`"):
            reproduce(target, tmp_path)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (("sbn_bernoulli",), ("gumbel_softmax",)),
        pytest.param(PRESETS["smoke"].rows, PRESETS["smoke"].columns, marks=pytest.mark.slow),
    ],
)
def test_the_smoke_preset_reproduces_table1_from_picking_to_figures(
    tmp_path, capsys, rows, columns
):
    part = [f"--rows={','.join(rows)}", f"--estimators={','.join(columns)}"]
    assert reproduce("table1", tmp_path, "--engine=vmap", *part) == 0
    assert "`gumbel_softmax` | " in capsys.readouterr().out
    written = read_json(tmp_path / "results" / "table1.json")
    trained_cells = [entry for entry in written["cells"] if "mean" in entry]
    assert {(entry["row"], entry["estimator"]) for entry in trained_cells} == {
        (row, column) for row in rows for column in columns
    }
    for entry in trained_cells:
        assert entry["seeds"] == 2
        assert 5 < entry["mean"] < 40
        assert entry["ci95"][0] < entry["mean"] < entry["ci95"][1]
    for target in ("figure3", "figure4")[: len(rows)]:  # of the SBN, and of the VAE
        assert reproduce(target, tmp_path) == 0
        assert (tmp_path / "results" / "figures" / f"{target}.png").stat().st_size > 10_000
    preset = PRESETS["smoke"]._replace(rows=rows, columns=columns)
    table = Table1(preset, tmp_path / "elsewhere", tmp_path / "results")
    assert not any(wave.jobs for wave in table.waves())  # the records say that all is done


@pytest.mark.slow
def test_the_smoke_preset_reproduces_table2_and_figure5(tmp_path):
    assert reproduce("table2", tmp_path) == 0
    written = read_json(tmp_path / "results" / "table2.json")
    assert [entry["label_draws"] for entry in written["cells"]] == [2, 2, 2]
    assert reproduce("figure5", tmp_path) == 0
    measured = read_json(tmp_path / "results" / "figure5a.json")
    assert [ratio["num_classes"] for ratio in measured["ratios"]] == [5, 10]
    assert all(ratio["flop_ratio"] > 1 for ratio in measured["ratios"])
