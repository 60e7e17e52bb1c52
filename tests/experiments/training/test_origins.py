"""A run names all the processes that trained it."""

import pytest

from experiments.training import origins, provenance, records, run
from tests.experiments import small

pytestmark = pytest.mark.usefixtures("shared_programs")


def made_by(commit, jax="0.9"):
    git = {"commit": commit, "dirty": False}
    return {"versions": {"jax": jax}, "device": {"kind": "cpu"}, "git": git}


def commits(found):
    return [(each["from_step"], each["git"]["commit"]) for each in found]


def test_a_process_that_resumes_is_added_if_it_differs(tmp_path):
    assert commits(origins.note(tmp_path, 0, made_by("a"))) == [(0, "a")]
    assert commits(origins.note(tmp_path, 20, made_by("a"))) == [(0, "a")]
    assert commits(origins.note(tmp_path, 40, made_by("b"))) == [(0, "a"), (40, "b")]
    # Killed before its next checkpoint, so its steps are taken again.
    assert commits(origins.note(tmp_path, 40, made_by("c"))) == [(0, "a"), (40, "c")]
    assert commits(origins.note(tmp_path, 0, made_by("d"))) == [(0, "d")]


def test_a_result_names_the_commits_and_versions_of_all_its_steps(tmp_path, monkeypatch):
    here = provenance.provenance()
    sizes = {"eval_every": 20, "checkpoint_every": 20, "test_num_samples": 2}
    run.train(small.settings(num_steps=20, **sizes), tmp_path, progress=False)
    later = here | {"git": {"commit": "later", "dirty": True}}
    monkeypatch.setattr(provenance, "provenance", lambda: later)
    result = run.train(small.settings(num_steps=40, **sizes), tmp_path, progress=False)
    first, second = result["origins"]
    assert first == {"from_step": 0, **provenance.origin(here)}
    assert second == {"from_step": 20, **provenance.origin(later)}
    assert records.read_json(tmp_path / "result.json")["origins"] == [first, second]
