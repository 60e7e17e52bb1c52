"""The readers of the published file formats."""

import gzip

import numpy as np
import pytest

from experiments.data import formats
from tests.experiments.data.publishing import amat, idx_gz


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_parse_idx_inverts_writing(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(formats.parse_idx(gzip.decompress(idx_gz(array))), array)


@pytest.mark.parametrize("cut", [slice(0, 3), slice(0, 6), slice(0, -1), slice(1, None)])
def test_parse_idx_refuses_damage(cut):
    whole = gzip.decompress(idx_gz(np.zeros((2, 3), np.uint8)))
    formats.parse_idx(whole)
    with pytest.raises(ValueError, match="idx"):
        formats.parse_idx(whole[cut])


def test_parse_amat_inverts_writing():
    images = np.random.default_rng(0).integers(0, 2, (3, 28, 28), dtype=np.uint8)
    parsed = formats.parse_amat(amat(images), row=784)
    np.testing.assert_array_equal(parsed.reshape(images.shape), images)


@pytest.mark.parametrize("text", [b"", b"0 1", b"0 2\n", b"0,1\n", b"0 1 ", b"0\n1\n", b"0 1\n0 "])
def test_parse_amat_refuses_damage(text):
    formats.parse_amat(b"0 1\n", row=2)
    with pytest.raises(ValueError, match="not a matrix"):
        formats.parse_amat(text, row=2)
