"""Whether random strategies train as one device does: losses, metrics and weights compared.

Trains a model for a few steps with plain Keras on one device, then under random strategies on
logical CPU devices, from the same weights and batches, with SGD with momentum and without dropout.
Exits with 1 if anything differs.

In float64 by default: deep networks at their random start amplify rounding. In float32, inputs that
differ in the last digit end with weights of MobileNetV2 that differ by 20 % after three steps on
one and the same device, which hides what is to be shown. `--dtype=float32` shows that too, and
prints what the last digit does on one device.

    python examples/benchmarks/conformance.py --model=mobilenetv2 --num_strategies=5
    python examples/benchmarks/conformance.py --model=keras_io
"""

import functools
import math
import os
import sys
import time
import traceback

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_MODEL = flags.DEFINE_list(
    "model",
    ["mobilenetv2"],
    "Names in keras.applications or architectures.py, in any spelling, or module:function; "
    "keras_io: all of keras_io_architectures.py.",
)
_NUM_STRATEGIES = flags.DEFINE_integer("num_strategies", 5, "Strategies to try.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 3, "Steps to train.", lower_bound=1)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 4, "Logical CPU devices.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Samples in a step.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 0, "Of square inputs; 0: what suits the model.")
_DTYPE = flags.DEFINE_enum("dtype", "float64", ["float32", "float64"], "To compute in.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, data and strategies.")
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-4, "Relative.", lower_bound=0.0)

_LEARNING_RATE = 1e-3
_LEAST_SIZES = {"inceptionv3": 96, "inceptionresnetv2": 96, "xception": 96, "nasnet": 64}


def find(name: str):
    """The architecture of a name, in any spelling; of a function, with data for what it makes."""
    import importlib

    import keras
    from architecture import Architecture
    from architectures import ARCHITECTURES

    if ":" in name:
        module, _, function = name.partition(":")
        return _classifier(getattr(importlib.import_module(module), function))
    plain = {key.replace("_", ""): value for key, value in ARCHITECTURES.items()}
    wanted = name.lower().replace("_", "").replace("-", "")
    if wanted in plain:
        return plain[wanted]
    builders = {key.lower(): value for key, value in vars(keras.applications).items()}
    if not callable(builders.get(wanted)):
        raise app.UsageError(
            f"There is no model {name!r}: neither in keras.applications nor among "
            f"{', '.join(ARCHITECTURES)}."
        )
    least = [size for key, size in _LEAST_SIZES.items() if wanted.startswith(key)]
    size = _IMAGE_SIZE.value or (least or [64])[0]
    shape = (size, size, 3)
    build = functools.partial(builders[wanted], weights=None, input_shape=shape, classes=10)
    return Architecture(_without_dropout(build), (shape, "float"), num_classes=10)


def _names(asked: str) -> list[str]:
    from keras_io_architectures import KERAS_IO_ARCHITECTURES

    return list(KERAS_IO_ARCHITECTURES) if asked == "keras_io" else [asked]


def _classifier(build):
    """A function's model, which has one input, and classes along its last axis."""
    from architecture import Architecture

    model = build()
    spec = (tuple(model.input_shape[1:]), model.inputs[0].dtype)
    target = tuple(model.output_shape[1:-1])
    return Architecture(_without_dropout(build), spec, target, num_classes=model.output_shape[-1])


def _without_dropout(build):
    """The same without what is random in training."""
    import keras
    from architecture import without_dropout

    def build_without():
        model = build()
        keras.utils.set_random_seed(_SEED.value)
        return keras.models.clone_model(model, clone_function=without_dropout)

    return build_without


def make_model(architecture):
    """A compiled model, always with the same weights."""
    import keras

    keras.utils.set_random_seed(_SEED.value)
    model = architecture.build()
    model.compile(
        keras.optimizers.SGD(_LEARNING_RATE, momentum=0.9),
        architecture.loss,
        metrics=architecture.metrics,
    )
    return model


def train(architecture, batches, callbacks):
    """Losses and metrics by step, and the weights after the last."""
    import keras
    import tensorflow as tf

    model = make_model(architecture)
    # A subclassed model has no weights before it has seen data: they must not depend on callbacks.
    model._symbolic_build(data_batch=keras.tree.map_structure(lambda x: x[0], batches))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append([float(x) for x in logs.values()])
    )
    data = tf.data.Dataset.from_tensor_slices(batches)
    model.fit(data, verbose=0, callbacks=[*callbacks, watch])
    return seen, model.get_weights()


def capture(architecture, batches):
    """The operators of a training step."""
    import keras

    from keras_soap.capture.functions import learn_inputs
    from keras_soap.capture.losses import capture_step

    model = make_model(architecture)
    x, y = keras.tree.map_structure(lambda array: array[0], batches)
    model._symbolic_build(data_batch=(x, y))
    learn_inputs(model, x)
    return capture_step(model, _BATCH_SIZE.value, y).model.graph


def difference(expected, found) -> float:
    """The largest relative difference: of a loss to itself, of a weight to its tensor's largest."""
    import numpy as np

    (seen, weights), (seen_too, weights_too) = expected, found
    worst = max(
        abs(a - b) / max(abs(a), 1e-3)
        for step, other in zip(seen, seen_too, strict=True)
        for a, b in zip(step, other, strict=True)
    )
    for a, b in zip(weights, weights_too, strict=True):
        if a.size:
            worst = max(worst, float(np.max(np.abs(a - b)) / max(np.max(np.abs(a)), 1e-2)))
    return worst


def conforms(name: str) -> bool:
    """Trains a model, compares, and prints a row for each strategy; whether none differs."""
    import keras
    import numpy as np

    import keras_soap
    from keras_soap.strategy.search_space import SearchSpace
    from keras_soap.tasks.lowering import Lowering
    from keras_soap.topology.resolve import resolve

    architecture = find(name)
    num_steps, batch_size = _NUM_STEPS.value, _BATCH_SIZE.value
    x, y = architecture.data(np.random.default_rng(_SEED.value), num_steps * batch_size)
    x, y = batches = keras.tree.map_structure(
        lambda array: array.reshape(num_steps, batch_size, *array.shape[1:]), (x, y)
    )
    expected = train(architecture, batches, [])
    nudged = keras.tree.map_structure(
        lambda array: np.nextafter(array, np.inf) if array.dtype.kind == "f" else array, x
    )
    sensitivity = difference(expected, train(architecture, (nudged, y), []))
    topology = resolve("local")
    graph = capture(architecture, batches)
    kinds = [operator.kind for operator in graph.operators]
    print(
        f"{name}: {len(kinds)} operators, {kinds.count('samplewise')} split by sample "
        f"only, {kinds.count('whole')} whole; {num_steps} steps of {batch_size} samples, "
        f"{_DTYPE.value}; one device differs by {sensitivity:.1e} from itself if the last digit of "
        "its inputs does"
    )
    space = SearchSpace(graph, Lowering(graph).dimensions, topology)
    failed = 0
    for number in range(_NUM_STRATEGIES.value):
        strategy = space.random_strategy(np.random.default_rng([_SEED.value, number]))
        begin = time.perf_counter()
        soap = keras_soap.SoapStrategy(topology, strategy=strategy, verbose=0)
        try:
            worst = difference(expected, train(architecture, batches, [soap]))
        except Exception:
            traceback.print_exc()
            worst = math.inf
        passed = worst <= _TOLERANCE.value
        failed += not passed
        print(
            f"  strategy {number}: largest relative difference {worst:.1e}, "
            f"{'passed' if passed else 'FAILED'} ({time.perf_counter() - begin:.0f} s)",
            flush=True,
        )
    return not failed


def main(argv: list[str]) -> None:
    """Goes through the models; exits with 1 if one differs."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    import keras

    import keras_soap

    sys.path.insert(0, os.path.dirname(__file__))
    keras_soap.use_logical_cpus(_NUM_DEVICES.value)
    keras.config.set_floatx(_DTYPE.value)
    names = [name for asked in _MODEL.value for name in _names(asked)]
    failed = []
    for name in names:
        keras.backend.clear_session()
        try:
            passed = conforms(name)
        except Exception:
            traceback.print_exc()
            passed = False
        if not passed:
            failed.append(name)
    if failed:
        print(f"Failed: {', '.join(failed)}.")
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
