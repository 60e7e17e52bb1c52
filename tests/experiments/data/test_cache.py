"""The cache of decoded arrays: verified, rebuilt, shared, and enough by itself."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from experiments import data
from experiments.data import cache, specs
from experiments.errors import UserError
from tests.experiments.data.publishing import (
    FIXES,
    ROOT,
    assert_holds,
    assert_one_line,
    make_arrays,
    run_python,
)


def test_manifest_states_version_counts_and_checksums(cached):
    publisher, _, manifest_path = cached
    manifest = json.loads(manifest_path.read_text())
    assert manifest["version"] == "3.0.1"
    assert manifest["counts"] == {"train": 12, "test": 5}
    found = {name: entry["sha256"] for name, entry in manifest["arrays"].items()}
    assert found == publisher.spec.digests


def damage_cache(damage: str, arrays_path: Path, manifest_path: Path) -> None:
    content = bytearray(arrays_path.read_bytes())
    match damage:
        case "truncated":
            arrays_path.write_bytes(content[: len(content) // 2])
        case "empty":
            arrays_path.write_bytes(b"")
        case "pixel":
            content[len(content) // 2] ^= 1
            arrays_path.write_bytes(content)
        case "rewritten":  # A sound file, as its own checksums go, of other content.
            with np.load(arrays_path) as file:
                arrays = dict(file)
            arrays["train_images"] = arrays["train_images"] ^ 1
            np.savez(arrays_path, **arrays)
        case "manifest":
            manifest_path.write_text("{")
        case "checksum":
            manifest_path.write_text(
                manifest_path.read_text().replace('"sha256": "', '"sha256": "0')
            )


DAMAGES = ("truncated", "empty", "pixel", "rewritten", "manifest", "checksum")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_rebuilt_with_one_warning(damage, cached, caplog):
    publisher, arrays_path, manifest_path = cached
    damage_cache(damage, arrays_path, manifest_path)
    with caplog.at_level(logging.WARNING, "experiments"):
        assert_holds(data.load("mnist"), publisher)
        (record,) = caplog.records
        assert_one_line(record.getMessage(), str(arrays_path), "rebuilding")
        assert_holds(data.load("mnist"), publisher)  # Rebuilt for good: no second warning.
    assert len(caplog.records) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_that_cannot_be_rebuilt_is_refused(damage, cached, server, tmp_path):
    _, arrays_path, manifest_path = cached
    damage_cache(damage, arrays_path, manifest_path)
    shutil.rmtree(tmp_path / "tfds")
    server.published = {}
    with pytest.raises(UserError) as caught:
        data.load("mnist")
    assert_one_line(str(caught.value), str(arrays_path), "cannot be rebuilt", *FIXES)


def test_a_consistent_cache_of_other_data_is_not_used(cached, caplog, tmp_path):
    publisher, arrays_path, _ = cached
    other = publisher.arrays | {"train_images": publisher.arrays["train_images"] ^ 1}
    cache.write(arrays_path.parent, publisher.spec, other)
    assert_holds(data.load("mnist"), publisher)
    assert "does not hold mnist 3.0.1 as published" in caplog.text


def test_an_interrupted_write_leaves_no_cache_and_no_litter(publish, monkeypatch, tmp_path):
    publisher = publish("mnist")

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.write(tmp_path / "arrays", publisher.spec, publisher.arrays)
    assert list((tmp_path / "arrays").iterdir()) == []
    assert cache.read(tmp_path / "arrays", publisher.spec) is None


@pytest.mark.parametrize("obstacle", ["file_above", "file_in_place", "directory_in_place"])
def test_a_cache_that_cannot_be_written_costs_a_warning_only(obstacle, publish, caplog, tmp_path):
    # Obstacles rather than permissions, which do not stop a superuser.
    publisher = publish("mnist")
    cache_dir = tmp_path / "arrays"
    match obstacle:
        case "file_above":
            cache_dir.write_text("")
            cache_dir = cache_dir / "deeper"
        case "file_in_place":
            cache_dir.write_text("")
        case "directory_in_place":
            cache.paths(cache_dir, publisher.spec)[1].mkdir(parents=True)
    assert_holds(data.load("mnist", cache_dir=str(cache_dir)), publisher)
    assert "cannot cache mnist" in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_arguments_come_before_the_environment(publish, tmp_path):
    publisher = publish("mnist")
    prepared, arrays = tmp_path / "elsewhere", tmp_path / "other_arrays"
    data.load("mnist", data_dir=str(prepared), cache_dir=str(arrays))
    assert (prepared / "mnist" / "3.0.1").is_dir()
    assert cache.paths(arrays, publisher.spec)[0].is_file()
    assert not (tmp_path / "tfds").exists()
    assert not (tmp_path / "arrays").exists()


WRITE_AND_READ = """
import json, sys
from pathlib import Path
import numpy as np
from experiments.data import cache, specs

directory = Path(sys.argv[1])
arrays = {'train_images': np.arange(28 * 28 * 400, dtype=np.uint8).reshape(400, 28, 28)}
digests = {name: specs.digest(array) for name, array in arrays.items()}
spec = specs.Spec('mnist', '0.0.1', {'train': 400}, 0, 255, (28, 28), None, True, digests)
for _ in range(40):
    cache.write(directory, spec, arrays)
    assert (cache.read(directory, spec)['train_images'] == arrays['train_images']).all()
"""


def test_processes_that_start_at_once_do_each_other_no_harm(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_READ, str(tmp_path)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mnist-0.0.1.json",
        "mnist-0.0.1.npz",
    ]


# What only preparing needs: a GPU machine that trains from a copied cache may lack all of it.
BLOCK = """
import sys
for module in ('tensorflow_datasets', 'tensorflow', 'array_record', 'requests', 'PIL', 'sklearn'):
    sys.modules[module] = None
"""

WARM_START = (
    BLOCK
    + """
import dataclasses, json, time
start = time.perf_counter()
from experiments import data
from experiments.data import specs
manifest = json.load(open(sys.argv[1]))
digests = {name: entry['sha256'] for name, entry in manifest['arrays'].items()}
specs.SPECS['mnist'] = dataclasses.replace(specs.SPECS['mnist'], digests=digests)
data.load('mnist')
seconds = [time.perf_counter() - start]  # With the imports.
for _ in range(2):
    start = time.process_time()
    dataset = data.load('mnist')
    seconds.append(time.process_time() - start)
print(len(dataset.train), len(dataset.validation), len(dataset.test), min(seconds))
"""
)


def test_loading_from_the_cache_takes_under_a_second_and_no_tensorflow_datasets(tmp_path):
    # Arrays of the real size and random content, so that no real data are needed.
    spec = specs.SPECS["mnist"]
    cache.write(tmp_path, spec, make_arrays("mnist", dict(spec.splits)))
    manifest_path = cache.paths(tmp_path, spec)[1]
    result = run_python("-c", WARM_START, str(manifest_path), GUMBEL_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr
    *counts, seconds = result.stdout.split()
    assert counts == ["50000", "10000", "10000"]
    assert float(seconds) < 1.0


def test_no_cache_and_no_tensorflow_datasets_is_one_line(tmp_path):
    code = BLOCK + "from experiments import data\ndata.load('mnist')"
    result = run_python("-c", code, GUMBEL_CACHE_DIR=str(tmp_path))
    message = result.stderr.splitlines()[-1]
    assert message.startswith("experiments.errors.UserError: mnist is not cached")
    assert_one_line(message, "tensorflow-datasets", "GUMBEL_CACHE_DIR", "--config.dataset=digits")


def test_arrays_of_another_machine_replace_a_damaged_cache_or_go_elsewhere(
    cached, tmp_path, monkeypatch
):
    publisher, arrays_path, _ = cached
    arrays = cache.read(arrays_path.parent, publisher.spec)
    monkeypatch.setitem(specs.SPECS, "mnist", publisher.spec)
    monkeypatch.setenv("GUMBEL_CACHE_DIR", str(arrays_path.parent))
    arrays_path.write_bytes(arrays_path.read_bytes()[:100])
    data.cache_arrays("mnist", arrays)
    assert cache.read(arrays_path.parent, publisher.spec) is not None
    (tmp_path / "file").touch()
    monkeypatch.setenv("GUMBEL_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    data.cache_arrays("mnist", arrays)
    assert os.environ["GUMBEL_CACHE_DIR"] == str(tmp_path / "gumbel-")
    assert cache.read(tmp_path / "gumbel-", publisher.spec) is not None
