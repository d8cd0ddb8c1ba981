"""The user's variables while shards of them train."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.runtime.fitting import FIT, VECTORS, X, Y, soap


def held(variable: keras.Variable) -> tuple[int, ...]:
    """Shape of the value that the user's variable itself holds, asked behind its back."""
    handle = variable.value._handle
    return tuple(tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype).shape)


class Watch(keras.callbacks.Callback):
    """Looks at what a weight and a moment of it hold, before and after they are read."""

    def __init__(self):
        super().__init__()
        self.before, self.after, self.seen = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.get_layer("inner").kernel
        moment = next(v for v in self.model.optimizer.variables if v.path.endswith("momentum"))
        self.before.append((held(kernel), held(moment)))
        self.seen.append(kernel.numpy())
        moment.numpy()
        self.after.append((held(kernel), held(moment)))


def test_they_hold_nothing_until_they_are_read_and_again_after_the_next_step():
    model, watch = VECTORS.model("adam"), Watch()
    kernel = model.get_layer("inner").kernel
    model.fit(X, Y, callbacks=[soap(), watch], **FIT)
    assert watch.before == [((0,), (0,))] * 6
    assert watch.after == [((6, 8), (6, 8))] * 6
    assert not np.array_equal(watch.seen[0], watch.seen[1])
    np.testing.assert_array_equal(kernel.numpy(), watch.seen[-1])
    assert kernel.value.shape == (6, 8)


def test_they_hold_what_was_trained_when_a_step_fails():
    def batches():
        yield X[:8], Y[:8]
        yield X[8:16], Y[8:16]
        raise ValueError("no more")

    model = VECTORS.model("adam")
    before = model.get_weights()
    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(
            tf.TensorSpec((8, 6), tf.float32),
            tf.TensorSpec((8,), tf.int64),
        ),
    )
    with pytest.raises(tf.errors.OpError, match="no more"):
        model.fit(data, callbacks=[soap()], verbose=0)
    for one, other in zip(model.get_weights(), before, strict=True):
        assert one.shape == other.shape
        assert not np.array_equal(one, other)
    assert np.isfinite(model.evaluate(X, Y, verbose=0)).all()
