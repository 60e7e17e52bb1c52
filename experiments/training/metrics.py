"""The log of a run's metrics: JSON lines, and TensorBoard events."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from experiments.files import naming, write_text
from experiments.training import records
from experiments.training.events import Events
from experiments.training.rundir import METRICS, TENSORBOARD

_log = logging.getLogger(__name__)


class MetricsLog:
    """Scalars by step, in `metrics.jsonl` and as TensorBoard events in `tensorboard/`.

    The JSON lines are the record; the events are for looking at, and made from them. Both are
    flushed to the system before `append` returns, so a kill truncates at most the last line.

    Args:
      workdir: the run's directory; made if absent.
      resume_step: the step of the checkpoint that the run resumes from. Lines of later steps,
        which the run will write again, are dropped, as is a torn last line. None starts an
        empty log.
      events: whether to write TensorBoard events too.

    Attributes:
      path: path of the JSON lines.
      kept: the lines that were there and are kept.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     with MetricsLog(workdir) as log:
      ...         row = log.append(100, train_cost=3.5)
      ...         row = log.append(200, train_cost=2.5)
      ...     with MetricsLog(workdir, resume_step=100) as log:
      ...         row = log.append(200, train_cost=2.5)
      ...     records.read_metrics(log.path)
      [{'step': 100, 'train_cost': 3.5}, {'step': 200, 'train_cost': 2.5}]
    """

    def __init__(
        self, workdir: str | Path, resume_step: int | None = None, *, events: bool = True
    ) -> None:
        self.path = Path(workdir) / METRICS
        self.path.parent.mkdir(parents=True, exist_ok=True)
        last = -1 if resume_step is None else resume_step
        kept: list[dict[str, Any]] = []
        if last >= 0 and self.path.exists():
            kept = [row for row in records.read_metrics(self.path) if row["step"] <= last]
        if last > 0 and (not kept or kept[-1]["step"] != last):  # a checkpoint's step is logged
            there = f"ends at step {kept[-1]['step']}" if kept else "has no step"
            _log.warning(
                "%s %s, but the checkpoint is of %d: the curve of this run lacks what is between",
                self.path,
                there,
                last,
            )
        write_text(self.path, "".join(map(_line, kept)))
        self._last_step = kept[-1]["step"] if kept else 0
        self.kept = kept
        self._file = self.path.open("a", encoding="utf-8")
        self._events = Events(self.path.with_name(TENSORBOARD), kept) if events else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def check(workdir: Path) -> None:
        """Raises UserError if the JSON lines of a directory are damaged."""
        if (workdir / METRICS).exists():
            records.read_metrics(workdir / METRICS)

    def append(self, step: int, **scalars: Any) -> dict[str, Any]:
        """Logs the scalars of one step; NaN and infinity become null and no event.

        Args:
          step: not below that of any line before.
          **scalars: numbers, jax or numpy scalars, or None.

        Returns:
          The row that was written.

        Raises:
          ValueError: `step` lies before the last one.
          TypeError: a value is not a scalar.
        """
        if step < self._last_step:
            raise ValueError(f"step {step} lies before the last one logged, {self._last_step}")
        row: dict[str, Any] = {"step": int(step)}
        for name, value in scalars.items():
            row[name] = records.plain(value)
            if row[name] is not None and not isinstance(row[name], int | float):
                raise TypeError(f"{name} must be a scalar, got {value!r}")
        with naming(self.path):
            self._file.write(_line(row))
            self._file.flush()
        self._last_step = step
        if self._events is not None:
            self._events.append(row)
        return row

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
