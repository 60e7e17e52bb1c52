"""Settings that have to be made before jax and matplotlib are imported by any test."""

import atexit
import contextlib
import os
import tempfile

from experiments.files import scratch

# Tests must give the same numbers with or without an accelerator; a caller may still choose one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# All temporary files go where they are removed at the end, or after a kill by the next tests. The
# workers of pytest-xdist are given the directory of the process that starts them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("RAY_TMPDIR", tempfile.gettempdir())  # Ray needs a short path for sockets
    _stack = contextlib.ExitStack()
    os.environ["TMPDIR"] = str(_stack.enter_context(scratch()))
    atexit.register(_stack.close)

# Many tests train in processes of their own, which then compile the same small programs once.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.environ["TMPDIR"], "compiled")  # noqa: PTH118
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
