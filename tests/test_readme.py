"""The README's claims that a machine can check: its code runs, its results come from results/."""

import re
from pathlib import Path

from gumbel import estimators
from scripts import readme

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_library_example_runs_and_learns(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    before, after = map(float, capsys.readouterr().out.split(" -> "))
    assert after < 0.1 * before


def test_results_section_is_what_the_result_files_give():
    assert readme.rendered(TEXT, readme.section(ROOT / "results")) == TEXT


def test_estimators_in_the_table_are_registered():
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (?:un)?biased", TEXT, flags=re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert len(named) >= 8
    assert named <= set(estimators.names())


def test_pictures_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).is_file()


def test_it_is_a_front_page():
    assert len(TEXT.splitlines()) <= 180


def test_links_lead_somewhere():
    for path in re.findall(r"[^!]\[[^]]*\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / path).exists(), path
