"""A task is one file: one that no other file knows trains, is evaluated, ranked and drawn."""

import math

import pytest

from experiments import config, sweep, tasks, train
from experiments.config import cli
from experiments.errors import UserError
from experiments.files import read_json

TASK = '''
import dataclasses
import jax.numpy as jnp
from flax import nnx
from experiments.settings import COUNT, POSITIVE, setting
from experiments.tasks.base import Metrics, Ranking, Task
from experiments.tasks.layers import PixelLikelihood

@dataclasses.dataclass(frozen=True)
class Options:
    width: int = setting(3, COUNT)
    scale: float = setting(1.0, POSITIVE, dynamic=True)

class Coins(nnx.Module):
    """Pixels from some coins that do not see the image."""
    def __init__(self, family, width, mean, rngs):
        self.family, self.shape = family, mean.shape
        self.coins = nnx.Param(jnp.zeros(width))
        self.likelihood = PixelLikelihood(width, mean.ravel(), rngs=rngs)
    def batch(self, images):
        return images.reshape(images.shape[0], -1)
    def cost(self, batch, key, sample, *, temperature, hard, scale=1.0):
        z = sample("z", jnp.broadcast_to(self.coins[...], (batch.shape[0], self.coins.size)))
        return scale * self.likelihood.cost(z, batch)
    def pictures(self, images, key):
        return {"digit": images}

TASK = Task(
    lambda s, mean, key: Coins(s.family, s.options.width, mean, nnx.Rngs(key)),
    options=Options,
    annealed=lambda _settings, dynamic, _step: {"scale": dynamic["scale"]},
    metrics=Metrics(
        lambda model, x: x.mean(axis=(1, 2)) + model.coins[...][0],
        lambda m, _: {"ink": m.mean()},
        {"ink": ""},
    ),
    ranking=Ranking("ink", lambda result: result["validation_ink"]),
)
'''
CONFIG = """
from experiments.config import base

def get_config():
    config = base("coins")
    config.update_from_flattened_dict({
        "dataset": "digits", "num_steps": 20, "log_every": 10, "eval_every": 10,
        "checkpoint_every": 10, "steps_per_call": 10, "test_num_samples": 2,
        "eval_batch_size": 150, "width": 4,
    })
    return config
"""


@pytest.fixture(name="file", scope="module")
def fixture_file(tmp_path_factory):
    """A config of a task in a file of its own."""
    folder = tmp_path_factory.mktemp("coins")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "coins.py").write_text(TASK)
    (folder / "config.py").write_text(CONFIG)
    tasks.__path__.append(str(folder / "tasks"))
    tasks.names.cache_clear()
    yield folder / "config.py"
    tasks.__path__.pop()
    tasks.names.cache_clear()


def test_it_trains(file, tmp_path, capsys):
    assert "coins" in tasks.names()
    assert cli.run(train.main, [f"--config={file}", f"--workdir={tmp_path}"]) == 0
    assert "ink: test 0." in capsys.readouterr().out
    result = read_json(tmp_path / "result.json")
    assert result["config"]["task"] == "coins"
    assert (result["config"]["width"], result["config"]["scale"]) == (4, 1.0)
    assert math.isfinite(result["test_bound"])
    assert (tmp_path / "picture.png").exists()


def test_its_options_are_checked_swept_and_ranked_by_it(file, tmp_path, capsys):
    arguments = [f"--config={file}", f"--workdir={tmp_path}", "--engine=vmap"]
    grid = "--grid=scale=0.5,2"
    assert cli.run(sweep.main, [*arguments, grid], sweep.define_flags) == 0
    table = capsys.readouterr().out.split("| scale | ink | seeds |\n")[1].splitlines()[1:3]
    results = [read_json(path) for path in tmp_path.glob("runs/*/result.json")]
    assert [result["trained_together"] for result in results] == [2, 2], "scale is dynamic"
    ranked = sorted(results, key=lambda result: result["validation_ink"])
    assert ranked[0]["validation_ink"] < ranked[1]["validation_ink"]
    for line, result in zip(table, ranked, strict=True):
        assert line.startswith(f"| {result['config']['scale']} |")
    assert cli.run(sweep.main, [*arguments, "--grid=scale=-1"], sweep.define_flags) == 2
    assert "config.scale=-1.0: give a finite number over 0" in capsys.readouterr().err


@pytest.fixture(name="changed")
def fixture_changed(tmp_path):
    """A function that makes a config of the task with a part of its text replaced."""
    made = []

    def changed(name, before, after):
        assert before in TASK
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / f"{name}.py").write_text(TASK.replace(before, after))
        (tmp_path / "config.py").write_text(CONFIG.replace('base("coins")', f'base("{name}")'))
        tasks.__path__.append(str(tmp_path / "tasks"))
        tasks.names.cache_clear()
        made.append(name)
        return [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]

    yield changed
    for _ in made:
        tasks.__path__.pop()
    tasks.names.cache_clear()


def test_a_mistake_in_its_pictures_ends_a_run_before_it_trains(changed, tmp_path):
    arguments = changed("framed", '{"digit": images}', '{"digit": images.reshape(-1, 3, 5)}')
    with pytest.raises(TypeError, match="reshape"):
        cli.run(train.main, arguments)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


COST = "self.likelihood.cost(z, batch)"
# By name of a changed task: what is replaced, by what, and what is said of it.
MISTAKES = {
    "pushed": (
        "    width: int =",
        "    momentum: float = 0.25\n    width: int =",
        "task 'pushed': option 'momentum' is also a key of every run: give it another name",
    ),
    "meant": (
        COST,
        f"{COST}.mean()",
        "the task's cost is an array of shape (): give the cost of each example, [B]",
    ),
    "paired": (
        f"scale * {COST}",
        f"{COST}, {{}}",
        "the task's cost is a tuple: give the cost of each example, [B]",
    ),
    "flat": (
        '{"digit": images}',
        '{"digit": self.batch(images)}',
        "task 'flat': picture 'digit' has shape (1, 64): give a dict of rows of images, [N, 8, 8]",
    ),
    "bare": (
        '{"digit": images}',
        "None",
        "task 'bare': its pictures are a NoneType: give a dict of rows of images, [N, 8, 8] each",
    ),
    "cold": (
        "*, temperature, hard, scale=1.0",
        "*, scale=1.0",
        "Coins.cost: got an unexpected keyword argument 'temperature': let it take (batch, key, ",
    ),
    "kinless": (
        "self.family, self.shape = family, mean.shape",
        "self.shape = mean.shape",
        "task 'kinless': its Coins has no family: a model has family, batch, cost and pictures",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_before_it_trains(changed, tmp_path, capsys, name):
    before, after, said = MISTAKES[name]
    arguments = changed(name, before, after)
    assert cli.run(train.main, arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_metric_that_it_does_not_compute_is_named_before_it_trains(changed, tmp_path, capsys):
    arguments = changed("inked", '{"ink": m.mean()}', '{"inked": m.mean()}')
    assert cli.run(train.main, arguments) == 2
    said = "error: task 'inked': metrics.units names ink, of which metrics.summarize returns no"
    assert capsys.readouterr().err.startswith(said)
    assert not list((tmp_path / "run").glob("checkpoints/[1-9]*"))


def test_an_error_in_its_cost_is_not_the_estimators(changed):
    arguments = changed(
        "unpacked", "        return scale *", "        a, b = (1, 2, 3)\n        return"
    )
    with pytest.raises(ValueError, match="too many values to unpack"):
        cli.run(train.main, arguments)


def test_its_options_may_be_plain_fields(changed):
    config_flag, _ = changed("plain", "setting(1.0, POSITIVE, dynamic=True)", "1")
    settings = config.read(cli.parse([config_flag, "--workdir=w", "--config.scale=0.5"]).config)
    assert settings.options.scale == 0.5


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="did you mean generative"):
        config.base("generativ")
