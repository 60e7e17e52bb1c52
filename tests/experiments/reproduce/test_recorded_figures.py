"""Figures that are drawn from records: the committed ones show what the records hold."""

from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.reproduce import recorded_figures, targets
from experiments.reproduce.drawing import Drawing
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import PRESETS
from tests.experiments.reproduce.test_tables import finish

RESULTS = Path(__file__).parents[3] / "results"
COMMITTED = [(target, "short", RESULTS) for target in targets.DRAWN]
COMMITTED += [(target, "full", RESULTS / "full") for target in recorded_figures.CURVES]


@pytest.mark.parametrize(("target", "preset", "results"), COMMITTED)
def test_committed_figures_are_of_the_committed_records(target, preset, results, tmp_path):
    drawing = targets.drawing(target, preset, tmp_path, results)
    assert drawing.lines
    path = results / "figures" / f"{target}.png"
    command = f"python -m experiments.reproduce {target} --preset={preset} --results={results}"
    assert drawing.outdated(path) == [], f"draw it again: {command} --workdir=DIR"
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(name="table")
def fixture_table(tmp_path):
    preset = PRESETS["smoke"]._replace(rows=("sbn_bernoulli", "sbn_categorical"))
    return Table1(preset, tmp_path / "work", tmp_path / "results")


def finals(table):
    """Finishes what the table trains of its first row."""
    for wave in table.waves():
        for job in wave.jobs:
            if "sbn_bernoulli" in str(job.workdir):
                finish(job, valid=60.0, test=60.0)
        if "seed 1" in wave.name:
            return


def test_a_figure_says_which_cells_have_changed_since(table, tmp_path):
    with pytest.raises(UserError, match="no final run of SBN"):
        recorded_figures.curves("figure3", table)
    finals(table)
    path = tmp_path / "figure3.png"
    drawing = recorded_figures.curves("figure3", table.fresh())
    cells = ["sbn_bernoulli-gumbel_softmax", "sbn_bernoulli-sf"]
    assert drawing.outdated(path) == cells  # never drawn
    drawing.write(path)
    assert path.stat().st_size > 10_000
    assert drawing.outdated(path) == []
    records = tmp_path / "results" / "table1" / "final" / "sbn_bernoulli-sf"
    for record in records.iterdir():
        record.write_text(record.read_text().replace("61.0", "61.5"))
    assert recorded_figures.curves("figure3", table.fresh()).outdated(path) == ["sbn_bernoulli-sf"]


def test_a_line_that_is_gone_is_found(tmp_path):
    path = tmp_path / "figure.png"
    Drawing({"st": [1.0], "sf": [2.0]}, Path.touch).write(path)
    assert Drawing({"st": [1.0]}, Path.touch).outdated(path) == ["sf"]
