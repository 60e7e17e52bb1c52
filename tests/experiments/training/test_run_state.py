"""What a run notes while it trains."""

import logging
import types

from experiments.training.job import Job
from experiments.training.run_state import RunState
from tests.experiments import small


def test_a_cost_that_leaves_its_range_is_said_once_and_marked_while_it_lasts(tmp_path, caplog):
    run = RunState(Job(small.settings("vae"), tmp_path, {}), 0)
    run.log = types.SimpleNamespace(append=lambda step, **line: {"step": step, **line})
    rows: list[dict[str, float]] = []
    run.trackers = types.SimpleNamespace(log=rows.append)
    with caplog.at_level(logging.WARNING):
        for step, cost in enumerate((3.0, 0.0, -0.5, -14.0, 2.0)):
            run.step = step
            run.note({"train_cost": cost})
        run.note({"validation_bound": 9.0})  # a line without a training cost
    [message] = caplog.messages
    assert message.startswith(
        f"{tmp_path}: the training cost is -0.50 nats at step 2, and no bound"
    )
    assert [row["step"] for row in rows if "cost_out_of_range" in row] == [2, 3]
