"""`load`: the entry point to the data."""

import contextlib
import functools
import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.data import cache
from experiments.data.datasets import Dataset, Split
from experiments.data.digits import load_digits
from experiments.data.specs import SPECS, Arrays, Spec
from experiments.errors import UserError, one_line, suggestion
from experiments.files import home, path_of

# Sets that need no download and no cache; those of tensorflow-datasets are in `specs`.
_BUNDLED: dict[str, Callable[[], Dataset]] = {"digits": load_digits}
DATASETS = (*_BUNDLED, *SPECS)

_log = logging.getLogger(__name__)


def load(name: str, *, data_dir: str | None = None, cache_dir: str | None = None) -> Dataset:
    """Loads a dataset from its cache, or else from tensorflow-datasets, filling the cache.

    The splits are the customary ones. `mnist`: the first 50,000 images of the published training
    file, its last 10,000 for validation, and the test file. `binarized_mnist`: its own three
    splits of 50,000, 10,000 and 10,000. `digits`: 1,197, 300 and 300 (see `load_digits`). The
    order is fixed: `mnist` as published, the others shuffled once and for all, so that the head of
    a split is a fair sample of it.

    Args:
      name: one of `DATASETS`.
      data_dir: where tensorflow-datasets keeps prepared data; by default what TFDS_DATA_DIR names,
        else `~/.cache/gumbel/tensorflow_datasets`. Absent data are downloaded into it.
      cache_dir: where the decoded arrays are kept; by default what GUMBEL_CACHE_DIR names, else
        `~/.cache/gumbel/arrays`. A cache that cannot be written costs a warning and the time to
        decode again; one that fails its checksum is rebuilt.

    Raises:
      UserError: an unknown name, or data that are unavailable, damaged, or no `Dataset`.

    Example:
      >>> dataset = load("digits")
      >>> dataset.train.images.shape, dataset.train.images.dtype, dataset.max_value
      ((1197, 8, 8), dtype('uint8'), 16)
    """
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}: {suggestion(str(name), DATASETS)}")
    make = _BUNDLED.get(name)
    if make is None:
        spec = SPECS[name]
        arrays = _cached_or_decoded(spec, _data_dir(data_dir), cache_directory(cache_dir))
        make = functools.partial(_assemble, spec, arrays)
    try:
        return make()
    except ValueError as error:
        raise UserError(f"dataset {name!r}: {error}") from error


def load_arrays(name: str) -> Arrays | None:
    """The arrays of a dataset as the cache has them, for another machine; see `cache_arrays`.

    None for one that is bundled, which every machine has.

    Raises:
      UserError: as `load`.
    """
    if name in _BUNDLED:
        return None
    return _cached_or_decoded(SPECS[name], _data_dir(None), cache_directory())


def cache_arrays(name: str, arrays: Arrays | None) -> None:
    """Puts what `load_arrays` gave on another machine into the cache of this one, if it has none.

    Where the cache cannot be written, a temporary directory takes its place for this process.
    """
    if arrays is None:
        return
    with contextlib.suppress(cache.DamagedCacheError):
        if cache.read(cache_directory(), SPECS[name]) is not None:
            return
    if not _write(SPECS[name], cache_directory(), arrays):
        os.environ["GUMBEL_CACHE_DIR"] = directory = tempfile.mkdtemp(prefix="gumbel-")
        _write(SPECS[name], Path(directory), arrays)


def cache_file(name: str) -> tuple[Path, int] | None:
    """The path of a dataset's cache, existing or not, and its bytes; None for a bundled dataset."""
    if name in _BUNDLED:
        return None
    spec = SPECS[name]
    path, _ = cache.paths(cache_directory(), spec)
    bytes_per_image = math.prod(spec.image_shape) + (spec.num_classes is not None)
    return path, sum(spec.splits.values()) * bytes_per_image


def cache_directory(cache_dir: str | None = None) -> Path:
    """The directory of the decoded arrays: the argument, GUMBEL_CACHE_DIR, or the default."""
    return _directory(cache_dir, "cache_dir", "GUMBEL_CACHE_DIR") or home() / "arrays"


def _data_dir(data_dir: str | None) -> Path:
    # Not TFDS's own default: a TFRECORD copy of the set there cannot be read without TensorFlow.
    return _directory(data_dir, "data_dir", "TFDS_DATA_DIR") or home() / "tensorflow_datasets"


def _directory(given: str | None, argument: str, variable: str) -> Path | None:
    if given:
        return path_of(given, argument)
    chosen = os.environ.get(variable)
    return path_of(chosen, variable) if chosen else None


def _cached_or_decoded(spec: Spec, data_dir: Path, cache_dir: Path) -> Arrays:
    where = cache.paths(cache_dir, spec)[0]
    damage = ""
    try:
        arrays = cache.read(cache_dir, spec)
        if arrays is not None:
            return arrays
    except cache.DamagedCacheError as error:
        damage = f"the cache {where} {one_line(error)}"
        _log.warning("%s; rebuilding it", damage)
    try:
        arrays = _decoded(spec, data_dir)
    except UserError as error:
        if not damage:
            raise
        raise UserError(f"{damage} and cannot be rebuilt: {error}") from error
    _write(spec, cache_dir, arrays)
    return arrays


def _write(spec: Spec, cache_dir: Path, arrays: Arrays) -> bool:
    """Writes the cache; warns and returns False where that fails."""
    try:
        cache.write(cache_dir, spec, arrays)
    except OSError as error:
        _log.warning(
            "cannot cache %s in %s (%s); continuing without a cache",
            spec.name,
            cache_dir,
            one_line(error),
        )
        return False
    return True


def _decoded(spec: Spec, data_dir: Path) -> Arrays:
    try:
        # Needed only where there is no cache, and may not be installed where training runs.
        from experiments.data import tfds_source
    except ImportError as error:
        raise UserError(
            f"{spec.name} is not cached and tensorflow-datasets cannot be imported "
            f"({one_line(error)}): install it, or let GUMBEL_CACHE_DIR name a copy of the cache of "
            "a machine that has it, or use --config.dataset=digits"
        ) from error
    return tfds_source.read(spec, data_dir)


def _assemble(spec: Spec, arrays: Arrays) -> Dataset:
    """Cuts the validation split off `train` where the set has none of its own."""
    num_train = spec.splits["train"] - spec.held_out
    train = _split(arrays, "train", slice(num_train))
    if spec.held_out:
        validation = _split(arrays, "train", slice(num_train, None))
    else:
        validation = _split(arrays, "validation", slice(None))
    test = _split(arrays, "test", slice(None))
    return Dataset(spec.name, train, validation, test, spec.max_value, spec.num_classes)


def _split(arrays: Arrays, name: str, part: slice) -> Split:
    labels = arrays.get(f"{name}_labels")
    return Split(
        arrays[f"{name}_images"][part], None if labels is None else labels[part].astype(np.int32)
    )
