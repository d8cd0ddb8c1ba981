"""Functions on one device."""

import threading

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


def test_rows_of_copies_run_beside_each_other():
    met = threading.Barrier(2)
    order: list[float] = []

    def meet(number):
        met.wait(timeout=20)
        order.append(float(number))
        return number + 10

    def function(flat):
        return [tf.numpy_function(meet, [flat[0]], tf.float32, stateful=False)]

    arguments = running.on_device([np.float32(1)], "CPU:0")
    call = running.runner(function, arguments, "CPU:0", copies=3, beside=2)
    assert [float(x) for x in call()] == [11] * 6
    # Three times two of them met, when it was made and now.
    assert len(order) == 12


def test_what_no_cache_holds_is_read_in_turn(monkeypatch):
    monkeypatch.setattr(running, "UNCACHED_BYTES", 3 * 4 * 1000)
    seen: list[int] = []

    def address(flat):
        def note(array):
            seen.append(array.__array_interface__["data"][0])
            return array[:1]

        return [tf.numpy_function(note, [flat[0]], tf.float32)]

    arguments = running.on_device([np.ones(1000, np.float32)], "CPU:0")
    call = running.runner(address, arguments, "CPU:0", copies=2, uncached=True)
    for _ in range(2):
        call()
    # Six reads of three copies, of which each is 4,000 bytes.
    assert len(set(seen)) == 3
    assert seen[:3] == seen[3:]


def test_small_arguments_have_few_copies(monkeypatch):
    made = []
    on_device = running.on_device
    monkeypatch.setattr(running, "on_device", lambda *a: made.append(a) or on_device(*a))
    arguments = on_device([np.float32(1)], "CPU:0")
    call = running.runner(lambda flat: [flat[0] + 1], arguments, "CPU:0", copies=2, uncached=True)
    assert [float(x) for x in call()] == [2, 2]
    assert len(made) == running.MOST_SETS - 1


def test_large_arguments_are_not_copied(monkeypatch):
    monkeypatch.setattr(running, "UNCACHED_BYTES", 4000)
    arguments = running.on_device([np.ones(1000, np.float32)], "CPU:0")
    monkeypatch.setattr(running, "on_device", None)
    call = running.runner(lambda flat: [flat[0] + 1], arguments, "CPU:0", copies=3, uncached=True)
    assert [float(x[0]) for x in call()] == [2, 2, 2]


def test_what_is_made_anew_is_another_tensor_in_each_copy():
    seen: list[list[int]] = []

    def function(flat):
        def note(*arrays):
            seen.append([array.__array_interface__["data"][0] for array in arrays])
            return arrays[0][:1] + 10

        return [tf.numpy_function(note, flat, tf.float32)]

    arguments = running.on_device([np.full(1000, n, np.float32) for n in range(3)], "CPU:0")
    call = running.runner(function, arguments, "CPU:0", copies=2, num_made=2)
    seen.clear()
    # Of each copy what the function makes, and then what was made for it.
    assert [float(x[0]) for x in call()] == [10, 0, 1, 10, 0, 1]
    (first, second, given), (first_again, second_again, given_again) = seen
    assert len({first, second, first_again, second_again}) == 4
    assert given == given_again
    # Nothing but the making: what others are compared with.
    nothing = running.runner(lambda flat: [], arguments, "CPU:0", num_made=2)
    assert [float(x[0]) for x in nothing()] == [0, 1]
