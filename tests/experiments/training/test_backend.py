"""What a command says where jax cannot start."""

import jax
import pytest

from experiments.errors import UserError
from experiments.sweeps import engines
from experiments.training import backend, provenance
from experiments.training.placement import Placement

ASKED = {
    "devices": backend.devices,
    "local_devices": backend.local_devices,
    "engine": engines.default,
    "provenance": provenance.provenance,
    "run": lambda: Placement.of_runs(1, None),
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to initialize backend 'tpu':\nit is in use"), "it is in use"),
        (AssertionError(), "JAX_PLATFORMS names none that is installed"),
    ],
)
def test_a_backend_that_cannot_start_is_the_users_to_fix(monkeypatch, name, error, reason):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(UserError, match=f"jax cannot start its backend .*{reason}.*JAX_PLATFORMS"):
        ASKED[name]()
