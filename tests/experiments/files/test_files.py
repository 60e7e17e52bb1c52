"""Files: two writers do no harm, shapes are checked, names and paths are safe."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import filelock
import pytest

from experiments import files
from experiments.errors import UserError
from experiments.files import Maybe, mismatch

ROOT = Path(__file__).parents[3]

WRITER = """
import json, sys
from pathlib import Path
from experiments.files import write_text
path, mark, times = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for _ in range(times):
    write_text(path, json.dumps({"all": mark * 20_000}))
"""


def test_two_writers_of_one_file_and_a_reader(tmp_path):
    """1,000 writes by two processes: none raises, and no read sees a part."""
    path = tmp_path / "a.json"
    files.write_text(path, json.dumps({"all": "a" * 20_000}))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, mark, "500"], cwd=ROOT, stderr=subprocess.PIPE
        )
        for mark in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        text = files.read_json(path, {"all": str})["all"]
        assert len(text) == 20_000
        seen |= set(text)
        assert len(set(text)) == 1
    for writer in writers:
        assert (writer.wait(), writer.communicate()[1]) == (0, b"")
    assert seen == {"a", "b"}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_writer_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_text(path, "new")
    assert caught.value.filename == str(path)
    assert files.is_no_space(caught.value)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(FileNotFoundError) as missing:
        files.write_text(tmp_path / "none" / "a", "")
    assert missing.value.filename == str(tmp_path / "none" / "a")


def test_a_device_stays_what_it_is(tmp_path):
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    files.write_text(link, "nothing")
    assert link.is_symlink()
    assert list(tmp_path.iterdir()) == [link]


def test_what_killed_writers_left_is_removed(tmp_path):
    (tmp_path / "a.txt").write_text("")
    half = tmp_path / ".a.txt.0123.partial"
    half.write_text("")
    files.remove_partial(tmp_path, older_than=60)
    assert half.exists()
    files.remove_partial(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("value", "shape", "said"),
    [
        (3, dict, "it is an integer, not an object"),
        (None, {"a": int}, "it is null, not an object"),
        ({}, {"a": int}, "it has no a"),
        ({"a": True}, {"a": int}, "a is true or false, not an integer"),
        ({"a": 1.5}, {"a": int}, "a is a number, not an integer"),
        ({"a": "x"}, {"a": float | None}, "a is a string, not a number or null"),
        ({"a": [1, "x"]}, {"a": [int]}, "a[1] is a string, not an integer"),
        ({"a": {"b": []}}, {"a": {"b": dict}}, "a.b is a list, not an object"),
        ({"a": 1, "b": "x"}, {str: int}, "b is a string, not an integer"),
        ({"a": {}}, {"a": ({"b": int}, None)}, "a has no b"),
        ({"a": 1}, {"a": Maybe(str)}, "a is an integer, not a string"),
        ({"a": 1}, {"a": float, "b": Maybe(str)}, ""),
        ({"a": None}, {"a": ({"b": int}, None)}, ""),
        ([{"a": [None]}], [{str: object}], ""),
    ],
)
def test_shapes(value, shape, said):
    assert mismatch(value, shape) == said


def test_the_scratch_directory_and_what_is_abandoned(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parent = tmp_path / "gumbel" / "tmp"
    abandoned, held, fresh = (parent / name for name in ("abandoned", "held", "fresh"))
    before = tempfile.gettempdir()
    for directory in (abandoned, held, fresh):
        directory.mkdir(parents=True)
        (directory / "left").write_text("")
    for directory in (abandoned, held):
        os.utime(directory, (0, 0))
    with filelock.FileLock(held / ".lock"):
        os.utime(held, (0, 0))
        with files.scratch() as directory:
            assert Path(tempfile.mkdtemp()).parent == directory
            assert set(parent.iterdir()) == {held, fresh, directory}
    assert set(parent.iterdir()) == {held, fresh}
    assert tempfile.gettempdir() == before


def test_a_cache_that_cannot_be_written_does_without(tmp_path, monkeypatch):
    (tmp_path / "gumbel").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with files.scratch() as directory:
        assert directory.is_dir()
    assert not directory.exists()


@pytest.mark.parametrize("text", ["../x", "a/b", "", ".hidden", "a b", "a\n", "x" * 200, "é"])
def test_names_that_are_no_names(text):
    with pytest.raises(UserError, match=r"a\.json: .* cannot be part of a file's name"):
        files.name_part(text, "a.json")
