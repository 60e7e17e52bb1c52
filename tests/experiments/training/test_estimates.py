"""Estimates of what a program takes, before it trains."""

import jax

from experiments.training import memory
from experiments.training.compiled import Compiled
from experiments.training.estimates import estimate
from experiments.training.placement import Placement
from tests.experiments import small


def test_memory_and_checkpoints_of_runs_together():
    settings = small.settings()
    one, three = (estimate(settings, Placement(rows), timed=False) for rows in (1, 3))
    compiled = Compiled(settings)
    state = jax.eval_shape(compiled.init, *compiled.shapes_of_run()[:2])
    assert one.state == three.state == memory.size_of(state)
    assert one.speed is three.speed is None
    assert one.memory < three.memory < 3 * one.memory  # they share the images


def test_a_program_is_timed_where_it_fits(monkeypatch):
    settings = small.settings()
    timed = estimate(settings, Placement(2), timed=True).speed
    assert timed.steps_per_second > 0
    assert timed.compile_seconds > 0

    def refused(*_):
        raise MemoryError

    monkeypatch.setattr(jax, "block_until_ready", refused)
    assert estimate(settings, Placement(2), timed=True).speed is None
