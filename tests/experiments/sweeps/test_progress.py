"""How far runs are, read from their files and shown."""

import json

from experiments.sweeps import progress
from experiments.training import records
from tests.experiments.sweeps.launching import jobs_in


def test_the_standing_of_a_run(tmp_path):
    job, _ = jobs_in(tmp_path)
    assert progress.standing(job) == progress.Standing(done=False, step=0, bound=None)
    job.workdir.mkdir(parents=True)
    rows = [
        {"step": 0, "validation_bound": 9.0},
        {"step": 10, "validation_bound": 8.0},
        {"step": 20},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (job.workdir / "metrics.jsonl").write_text(lines + '{"step": 3')
    assert progress.standing(job) == progress.Standing(done=False, step=20, bound=8.0)
    (job.workdir / "metrics.jsonl").write_text("x" * 10_000 + "\n" + lines)
    assert progress.standing(job) == progress.Standing(done=False, step=20, bound=8.0)
    records.write_json(job.workdir / "result.json", {"steps": 60, "validation_bound": 7.0})
    assert progress.standing(job) == progress.Standing(done=True, step=60, bound=7.0)


def test_the_display_says_what_ended_and_what_is_left(tmp_path, capsys):
    first, second = jobs_in(tmp_path)
    with progress.Display([first, second]) as display:
        first.workdir.mkdir(parents=True)
        records.write_json(first.workdir / "result.json", {"steps": 60, "validation_bound": 7.125})
        display.done(first)
        display.failed(second, "why")
    done, failed = capsys.readouterr().err.splitlines()
    assert done.startswith("done: seed=0: validation bound 7.12 nats (1/2 runs, ")
    assert " run-steps/s, " in done
    assert done.endswith(" left)")
    assert failed.startswith("failed: seed=1: why (1/2 runs, 1 failed, ")
    assert failed.endswith("00:00 left)")
