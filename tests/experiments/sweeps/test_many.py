"""A sweep of a thousand runs: it ends, in memory that does not grow with the runs."""

import pytest

from experiments.files import read_json
from scripts import many_runs


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["process", "vmap"])
def test_a_thousand_runs(tmp_path, engine):
    cost = many_runs.measured(tmp_path, 1000, engine)
    assert cost.late < 1.1 * cost.early
    rows = read_json(tmp_path / "sweep" / "table.json")["rows"]
    assert [len(row["by_seed"]) for row in rows] == [100] * 10
