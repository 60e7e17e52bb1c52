"""Images of handwritten digits as uint8 arrays: `digits`, `mnist` and `binarized_mnist`.

`load` is all that most callers need. The first use of an MNIST set decodes it once and caches the
arrays; later starts read and verify the cache alone, and need no tensorflow-datasets.
`python -m experiments.data --dataset=binarized_mnist` fills the cache ahead of time.
"""

from experiments.data.datasets import Dataset, Split, binarize
from experiments.data.loading import DATASETS, cache_arrays, cache_file, load, load_arrays

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "binarize",
    "cache_arrays",
    "cache_file",
    "load",
    "load_arrays",
]
