"""Runs at an MLflow server or store, the one that `MLFLOW_TRACKING_URI` names."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.training.trackers import Tracked


class MLflow:
    """See `Tracker`. A resumed run continues under its id; lines that it has are left out."""

    def __init__(self, run: Tracked) -> None:
        from mlflow import MlflowClient  # an extra: not needed elsewhere
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient()
        self._finished = False
        self._last = -1  # the last step that the store has
        self.id = run.id
        try:
            self._client.update_run(run.id, status="RUNNING")
            self._last = self._logged()
        except MlflowException:  # the store does not know it
            self.id = self._create(run)
        for row in run.rows:
            self.log(row)

    def _create(self, run: Tracked) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "gumbel")
        with contextlib.suppress(MlflowException):  # it is there, perhaps since this moment
            self._client.create_experiment(name)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            raise ValueError(f"there is no experiment {name!r}, and none can be made")
        tags = {"group": run.group, "workdir": str(run.workdir.absolute())}
        made = self._client.create_run(experiment.experiment_id, run_name=run.name, tags=tags)
        params = [Param(key, str(value)) for key, value in run.config.items()]
        self._client.log_batch(made.info.run_id, params=params)
        return str(made.info.run_id)

    def _logged(self) -> int:
        names = ("train_cost", "validation_bound")
        histories = [self._client.get_metric_history(self.id, name) for name in names]
        return max((metric.step for history in histories for metric in history), default=-1)

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs the scalars that have a value."""
        if row["step"] > self._last:
            self._metrics({k: v for k, v in row.items() if k != "step"}, row["step"])
            self._last = row["step"]

    def finish(self, result: Mapping[str, Any], picture: Path) -> None:
        """Logs the final numbers under `final.`, and the picture as an artifact."""
        self._metrics({f"final.{key}": value for key, value in result.items()}, result["steps"])
        if picture.exists():
            self._client.log_artifact(self.id, str(picture))
        self._finished = True

    def close(self) -> None:
        """Ends the run; one that has not finished counts as killed until it resumes."""
        self._client.set_terminated(self.id, "FINISHED" if self._finished else "KILLED")

    def _metrics(self, scalars: Mapping[str, Any], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        found = [Metric(k, float(v), now, step) for k, v in scalars.items() if v is not None]
        self._client.log_batch(self.id, metrics=found)


def start(run: Tracked) -> MLflow:
    """The tracker of a run."""
    return MLflow(run)
