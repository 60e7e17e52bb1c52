"""Fixtures of the tests of sweeps."""

from pathlib import Path

import pytest

from experiments import sweep
from experiments.config import cli
from tests.experiments.sweeps.launching import CONFIG


@pytest.fixture(scope="module", name="home")
def fixture_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a config file and a cache of compiled programs, for speed alone."""
    home = tmp_path_factory.mktemp("sweeps")
    (home / "config.py").write_text(CONFIG)
    return home


@pytest.fixture(name="fail")
def fixture_fail(home, capsys):
    """The error line of a sweep that must be refused."""

    def fail(*arguments: str, workdir: str = "refused", config: str = "config.py") -> str:
        files = [f"--config={home / config}", f"--workdir={home / workdir}"]
        assert cli.run(sweep.main, [*files, *arguments], sweep.define_flags) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return fail
