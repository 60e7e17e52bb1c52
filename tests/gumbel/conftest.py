"""Fixtures of the library's tests."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Products of matrices at full precision, on accelerators, too."""
    with jax.default_matmul_precision("highest"):
        yield
