"""Trains a convolutional network on handwritten digits, under the strategy that a search finds.

The digits are those that ship with scikit-learn: 1,797 images of 8×8 pixels. Without GPUs it runs
on logical CPU devices.

    python examples/digits.py --output_dir=out/digits
    python examples/digits.py --import_strategy=out/digits/strategy.textproto
"""

import os
from pathlib import Path

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Samples in a step.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 3, "Passes over the training set.", lower_bound=1)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", 4, "Logical CPU devices, where there is no GPU.", lower_bound=1
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "local", "The machine: local, or the path of a topology file."
)
_SEARCH_BUDGET_S = flags.DEFINE_float(
    "search_budget_s", 10.0, "Seconds to search.", lower_bound=0.0
)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, dropout, shuffling and the search.")
_IMPORT_STRATEGY = flags.DEFINE_string(
    "import_strategy", None, "A strategy file to train under, without searching."
)
_ONLY_DATA_PARALLEL = flags.DEFINE_bool(
    "only_data_parallel", False, "Train data-parallel, without searching."
)
_PROFILE = flags.DEFINE_string(
    "profile",
    "analytic",
    "Times of operators: analytic, which takes no time; measured, which takes minutes once; or a "
    "file of them.",
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "out/digits", "Where to leave the strategy and the trace."
)
_BACKUP_DIR = flags.DEFINE_string(
    "backup_dir", None, "Where to go on from if training was interrupted; none by default."
)


def model():
    """The network; compiled."""
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    shortcut = x
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.Add()([x, shortcut])
    x = layers.MaxPooling2D()(x)
    narrow = layers.Conv2D(32, 1, activation="relu")(x)
    wide = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([narrow, wide])
    x = layers.Flatten()(x)
    x = layers.Dense(256, activation="relu")(x)
    x = layers.Dropout(0.25)(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    network = keras.Model(inputs, outputs, name="digits")
    network.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return network


def data():
    """Images in [0, 1] and their classes: 1,437 to train on, 360 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    return train_test_split(images, digits.target, test_size=360, random_state=0)


def main(argv: list[str]) -> None:
    """Trains, tests, and writes the strategy and the simulated timeline."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    import keras
    import tensorflow as tf

    import keras_soap

    if not tf.config.list_physical_devices("GPU"):
        keras_soap.use_logical_cpus(_NUM_DEVICES.value)
    client = keras_soap.join_cluster()
    keras.utils.set_random_seed(_SEED.value)
    train_images, test_images, train_classes, test_classes = data()
    network = model()
    soap = keras_soap.SoapStrategy(
        _TOPOLOGY.value,
        _SEARCH_BUDGET_S.value,
        strategy=_IMPORT_STRATEGY.value,
        seed=_SEED.value,
        method="data_parallel" if _ONLY_DATA_PARALLEL.value else "mcmc",
        profile=_PROFILE.value,
    )
    callbacks = [soap]
    if _BACKUP_DIR.value:
        callbacks.append(keras.callbacks.BackupAndRestore(_BACKUP_DIR.value))
    network.fit(
        train_images,
        train_classes,
        batch_size=_BATCH_SIZE.value,
        epochs=_EPOCHS.value,
        callbacks=callbacks,
        verbose=2,
    )
    loss, accuracy = network.evaluate(test_images, test_classes, verbose=0)
    print(f"Test loss {loss:.4f}, test accuracy {accuracy:.2%}")
    if soap.strategy is None or client:
        return
    output = Path(_OUTPUT_DIR.value)
    soap.save(output / "strategy.textproto")
    soap.plan.write_trace(output / "timeline.json")
    soap.plan.write_report(output / "report.html")
    print(f"Wrote the strategy to {output / 'strategy.textproto'}")
    print(f"Wrote the report to {output / 'report.html'}")
    print(f"Wrote the simulated timeline to {output / 'timeline.json'}; open it in ui.perfetto.dev")


if __name__ == "__main__":
    app.run(main)
