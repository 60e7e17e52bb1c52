"""The command that kills runs and sweeps: that it would notice, and a short trial."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import command
from experiments.training.metrics import MetricsLog
from scripts import kill_trial
from scripts.run_numbers import differences, numbers


def leave_run(workdir: Path, *, bound: float = 1.0, last: float = 2.0, **result: Any) -> Path:
    """What a finished run leaves of numbers."""
    with MetricsLog(workdir) as log:
        log.append(0, validation_bound=3.0)
        log.append(10, train_cost=last, steps_per_second=123.0 * len(str(workdir)))
    found = {"config": {}, "steps": 10, "seed": 0, "validation_bound": bound, "test_bound": 1.0}
    found |= {"train_seconds": 1.0 * len(str(workdir)), "trained_together": 1} | result
    (workdir / "result.json").write_text(json.dumps(found))
    return workdir


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"bound": 1.0 + 1e-7}, ["run: results differ"]),
        ({"last": 2.0 + 1e-6}, ["run: events differ", "run: metrics differ"]),
        ({"trained_together": 2, "bound": 1.0 + 1e-7}, []),
        ({"trained_together": 2, "bound": 1.001}, ["run: results differ"]),
    ],
)
def test_what_the_trial_notices(tmp_path, changes, wrong):
    expected = numbers(leave_run(tmp_path / "a" / "run").parent)
    found = numbers(leave_run(tmp_path / "other" / "run", **changes).parent)
    assert differences(expected, found) == wrong


def test_the_trial_notices_what_is_lost(tmp_path):
    run = leave_run(tmp_path / "run")
    expected = numbers(tmp_path)
    [file] = (run / "tensorboard").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert differences(expected, numbers(tmp_path)) == ["run: events differ"]
    (run / "result.json").unlink()
    assert differences(expected, numbers(tmp_path)) == ["run: no result"]


def test_an_unknown_kind(capsys):
    assert command.launch(kill_trial.main, kill_trial.define_flags, ["--kinds=trian"]) == 2
    assert capsys.readouterr().err == "error: --kinds=trian: did you mean train?\n"


class Counted:
    """A trial that only counts."""

    def __init__(self, *_: object) -> None:
        self.kills, self.ends, self.wrong = 0, 0, list[str]()

    def kill(self) -> None:
        self.kills += 1

    def finish(self) -> None:
        self.ends += 1


@pytest.mark.parametrize(("minutes", "kills"), [([], 7), (["--minutes=0"], 0)])
def test_it_stops_at_the_number_of_kills_or_minutes(monkeypatch, capsys, minutes, kills):
    """No bar is shown here, which would count the kills."""
    monkeypatch.setattr(kill_trial, "Trial", Counted)
    flags = ["--kills=7", "--kinds=train,process", *minutes]
    assert command.launch(kill_trial.main, kill_trial.define_flags, flags) == 0
    said = f"{kills} kills: 2 runs and sweeps came to their ends, with 0"
    assert said in capsys.readouterr().out


def test_fewer_minutes_than_none_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(kill_trial, "Trial", Counted)
    assert command.launch(kill_trial.main, kill_trial.define_flags, ["--minutes=-1"]) == 2
    assert "--minutes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_trial(tmp_path, capsys):
    flags = ["--kills=12", f"--workdir={tmp_path}"]
    assert command.launch(kill_trial.main, kill_trial.define_flags, flags) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("12 kills: ")
