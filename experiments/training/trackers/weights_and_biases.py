"""Runs at Weights & Biases: online where a login is set up, else by `WANDB_MODE=offline`.

Its own environment variables choose the project (`gumbel` by default), the entity and the mode.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.training.trackers import Tracked


class WeightsAndBiases:
    """See `Tracker`. A resumed run continues under its id; lines that it has are left out."""

    def __init__(self, run: Tracked) -> None:
        import wandb  # an extra: not needed elsewhere

        self.id = run.id
        self._finished = False
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gumbel"),
            name=run.name,
            group=run.group,
            id=run.id,
            resume="allow",
            dir=str(run.workdir),
            config=dict(run.config),
            reinit="create_new",  # runs that train together have one each
            settings=wandb.Settings(silent=True, console="off"),
        )
        first = self._run.step
        for row in run.rows:
            if row["step"] >= first:
                self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs the scalars that have a value."""
        scalars = {k: v for k, v in row.items() if k != "step" and v is not None}
        self._run.log(scalars, step=row["step"])

    def finish(self, result: Mapping[str, Any], picture: Path) -> None:
        """Sets the summary, and logs the picture."""
        import wandb

        self._run.summary.update(dict(result))
        if picture.exists():
            self._run.log({"picture": wandb.Image(str(picture))}, step=int(result["steps"]))
        self._finished = True

    def close(self) -> None:
        """Ends the run; one that has not finished counts as failed until it resumes."""
        self._run.finish(exit_code=0 if self._finished else 1)


def start(run: Tracked) -> WeightsAndBiases:
    """The tracker of a run."""
    return WeightsAndBiases(run)
