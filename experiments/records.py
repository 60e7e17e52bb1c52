"""What a run leaves behind: JSON files, a log of metrics, and where its numbers came from.

JSON has no word for NaN or infinity, so they are written as null, everywhere alike.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from tensorboardX import SummaryWriter

from experiments.errors import UserError, one_line

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gumbel")
_ROOT = Path(__file__).resolve().parents[1]


def provenance() -> dict[str, Any]:
    """Where numbers made by this process come from, as JSON data.

    Returns:
        `versions` of Python and the packages that matter (None if not installed), `device` as
        platform, kind and count, the settings of `numerics` under shorter names, `xla_flags` as in
        the environment (None if unset), and `git` with the commit and whether files differ from it
        (None outside a git checkout). No host or user name.
    """
    devices = jax.devices()
    settings = numerics()
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "matmul_precision": settings["jax_default_matmul_precision"],
        "prng_impl": settings["jax_default_prng_impl"],
        "threefry_partitionable": settings["jax_threefry_partitionable"],
        "x64": settings["jax_enable_x64"],
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "git": _git(_ROOT),
    }


def numerics() -> dict[str, str | bool]:
    """The settings of jax that change a run's numbers, by their names in jax, as JSON data.

    Each can be set by the environment variable of its name in capitals.

    Example:
        >>> numerics()["jax_default_prng_impl"]
        'threefry2x32'
    """
    config: Any = jax.config  # its options are attributes that no type declares
    return {
        "jax_default_prng_impl": str(config.jax_default_prng_impl),
        "jax_threefry_partitionable": bool(config.jax_threefry_partitionable),
        "jax_default_matmul_precision": str(config.jax_default_matmul_precision or "default"),
        "jax_enable_x64": bool(config.jax_enable_x64),
    }


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON in such a way that `path` never holds half of it.

    Numpy and jax scalars become numbers, arrays and tuples lists, paths strings, NaN and infinity
    null.

    Raises:
        TypeError: `value` holds something that JSON cannot express.
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    _replace(Path(path), text + "\n")


def read_json(path: str | Path) -> Any:
    """The value in the JSON file `path`.

    Raises:
        UserError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({one_line(error)}): delete it") from None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, in order; a torn last line, left by a kill, is passed over.

    Raises:
        UserError: there is no such file, or a line before the last one is damaged.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError("its step is not an integer")
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"line {number} of {path} is damaged ({one_line(error)}): delete that line"
            ) from None
        rows.append(row)
    return rows


class MetricsLog:
    """Scalars by step, in `metrics.jsonl` and as TensorBoard events in `tensorboard/`.

    The JSON lines are the record; the events are for looking at. Every line is handed to the
    system before `append` returns, so killing the process tears at most the last one.

    Args:
        workdir: the run's directory; made if absent.
        resume_step: the step of the checkpoint that the run goes on from. Lines of later steps,
            which the run will write again, are dropped, as is a torn last line. None starts an
            empty log.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     with MetricsLog(workdir) as log:
        ...         log.append(100, train_cost=3.5)
        ...         log.append(200, train_cost=2.5)
        ...     with MetricsLog(workdir, resume_step=100) as log:
        ...         log.append(200, train_cost=2.5)
        ...     read_metrics(log.path)
        [{'step': 100, 'train_cost': 3.5}, {'step': 200, 'train_cost': 2.5}]
    """

    def __init__(self, workdir: str | Path, resume_step: int | None = None) -> None:
        self.path = Path(workdir) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        last = -1 if resume_step is None else resume_step
        kept = []
        if last >= 0 and self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["step"] <= last]
        _replace(self.path, "".join(map(_line, kept)))
        self._last_step = kept[-1]["step"] if kept else 0
        self._file = self.path.open("a", encoding="utf-8")
        # TensorBoard hides the events that an earlier process wrote from purge_step on. The suffix
        # keeps two processes that start in one second from sharing a file.
        self._events = SummaryWriter(
            str(self.path.with_name("tensorboard")),
            purge_step=last + 1,
            filename_suffix=f".{last + 1}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(self, step: int, **scalars: Any) -> None:
        """Log the scalars of one step; NaN and infinity become null and no event.

        Args:
            step: not below that of any line before.
            **scalars: numbers, jax or numpy scalars, or None.

        Raises:
            ValueError: `step` lies before the last one.
            TypeError: a value is not a scalar.
        """
        if step < self._last_step:
            raise ValueError(f"step {step} lies before the last one logged, {self._last_step}")
        row: dict[str, Any] = {"step": int(step)}
        for name, value in scalars.items():
            row[name] = _plain(value)
            if row[name] is not None and not isinstance(row[name], int | float):
                raise TypeError(f"{name} must be a scalar, got {value!r}")
        with _naming(self.path):
            self._file.write(_line(row))
            self._file.flush()
            self._last_step = step
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._events.add_scalar(name, value, step)
            self._events.flush()

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._events.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """`value` in the types that JSON knows."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _replace(path: Path, text: str) -> None:
    """Give `path` the content `text` at one stroke."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _naming(path):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has an OSError name the file, which it does not when it is the disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(root: Path) -> dict[str, Any] | None:
    """The commit checked out at `root`, and whether any file there differs from it but results."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None  # somebody else's repository around an installed copy
        changed = git("status", "--porcelain", "--", ".", ":(exclude)results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
