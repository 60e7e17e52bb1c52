"""A run names all the processes that trained it."""

from experiments.training import origins


def made_by(commit, jax="0.9"):
    git = {"commit": commit, "dirty": False}
    return {"versions": {"jax": jax}, "device": {"kind": "cpu", "cores": 2}, "git": git}


def commits(found):
    return [(each["from_step"], each["git"]["commit"]) for each in found]


def test_a_process_that_resumes_is_added_if_it_differs(tmp_path):
    assert commits(origins.note(tmp_path, 0, made_by("a"))) == [(0, "a")]
    assert commits(origins.note(tmp_path, 20, made_by("a"))) == [(0, "a")]
    assert commits(origins.note(tmp_path, 40, made_by("b"))) == [(0, "a"), (40, "b")]
    # Killed before its next checkpoint, so its steps are taken again.
    assert commits(origins.note(tmp_path, 40, made_by("c"))) == [(0, "a"), (40, "c")]
    assert commits(origins.note(tmp_path, 0, made_by("d"))) == [(0, "d")]
