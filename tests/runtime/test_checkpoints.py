"""A file of a model is whole, or it is the one before."""

import keras
import numpy as np
import pytest

from keras_soap.runtime.checkpoints import complete


@pytest.fixture
def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_file_stays_as_it_was_if_writing_the_next_one_fails(tmp_path, model, name):
    path = tmp_path / name
    save = model.save if name.endswith(".keras") else model.save_weights
    complete(save)(path)
    before = path.read_bytes()

    def fail(*args):
        save(*args)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        complete(fail)(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_takes_the_place_of_the_one_before(tmp_path, model):
    path = tmp_path / "model.keras"
    complete(model.save)(str(path))
    model.layers[0].bias.assign([1.0, 2.0])
    complete(model.save)(str(path))
    saved = keras.models.load_model(path)
    np.testing.assert_array_equal(saved.layers[0].bias.numpy(), [1.0, 2.0])
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_several_files_is_written_as_keras_does(tmp_path, model):
    complete(model.save_weights)(str(tmp_path / "model.weights.json"), max_shard_size=1.0)
    assert (tmp_path / "model.weights.json").exists()
    model.layers[0].kernel.assign(np.ones((3, 2)))
    complete(model.save)(tmp_path / "model", zipped=False)
    assert (tmp_path / "model").is_dir()
