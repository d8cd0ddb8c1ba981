"""The functions that Keras's trainer calls for each step, running a strategy.

`fit`, `evaluate` and `predict` call `model.train_function`, `test_function` and
`predict_function`; these take their place. Each kind of batch (its shapes) is captured and traced
once.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

from keras_soap.capture.losses import CapturedStep, capture_step
from keras_soap.capture.model import capture, function_of
from keras_soap.runtime import agreement, cluster
from keras_soap.runtime.checkpoints import FirstClientWrites
from keras_soap.runtime.training import TrainingRun

Start = Callable[[CapturedStep], TrainingRun]


class StepFunctions:
    """Train, test and predict functions of one compiled model.

    Args:
        model: The user's model.
        start: Called with what was captured of the first training batch; finds a strategy for it
            and shards the model.
        time_chunk: As in `capture.model.capture`.
    """

    def __init__(self, model: keras.Model, start: Start, time_chunk: int | None = None):
        self.model = model
        self.time_chunk = time_chunk
        self.run: TrainingRun | None = None
        self._start = start
        self._compiled = model._compile_loss
        self._optimizer = model.optimizer
        self._traced: dict[Any, Callable[..., Any]] = {}
        self._kept: dict[str, Any] = {}
        self._writing: FirstClientWrites | None = None
        self._compares_batch = False

    def compare_next_batch(self) -> None:
        """Has the clients of a cluster compare the next training batch."""
        self._compares_batch = cluster.current() is not None

    def fits(self, model: keras.Model) -> bool:
        """Whether these are functions of `model` as it is compiled now."""
        return (
            model is self.model
            and model._compile_loss is self._compiled
            and model.optimizer is self._optimizer
        )

    def install(self) -> None:
        """Puts the functions into the model, and its variables onto the devices."""
        if self._kept:
            return
        ours = {"train_function": self.train}
        if self.run is not None:
            ours |= {"test_function": self.test, "predict_function": self.predict}
            self.run.store.acquire()
        self._kept = {
            name: getattr(self.model, name)
            for name in ("train_function", "test_function", "predict_function")
        }
        for name, function in ours.items():
            setattr(self.model, name, function)
        clients = cluster.current()
        if clients is not None:
            self._writing = FirstClientWrites(clients, self.model, self._gather)
            self._writing.install()

    def _gather(self) -> None:
        if self.run is not None:
            self.run.store.gather()

    def remove(self, gather: bool = True) -> None:
        """Makes the model an ordinary Keras model again.

        Args:
            gather: Whether with the weights trained so far, or those that it was last asked for.
        """
        if self.run is not None:
            self.run.store.release(gather)
        for name, function in self._kept.items():
            setattr(self.model, name, function)
        self._kept = {}
        if self._writing is not None:
            self._writing.remove()
            self._writing = None

    def train(self, iterator: Any) -> dict[str, tf.Tensor]:
        """Runs `steps_per_execution` training steps; gives the logs of the last."""
        return self._repeat(self._train_on, iterator)

    def test(self, iterator: Any) -> dict[str, tf.Tensor]:
        """Runs `steps_per_execution` evaluation steps; gives the logs of the last."""
        return self._repeat(self._test_on, iterator)

    def predict(self, batches: Any) -> Any:
        """Outputs for a list of batches, nested like the model's."""
        outputs = [self._predict_on(data) for data in batches]
        if len(outputs) == 1:
            return outputs[0]
        return keras.tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)

    def _repeat(self, step: Callable[[Any], Any], iterator: Any) -> Any:
        logs = None
        for _ in range(self.model.steps_per_execution):
            try:
                data = next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            try:
                with cluster.watched("a step"):
                    logs = step(data)
            except BaseException:
                # Other clients may be gone, and cannot send what they have of the weights.
                self.remove(gather=cluster.current() is None)
                raise
        assert logs is not None
        return logs

    def _train_on(self, data: Any) -> dict[str, tf.Tensor]:
        x, y, sample_weight = _unpack(data)
        if self._compares_batch:
            self._compares_batch = False
            agreement.check_batch(cluster.current(), [*_flatten(x), *_flatten(y)])
        key = ("train", *_shapes(x, y, sample_weight))
        if key not in self._traced:
            step = self._capture(x, y, sample_weight)
            if self.run is None:
                self.run = self._start(step)
                # Validation, from now on, runs under the strategy as well.
                self.model.test_function = self.test
                self.model.predict_function = self.predict
            self._traced[key] = self.run.train_function(step)
        assert self.run is not None
        self.run.store.before_step()
        logs = self._traced[key](*self._flat(x), *_flatten(y), *_flatten(sample_weight))
        self.run.store.after_step()
        return logs

    def _test_on(self, data: Any) -> dict[str, tf.Tensor]:
        assert self.run is not None
        x, y, sample_weight = _unpack(data)
        key = ("test", *_shapes(x, y, sample_weight))
        if key not in self._traced:
            self._traced[key] = self.run.test_function(self._capture(x, y, sample_weight))
        self.run.store.before_step()
        return self._traced[key](*self._flat(x), *_flatten(y), *_flatten(sample_weight))

    def _predict_on(self, data: Any) -> Any:
        assert self.run is not None
        x, _, _ = _unpack(data)
        key = ("predict", *_shapes(x))
        if key not in self._traced:
            self._traced[key] = self.run.predict_function(
                capture(self.model, _batch_size(x), self.time_chunk)
            )
        self.run.store.before_step()
        return self._traced[key](*self._flat(x))

    def _capture(self, x: Any, y: Any, sample_weight: Any) -> CapturedStep:
        self.model._symbolic_build(data_batch=(x, y, sample_weight))
        return capture_step(self.model, _batch_size(x), y, sample_weight, self.time_chunk)

    def _flat(self, x: Any) -> list[tf.Tensor]:
        """The inputs in Keras's order, converted as `model(x)` converts them."""
        return function_of(self.model)._standardize_inputs(x)


def _unpack(data: Any) -> tuple[Any, Any, Any]:
    data = keras.tree.map_structure(
        lambda x: None if isinstance(x, tf.experimental.Optional) else x, data
    )
    return unpack_x_y_sample_weight(data)


def _flatten(tensors: Any) -> list[Any]:
    return [] if tensors is None else keras.tree.flatten(tensors)


def _shapes(*data: Any) -> tuple[Any, ...]:
    return tuple(tuple(tuple(t.shape) for t in _flatten(tensors)) for tensors in data)


def _batch_size(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])
