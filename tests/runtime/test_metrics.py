"""Every metric of Keras's has the value under a strategy that it has on one device."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, metrics

from keras_soap import SoapStrategy
from keras_soap.capture.losses import capture_step
from keras_soap.tasks.lowering import Lowering
from tests.runtime.fitting import FIT
from tests.runtime.strategies import NAMED

NUM_SAMPLES, CLASSES = 24, 4


@dataclass(frozen=True)
class Predictions:
    """Predictions of a kind, with metrics of them.

    Attributes:
        shape: Of one prediction.
        activation: That they end with.
        loss: To train with.
        targets: Makes targets, given their number.
        metrics: Makes the metrics.
    """

    shape: tuple[int, ...]
    activation: str | None
    loss: str
    targets: Callable[[np.random.Generator, int], np.ndarray]
    metrics: Callable[[], list[Any]]

    def model(self, weighted: bool) -> keras.Model:
        """A compiled model, always with the same weights."""
        keras.utils.set_random_seed(3)
        if len(self.shape) == 1:
            x = keras.Input((6,), name="x")
            y = layers.Dense(8, "relu", name="inner")(x)
            y = layers.Dense(self.shape[-1], self.activation, name="out")(y)
        else:
            x = keras.Input((*self.shape[:-1], 2), name="x")
            y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
            y = layers.Conv2D(self.shape[-1], 1, activation=self.activation, name="out")(y)
        model = keras.Model(x, y, name="predicting")
        asked = {"weighted_metrics" if weighted else "metrics": self.metrics()}
        model.compile(keras.optimizers.SGD(0.1), self.loss, **asked)
        return model

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        shape = (6,) if len(self.shape) == 1 else (*self.shape[:-1], 2)
        x = rng.normal(size=(NUM_SAMPLES, *shape)).astype("float32")
        return x, self.targets(rng, NUM_SAMPLES)


def one_hot(*shape: int):
    def targets(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, (count, *shape))]

    return targets


def classes(*shape: int):
    return lambda rng, count: rng.integers(0, CLASSES, (count, *shape))


def yes_or_no(*shape: int):
    return lambda rng, count: rng.integers(0, 2, (count, *shape, 1)).astype("float32")


def numbers(*shape: int):
    return lambda rng, count: rng.uniform(0.1, 2, (count, *shape)).astype("float32")


def squared_difference(y_true, y_pred):
    return keras.ops.square(y_true - y_pred)[..., 0]


def of_classes() -> list[Any]:
    return [
        "accuracy",
        metrics.CategoricalCrossentropy(label_smoothing=0.1),
        metrics.CategoricalHinge(),
        metrics.TopKCategoricalAccuracy(2),
        metrics.KLDivergence(),
        metrics.Poisson(),
        metrics.CosineSimilarity(),
        metrics.AUC(multi_label=True, num_labels=CLASSES, name="auc_of_labels"),
        metrics.AUC(curve="PR", num_thresholds=20),
        metrics.Precision(top_k=2, name="precision_of_two"),
        metrics.Recall(class_id=1),
        metrics.F1Score("macro"),
        metrics.FBetaScore("weighted", beta=0.5, threshold=0.3),
        metrics.OneHotIoU(CLASSES, target_class_ids=[0, 2]),
        metrics.OneHotMeanIoU(CLASSES),
    ]


def of_sparse_classes() -> list[Any]:
    return [
        "accuracy",
        metrics.SparseCategoricalCrossentropy(),
        metrics.SparseTopKCategoricalAccuracy(2),
        metrics.MeanIoU(CLASSES, sparse_y_pred=False),
        metrics.IoU(CLASSES, [1, 3], sparse_y_pred=False),
    ]


def of_yes_or_no() -> list[Any]:
    return [
        metrics.Accuracy(),
        metrics.BinaryAccuracy(threshold=0.4),
        metrics.BinaryCrossentropy(),
        metrics.BinaryIoU([0, 1], threshold=0.45),
        metrics.AUC(),
        metrics.AUC(num_thresholds=50, summation_method="minoring", name="auc_too"),
        metrics.Precision([0.3, 0.5, 0.6]),
        metrics.Recall(0.55),
        metrics.TruePositives(),
        metrics.TrueNegatives(),
        metrics.FalsePositives([0.4, 0.6]),
        metrics.FalseNegatives(),
        metrics.PrecisionAtRecall(0.6),
        metrics.RecallAtPrecision(0.5),
        metrics.SensitivityAtSpecificity(0.5),
        metrics.SpecificityAtSensitivity(0.5),
        metrics.Hinge(),
        metrics.SquaredHinge(),
    ]


def of_numbers() -> list[Any]:
    return [
        metrics.MeanSquaredError(),
        metrics.RootMeanSquaredError(),
        metrics.MeanAbsoluteError(),
        metrics.MeanAbsolutePercentageError(),
        metrics.MeanSquaredLogarithmicError(),
        metrics.LogCoshError(),
        metrics.MeanMetricWrapper(squared_difference, name="mine"),
        squared_difference,
    ]


def of_vectors() -> list[Any]:
    return [
        *of_numbers(),
        metrics.R2Score(class_aggregation="variance_weighted_average"),
        metrics.CosineSimilarity(),
        metrics.PearsonCorrelation(),
        metrics.ConcordanceCorrelation(),
    ]


KINDS = {
    "classes": Predictions(
        (CLASSES,), "softmax", "categorical_crossentropy", one_hot(), of_classes
    ),
    "sparse classes": Predictions(
        (CLASSES,), "softmax", "sparse_categorical_crossentropy", classes(), of_sparse_classes
    ),
    "yes or no": Predictions((1,), "sigmoid", "binary_crossentropy", yes_or_no(), of_yes_or_no),
    "numbers": Predictions((4,), None, "mse", numbers(4), of_vectors),
    "maps of classes": Predictions(
        (4, 4, CLASSES),
        "softmax",
        "sparse_categorical_crossentropy",
        classes(4, 4),
        of_sparse_classes,
    ),
    "maps of yes or no": Predictions(
        (4, 4, 1), "sigmoid", "binary_crossentropy", yes_or_no(4, 4), of_yes_or_no
    ),
    "maps of numbers": Predictions((4, 4, 4), None, "mse", numbers(4, 4, 4), of_numbers),
}


def strategy_for(model: keras.Model, name: str, batch) -> Any:
    model._symbolic_build(data_batch=batch)
    return NAMED[name](Lowering(capture_step(model, 8, *batch[1:]).model.graph))


@pytest.mark.parametrize(
    ("kind", "strategy", "weighted"),
    [
        ("classes", "vocabulary", True),
        ("sparse classes", "S and vocabulary", True),
        ("yes or no", "S and P", False),
        ("numbers", "S and P", True),
        ("maps of classes", "S and A", False),
        ("maps of yes or no", "A, height", True),
        ("maps of numbers", "S and A", True),
    ],
)
def test_metrics_are_those_of_one_device(kind, strategy, weighted):
    predictions = KINDS[kind]
    x, y = predictions.data()
    weights = None
    if weighted:
        shape = y.shape[:3] if kind.startswith("maps") else y.shape[:1]
        weights = np.random.default_rng(1).uniform(0.5, 2, shape).astype("float32")
    batch = (x[:8], y[:8], None if weights is None else weights[:8])
    chosen = strategy_for(predictions.model(weighted), strategy, batch)
    found = []
    for callbacks in ([], [SoapStrategy(strategy=chosen, verbose=0)]):
        model = predictions.model(weighted)
        history = model.fit(
            x, y, sample_weight=weights, callbacks=callbacks, **{**FIT, "epochs": 1}
        ).history
        # Keras numbers the names of metrics of the same kind, from model to model.
        found.append(list(history.values()))
    for name, plain, ours in zip(history, *found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6, err_msg=name)


def test_no_metric_of_keras_is_left_out():
    bases = {"Mean", "Sum", "Metric"}
    tried = {type(m).__name__ for kind in KINDS.values() for m in kind.metrics()}
    # `"accuracy"` is one of these by what it is of.
    tried |= {"CategoricalAccuracy", "SparseCategoricalAccuracy"}
    public = {
        name
        for name, value in vars(metrics).items()
        if inspect.isclass(value) and issubclass(value, metrics.Metric)
    }
    assert public - bases <= tried
