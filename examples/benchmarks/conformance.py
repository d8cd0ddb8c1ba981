"""Whether random strategies train as one device does: losses, metrics and saved weights compared.

Trains models for a few steps with plain Keras on one device, then under random strategies on
logical CPU devices, from the same weights and batches, with SGD with momentum and without dropout.
The weights are those in the file that `ModelCheckpoint` leaves, compared by how they have changed.
Prints a table of models and strategies, and exits with 1 if anything differs.

In float64 by default: deep networks at their random start amplify rounding. In float32, inputs that
differ in the last digit end with weights of MobileNetV2 that differ by 20 % after three steps on
one and the same device, which hides what is to be shown. `--dtype=float32` shows that too: the
column "last digit" is what the last digit does on one device.

With `--json_out` a run that was interrupted goes on with the models that have not passed yet.

    python examples/benchmarks/conformance.py --model=mobilenetv2,own --num_strategies=5
    python examples/benchmarks/conformance.py --model=all --json_out=conformance.json
"""

import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from architecture import Architecture
    from conformance_results import Comparison, ModelResult

_MODEL = flags.DEFINE_list(
    "model",
    ["mobilenetv2"],
    "Names in keras.applications or architectures.py, in any spelling, or module:function; or "
    "groups: own (architectures.py), keras_io (after its examples), keras_hub (its backbones, if "
    "it is installed), applications (the smallest of each family of keras.applications), all.",
)
_NUM_STRATEGIES = flags.DEFINE_integer("num_strategies", 5, "Strategies to try.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 3, "Steps to train.", lower_bound=1)
_NUM_DEVICES = flags.DEFINE_integer("num_devices", 4, "Logical CPU devices.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Samples in a step.", lower_bound=1)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 0, "Of square inputs; 0: what suits the model.")
_DTYPE = flags.DEFINE_enum("dtype", "float64", ["float32", "float64"], "To compute in.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, data and strategies.")
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-4, "Relative.", lower_bound=0.0)
_JSON_OUT = flags.DEFINE_string(
    "json_out", None, "File for the results, written after each model; what has passed is kept."
)
_MARKDOWN_OUT = flags.DEFINE_string(
    "markdown_out", None, "File for the table of all groups, as README.md has it."
)

_LEARNING_RATE = 1e-3
_SETTINGS = (_NUM_STRATEGIES, _NUM_STEPS, _NUM_DEVICES, _BATCH_SIZE, _IMAGE_SIZE, _DTYPE, _SEED)


@dataclass(frozen=True)
class Training:
    """What training leaves.

    Attributes:
        logs: The loss and the metrics of each step.
        before: Values of all weights, with their paths.
        after: The same after the last step, from the file.
    """

    logs: list[dict[str, float]]
    before: list[tuple[str, Any]]
    after: list[tuple[str, Any]]


def make_model(architecture: "Architecture") -> Any:
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


def train(architecture: "Architecture", batches: Any, soap: Any = None) -> Training:
    """Trains on one device, or under a strategy."""
    import keras
    import tensorflow as tf

    model = make_model(architecture)
    # A subclassed model has no weights before it has seen data: they must not depend on callbacks.
    model._symbolic_build(data_batch=keras.tree.map_structure(lambda x: x[0], batches))
    steps: list[dict[str, float]] = []
    before = _weights(model)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model.weights.h5")
        callbacks = [
            *([] if soap is None else [soap]),
            keras.callbacks.ModelCheckpoint(saved, save_weights_only=True),
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: steps.append(
                    {key: float(value) for key, value in logs.items()}
                )
            ),
        ]
        data = tf.data.Dataset.from_tensor_slices(batches)
        model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
        model.load_weights(saved)
    return Training(steps, before, _weights(model))


def _weights(model: Any) -> list[tuple[str, Any]]:
    return [(variable.path, variable.numpy()) for variable in model.weights]


def compare(expected: Training, found: Training) -> "Comparison":
    """The largest relative difference: of a log to itself, of a weight to its tensor's change.

    Changes are not asked for more digits than half of those that the weights have, nor, within the
    tolerance, for the last digit, to which each step rounds a weight.
    """
    import numpy as np
    from conformance_results import Comparison

    differences: dict[str, float] = {}
    for step, (logs, logs_too) in enumerate(zip(expected.logs, found.logs, strict=True)):
        for key, value in logs.items():
            error = abs(value - logs_too[key])
            differences[f"{key} of step {step}"] = error / max(abs(value), 1e-3)
    for (_, start), (path, value), (_, other) in zip(
        expected.before, expected.after, found.after, strict=True
    ):
        if value.size:
            eps = np.finfo(np.result_type(value, "float32")).eps
            digits = max(np.sqrt(eps), len(expected.logs) * eps / max(_TOLERANCE.value, eps))
            change = np.max(np.abs(value - start))
            scale = max(change, digits * max(np.max(np.abs(value)), 1e-2))
            differences[path] = float(np.max(np.abs(value - other)) / scale)
    lost = [name for name, value in differences.items() if not np.isfinite(value)]
    if lost:
        return Comparison(None, f"{lost[0]} is not a number")
    largest = max(differences, key=lambda name: differences[name])
    return Comparison(differences[largest], largest)


def capture(architecture: "Architecture", batches: Any) -> Any:
    """The operators of a training step."""
    import keras

    from keras_soap.capture.functions import learn_inputs
    from keras_soap.capture.losses import capture_step

    model = make_model(architecture)
    x, y = keras.tree.map_structure(lambda array: array[0], batches)
    model._symbolic_build(data_batch=(x, y))
    learn_inputs(model, x)
    return capture_step(model, _BATCH_SIZE.value, y).model.graph


def conform(architecture: "Architecture") -> "ModelResult":
    """Trains a model in all ways, and compares; prints a line for each strategy."""
    import keras
    import numpy as np
    from conformance_results import Comparison, ModelResult

    import keras_soap
    from keras_soap.strategy.search_space import SearchSpace
    from keras_soap.tasks.lowering import Lowering
    from keras_soap.topology.resolve import resolve

    num_steps, batch_size = _NUM_STEPS.value, _BATCH_SIZE.value
    x, y = architecture.data(np.random.default_rng(_SEED.value), num_steps * batch_size)
    x, y = batches = keras.tree.map_structure(
        lambda array: array.reshape(num_steps, batch_size, *array.shape[1:]), (x, y)
    )
    expected = train(architecture, batches)
    nudged = keras.tree.map_structure(
        lambda array: np.nextafter(array, np.inf) if array.dtype.kind == "f" else array, x
    )
    last_digit = compare(expected, train(architecture, (nudged, y)))
    topology = resolve("local")
    graph = capture(architecture, batches)
    space = SearchSpace(graph, Lowering(graph).dimensions, topology)
    found = []
    for number in range(_NUM_STRATEGIES.value):
        strategy = space.random_strategy(np.random.default_rng([_SEED.value, number]))
        begin = time.perf_counter()
        soap = keras_soap.SoapStrategy(topology, strategy=strategy, verbose=0)
        try:
            comparison = compare(expected, train(architecture, batches, soap))
        except Exception as error:
            traceback.print_exc()
            comparison = Comparison(None, type(error).__name__)
        found.append(comparison)
        print(
            f"  strategy {number}: {comparison.cell(_TOLERANCE.value)} "
            f"({time.perf_counter() - begin:.0f} s)",
            flush=True,
        )
    kinds = [operator.kind for operator in graph.operators]
    return ModelResult(
        len(kinds), kinds.count("samplewise"), kinds.count("whole"), last_digit, tuple(found)
    )


def main(argv: list[str]) -> None:
    """Goes through the models, and prints a table; exits with 1 if one differs."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    import keras
    from conformance_models import GROUPS, IN_FLOAT32, find, names_of
    from conformance_results import Results

    import keras_soap
    from keras_soap.proto.files import write_atomically

    settings = {flag.name: flag.value for flag in _SETTINGS}
    try:
        names = names_of(_MODEL.value)
        results = Results.load(_JSON_OUT.value, settings, _TOLERANCE.value)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    keras_soap.use_logical_cpus(_NUM_DEVICES.value)
    for number, name in enumerate(names, 1):
        print(
            f"{name} ({number} of {len(names)})"
            + (": has passed before" if results.passes(name) else ""),
            flush=True,
        )
        if results.passes(name):
            continue
        keras.backend.clear_session()
        dtype = "float32" if name.startswith(IN_FLOAT32) else _DTYPE.value
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            results.add(name, conform(find(name, _IMAGE_SIZE.value, _SEED.value)))
        except Exception as error:
            traceback.print_exc()
            results.errors[name] = type(error).__name__
    print(
        f"Largest relative differences from one device, in {_NUM_STEPS.value} steps of "
        f"{_BATCH_SIZE.value} samples, {_DTYPE.value}, on {_NUM_DEVICES.value} logical CPU devices:"
    )
    print(results.render(names))
    if _MARKDOWN_OUT.value:
        write_atomically(_MARKDOWN_OUT.value, results.markdown(GROUPS).encode())
    if not all(map(results.passes, names)):
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
