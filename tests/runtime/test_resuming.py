"""Training that is killed, or saved in its middle, goes on as if nothing had happened."""

import keras
import numpy as np
import pytest

from tests.runtime.fitting import FIT, VECTORS, X, Y, soap

FIT_FOR_LONG = {**FIT, "epochs": 4}


def assert_equal_states(actual: keras.Model, expected: keras.Model) -> None:
    """Compares weights and the optimizer's variables, whose names a file does not keep."""
    ours = [*actual.weights, *actual.optimizer.variables]
    theirs = [*expected.weights, *expected.optimizer.variables]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=2e-6)


def backup(folder):
    return keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False)


def built_model() -> keras.Model:
    model = VECTORS.model("adam")
    model.build((None, 6))
    return model


def test_a_killed_process_goes_on_with_the_losses_of_an_uninterrupted_one(tmp_path, in_new_process):
    uninterrupted = built_model()
    expected = uninterrupted.fit(X, Y, **FIT_FOR_LONG).history
    in_new_process(
        f"""
        import os, signal, sys
        from pathlib import Path
        if os.fork() == 0:
            import keras, keras_soap
            keras_soap.use_logical_cpus(4)
            from tests.runtime.fitting import X, Y, soap
            from tests.runtime.test_resuming import FIT_FOR_LONG, backup, built_model

            class Kill(keras.callbacks.Callback):
                def on_epoch_begin(self, epoch, logs=None):
                    self.epoch = epoch

                def on_train_batch_end(self, batch, logs=None):
                    if (self.epoch, batch) == (2, 1):
                        os.kill(os.getpid(), signal.SIGKILL)

            callbacks = [soap(), backup(Path({str(tmp_path)!r})), Kill()]
            built_model().fit(X, Y, callbacks=callbacks, **FIT_FOR_LONG)
        print("ended by signal", os.waitstatus_to_exitcode(os.wait()[1]))
        """,
        says="ended by signal -9",
    )
    # In this process, and under another strategy.
    model = built_model()
    found = model.fit(X, Y, callbacks=[soap("O"), backup(tmp_path)], **FIT_FOR_LONG)
    assert found.epoch == [2, 3]
    np.testing.assert_allclose(found.history["loss"], expected["loss"][2:], rtol=1e-5)
    assert_equal_states(model, uninterrupted)


class Save(keras.callbacks.Callback):
    """Saves the whole model in the middle of the second epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 0):
            self.model.save(self.path)


@pytest.fixture
def saved(tmp_path):
    """A model that was saved in its fourth step under a strategy, and one that ran through."""
    VECTORS.model("adam").fit(X, Y, callbacks=[soap(), Save(tmp_path / "model.keras")], **FIT)
    whole = VECTORS.model("adam")
    whole.fit(X, Y, **FIT)
    return tmp_path / "model.keras", whole


REST = {"batch_size": 8, "shuffle": False, "verbose": 0}
"""The rest of the second epoch."""


@pytest.mark.parametrize("name", ["P", "three devices"])
def test_a_model_saved_in_the_middle_goes_on_under_another_strategy(saved, name):
    path, whole = saved
    model = keras.models.load_model(path)
    assert int(model.optimizer.iterations) == 4
    model.fit(X[8:], Y[8:], callbacks=[soap(name)], **REST)
    assert_equal_states(model, whole)


def test_a_model_saved_in_the_middle_goes_on_where_this_package_is_not(
    saved, tmp_path, in_new_process
):
    path, whole = saved
    np.savez(tmp_path / "data.npz", x=X[8:], y=Y[8:])
    in_new_process(
        f"""
        import sys
        sys.modules["keras_soap"] = None  # An import would fail.
        import keras, numpy as np
        model = keras.models.load_model({str(path)!r})
        data = np.load({str(tmp_path / "data.npz")!r})
        model.fit(data["x"], data["y"], **{REST!r})
        model.save({str(tmp_path / "after.keras")!r})
        print("trained to step", int(model.optimizer.iterations))
        """,
        says="trained to step 6",
    )
    assert_equal_states(keras.models.load_model(tmp_path / "after.keras"), whole)
