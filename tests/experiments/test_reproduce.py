"""Table 1's bookkeeping, on made-up results: what trains when, what is picked, what is shown."""

import json

import pytest

from experiments import config as configs
from experiments import records
from experiments.reproduce import figures, protocol
from experiments.reproduce.protocol import PRESETS, Cell
from experiments.reproduce.table1 import Table1, interval, markdown


@pytest.fixture(name="table")
def fixture_table(tmp_path):
    return Table1(PRESETS["smoke"], tmp_path / "work", tmp_path / "results")


def finish(job, *, valid, test):
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
    assert len(protocol.first_points(Cell("sbn_bernoulli", "st"), full)) == 6
    # With and without variance normalization, where there is a score function.
    assert len(protocol.first_points(Cell("sbn_bernoulli", "sf"), full)) == 12
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
            valid = (60.0 if best else 70.0) + slow
            finish(job, valid=valid, test=valid + job.config.seed)
    cell = Cell("vae_bernoulli", "gumbel_softmax")
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
    assert "60.5 ± 6.4 (105.0)" in markdown(written)
    assert not any(wave.jobs for wave in table.waves())


def test_records_count_as_done_where_the_runs_are_gone(table, tmp_path):
    wave = next(table.waves())
    assert len(wave.jobs) == 6  # of sf, with and without variance normalization, and of the other
    for job in wave.jobs:
        finish(job, valid=60.0, test=60.0)
        assert table.runs.store.record(job)
    elsewhere = Table1(PRESETS["smoke"], tmp_path / "other", tmp_path / "results")
    assert next(elsewhere.waves()).jobs == []


def test_a_cell_that_has_not_run_says_so(table):
    shown = markdown(table.write())
    assert "| `gumbel_softmax` | not run (58.5) |" in shown


def test_interval_is_students():
    assert interval([1.0]) is None
    assert interval([59.0, 60.0, 61.0]) == pytest.approx([57.516, 62.484], abs=1e-3)


def test_figure1_is_drawn(tmp_path):
    figures.figure1(tmp_path / "figure1.png", num_samples=100)
    assert (tmp_path / "figure1.png").stat().st_size > 10_000
