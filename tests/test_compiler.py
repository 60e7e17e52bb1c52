"""The compiler under us: programs that a release of jax has computed wrongly on CPU.

jax 0.10.2 fuses a matrix product with the reduction after it, and then drops or misplaces part of
the result, or crashes, where the product is long in one axis or its operands have many axes:

* https://github.com/jax-ml/jax/issues/39103, the product of a matrix and vectors under vmap;
* https://github.com/jax-ml/jax/issues/39352, a related report;
* https://github.com/jax-ml/jax/issues/39257 and 40412, operands of rank 7 and more.

jax 0.9.1 to 0.10.1 get a narrower program wrong too: the plain sum over the columns of `w @ x.T` in
float32, with `w` of shape [2, 3] and `x` of 32,769 or 40,000 rows (65,537 and 100,000 were right).

All inputs are small integers, so that float32 and float64 hold every sum exactly, in any order, and
NumPy's int64 gives the answer to compare with: no tolerance hides a wrong sum.
"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compiling import optimized_jit

pytestmark = pytest.mark.usefixtures("optimized")

# One more than the length at which the faulty fusion starts a second block.
LENGTHS = [("float32", 32_769), ("float64", 16_385)]


def advice() -> str:
    """What to do about a failing test of this file."""
    version = jax.__version__
    return (
        f"jax {version} miscomputes this on {jax.default_backend()}: exclude it in pyproject.toml "
        f'("jax!={version}", "jaxlib!={version}"), run `make lock`, and install another release'
    )


def integers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(-8, 9, shape)


def check(function, dtype: str, *operands: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() < 2**23, "float32 must hold every partial sum exactly"
    with jax.enable_x64(dtype == "float64"):
        found = np.asarray(optimized_jit(function)(*(jnp.asarray(x, dtype) for x in operands)))
    assert found.dtype == dtype
    wrong = np.flatnonzero(found != expected)
    assert wrong.size == 0, f"{wrong.size} of {expected.size} sums are wrong. {advice()}"


@pytest.mark.parametrize(("dtype", "length"), LENGTHS)
def test_vmapped_matrix_vector_product_and_sum_of_squares(dtype, length):
    """jax issue 39103: the last value was that of another row."""
    rows = integers(0, (length, 3))
    matrix = np.eye(3, dtype=np.int64)

    def squared_norms(x):
        return jax.vmap(lambda row: jnp.sum((matrix.astype(dtype) @ row) ** 2))(x)

    check(squared_norms, dtype, rows, expected=(rows**2).sum(1))


@pytest.mark.parametrize(("dtype", "length"), LENGTHS)
def test_matrix_product_and_sum_of_squares(dtype, length):
    """The same fault without vmap."""
    x, w = integers(1, (length, 3)), integers(2, (2, 3))
    expected = ((w @ x.T) ** 2).sum(0)
    check(lambda x, w: jnp.sum((w @ x.T) ** 2, axis=0), dtype, x, w, expected=expected)


@pytest.mark.parametrize("length", [32_769, 40_000])
def test_matrix_product_and_sum(length):
    """The fault of jax 0.9.1 to 0.10.1: from one wrong sum to thousands, by the length."""
    x, w = integers(6, (length, 3)), integers(7, (2, 3))
    expected = (w @ x.T).sum(0)
    check(lambda x, w: jnp.sum(w @ x.T, axis=0), "float32", x, w, expected=expected)


@pytest.mark.parametrize("axes", [1, (0, 1)])
@pytest.mark.parametrize(("dtype", "length"), LENGTHS)
def test_batched_matrix_product_and_sum(dtype, length, axes):
    """Batched, the fault spreads: twice the block's length made nearly every sum wrong."""
    x, w = integers(3, (2, length, 3)), integers(4, (2, 3, 3))
    expected = (w @ x.swapaxes(1, 2)).sum(axes)
    check(lambda x, w: jnp.sum(w @ x.swapaxes(1, 2), axis=axes), dtype, x, w, expected=expected)


def test_product_and_sum_of_many_axes():
    """jax issues 39257 and 40412: the process died, so it runs in one of its own."""
    program = """if True:
        import jax, numpy as np
        draws = np.random.default_rng(5)
        u, v = draws.integers(-8, 9, (2, 3, 1, 2, 2, 8, 8, 8))
        f = jax.jit(lambda u, v: (u * v).sum(3))
        assert (f(u.astype("float32"), v.astype("float32")) == (u * v).sum(3)).all(), "wrong sums"
    """
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert ended.returncode == 0, f"{ended.stderr[-2000:]}\nstatus {ended.returncode}. {advice()}"
