"""Prepares a dataset's cache.

python -m experiments.data --dataset=binarized_mnist
"""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments import command
from experiments.data import DATASETS, cache, load
from experiments.data.loading import cache_directory
from experiments.data.specs import SPECS


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags."""
    define: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "dataset",
        "binarized_mnist",
        f"one of {', '.join(DATASETS)}; binarized_mnist by default",
        **define,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "the directory of tensorflow-datasets; by default TFDS_DATA_DIR, or "
        "~/.cache/gumbel/tensorflow_datasets",
        **define,
    )
    flags.DEFINE_string(
        "cache_dir",
        None,
        "the directory for decoded arrays; by default GUMBEL_CACHE_DIR, or ~/.cache/gumbel/arrays",
        **define,
    )


def main(given: Mapping[str, Any]) -> int:
    """Loads the dataset that the flags name, and prints what it is and where."""
    logging.getLogger("experiments.data").setLevel(logging.INFO)
    start = time.perf_counter()
    dataset = load(given["dataset"], data_dir=given["data_dir"], cache_dir=given["cache_dir"])
    seconds = time.perf_counter() - start
    height, width = dataset.image_shape
    sizes = f"{len(dataset.train)} / {len(dataset.validation)} / {len(dataset.test)}"
    print(f"{dataset.name}: {sizes} images of {height}x{width}, pixels 0..{dataset.max_value}")
    print(f"mean pixel of the training split: {dataset.train_mean().mean():.4f}")
    if dataset.name in SPECS:
        arrays_path, _ = cache.paths(cache_directory(given["cache_dir"]), SPECS[dataset.name])
        print(f"cache: {arrays_path if arrays_path.exists() else 'none'}")
    print(f"loaded in {seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags))
