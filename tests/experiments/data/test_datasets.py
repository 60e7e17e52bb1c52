"""What a data set is, and the embedded one."""

import functools

import numpy as np
import pytest

from experiments import data
from experiments.data import loading, specs
from experiments.errors import UserError
from tests.experiments.data.publishing import run_python


def test_binarize_is_a_threshold_at_half_scale_for_every_value():
    for max_value in (1, 2, 15, 16, 254, 255):
        values = np.arange(max_value + 1, dtype=np.uint8)
        expected = values.astype(int) * 2 > max_value
        np.testing.assert_array_equal(data.binarize(values, max_value), expected)
        assert data.binarize(values, max_value).dtype == np.uint8


@pytest.mark.parametrize("max_value", [0, 256])
def test_binarize_refuses_max_value_that_are_no_uint8(max_value):
    with pytest.raises(ValueError, match="max_value must be in"):
        data.binarize(np.zeros(1, np.uint8), max_value)


def test_split_refuses_wrong_arrays():
    images = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="images must be uint8"):
        data.Split(images.astype(np.float32))
    with pytest.raises(ValueError, match="images must be uint8"):
        data.Split(images[0])
    with pytest.raises(ValueError, match="labels must be int32"):
        data.Split(images, np.zeros(3, np.int32))


def test_dataset_refuses_pixels_above_its_max_value_and_mixed_shapes():
    small, large = (data.Split(np.full((1, size, size), 2, np.uint8)) for size in (2, 3))
    with pytest.raises(ValueError, match="above max_value"):
        data.Dataset("x", small, small, small, max_value=1)
    with pytest.raises(ValueError, match="different shapes"):
        data.Dataset("x", small, large, small, max_value=2)


def test_train_mean_sees_the_training_split_alone():
    train, other = (data.Split(np.full((2, 1, 1), value, np.uint8)) for value in (51, 255))
    mean = data.Dataset("x", train, other, other, max_value=255).train_mean()
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, [[0.2]], rtol=1e-6)


def test_binarized_keeps_labels_and_is_idempotent():
    digits = data.load("digits")
    binary = digits.binarized()
    assert (binary.max_value, binary.name, binary.num_classes) == (1, "digits", 10)
    for before, after in zip(
        (digits.train, digits.validation, digits.test),
        (binary.train, binary.validation, binary.test),
        strict=True,
    ):
        np.testing.assert_array_equal(after.images, before.images > 8)
        np.testing.assert_array_equal(after.labels, before.labels)
    assert binary.binarized() is binary


def test_digits_splits_are_fixed_disjoint_and_complete():
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    splits = (digits.train, digits.validation, digits.test)
    assert [len(split) for split in splits] == [1197, 300, 300]
    assert (digits.max_value, digits.image_shape, digits.num_classes) == (16, (8, 8), 10)
    everything = np.concatenate([split.images for split in splits])
    bundled = load_digits().images.astype(np.uint8)
    key = functools.partial(np.unique, axis=0, return_counts=True)
    for ours, theirs in zip(
        key(everything.reshape(-1, 64)), key(bundled.reshape(-1, 64)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for split in splits:
        assert set(split.labels) == set(range(10))
    # The split is part of every result on this set: it may not move between versions of anything.
    assert specs.digest(digits.train.labels.astype(np.uint8))[:16] == "da72ddc0bc39ee9a"
    assert specs.digest(digits.test.images)[:16] == "ccd5b41cbafc53da"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnst", "mnist"),
        ("binarised_mnist", "binarized_mnist"),
        ("x", "choose one of digits, mnist"),
        (3, "mnist"),
    ],
)
def test_unknown_dataset_names_the_nearest(name, near):
    with pytest.raises(UserError, match=f"unknown dataset {name!r}.*{near}"):
        data.load(name)


def test_a_dataset_of_ones_own_that_breaks_the_rules_is_named(monkeypatch):
    def loads(images, max_value):
        def load():
            split = data.Split(images)
            return data.Dataset("mine", split, split, split, max_value)

        monkeypatch.setitem(loading._BUNDLED, "mine", load)
        monkeypatch.setattr(loading, "DATASETS", ("mine",))
        return lambda: data.load("mine")

    with pytest.raises(UserError, match=r"dataset 'mine': images must be uint8 \[N, H, W\], got"):
        loads(np.zeros((2, 3, 3)), 1)()
    with pytest.raises(UserError, match=r"dataset 'mine': .*a pixel is above max_value = 1"):
        loads(np.full((2, 3, 3), 7, np.uint8), 1)()


def test_command_prints_counts(tmp_path):
    result = run_python("-m", "experiments.data", "--dataset=digits")
    assert result.returncode == 0
    assert "digits: 1197 / 300 / 300 images of 8x8" in result.stdout


def test_command_prints_an_error_as_one_line():
    result = run_python("-m", "experiments.data", "--dataset=binarised_mnist")
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr == "error: unknown dataset 'binarised_mnist': did you mean binarized_mnist?\n"
    )
