"""The tables' bookkeeping on made-up results: what trains when, what is picked, what is shown.

And the smoke preset for real, from picking to figures.
"""

import json
import shutil

import pytest

from experiments import config as configs
from experiments import grids, records
from experiments.errors import UserError
from experiments.reproduce import figures, protocol, table2
from experiments.reproduce.__main__ import _parser, main
from experiments.reproduce.protocol import PRESETS, Cell
from experiments.reproduce.runs import interval
from experiments.reproduce.table1 import Table1, markdown
from experiments.reproduce.table2 import Table2

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
        "valid_nll": valid,
        "test_nll": test,
        "steps": job.config.num_steps,
        "eval_samples": job.config.eval_samples,
        "seed": job.config.seed,
        "config": configs.flatten(job.config),
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "git": {"commit": "abc", "dirty": False},
        **more,
    }
    records.write_json(job.workdir / "result.json", result)
    lines = [json.dumps({"step": step, "valid_bound": valid + 1}) for step in (0, 100)]
    (job.workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_every_number_of_the_paper_has_its_cell():
    cells = protocol.cells(PRESETS["full"])
    assert len(cells) == 36
    assert sum(cell.paper is not None for cell in cells) == 28
    assert Cell("vae_categorical", "gumbel_softmax").paper == 101.5
    assert Cell("sbn_bernoulli", "nvil").paper is None


def test_cells_pick_from_the_papers_grid():
    full = PRESETS["full"]
    # Six learning rates; and the larger five for inputs that are not standardized.
    assert len(protocol.first_points(Cell("sbn_bernoulli", "st"), full)) == 6 + 5
    # With and without variance normalization, where there is a score function.
    assert len(protocol.first_points(Cell("sbn_bernoulli", "sf"), full)) == 2 * (6 + 5)
    # MuProp has a third way: the signal normalized, the correction not.
    muprop = protocol.first_points(Cell("sbn_bernoulli", "muprop"), full)
    assert len(muprop) == 3 * (6 + 5)
    assert sum("estimator.scale_correction" in point for point in muprop) == 6 + 5
    picked = {"learning_rate": 1e-3}
    assert len(protocol.schedule_points(Cell("vae_bernoulli", "gumbel_softmax"), full, picked)) == 4
    # No schedule where the temperature is fixed, or is not read.
    assert protocol.schedule_points(Cell("sbn_bernoulli", "gumbel_softmax"), full, picked) == []
    assert protocol.schedule_points(Cell("vae_bernoulli", "sf"), full, picked) == []


def test_picking_then_final_runs_then_the_table(table):
    for wave in table.waves():
        for job in wave.jobs:
            best = job.config.learning_rate == 3e-3
            slow = 0.0 if job.config.temperature.interval == 500 else 0.5
            slow += 10.0 * job.config.estimator.variance_normalization
            slow += 5.0 * (job.config.standardize == (job.config.estimator.name == "sf"))
            valid = (60.0 if best else 70.0) + slow
            finish(job, valid=valid, test=valid - 10.0 + job.config.seed)
    assert table.setting(Cell("sbn_bernoulli", "sf")) == {
        "learning_rate": 3e-3,
        "estimator.variance_normalization": False,
        "standardize": False,
    }
    cell = Cell("vae_categorical", "gumbel_softmax")
    assert table.setting(cell) == {
        "learning_rate": 3e-3,
        "temperature.rate": 1e-5,
        "temperature.interval": 500,
    }
    written = table.write()
    [entry] = [e for e in written["cells"] if (e["row"], e["estimator"]) == cell]
    assert entry["values"] == [60.0, 61.0]  # seeds 0 and 1, not the seed of the picking
    assert entry["mean"] == 60.5
    assert entry["ci95"] == pytest.approx([60.5 - 6.35, 60.5 + 6.35], abs=0.01)
    assert "60.5 ± 6.4 (101.5)" in markdown(written)
    assert not any(wave.jobs for wave in table.waves())


def test_runs_of_the_final_length_decide_on_a_bias(tmp_path):
    preset = SMALL._replace(columns=("muprop",), extra_columns=(), final_steps=1000)
    table, cell = Table1(preset, tmp_path / "work", tmp_path / "results"), Cell(SBN, "muprop")
    whole = {"learning_rate": 3e-3, "estimator.variance_normalization": True}
    alone = whole | {"estimator.scale_correction": False}
    long_runs = []
    for wave in table.waves():
        for job in wave.jobs:
            biased = job.config.estimator.scale_correction is False
            if job.config.num_steps == 1000 and job.config.seed == 1000:
                assert table.setting(cell) is None or long_runs
                long_runs.append(job.overrides)
            valid = 60.0 + biased * (1.0 if job.config.num_steps == 1000 else -1.0)
            valid += job.config.learning_rate != 3e-3
            valid += not job.config.estimator.variance_normalization
            finish(job, valid=valid, test=valid)
    picked = [{k: v for k, v in point.items() if k in protocol.PICKED} for point in long_runs]
    assert picked[:2] == [whole, alone]
    assert len(picked) == 2 * 2  # in both rows
    assert table.setting(cell) == whole  # by short runs, `alone` was ahead
    written = table.write()
    assert "†" not in markdown(written)
    written["cells"][0]["setting"] = alone
    assert "60.0 ± 0.0† (58.9)" in markdown(written)
    assert "† the signal alone is normalized" in markdown(written)


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


def test_a_record_of_another_config_gives_way_to_the_run(table):
    job = next(table.waves()).jobs[0]
    finish(job, valid=60.0, test=60.0)
    table.runs.store.record(job)
    changed = job._replace(config=grids.config_at(job.config, {"batch_size": 7}))
    assert table.runs.store.record(changed) is None  # neither the record nor the run is its own
    shutil.rmtree(job.workdir)
    finish(changed, valid=50.0, test=50.0)
    assert table.runs.store.record(changed)["valid_nll"] == 50.0
    assert table.runs.store.record(job) is None


def test_a_record_outlives_keys_that_are_added_to_the_config(table):
    job = next(table.waves()).jobs[0]
    finish(job, valid=60.0, test=60.0)
    path = job.workdir / "result.json"
    result = records.read_json(path)
    del result["config"]["learning_rate_schedule"]  # at its default, which the run used unknowing
    records.write_json(path, result)
    assert table.runs.store.record(job)
    decaying = grids.config_at(job.config, {"learning_rate_schedule": "cosine"})
    assert table.runs.store.record(job._replace(config=decaying)) is None


def test_a_finished_run_of_another_config_is_in_the_way(table):
    """It would be taken for done by the sweep, and never be trained."""
    job = next(table.waves()).jobs[0]
    finish(job._replace(config=grids.config_at(job.config, {"batch_size": 7})), valid=1.0, test=1.0)
    with pytest.raises(UserError, match=r"belongs to another config \(batch_size=7\): choose"):
        next(table.waves())


def test_nothing_is_picked_before_all_is_done_or_failed(table):
    cell = Cell("sbn_bernoulli", "gumbel_softmax")
    first, *others = (job for job in next(table.waves()).jobs if cell.name in str(job.workdir))
    finish(first, valid=70.0, test=70.0)
    for other in others:
        assert table.setting(cell) is None
        other.workdir.mkdir(parents=True)
        records.write_json(other.workdir / "failure.json", {"reason": "the cost is not finite"})
    assert table.setting(cell) == {"learning_rate": first.config.learning_rate}


def test_what_is_annealed_goes_through_its_course_in_picking_runs():
    short = PRESETS["short"]
    for row, estimator, key in (
        ("vae_bernoulli", "gumbel_softmax", "temperature.rate"),
        ("sbn_bernoulli", "slope_annealed_st", "estimator.slope_rate"),
    ):
        cell = Cell(row, estimator)
        picking, final = (
            configs.get(protocol.base_config(cell, short, picking=picking), key)
            for picking in (True, False)
        )
        assert picking * short.pick_steps == pytest.approx(final * short.final_steps)
    # Where the schedule is picked, its rates are the paper's.
    full = protocol.base_config(Cell("vae_bernoulli", "st"), PRESETS["full"], picking=True)
    assert full.temperature.rate == 1e-5


def test_a_table_of_another_preset_is_not_written_over(table, tmp_path):
    table.write()
    table.refuse_another()
    full = Table1(PRESETS["full"], tmp_path / "work", tmp_path / "results")
    with pytest.raises(UserError, match=r"table1.json is of --preset=smoke: give that, or"):
        full.refuse_another()


def test_a_cell_that_has_not_run_says_so(table):
    shown = markdown(table.write())
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
    assert "| `gumbel_softmax` | not run (-109.6) | not run (92.4) | 0 | 0 |" in table2.markdown(
        table.write()
    )
    trained = []
    for wave in table.waves():
        trained.append((wave.name, len(wave.jobs)))
        for job in wave.jobs:
            draw, better = job.config.seed - 10, job.config.alpha == 1.0
            # The better accuracy has the worse bound, and the worse test accuracy.
            finish(
                job,
                valid=110.0 if better else 100.0,
                test=100.0 + draw,
                valid_accuracy=95.0 if better else 90.0,
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
    assert "-101.0 ± 2.5 (-110.7) | 91.0 ± 2.5 (93.6) | 3 | 20 |" in table2.markdown(written)


def test_table2_picks_for_each_estimator_in_full(tmp_path):
    table = Table2(table2.PRESETS["full"], tmp_path, tmp_path)
    assert len(next(table.waves()).jobs) == 5 * 3


def reproduce(target, tmp_path):
    return main(_parser().parse_args([target, f"--workdir={tmp_path}", "--preset=smoke"]))


def test_figures_need_their_runs(tmp_path):
    for target, table in (("figure3", "table1"), ("figure5", "table2")):
        with pytest.raises(UserError, match=f"run `reproduce {table}`"):
            reproduce(target, tmp_path)


def test_the_smoke_preset_reproduces_table1_from_picking_to_figures(tmp_path, capsys):
    assert reproduce("table1", tmp_path) == 0
    assert "`gumbel_softmax` | " in capsys.readouterr().out
    written = records.read_json(tmp_path / "results" / "table1.json")
    assert len(written["cells"]) == 4
    for entry in written["cells"]:
        assert entry["seeds"] == 2
        assert 5 < entry["mean"] < 40
        assert entry["ci95"][0] < entry["mean"] < entry["ci95"][1]
    for target in ("figure3", "figure4"):
        assert reproduce(target, tmp_path) == 0
        assert (tmp_path / "results" / "figures" / f"{target}.png").stat().st_size > 10_000
    table = Table1(PRESETS["smoke"], tmp_path / "elsewhere", tmp_path / "results")
    assert not any(wave.jobs for wave in table.waves())  # the records say that all is done


@pytest.mark.slow
def test_the_smoke_preset_reproduces_table2_and_figure5(tmp_path):
    assert reproduce("table2", tmp_path) == 0
    written = records.read_json(tmp_path / "results" / "table2.json")
    assert [entry["label_draws"] for entry in written["cells"]] == [2, 2, 2]
    assert reproduce("figure5", tmp_path) == 0
    measured = records.read_json(tmp_path / "results" / "figure5a.json")
    assert [ratio["num_classes"] for ratio in measured["ratios"]] == [5, 10]
    assert all(ratio["flop_ratio"] > 1 for ratio in measured["ratios"])
