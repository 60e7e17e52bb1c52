"""The laboratory while a model trains: measured once at every step, and drawn."""

from experiments.lab import figures
from experiments.lab.measure import Request
from experiments.reproduce import stages

PRESET = stages.PRESETS["smoke"]._replace(
    rows=("sbn_bernoulli",),
    steps=(0, 20, 40),
    request=Request(("st", "gumbel_softmax"), (0.5,), 10, 0, 20, 4, 64),
)


def test_every_stage_is_measured_once_and_drawn(tmp_path, monkeypatch):
    def run():
        return list(stages.stages(PRESET, tmp_path / "work", tmp_path / "results", lambda *_: None))

    first = run()
    assert [(stage.row, stage.step) for stage in first] == [
        ("sbn_bernoulli", 0),
        ("sbn_bernoulli", 20),
        ("sbn_bernoulli", 40),
    ]
    norms = {stage.found.of_group()[0].norm for stage in first}
    assert len(norms) == 3  # the model has learned in between
    paths = sorted(path.name for path in (tmp_path / "results" / "lab").iterdir())
    assert paths == [f"sbn_bernoulli-{step}.json" for step in (0, 20, 40)]

    monkeypatch.setattr(stages.run, "train", None)  # what is recorded is not trained again
    monkeypatch.setattr(stages.measure, "measure", None)
    assert run() == first
    monkeypatch.undo()
    (tmp_path / "results" / "lab" / "sbn_bernoulli-20.json").unlink()
    assert run()[1].found.of_group()[0].norm == first[1].found.of_group()[0].norm
    figures.draw_stages(tmp_path / "lab.png", {"sbn": {s.step: s.found for s in first}})
    assert (tmp_path / "lab.png").stat().st_size > 10_000
