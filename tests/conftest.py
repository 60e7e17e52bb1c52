"""Settings that have to be made before jax and matplotlib are imported by any test."""

import atexit
import os
import shutil
import tempfile

# Tests must give the same numbers with or without an accelerator; a caller may still choose one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Many tests train in processes of their own, which then compile the same small programs once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="gumbel-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
