"""Where runs are shown besides their files."""

import importlib.util
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.files import read_json
from experiments.training import trackers
from experiments.training.trackers import Trackers
from tests.experiments import small
from tests.experiments.training.tensorboard import events

ROWS = [{"step": 0, "validation_bound": 9.0}, {"step": 20, "train_cost": 8.0, "grad": None}]
RESULT = {"steps": 40, "test_bound": 7.5, "validation_bound": 7.25, "config": {"a": 1}}


def test_the_runs_of_a_sweep_are_grouped_by_it(recorder, tmp_path):
    [made, _] = recorder
    sweep = tmp_path / "rates"
    (sweep / "runs" / "one").mkdir(parents=True)
    (sweep / "sweep.json").touch()
    Trackers(["recorder"], sweep / "runs" / "one", {}, []).close()
    assert made[0].run.group == "rates"


def test_a_tracker_is_given_all_there_is(recorder, tmp_path):
    [made, _] = recorder
    with Trackers(["recorder"], tmp_path, {"seed": 3}, ROWS[:1]) as shown:
        shown.log(ROWS[1])
        shown.finish(RESULT, Path("picture.png"))
    assert made[0].run.config == {"seed": 3}
    assert made[0].run.group == tmp_path.parent.name
    assert made[0].run.rows == ROWS[:1]
    assert made[0].rows == ROWS[1:]
    assert made[0].result == {"steps": 40, "test_bound": 7.5, "validation_bound": 7.25}
    assert made[0].closed == 1


def test_a_run_that_resumes_keeps_its_name_at_the_tracker(recorder, tmp_path):
    [made, _] = recorder
    for _ in range(2):
        Trackers(["recorder"], tmp_path, {}, [])
    assert made[0].run.id != "mine"
    assert made[1].run.id == "mine"


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(recorder, tmp_path, caplog):
    [made, module] = recorder
    module.breaks = "log"
    shown = Trackers(["recorder"], tmp_path, {}, [])
    with caplog.at_level(logging.WARNING):
        shown.log(ROWS[0])
        shown.log(ROWS[1])
    assert caplog.messages == [
        f"{tmp_path}: --tracker=recorder is left out from here on: no network"
    ]
    assert made[0].rows == []


def test_a_tracker_that_cannot_start_is_named(recorder, tmp_path):
    _, module = recorder
    module.start = lambda _: 1 / 0
    with pytest.raises(UserError, match="--tracker=recorder cannot start: division by zero"):
        Trackers(["recorder"], tmp_path, {}, [])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["wandb"], r"pip install -e '.\[wandb\]'"), (["none", "mlflow"], "leave one of them out")],
)
def test_what_cannot_be_chosen(names, message, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(UserError, match=message):
        trackers.trackers_of_flags(names)
    assert trackers.trackers_of_flags(["mlflow", "tensorboard", "mlflow"]) == (
        "mlflow",
        "tensorboard",
    )


def test_tensorboard_has_the_config_the_picture_and_the_bounds(tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
    with Trackers(["tensorboard"], tmp_path, {"seed": 3}, []) as shown:
        shown.finish(RESULT, tmp_path / "picture.png")
    assert not (tmp_path / trackers.IDS).exists()
    tags = {name for _, name, _ in events(tmp_path)}
    assert {"picture", "final/test_bound", "final/validation_bound"} <= tags
    assert any(tag.startswith("config") for tag in tags)


def test_weights_and_biases_is_given_what_it_lacks(monkeypatch, tmp_path):
    logged, summary, kwargs, ended = [], {}, {}, []
    run = types.SimpleNamespace(
        step=20,
        summary=summary,
        log=lambda scalars, step: logged.append((step, scalars)),
        finish=lambda *, exit_code: ended.append(exit_code),
    )
    fake: Any = types.ModuleType("wandb")
    fake.init = lambda **given: kwargs.update(given) or run
    fake.Settings, fake.Image = dict, str
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "picture.png").touch()
    with Trackers(["wandb"], tmp_path, {"seed": 3}, ROWS) as shown:
        shown.log({"step": 40, "train_cost": 7.0})
        shown.finish(RESULT, tmp_path / "picture.png")
    assert logged[:2] == [(20, {"train_cost": 8.0}), (40, {"train_cost": 7.0})]
    assert logged[2] == (40, {"picture": str(tmp_path / "picture.png")})
    assert (kwargs["project"], kwargs["resume"], kwargs["config"]) == (
        "gumbel",
        "allow",
        {"seed": 3},
    )
    assert read_json(tmp_path / trackers.IDS) == {"wandb": kwargs["id"]}
    assert summary["test_bound"] == 7.5
    assert ended == [0]


@pytest.mark.trackers
def test_weights_and_biases_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for rows in ([], ROWS):  # started, and resumed
        with Trackers(["wandb"], tmp_path, small.settings().flat(), rows) as shown:
            shown.log({"step": 20 * len(rows), "train_cost": 7.0})
            shown.finish(RESULT, tmp_path / "picture.png")
    run_id = read_json(tmp_path / trackers.IDS)["wandb"]
    found = list((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert len(found) >= 1
    data = b"".join(path.read_bytes() for path in found)
    for word in (b"train_cost", b"test_bound", b"estimator.name"):
        assert word in data


@pytest.mark.trackers
def test_mlflow_with_a_local_store(monkeypatch, tmp_path):
    from mlflow import MlflowClient
    from PIL import Image

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
    config = small.settings().flat()
    with Trackers(["mlflow"], tmp_path, config, []) as shown:
        for row in ROWS:
            shown.log(row)
    client, run_id = MlflowClient(), read_json(tmp_path / trackers.IDS)["mlflow"]
    assert client.get_run(run_id).info.status == "KILLED"
    with Trackers(["mlflow"], tmp_path, config, ROWS) as shown:
        shown.log({"step": 40, "train_cost": 7.0})
        shown.finish(RESULT, tmp_path / "picture.png")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["estimator.name"] == config["estimator.name"]
    assert run.data.metrics["final.test_bound"] == 7.5
    history = client.get_metric_history(run_id, "train_cost")
    assert [(metric.step, metric.value) for metric in history] == [(20, 8.0), (40, 7.0)]
    assert [each.path for each in client.list_artifacts(run_id)] == ["picture.png"]
