"""Whether a task keeps to what `base` says: each mistake is named in one line, before training."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from experiments import settings
from experiments.errors import UserError
from experiments.tasks.base import Task

_GROUPS = ("task", "temperature", "estimator")  # keys of a config that no dataclass declares


def check_options(name: str, task: Task) -> None:
    """Checks that no option of a task has the name of another key.

    Raises:
      UserError: one has, so that a config could not tell them apart.
    """
    own = {key.name for key in settings.keys_of(task.options)}
    common = {*_GROUPS, *(key.name for key in settings.keys_of(settings.Settings))}
    for option in sorted(own & common):
        raise UserError(
            f"task {name!r}: option {option!r} is also a key of every run: give it another name"
        )


def check_model(name: str, model: Any, annealed: Iterable[str]) -> None:
    """Checks that a model has what training calls, and that its cost takes what it is called with.

    Args:
      name: name of the task.
      model: what the task builds.
      annealed: names of the numbers that the task's schedules give.

    Raises:
      UserError: it says what is missing.
    """
    for part in ("family", "batch", "cost", "pictures"):
        if not hasattr(model, part):
            raise UserError(
                f"task {name!r}: its {type(model).__name__} has no {part}: a model has family, "
                "batch, cost and pictures (experiments.tasks.base.Model)"
            )
    keywords = dict.fromkeys(("temperature", "hard", *annealed))
    try:
        inspect.signature(model.cost).bind("batch", "key", "sample", **keywords)
    except TypeError as error:
        raise UserError(
            f"task {name!r}: {type(model).__name__}.cost: {error}: let it take (batch, key, "
            f"sample, *, {', '.join(keywords)})"
        ) from error


def check_cost(cost: Any) -> None:
    """Checks that a model's cost is an array `[B]`.

    Raises:
      UserError: it is another value, such as a mean over the batch.
    """
    shape = getattr(cost, "shape", None)
    if shape is None or len(shape) != 1:
        found = f"a {type(cost).__name__}" if shape is None else f"an array of shape {shape}"
        raise UserError(f"the task's cost is {found}: give the cost of each example, [B]")


def check_pictures(name: str, found: Any, shape: tuple[int, ...]) -> None:
    """Checks that pictures are rows of images.

    Args:
      name: name of the task.
      found: what `Model.pictures` returned.
      shape: height and width of the data's images.

    Raises:
      UserError: it says which row is not.
    """
    wanted = f"give a dict of rows of images, [N, {shape[0]}, {shape[1]}] each"
    if not isinstance(found, Mapping):
        raise UserError(f"task {name!r}: its pictures are a {type(found).__name__}: {wanted}")
    for row, images in found.items():
        size = getattr(images, "shape", None)
        if size is None or len(size) != 3 or size[1:] != shape:
            kind = type(images).__name__ if size is None else f"shape {size}"
            raise UserError(f"task {name!r}: picture {row!r} has {kind}: {wanted}")
