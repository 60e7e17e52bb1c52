"""The conversion of records from version 0.1: key by key, by name, and once for all."""

import json

import pytest

from experiments import command
from experiments.files import read_json
from experiments.sweeps import grids
from experiments.training import records
from scripts import convert_results

OVERRIDES = {"learning_rate": 1e-3, "eval_samples": 20}
RESULT = {
    "test_nll": 65.76750968112945,
    "valid_nll": 66.84256620969772,
    "eval_samples": 20,
    "overrides": OVERRIDES,
    "config": {"model": "sbn", "estimator.centring": True, "eval_valid_samples": None},
    "curve": [{"step": 0, "valid_bound": 2.5, "valid_accuracy": 9.0, "labelled_cost": 1.0}],
}
EXPECTED = {
    "test_bound": 65.76750968112945,
    "validation_bound": 66.84256620969772,
    "test_num_samples": 20,
    "overrides": {"learning_rate": 1e-3, "test_num_samples": 20},
    "config": {
        "task": "structured_prediction",
        "estimator.centering": True,
        "validation_num_samples": None,
    },
    "curve": [
        {"step": 0, "validation_bound": 2.5, "validation_accuracy": 9.0, "labeled_cost": 1.0}
    ],
}
OLD, NEW = grids.name(OVERRIDES), grids.name(EXPECTED["overrides"])


def convert(directory):
    return command.launch(convert_results.main, argv=[str(directory)], takes="DIR [DIR ...]")


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(name="old")
def fixture_old(tmp_path):
    """A record with its pictures, and the directory of a run that is under way."""
    (tmp_path / "pick").mkdir()
    records.write_json(tmp_path / "pick" / f"{OLD}.json", RESULT)
    (tmp_path / "pick" / f"{OLD}.npz").write_bytes(b"pictures")
    run = tmp_path / "runs" / OLD
    run.mkdir(parents=True)
    records.write_json(run / "result.json", RESULT)
    (run / "metrics.jsonl").write_text('{"step": 0, "valid_bound": 2.5}\n{"step": 10, "val')
    return tmp_path


def test_records_and_runs_have_the_new_keys_and_names(old):
    assert convert(old) == 0
    assert sorted(contents(old)) == [
        f"pick/{NEW}.json",
        f"pick/{NEW}.npz",
        f"runs/{NEW}/metrics.jsonl",
        f"runs/{NEW}/result.json",
    ]
    assert read_json(old / "pick" / f"{NEW}.json") == EXPECTED
    assert read_json(old / "runs" / NEW / "result.json") == EXPECTED
    metrics = (old / "runs" / NEW / "metrics.jsonl").read_text()
    assert metrics == '{"step": 0, "validation_bound": 2.5}\n{"step": 10, "val'


def test_a_second_conversion_changes_nothing(old):
    convert(old)
    before = contents(old)
    assert convert(old) == 0
    assert contents(old) == before


def test_a_damaged_line_is_named(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step"\n')
    assert convert(tmp_path) == 2
    assert "metrics.jsonl is damaged (" in capsys.readouterr().err


def test_a_conversion_that_was_stopped_is_finished(old):
    path = old / "pick" / f"{NEW}.json"
    (old / "pick" / f"{OLD}.json").rename(path)
    assert convert(old) == 0
    assert read_json(path) == EXPECTED
    assert (old / "runs" / NEW / "result.json").exists()


def test_a_run_of_today_keeps_its_name(tmp_path):
    run = tmp_path / "runs" / grids.name({"seed": 0})
    run.mkdir(parents=True)
    # Besides what its sweep varies, a result names what the command line changed for all.
    records.write_json(run / "result.json", EXPECTED | {"overrides": {"num_steps": 5, "seed": 0}})
    before = contents(tmp_path)
    assert convert(tmp_path) == 0
    assert contents(tmp_path) == before


def test_the_committed_results_are_converted():
    paths = list((convert_results.Path(__file__).parents[1] / "results").rglob("*.json"))
    assert len(paths) > 1000
    for path in paths:
        value = json.loads(path.read_text())
        assert convert_results.converted(value) == value, path


def test_what_is_in_the_way_is_named(old, capsys):
    (old / "pick" / f"{NEW}.json").write_text("{}")
    assert convert(old) == 2
    assert "which exists: delete one of them" in capsys.readouterr().err
    assert convert(old / "none") == 2
    assert "is not a directory: name one" in capsys.readouterr().err
