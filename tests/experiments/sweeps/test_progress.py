"""How far runs are, read from their files and shown."""

import io
import json

from rich.console import Console

from configs import semi_supervised
from experiments.sweeps import grids, jobs, live, progress, report
from experiments.training import records
from tests.experiments import small
from tests.experiments.sweeps.launching import jobs_in


def finish(job, bound, **more):
    """As if the run had trained."""
    result = {"config": job.settings.flat(), "steps": 60, "validation_bound": bound, **more}
    records.write_json(job.workdir / "result.json", result)


def test_the_standing_of_a_run(tmp_path):
    job, _ = jobs_in(tmp_path)
    assert progress.standing(job) == progress.Standing(done=False, step=0)
    job.workdir.mkdir(parents=True)
    rows = [
        {"step": 0, "validation_bound": 9.0},
        {"step": 10, "validation_bound": 8.0},
        {"step": 20},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (job.workdir / "metrics.jsonl").write_text(lines + '{"step": 3')
    assert progress.standing(job) == progress.Standing(False, 20, bound=8.0, loss=8.0)
    (job.workdir / "metrics.jsonl").write_text("x" * 10_000 + "\n" + lines)
    assert progress.standing(job) == progress.Standing(False, 20, bound=8.0, loss=8.0)
    finish(job, 7.0)
    assert progress.standing(job) == progress.Standing(True, 60, bound=7.0, loss=7.0)


def test_the_live_table_ranks_by_what_the_report_ranks_by(tmp_path):
    """Of a classifier by its error: the worse bound is the better run."""
    config = semi_supervised.get_config()
    config.update_from_flattened_dict(small.SEMI_SUPERVISED)
    ours = jobs.jobs_of(config, grids.product({"learning_rate": (1e-3, 1e-2, 1e-1)}), tmp_path)
    for job, bound, accuracy in zip(ours[:2], (9.0, 8.0), (90.0, 80.0), strict=True):
        job.workdir.mkdir(parents=True)
        finish(job, bound, validation_accuracy=accuracy, seed=0)
    ours[2].workdir.mkdir(parents=True)
    line = '{"step": 20, "validation_bound": 6.0, "validation_accuracy": 95.0}\n'
    (ours[2].workdir / "metrics.jsonl").write_text(line)
    standings = [progress.standing(job) for job in ours]
    assert [standing.loss for standing in standings] == [10.0, 20.0, 5.0]

    def shown(failures):
        terminal = Console(file=io.StringIO(), width=70)
        terminal.print(live.view(ours, standings, failures, ""))
        found = [line.split() for line in terminal.file.getvalue().splitlines()]
        heading, *lines = filter(None, found)
        assert heading[:2] == ["setting", "error"]
        return [cells[0] for cells in lines if cells[0].startswith("learning_rate")]

    ranked = [f"learning_rate={row.setting['learning_rate']}" for row in report.rows_of(ours, {})]
    assert shown({}) == ranked == [f"learning_rate={rate}" for rate in (0.001, 0.01, 0.1)]
    assert shown({ours[0].workdir: "why"}) == [*ranked[1:], ranked[0]]  # the failed one is last


def test_the_display_says_what_ended_and_what_is_left(tmp_path, capsys):
    first, second = jobs_in(tmp_path)
    with progress.Display([first, second]) as display:
        first.workdir.mkdir(parents=True)
        finish(first, 7.125)
        display.done(first)
        display.failed(second, "why")
    done, failed = capsys.readouterr().err.splitlines()
    assert done.startswith("done: seed=0: validation bound 7.12 nats (1/2 runs, ")
    assert " run-steps/s, " in done
    assert done.endswith(" left)")
    assert failed.startswith("failed: seed=1: why (1/2 runs, 1 failed, ")
    assert failed.endswith("00:00 left)")


def test_on_a_terminal_a_table_ranks_the_settings_and_names_the_failures(tmp_path, monkeypatch):
    config = small.config("sbn", layers=(4,))
    trials = grids.product({"learning_rate": (1e-3, 1e-2, 1e-1), "seed": (0, 1)})
    ours = jobs.jobs_of(config, trials, tmp_path)
    for job, bound in zip(ours[:3], (9.0, 8.0, 7.0), strict=True):
        job.workdir.mkdir(parents=True)
        finish(job, bound)
    ours[3].workdir.mkdir(parents=True)
    (ours[3].workdir / "metrics.jsonl").write_text('{"step": 20, "validation_bound": 6.0}\n')
    terminal = Console(file=io.StringIO(), force_terminal=True, width=70, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with progress.Display(ours) as display:
        display.failed(ours[4], "why")
    last = [line.strip() for line in terminal.file.getvalue().rpartition("setting")[2].splitlines()]
    lines = [line.split() for line in last if line.startswith("learning_rate")]
    assert lines == [
        ["learning_rate=0.01", "7.00", "1/2", "20"],
        ["learning_rate=0.001", "8.50", "2/2"],
        ["learning_rate=0.1", "0/2", "1"],
    ]
    assert "failed: learning_rate=0.1 seed=0: why" in last
    assert any(line.startswith("3/6 runs, 1 failed") for line in last)


def test_a_large_table_shows_the_best_settings(tmp_path):
    config = small.config("sbn", layers=(4,))
    trials = grids.product({"learning_rate": [float(i) for i in range(1, 101)]})
    ours = jobs.jobs_of(config, trials, tmp_path)
    standings = [progress.Standing(True, 60, 100.0 - i, 100.0 - i) for i in range(100)]
    terminal = Console(file=io.StringIO(), width=70)
    failures = {job.workdir: "why" for job in ours[:9]}
    terminal.print(live.view(ours, standings, failures, "the end"))
    lines = terminal.file.getvalue().splitlines()
    assert len(lines) < 30
    assert "and 88 more settings" in "".join(lines)
    assert "and 4 more failed" in "".join(lines)
    assert sum("learning_rate=100.0 " in line for line in lines) == 1
