"""The results page's sections beyond the paper, on made-up files."""

from experiments.training import records
from gumbel.lab import Comparison, Row
from scripts import beyond_tables, results_tables


def row(estimator, *, unbiased, bias, variance):
    error = variance + bias**2
    interval, milliseconds = (bias, bias), 1.0
    numbers = (bias, interval, variance, error, 0.5, 2.0, 2, milliseconds)
    return Row(estimator, None, "all", unbiased, *numbers)


def test_each_stage_names_the_best_estimator_by_time(tmp_path):
    biased = row("st", unbiased=False, bias=1.0, variance=4.0)
    unbiased = row("rloo", unbiased=True, bias=0.0, variance=8.0)
    found = Comparison("enumeration", (biased, unbiased), {})
    (tmp_path / "lab").mkdir()
    records.write_json(
        tmp_path / "lab" / "sbn_bernoulli-1000.json", {"request": {"config": {}}, **found.as_dict()}
    )
    text = beyond_tables.sections(tmp_path)
    # No step is timed here, so each has the time of the record.
    # (1 + 4) / 4 at once; the noise falls by a hundred, the bias does not.
    assert "| sbn, bernoulli | 1,000 | enumeration | st: 1.2 | rloo: 0.02 |" in text
    assert "survey" not in text


def test_tables_are_shown_where_they_are(tmp_path):
    assert beyond_tables.sections(tmp_path) == ""
    (tmp_path / "survey.md").write_text("| columns |\n")
    cells = [
        {"row": row, "estimator": "st", "jax": [jax]} for row, jax in (("x", "0.9"), ("y", "0.10"))
    ]
    records.write_json(tmp_path / "survey.json", {"cells": cells})
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "toys.png").touch()
    text = beyond_tables.sections(tmp_path)
    assert "## Every estimator on the rows of Table 1\n\n| columns |" in text
    assert "with 0.9, `st` (x); with 0.10, `st` (y)." in " ".join(text.split())
    assert "](../../results/figures/toys.png)" in text


def test_both_protocols_stand_beside_each_other(tmp_path):
    (tmp_path / "runs").mkdir()
    for folder, cells in ((tmp_path, "| ours |\n"), (tmp_path / "full", "| full |\n")):
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / "figure3.png").touch()
        (folder / "table1.md").write_text(cells)
    (tmp_path / "table2.md").write_text("| alphas |\n")
    text = results_tables.results_page(tmp_path)
    shown = ["| ours |", "by the paper's protocol\n\n| full |", "| alphas |"]
    shown += ["results/figures/figure3.png)", "results/full/figures/figure3.png)"]
    places = [text.index(each) for each in shown]
    assert places == sorted(places)
