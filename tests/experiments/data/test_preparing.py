"""Download and preparation through tensorflow-datasets, and what it refuses."""

import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import download, specs, tfds_source
from experiments.errors import UserError
from tests.experiments.data.publishing import (
    FIXES,
    MNIST_SETS,
    assert_holds,
    assert_one_line,
    idx_gz,
)


@pytest.mark.parametrize("name", MNIST_SETS)
def test_builder_keeps_the_name_and_the_registered_checksums(name):
    import tensorflow_datasets as tfds

    stock, ours = tfds.builder_cls(name), tfds_source.make_builder_cls(name)
    assert ours is not stock
    assert tfds.builder_cls(name) is stock  # Ours has not taken its place in the registry.
    assert (ours.name, str(ours.VERSION)) == (name, specs.SPECS[name].version)
    assert ours.url_infos == stock.url_infos
    checksums = {info.filename: info.checksum for info in ours.url_infos.values()}
    known = {
        "mnist": ("train-images-idx3-ubyte.gz", "440fcabf73cc546f", 4),
        "binarized_mnist": ("binarized_mnist_train.amat", "ad693b29f94c1427", 3),
    }
    file, start, count = known[name]
    assert checksums[file].startswith(start)
    assert len(checksums) == count


@pytest.mark.parametrize("name", MNIST_SETS)
def test_load_downloads_prepares_and_caches_once(name, publish, server, tmp_path, capfd):
    publisher = publish(name)
    assert_holds(data.load(name), publisher)
    assert sorted(server.requested) == sorted(publisher.files)

    # From the cache alone.
    prepared = tmp_path / "tfds"
    prepared.rename(tmp_path / "away")
    server.published = {}
    assert_holds(data.load(name), publisher)

    # From the prepared data alone.
    (tmp_path / "away").rename(prepared)
    shutil.rmtree(prepared / "downloads")
    shutil.rmtree(tmp_path / "arrays")
    assert_holds(data.load(name), publisher)

    assert len(server.requested) == len(publisher.files)
    assert capfd.readouterr() == ("", "")  # No bars and no banner where nobody watches.


def test_reading_leaves_no_temporary_files(publish, monkeypatch, tmp_path):
    """tensorflow-datasets does not remove its own."""
    for name in ("system", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    publish("mnist")
    data.load("mnist")
    assert not list((tmp_path / "system").iterdir())
    assert not list((tmp_path / "cache" / "gumbel" / "tmp").iterdir())


def test_preparation_finished_by_another_process_is_used(publish, monkeypatch):
    publisher = publish("mnist")
    builder_cls = tfds_source.make_builder_cls("mnist")
    prepare = builder_cls.download_and_prepare

    def lose_the_race(self, **kwargs):
        prepare(self, **kwargs)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builder_cls, "download_and_prepare", lose_the_race)
    assert_holds(data.load("mnist"), publisher)


@pytest.mark.parametrize("name", MNIST_SETS)
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_download_that_fails_its_checksum_is_refused_and_discarded(
    name, damage, publish, server, tmp_path
):
    publisher = publish(name)
    victim = min(publisher.files)
    whole = publisher.files[victim]
    bad = whole[:-40] if damage == "truncated" else whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    server.published = publisher.files | {victim: bad}
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert_one_line(str(caught.value), victim, "SHA-256", "run again")
    assert not list((tmp_path / "tfds" / "downloads").rglob(f"*{victim}*"))
    assert not (tmp_path / "arrays").exists()

    server.published = publisher.files
    assert_holds(data.load(name), publisher)


def test_a_damaged_file_placed_by_hand_is_refused_by_name(publish, tmp_path):
    publisher = publish("mnist")
    manual = tmp_path / "tfds" / "downloads" / "manual" / "mnist-3.0.1"
    manual.mkdir(parents=True)
    (manual / "t10k-labels-idx1-ubyte.gz").write_bytes(b"half of it")
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert_one_line(str(caught.value), str(manual / "t10k-labels-idx1-ubyte.gz"), "delete the file")

    for name, content in publisher.files.items():
        (manual / name).write_bytes(content)
    assert_holds(data.load("mnist"), publisher)


def test_tensorflow_datasets_itself_enforces_the_checksums(publish, monkeypatch):
    publisher = publish("mnist")

    def put_unchecked(_url_infos: object, directory: Path) -> None:
        directory.mkdir(parents=True)
        for name, content in publisher.files.items():
            (directory / name).write_bytes(content)
        (directory / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_gz(np.zeros(5, np.uint8)))

    monkeypatch.setattr(download, "fetch_missing", put_unchecked)
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz, .*has wrong checksum"):
        data.load("mnist")


@pytest.mark.parametrize("name", MNIST_SETS)
def test_no_data_and_no_network_fails_soon_in_one_line(name, publish, server, tmp_path, capfd):
    publish(name)
    server.shutdown()
    server.server_close()  # Nothing listens there any more.
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        data.load(name)
    assert time.perf_counter() - start < download.TIMEOUT_SECONDS
    assert_one_line(str(caught.value), name, "cannot download", str(tmp_path / "tfds"), *FIXES)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_gone_from_the_server_is_named(publish, server):
    publish("mnist")
    server.published = {}
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert_one_line(str(caught.value), "ubyte.gz (HTTP 404)", *FIXES)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "metadata", "counts"])
def test_damaged_prepared_data_are_refused(damage, cached, tmp_path):
    shutil.rmtree(tmp_path / "arrays")
    prepared = tmp_path / "tfds" / "mnist" / "3.0.1"
    records = next(prepared.glob("mnist-test*"))
    info = prepared / "dataset_info.json"
    match damage:
        case "truncated":
            os.truncate(records, records.stat().st_size // 2)
        case "altered":
            content = bytearray(records.read_bytes())
            content[len(content) // 2] ^= 1
            records.write_bytes(content)
        case "missing":
            records.unlink()
        case "metadata":
            info.write_text("{")
        case "counts":
            info.write_text(info.read_text().replace('"12"', '"11"'))
    why = "'train': 12" if damage == "counts" else ""
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert_one_line(str(caught.value), str(prepared), "cannot be used", why, *FIXES)
    assert not (tmp_path / "arrays").exists()


def test_prepared_data_that_are_not_the_published_ones_are_refused(cached, monkeypatch, tmp_path):
    publisher, _, _ = cached
    shutil.rmtree(tmp_path / "arrays")
    digests = dict(publisher.spec.digests) | {"test_labels": "0" * 64}
    other = dataclasses.replace(publisher.spec, digests=digests)
    monkeypatch.setitem(specs.SPECS, "mnist", other)
    found = publisher.spec.digests["test_labels"]
    with pytest.raises(UserError, match=rf"SHA-256 of test_labels \({found}\) is not that of the"):
        data.load("mnist")
    monkeypatch.setitem(specs.SPECS, "mnist", dataclasses.replace(publisher.spec, digests={}))
    with pytest.raises(UserError, match=rf"train_images \(.*, test_labels \({found}\) is not that"):
        data.load("mnist")  # as for a set that is to be added


def test_data_in_a_format_that_needs_tensorflow_are_refused_in_one_line(cached, tmp_path):
    shutil.rmtree(tmp_path / "arrays")
    info = tmp_path / "tfds" / "mnist" / "3.0.1" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert_one_line(str(caught.value), "TFRECORD", *FIXES)


def test_bits_stored_as_0_and_255_become_0_and_1():
    spec = specs.SPECS["binarized_mnist"]
    bits = np.random.default_rng(0).integers(0, 2, (4, 28, 28), dtype=np.uint8)
    spec = dataclasses.replace(
        spec, splits={"test": 4}, digests={"test_images": specs.digest(bits)}
    )
    stored = bits[..., None]
    for scale in (1, 255):
        arrays = tfds_source.decode({"test": [{"image": image * scale} for image in stored]}, spec)
        np.testing.assert_array_equal(arrays["test_images"], bits)
    with pytest.raises(ValueError, match="a pixel is 2"):
        tfds_source.decode({"test": [{"image": image * 2} for image in stored]}, spec)
