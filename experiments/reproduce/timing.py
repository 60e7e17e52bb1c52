"""Steps of training that are run again and again, to be timed."""

import time

import jax
import numpy as np

from experiments.settings import Settings
from experiments.training.compiled import Compiled
from experiments.training.dynamic import dynamic_of


class TimedSteps:
    """Some steps of a run as one compiled call, with a state to step from.

    Args:
      settings: settings of the run.
      num_steps: steps of a call.
    """

    def __init__(self, settings: Settings, num_steps: int) -> None:
        compiled = Compiled(settings)
        self.run, self.images, self.num_steps = compiled.run, compiled.images, num_steps
        self.dynamic = {key: value[None] for key, value in dynamic_of(settings).items()}
        self.state = compiled.init(self.dynamic, self.images)
        indices = compiled.indices(self.dynamic["seed"], 0, num_steps=num_steps)
        self.arguments = indices, 0, np.ones(1, bool)

    def seconds(self, num_calls: int) -> float:
        """The time that some calls take."""
        jax.block_until_ready(self.state)
        began = time.perf_counter()
        for _ in range(num_calls):
            self.state, _ = self.run(self.dynamic, self.images, self.state, *self.arguments)
        jax.block_until_ready(self.state)
        return time.perf_counter() - began
