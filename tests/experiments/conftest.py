"""Fixtures of the tests of experiments."""

from collections.abc import Iterator

import pytest

from experiments.settings import Settings
from experiments.sweeps.engines import vmapped
from experiments.training import run
from experiments.training.compiled import Compiled
from experiments.training.placement import Placement


@pytest.fixture(scope="module", name="shared_programs")
def fixture_shared_programs() -> Iterator[None]:
    """Runs of a module's tests share what is compiled, as those of a sweep do.

    Most of their time would be the compiler's. Tests that start processes share nothing.
    """
    kept: dict[str, Compiled] = {}

    class Shared(run.Programs):
        def compiled(self, settings: Settings, placement: Placement) -> Compiled:
            key = repr((settings.program_key(), placement))
            if key not in kept:
                kept[key] = super().compiled(settings, placement)
            return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Programs", Shared)
        patch.setattr(vmapped, "Programs", Shared)
        yield
