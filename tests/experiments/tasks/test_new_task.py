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


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="did you mean generative"):
        config.base("generativ")
