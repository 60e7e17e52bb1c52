"""The config, the picture and the final bounds as TensorBoard events.

The scalars of the steps are events too; `experiments.training.metrics` writes those.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.training.rundir import TENSORBOARD
from experiments.training.trackers import Tracked


class TensorBoard:
    """See `Tracker`."""

    def __init__(self, run: Tracked) -> None:
        self.id = ""  # the directory is all it needs
        self._run = run

    def log(self, row: Mapping[str, Any]) -> None:
        """Does nothing: see `experiments.training.metrics`."""

    def finish(self, result: Mapping[str, Any], picture: Path) -> None:
        """Writes the events of the end."""
        from PIL import Image
        from tensorboardX import SummaryWriter

        step = int(result["steps"])
        with SummaryWriter(str(self._run.workdir / TENSORBOARD), filename_suffix=".end") as events:
            config = json.dumps(dict(self._run.config), indent=2)
            events.add_text("config", f"```\n{config}\n```", step)
            if picture.exists():
                pixels = np.asarray(Image.open(picture).convert("RGB"))
                events.add_image("picture", pixels, step, dataformats="HWC")
            for name, value in result.items():
                if name.endswith("_bound"):
                    events.add_scalar(f"final/{name}", value, step)

    def close(self) -> None:
        """Does nothing: the events are written."""


def start(run: Tracked) -> TensorBoard:
    """The tracker of a run."""
    return TensorBoard(run)
