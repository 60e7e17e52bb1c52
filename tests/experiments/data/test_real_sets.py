"""The real MNIST sets, where prepared data are at hand; and, without them, their order."""

import dataclasses
import gzip
import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import specs, tfds_source
from tests.experiments.data.publishing import idx_gz


@pytest.mark.parametrize(
    ("split", "count", "digest"),
    [
        ("train", 60_000, "315c8c89b50bb1ce"),
        ("train", 50_000, "3b05e897f13d5849"),  # of binarized_mnist
        ("validation", 10_000, "a3cfdf50b01c2769"),
        ("test", 10_000, "e4c415d3fc4e9b2c"),
    ],
)
def test_the_order_of_publication_stays(split, count, digest):
    """The slow tests prove it on the real sets; no synthetic set could, for it is made by it."""
    order = np.asarray(tfds_source.published_order(split, count), "<u4")
    assert hashlib.sha256(order.tobytes()).hexdigest().startswith(digest)


def decode_split(name: str, split: str, data_dir: Path) -> specs.Arrays:
    spec = specs.SPECS[name]
    sources = tfds_source.open_sources(spec, data_dir)
    one = dataclasses.replace(spec, splits={split: spec.splits[split]})
    return tfds_source.decode(sources, one)


@pytest.mark.slow
def test_real_mnist_is_in_the_published_order(real_data_dir):
    arrays = decode_split("mnist", "test", real_data_dir)
    assert arrays["test_labels"][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    payloads = {
        # MD5 of the unpacked t10k files.
        "test_images": "2646ac647ad5339dbf082846283269ea",
        "test_labels": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, expected in payloads.items():
        payload = gzip.decompress(idx_gz(arrays[name]))
        assert hashlib.md5(payload, usedforsecurity=False).hexdigest() == expected


@pytest.mark.slow
def test_real_binarized_mnist_is_the_file_whose_checksum_is_registered(real_data_dir):
    arrays = decode_split("binarized_mnist", "test", real_data_dir)
    published = np.empty_like(arrays["test_images"])
    published[tfds_source.published_order("test", 10_000)] = arrays["test_images"]
    text = np.full((10_000, 784, 2), ord(" "), np.uint8)
    text[..., 0] = ord("0") + published.reshape(-1, 784)
    text[:, -1, 1] = ord("\n")
    registered = {
        info.filename: info.checksum
        for info in tfds_source.make_builder_cls("binarized_mnist").url_infos.values()
    }
    expected = registered["binarized_mnist_test.amat"]
    assert hashlib.sha256(text.tobytes()).hexdigest() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "max_value", "mean"), [("mnist", 255, 0.1307), ("binarized_mnist", 1, 0.1306)]
)
def test_real_sets_load_whole(name, max_value, mean, real_data_dir, tmp_path):
    def load() -> data.Dataset:
        return data.load(name, data_dir=str(real_data_dir), cache_dir=str(tmp_path))

    load()
    start = time.process_time()
    dataset = load()
    assert time.process_time() - start < 1.0
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split) for split in splits] == [50_000, 10_000, 10_000]
    assert dataset.max_value == max_value
    assert dataset.train_mean().mean() == pytest.approx(mean, abs=5e-4)
    if name == "mnist":
        assert dataset.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
        histogram = sum(np.bincount(split.labels, minlength=10) for split in splits[:2])
        expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
        assert histogram.tolist() == expected
