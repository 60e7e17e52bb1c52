"""Settings that have to be made before jax and matplotlib are imported by any test."""

import atexit
import contextlib
import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from importlib import metadata

import pytest

from experiments.files import scratch

# Tests must give the same numbers with or without an accelerator; a caller may still choose one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# As for a command, see `experiments`: errors of jax 0.9 about its cache fill the pipe that a test
# does not read until the end, and hold the process up.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Most of the suite's time is the compiler's. Without LLVM's optimizations programs compile in half
# of it, and compute the same up to rounding, several times as slowly. With 0 in the environment
# they are compiled as for users; `make slow` does so.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Each operation of a program is given the lines of Python that it comes from, which only a profile
# shows: an eighth of the time of a test that compiles.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

# jaxlib 0.9, that of Python 3.11, can also leave out the slow half of what remains. Later releases
# do not know the flags.
if "XLA_FLAGS" not in os.environ and metadata.version("jaxlib").startswith("0.9."):
    os.environ["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )

# Traces are millions of small objects, nearly all of which live: looking for garbage among them as
# often as is the default takes a tenth of the time.
gc.set_threshold(100_000, 20, 50)

# In the background of a shell Ctrl-C is ignored, and so it would be by every process of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="module", name="optimized")
def fixture_optimized() -> Iterator[None]:
    """Compiles with optimizations: for files about bits, or with millions of draws."""
    import jax

    name = "JAX_DISABLE_MOST_OPTIMIZATIONS"
    before = os.environ[name].lower() in {"1", "true", "t", "yes", "y", "on"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, "0")  # for the processes that a test starts
        jax.config.update(name.lower(), False)
        yield
        jax.config.update(name.lower(), before)
