"""`mnist` and `binarized_mnist` through tensorflow-datasets, with TensorFlow not installed.

Its stock builders can be read without TensorFlow once the data are in the array_record format, but
cannot prepare them: they open files with `tf.io.gfile` and encode images with `tf.image`. The
builders here are subclasses that replace only that part. They keep the name, version, features,
record keys and registered checksums, so the data they prepare are those of the stock builders, in
the same order, and each can read what the other prepared.

Importing this module imports tensorflow-datasets: `loading` does so only where there is no cache.
"""

import contextlib
import functools
import gzip
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from PIL import Image
from tqdm import tqdm

from experiments.data import download, formats
from experiments.data.specs import SPECS, Arrays, Spec, digest
from experiments.errors import UserError, one_line
from experiments.files import scratch

Sources = Mapping[str, Sequence[Mapping[str, Any]]]


def read(spec: Spec, data_dir: Path) -> Arrays:
    """Decodes a set from `data_dir`, downloading and preparing it there first if it is absent.

    Returns:
      For each official split `<split>_images` uint8 [N, H, W] and, with labels, `<split>_labels`
      uint8 [N], in the order that `spec` asks for.

    Raises:
      UserError: no data and no network, a file that fails its checksum, or prepared data that are
        damaged or not the published ones.
    """
    # tensorflow-datasets leaves temporary directories behind.
    with _quiet(), scratch():
        path = data_dir / spec.name / spec.version
        # Anything may go wrong in either step (network, disk, a damaged record, another release of
        # tensorflow-datasets), and the user gets one line that says what to do.
        try:
            if not path.exists():
                _prepare(spec, data_dir)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{spec.name} is not in {data_dir} and cannot be prepared there: "
                f"{one_line(error)}; use --config.dataset=digits, which needs no network, or let "
                "TFDS_DATA_DIR name a directory where tensorflow-datasets has prepared it as "
                "array_record"
            ) from error
        try:
            return decode(open_sources(spec, data_dir), spec)
        except Exception as error:
            raise UserError(
                f"{path} cannot be used: {one_line(error)}; let TFDS_DATA_DIR name another "
                "directory, or delete this one to have it prepared again, or use "
                "--config.dataset=digits"
            ) from error


def published_order(split: str, count: int) -> list[int]:
    """Index in the published file of each stored record: `order[stored position] = index`.

    tensorflow-datasets stores records sorted by the MD5 of split name and key, where the key is the
    index in the published file. The hash is part of its versioning (another would be another major
    version of every set), so the order of publication can be restored; the digests in `specs` prove
    it.

    Example:
      >>> published_order("train", 4)
      [0, 3, 1, 2]
    """
    salted = hashlib.md5(split.encode(), usedforsecurity=False)

    def hashed(index: int) -> bytes:
        key = salted.copy()
        key.update(str(index).encode())
        return key.digest()

    return sorted(range(count), key=hashed)


@functools.cache
def make_builder_cls(name: str) -> Any:
    """The tensorflow-datasets builder of `name`, made able to prepare data without TensorFlow."""
    stock = tfds.builder_cls(name)

    # Registering would clash with the stock builder, whose name must be kept: features, data
    # directory and checksums go by it.
    with tfds.core.registered.skip_registration():

        class Builder(stock):  # type: ignore[misc, valid-type]
            name = stock.name
            url_infos = stock.url_infos  # Otherwise looked up by module, and silently lost.

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                urls = {info.filename: url for url, info in self.url_infos.items()}
                paths = dl_manager.download(urls)
                return {
                    split: self._generate_examples(*(Path(paths[file]) for file in files))
                    for split, files in SPECS[name].files.items()
                }

            def _generate_examples(self, *paths: Path) -> Iterator[tuple[int, dict[str, Any]]]:
                return _examples(paths)

    return Builder


def _examples(paths: tuple[Path, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields keys and examples as the stock builders do; PIL images, which need no tf.image."""
    columns = [_read_file(path) for path in paths]
    rows = zip(*columns, strict=True)
    bar = tqdm(rows, total=len(columns[0]), desc=f"preparing {paths[0].name}", disable=None)
    for key, values in enumerate(bar):
        example: dict[str, Any] = {"image": Image.fromarray(values[0])}
        if len(values) > 1:
            example["label"] = int(values[1])
        yield key, example


def _read_file(path: Path) -> np.ndarray:
    if path.suffix == ".amat":
        return formats.parse_amat(path.read_bytes(), row=28 * 28).reshape(-1, 28, 28)
    return formats.parse_idx(gzip.decompress(path.read_bytes()))


def _prepare(spec: Spec, data_dir: Path) -> None:
    """Downloads the published files and writes them to `data_dir` as array_record."""
    builder = make_builder_cls(spec.name)(data_dir=data_dir, version=spec.version)
    downloads = data_dir / "downloads"
    manual = downloads / "manual" / f"{spec.name}-{spec.version}"  # sets share names of files
    download.fetch_missing(builder.url_infos, manual)
    config = tfds.download.DownloadConfig(
        manual_dir=manual, force_checksums_validation=True, try_download_gcs=False
    )
    try:
        builder.download_and_prepare(
            download_dir=downloads, download_config=config, file_format="array_record"
        )
    except OSError:
        # Another process may have finished the same work a moment before.
        if not builder.data_path.exists():
            raise


def open_sources(spec: Spec, data_dir: Path) -> Sources:
    """The prepared records of each official split.

    Raises:
      ValueError: the metadata or the files hold other numbers of examples than were published.
    """
    builder = make_builder_cls(spec.name)(data_dir=data_dir, version=spec.version)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    sources: Sources = builder.as_data_source()
    lengths = {split: len(source) for split, source in sources.items()}
    expected = dict(spec.splits)
    if counts != expected or lengths != expected:
        raise ValueError(
            f"expected {expected} examples, metadata say {counts}, the files hold {lengths}"
        )
    return sources


def decode(sources: Sources, spec: Spec) -> Arrays:
    """Decodes every record into arrays, in the order that `spec` asks for.

    Raises:
      ValueError: the arrays are not the published data, by their SHA-256.
    """
    arrays: Arrays = {}
    total = sum(spec.splits.values())
    with tqdm(total=total, desc=f"decoding {spec.name}", unit=" images", disable=None) as bar:
        for split, count in spec.splits.items():
            images = np.empty((count, *spec.image_shape), np.uint8)
            labels = np.empty(count, np.uint8)
            order = published_order(split, count) if spec.published_order else range(count)
            for stored, index in enumerate(order):
                example = sources[split][stored]
                images[index] = example["image"][..., 0]
                labels[index] = example.get("label", 0)
                bar.update()
            arrays[f"{split}_images"] = _scaled(images, spec.max_value)
            if spec.num_classes is not None:
                arrays[f"{split}_labels"] = labels
    found = {name: digest(array) for name, array in arrays.items()}
    wrong = [f"{name} ({sha})" for name, sha in found.items() if sha != spec.digests.get(name)]
    if wrong:
        raise ValueError(f"the SHA-256 of {', '.join(wrong)} is not that of the published data")
    return arrays


def _scaled(images: np.ndarray, max_value: int) -> np.ndarray:
    """Pixels in 0..max_value; bits that a PNG writer stored as 0 and 255 become 0 and 1."""
    if max_value == 1 and np.isin(images, (0, 255)).all():
        images = (images > 0).astype(np.uint8)
    if images.max(initial=0) > max_value:
        raise ValueError(f"a pixel is {images.max()}, above {max_value}")
    return images


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tensorflow-datasets from printing: its bars, its stdout banner, its OpenCV advice."""
    tfds.disable_progress_bar()
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
