"""The bounds and the task's metrics of all runs of a program, on a split."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from tqdm import tqdm

from experiments.errors import UserError
from experiments.training import evaluation
from experiments.training.compiled import Compiled
from gumbel.types import Params

Keys = Sequence[Key[Array, ""]]
_LONG = 100  # samples from which on a bound shows a bar of its own


class Scorer:
    """Evaluates runs that share a program.

    Args:
      compiled: their program.
      progress: show a bar over the images of a bound of many samples.
    """

    def __init__(self, compiled: Compiled, *, progress: bool) -> None:
        self._compiled, self._progress = compiled, progress
        self._batch_size = compiled.settings.eval_batch_size

    def bounds(
        self,
        params: Params,
        split: str,
        keys: Keys,
        num_samples: int,
        on_batch: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """The importance-weighted bound of each run, in nats.

        Args:
          params: parameters of the runs, with a leading axis of runs.
          split: name of a split of the dataset.
          keys: PRNG key of each run.
          num_samples: m.
          on_batch: called after each batch of images.
        """
        images = getattr(self._compiled.dataset, split).images
        shown = self._progress and num_samples > _LONG
        with tqdm(
            total=len(images), desc=f"{split} bound", unit="image", disable=None if shown else True
        ) as bar:
            if shown and bar.disable:  # off a terminal
                text = f"{split} bound: {num_samples} samples for each of {len(images)} images"
                print(text, file=sys.stderr, flush=True)

            def count(images: int) -> None:
                bar.update(images)
                on_batch()

            return evaluation.dataset_bounds(
                self._compiled.image_costs[num_samples],
                params,
                images,
                jnp.stack(keys),
                batch_size=self._batch_size,
                on_batch=count,
            )

    def metrics(self, params: Params, split: str, keys: Keys) -> list[dict[str, Any]]:
        """The task's metrics of each run as `{split_name: value}`; empty where it has none."""
        metrics = self._compiled.metrics
        if metrics is None or self._compiled.outputs is None:
            return [{} for _ in keys]
        data = getattr(self._compiled.dataset, split)
        outputs = evaluation.dataset_outputs(
            self._compiled.outputs,
            params,
            data.images,
            jnp.stack(keys),
            batch_size=self._batch_size,
        )
        found = [metrics.summarize(rows, data) for rows in outputs]
        if lacking := sorted(
            name for name in metrics.units if np.ndim(found[0].get(name, [])) != 0
        ):
            raise UserError(
                f"task {self._compiled.settings.task!r}: metrics.units names "
                f"{', '.join(lacking)}, of which metrics.summarize returns no scalar"
            )
        return [{f"{split}_{name}": v for name, v in row.items()} for row in found]


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """The scalars among the metrics, which go into a line of the log."""
    return {name: value for name, value in metrics.items() if np.ndim(value) == 0}
