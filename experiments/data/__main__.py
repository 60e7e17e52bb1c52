"""Prepares a data set's cache: `python -m experiments.data --dataset=binarized_mnist`."""

from __future__ import annotations

import argparse
import logging
import sys
import time

from experiments.data import cache
from experiments.data.loading import DATASETS, cache_directory, load
from experiments.data.specs import SPECS
from experiments.errors import UserError


def main() -> int:
    """Loads the set that the flags name, prints what it is and where; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.data", description=__doc__)
    parser.add_argument("--dataset", default="binarized_mnist", help=", ".join(DATASETS))
    parser.add_argument("--data_dir", help="tensorflow-datasets directory (else TFDS_DATA_DIR)")
    parser.add_argument("--cache_dir", help="cache of decoded arrays (else GUMBEL_CACHE_DIR)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    try:
        dataset = load(args.dataset, data_dir=args.data_dir, cache_dir=args.cache_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - start
    height, width = dataset.image_shape
    sizes = f"{len(dataset.train)} / {len(dataset.validation)} / {len(dataset.test)}"
    print(f"{dataset.name}: {sizes} images of {height}x{width}, max_value 0..{dataset.max_value}")
    print(f"mean pixel of the training split: {dataset.train_mean().mean():.4f}")
    if args.dataset in SPECS:
        arrays_path, _ = cache.paths(cache_directory(args.cache_dir), SPECS[args.dataset])
        print(f"cache: {arrays_path if arrays_path.exists() else 'none'}")
    print(f"loaded in {seconds:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
