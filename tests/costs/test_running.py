"""Functions on one device."""

import numpy as np
import tensorflow as tf

from keras_soap.costs import running


def test_copies_run_one_after_the_other_and_all_that_they_make_is_there():
    counter = tf.Variable(0)

    def count(flat):
        return [flat[0] + 1, tf.identity(counter.assign_add(1))]

    made = running.runner(count, running.on_device([np.float32(2)], "CPU:0"), "CPU:0", copies=3)()
    # It has run once before.
    assert [float(x) for x in made[::2]] == [3, 3, 3]
    assert [int(x) for x in made[1::2]] == [4, 5, 6]
