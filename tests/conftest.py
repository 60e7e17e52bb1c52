"""Settings that have to be made before jax and matplotlib are imported by any test."""

import os

# Tests must give the same numbers with or without an accelerator; a caller may still choose one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
