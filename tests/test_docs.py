"""The documentation's claims that need no build: generated pages, commands, the new estimator."""

import importlib.util
import os
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from absl import flags

import gumbel
from experiments import config
from experiments.config import cli
from experiments.reproduce import targets
from experiments.sweeps import grids
from experiments.training import records
from gumbel import estimators
from scripts import docs_pages, results_tables

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "estimators"]
PAGES = [ROOT / "README.md", *sorted(WRITTEN)]
TRAINING = {"experiments.train", "experiments.sweep"}
FENCED = re.DOTALL | re.MULTILINE
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", flags=FENCED)


def commands() -> list[tuple[str, str]]:
    """Each command of the pages and config files that trains and that no build executes."""
    found = []
    for page in [*PAGES, *sorted((ROOT / "configs").glob("*.py"))]:
        text = CELL.sub("", page.read_text()).replace("\\\n", " ")
        # Also after `srun`, a variable or `taskset`, and within a sentence.
        lines = re.findall(r"python -m experiments\.(?:train|sweep) [^`|\n]*", text)
        lines = [re.split(r" {2,}#|\s#\s|&", line)[0].strip() for line in lines]
        # An odd quote closes one that was opened before the command; a variable is a number.
        lines = [line[:-1] if any(line.count(q) % 2 for q in "'\"") else line for line in lines]
        found += [(page.name, re.sub(r"\$\w+", "1", line)) for line in lines]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_understood(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    [_, _, module, *arguments] = shlex.split(command)
    if any(argument.startswith("--report") for argument in arguments):  # which stands alone
        assert len(arguments) == 1
        return
    kept, grid = [], []
    while arguments:
        argument = arguments.pop(0)
        name, _, value = argument.partition("=")
        if name == "--grid":
            grid.append(value or arguments.pop(0))
        elif argument not in ("--help", "..."):
            kept.append(argument)
    for needed in ("--config=configs/sbn.py", "--workdir=none"):
        if not any(argument.startswith(needed.partition("=")[0] + "=") for argument in kept):
            kept.append(needed)
    parsed = cli.parse(kept, importlib.import_module(module).define_flags).config
    assert all(grids.parse(text, parsed) for text in grid), page


def test_there_are_commands_to_check():
    assert len(commands()) > 15


def other_commands() -> list[tuple[str, str]]:
    """Each command of the pages that does not train, wherever it stands."""
    found = []
    for page in [*PAGES, ROOT / "results" / "README.md"]:
        text = page.read_text().replace("\\\n", " ")
        lines = re.findall(r"python -m ((?:experiments|scripts)\.[a-z_]+[^`\n#;|]*)", text)
        found += [(page.name, line.strip()) for line in lines]
    return [(page, line) for page, line in found if line.split()[0] not in TRAINING]


@pytest.mark.parametrize(("page", "command"), other_commands())
def test_flags_of_other_commands_exist(page, command):
    name, *arguments = shlex.split(command)
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    values = flags.FlagValues()
    define = getattr(importlib.import_module(name), "define_flags", lambda _values: None)
    define(values)
    placeholders = [text for text in arguments if re.fullmatch(r"--\w+=[A-Z]+|\.\.\.", text)]
    _, *rest = values([name, *(text for text in arguments if text not in placeholders)])
    assert all(text == "..." or text[2:].partition("=")[0] in values for text in placeholders)
    if name == "experiments.reproduce.__main__" and rest:
        assert rest[0] in targets.ALL


def test_there_are_other_commands_to_check():
    assert len(other_commands()) > 20


def imports() -> list[tuple[str, str]]:
    """The lines in the code of the pages that import from packages of ours, with their page."""
    found = []
    for page in PAGES:
        for code in re.findall(r"^```(?:\{code-cell\}|python).*?^```$", page.read_text(), FENCED):
            ours = r"^from (?:gumbel|experiments|configs|scripts)\b.*$"
            found += [(page.name, line) for line in re.findall(ours, code, re.MULTILINE)]
    return found


@pytest.mark.parametrize(("page", "line"), imports())
def test_names_that_pages_import_exist(page, line):
    exec(line, {})


def test_every_paper_that_a_docstring_cites_is_on_the_page_of_references():
    listed = re.sub(r"\s+", " ", (ROOT / "docs" / "references.md").read_text())
    cited = set()
    for path in sorted((ROOT / "gumbel").rglob("*.py")):
        for source in re.findall(
            r"Source: (.*?)(?:\n *\n|\n *\"\"\"|\Z)", path.read_text(), FENCED
        ):
            parts = re.sub(r"\s+", " ", source).split("; ")
            cited |= {
                found[0] for part in parts if (found := re.match(r"[A-Z].*? \(\d{4}\)", part))
            }
    assert len(cited) > 25
    assert sorted(paper for paper in cited if f"- {paper}" not in listed) == []


def test_there_are_imports_to_check():
    assert len(imports()) > 10


def test_new_estimator_of_the_how_to_is_a_whole_estimator(capsys):
    cells = CELL.findall((ROOT / "docs" / "howto" / "estimator.md").read_text())
    names = set(estimators.names())
    scope: dict[str, object] = {}
    try:
        exec(compile(cells[0], "estimator.md", "exec"), scope)
        [added] = set(estimators.names()) - names
        assert list(estimators.spec(added).options) == ["sharpness"]
        exec(compile(cells[1], "estimator.md", "exec"), scope)  # uses it, and unregisters it
        assert set(estimators.names()) == names
    finally:
        for left in set(estimators.names()) - names:
            estimators.unregister(left)
    assert "nan" not in capsys.readouterr().out


def test_an_estimator_gets_its_page_when_it_is_registered(tmp_path):
    @estimators.register("brand_new", unbiased=False, passes="3 + 3")
    def brand_new(family, *, sharpness: float = 2.0):
        """New."""
        return estimators.st(family)

    try:
        page = docs_pages.estimator_page("brand_new", {}, tmp_path)
        assert "3 + 3" in page
        assert "`sharpness`" in page
        assert "## Measured" not in page
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "brand_new.md").write_text("By hand.")
        assert "By hand." in docs_pages.estimator_page("brand_new", {}, tmp_path)
        assert "[`brand_new`](brand_new.md)" in docs_pages.overview({})
    finally:
        estimators.unregister("brand_new")


@pytest.mark.parametrize("name", estimators.names())
def test_the_code_on_the_page_of_an_estimator_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = docs_pages.estimator_page(name, {}, ROOT / "docs")
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(block, {"gumbel": gumbel})
    lines = page.replace("\\\n", " ").splitlines()
    [command] = [line for line in lines if line.startswith("python -m experiments.train ")]
    settings = config.read(cli.parse(shlex.split(command)[3:]).config)
    assert settings.estimator.name == name


def test_the_overview_says_of_which_bounds_seeds_are_missing(tmp_path):
    cell = {"row": "sbn_bernoulli", "estimator": "rloo", "seeds": 2, "ms": None}
    survey = {"preset": {"seeds": 3}, "cells": [cell | {"mean": 58.34, "ci95": [58.14, 58.54]}]}
    records.write_json(tmp_path / "survey.json", survey)
    cells = results_tables.cells_of(tmp_path / "survey.json")
    assert "| 58.3 ± 0.2, 2 of 3 seeds |" in docs_pages.overview(cells)


def test_second_derivatives_are_those_of_the_registry():
    text = (ROOT / "docs" / "howto" / "mixed.md").read_text()
    [sentence] = re.findall(r"## Second derivatives\s+For ([^.]*?)\sderivatives of the", text)
    named = re.findall(r"`(\w+)`", sentence)
    assert sorted(named) == sorted(
        name for name in estimators.names() if estimators.spec(name).derivatives == "all"
    )


def test_each_note_is_of_an_estimator():
    notes = {path.stem for path in (ROOT / "docs" / "notes").glob("*.md")}
    assert len(notes) > 20
    assert notes <= set(estimators.names())


def test_links_between_pages_lead_somewhere():
    docs = ROOT / "docs"
    generated = {docs / "estimators" / f"{name}.md" for name in ("index", *estimators.names())}
    generated.add(docs / "reproduction" / "results.md")
    found = []
    for page in PAGES:
        # A note becomes a part of its estimator's page.
        start = docs / "estimators" if page.parent.name == "notes" else page.parent
        for path in re.findall(r"\]\((?!http)([^)#\s]+\.md)", page.read_text()):
            found.append(path)
            target = Path(os.path.normpath(start / path))
            assert target in generated or target.exists(), f"{page.name}: {path}"
    assert len(found) > 50


def test_how_soft_samples_are_by_the_number_of_values():
    """The numbers that `choose.md` has of samples at uniform logits."""

    def largest(num_values, temperature, num_draws=20_000):
        logits = jnp.zeros((num_draws, num_values))
        y = gumbel.gumbel_softmax(jax.random.key(1), logits, temperature)
        return float(y.max(axis=-1).mean())

    text = " ".join((ROOT / "docs" / "choose.md").read_text(encoding="utf-8").split())
    said = re.search(
        r"1 is (0\.\d+) on average with 2 values, (0\.\d+) with 10, and (0\.\d+) ", text
    )
    assert said
    # Standard errors are at most 0.0015.
    for number, num_values in zip(said.groups(), (2, 10, 1024), strict=True):
        assert abs(largest(num_values, 1.0) - float(number)) < 0.012
    assert largest(1024, 0.1) > 0.92
