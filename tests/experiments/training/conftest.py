"""Fixtures of the tests of training."""

import sys
import types
from typing import Any

import jax.numpy as jnp
import pytest

from experiments.training import trackers
from tests.experiments import small


@pytest.fixture(scope="module", name="dataset")
def fixture_dataset():
    return small.dataset()


@pytest.fixture(scope="module", name="images")
def fixture_images(dataset):
    return jnp.asarray(dataset.train.images)


class Recorder(types.SimpleNamespace):
    """A tracker that keeps what it is given; `breaks` names a method that fails."""

    id = "mine"

    def __init__(self, run: Any, breaks: str = ""):
        super().__init__(run=run, rows=[], result=None, closed=0, breaks=breaks)

    def log(self, row):
        if self.breaks == "log":
            raise OSError("no\nnetwork")
        self.rows.append(row)

    def finish(self, result, picture):
        self.result, self.picture = result, picture

    def close(self):
        self.closed += 1


@pytest.fixture(name="recorder")
def fixture_recorder(monkeypatch):
    """`made`, the trackers named `recorder` that were started, and what they are to break at."""
    made: list[Recorder] = []
    module = types.ModuleType("recorder")
    module.breaks = ""
    module.start = lambda run: made.append(Recorder(run, module.breaks)) or made[-1]
    monkeypatch.setitem(sys.modules, "recorder", module)
    monkeypatch.setitem(
        trackers.TRACKERS, "recorder", trackers.Backend("recorder", "recorder", "recorder")
    )
    return made, module
