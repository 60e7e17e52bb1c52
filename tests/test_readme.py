"""The README's claims that a machine can check: its code runs, its results come from results/."""

import json
import re
from pathlib import Path

import pytest

from gumbel import estimators
from scripts import page_tables

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_library_example_prints_what_its_comment_says():
    """And the check that follows it finds nothing."""
    printed: list[object] = []
    scope = {"print": printed.append}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)
    [promised] = re.findall(r"^print\(f.*# (.* -> .*)$", BLOCKS[0], flags=re.MULTILINE)
    said, report = printed
    assert said == promised
    assert report.ok, str(report)


@pytest.mark.parametrize("name", page_tables.PAGES)
def test_tables_are_what_the_result_files_give(name):
    page = (ROOT / name).read_text()
    up_to_date = page_tables.rendered(page, page_tables.PAGES[name](ROOT / "results")) == page
    assert up_to_date, "run python -m scripts.page_tables"


def test_a_cell_is_close_within_a_nat_of_the_paper(tmp_path):
    def write(directory, cells):
        directory.mkdir(exist_ok=True)
        text = json.dumps({"preset": {"seeds": 1}, "cells": cells})
        (directory / "table1.json").write_text(text)

    cells = [
        {"row": "sbn_bernoulli", "estimator": name, "paper": 60.0, "seeds": 1, "ci95": None} | mean
        for name, mean in (
            ("st", {"mean": 60.9}),
            ("sf", {"mean": 61.1}),
            ("darn", {}),
            ("nvil", {"mean": 60.0}),  # not of the paper's table
        )
    ]
    old = {"mean": 62.0, "steps": 50_000, "jax": ["0.10.2"]}
    write(tmp_path, [cell | old for cell in cells])
    write(tmp_path / "full", [cell | {"steps": 500_000} for cell in cells])
    text = page_tables.by_both_protocols(tmp_path)
    assert "has 2 of the 3 cells. 1\nof them" in text
    assert "| 500,000 steps | paper | 50,000 steps |" in text
    assert "| sbn, bernoulli | `sf` | 61.1, one seed | 60.0 | 62.0, one seed † |" in text
    assert "nvil" not in text


PASSES = {
    "1": "1 + 1",
    "2": "2 + 2",
    "`m`": "m + m",
    "2 `m`": "2 * m + 2 * m",
    "1 + one per layer": "(1 + L) + (1 + L)",
    "`m`, and `m` forward passes per other value of each variable": "m * (1 + V) + m",
    "one per joint value": "N + N",
}


def test_the_table_has_all_estimators_and_what_is_true_of_them():
    lines = TEXT.split("| estimator | gradient |")[1].split("\n\n")[0].splitlines()[2:]
    named = []
    for line in lines:
        names, gradient, passes = line.strip("|").split("|")
        for name in re.findall(r"`(\w+)`", names):
            spec = estimators.spec(name)
            assert spec.unbiased == (re.match(r" (unbiased|exact)", gradient) is not None), name
            assert not (spec.smooth and "needs no derivative" in gradient), name
            assert spec.passes == PASSES[passes.strip()], name
            named.append(name)
    assert sorted(named) == sorted(estimators.names())


def test_pictures_exist():
    paths = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert paths
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_it_is_a_front_page():
    assert len(TEXT.splitlines()) <= 180


def test_links_lead_somewhere():
    paths = re.findall(r"[^!]\[[^]]*\]\((?!http)([^)#]+)\)", TEXT)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path
