"""The functions that Keras's trainer calls for each step, running a strategy.

`fit`, `evaluate` and `predict` call `model.train_function`, `test_function` and
`predict_function`; these take their place. Each kind of batch (its shapes) is captured and traced
once. Batches are placed on their devices one ahead (see `feeding`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

from keras_soap.capture.functions import flat_inputs, learn_inputs
from keras_soap.capture.losses import CapturedStep, capture_step
from keras_soap.capture.model import capture
from keras_soap.runtime import agreement, batch_shards, cluster
from keras_soap.runtime.batch_shards import Sizes
from keras_soap.runtime.checkpoints import FirstClientWrites
from keras_soap.runtime.feeding import FedStep, Feeder, trace
from keras_soap.runtime.training import TrainingRun

Start = Callable[[CapturedStep], TrainingRun]

_PURPOSES = {"train": "training", "test": "evaluation", "predict": "prediction"}
"""Of the functions, for people."""


@dataclass(frozen=True)
class _Batch:
    """A batch, and its pieces on their devices once it is placed.

    Attributes:
        key: Of the step that it is for: what it is for, and all shapes.
        sizes: Samples that each client gives, where each has its own shard of the batch.
    """

    key: Any
    x: Any
    y: Any
    sample_weight: Any
    sizes: Sizes | None = None
    pieces: Sequence[tf.Tensor] | None = None


class StepFunctions:
    """Train, test and predict functions of one compiled model.

    Args:
        model: The user's model.
        start: Called with what was captured of the first training batch; finds a strategy for it
            and shards the model.
        time_chunk: As in `capture.model.capture`.
        sharded: Whether each client gives its own shard of every batch.
    """

    def __init__(
        self,
        model: keras.Model,
        start: Start,
        time_chunk: int | None = None,
        sharded: bool = False,
    ):
        self.model = model
        self.time_chunk = time_chunk
        self._sharded = sharded
        self.run: TrainingRun | None = None
        self._start = start
        self._compiled = model._compile_loss
        self._optimizer = model.optimizer
        self._traced: dict[Any, FedStep] = {}
        self._predicting: dict[Any, Callable[..., Any]] = {}
        self._feeders: dict[str, Feeder] = {}
        self._kept: dict[str, Any] = {}
        self._writing: FirstClientWrites | None = None
        self._compares_batch = False

    def compare_next_batch(self) -> None:
        """Has the clients of a cluster compare the next training batch."""
        self._compares_batch = cluster.current() is not None and not self._sharded

    def fits(self, model: keras.Model) -> bool:
        """Whether these are functions of `model` as it is compiled now."""
        return (
            model is self.model
            and model._compile_loss is self._compiled
            and model.optimizer is self._optimizer
        )

    @property
    def tracing_seconds(self) -> float:
        """What tracing took, of all kinds of batches."""
        return sum(step.tracing_seconds for step in self._traced.values())

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
        for feeder in self._feeders.values():
            feeder.close()
        self._feeders = {}
        if self._writing is not None:
            self._writing.remove()
            self._writing = None

    def train(self, iterator: Any) -> dict[str, tf.Tensor]:
        """Runs `steps_per_execution` training steps; gives the logs of the last."""
        return self._repeat("train", self._train_on, iterator)

    def test(self, iterator: Any) -> dict[str, tf.Tensor]:
        """Runs `steps_per_execution` evaluation steps; gives the logs of the last."""
        return self._repeat("test", self._test_on, iterator)

    def predict(self, batches: Any) -> Any:
        """Outputs for a list of batches, nested like the model's."""
        outputs = [self._predict_on(data) for data in batches]
        if len(outputs) == 1:
            return outputs[0]
        return keras.tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)

    def _repeat(self, kind: str, step: Callable[["_Batch"], Any], iterator: Any) -> Any:
        logs = None
        if kind not in self._feeders:
            self._feeders[kind] = Feeder(
                lambda data: self._prepare(kind, data), lambda: self._sizes(kind, None)
            )
        for _ in range(self.model.steps_per_execution):
            try:
                batch = self._feeders[kind].next(iterator)
            except StopIteration:
                if logs is None:
                    raise
                break
            try:
                with cluster.watched("a step"):
                    logs = step(batch)
            except BaseException:
                # Other clients may be gone, and cannot send what they have of the weights.
                self.remove(gather=cluster.current() is None)
                raise
        assert logs is not None
        return logs

    def _prepare(self, kind: str, data: Any) -> "_Batch":
        """Places a batch on the devices, if a step for its shapes is traced."""
        x, y, sample_weight = _unpack(data)
        sizes = self._sizes(kind, [*_flatten(x), *_flatten(y), *_flatten(sample_weight)])
        batch = _Batch((kind, sizes, *_shapes(x, y, sample_weight)), x, y, sample_weight, sizes)
        return self._placed(batch) if batch.key in self._traced else batch

    def _sizes(self, kind: str, shard: Sequence[Any] | None) -> Sizes | None:
        """What all clients give of a batch, of which this one gives `shard`, or has no more."""
        ours = cluster.current() if self._sharded else None
        return None if ours is None else batch_shards.meet(ours, _PURPOSES[kind], shard)

    def _placed(self, batch: "_Batch") -> "_Batch":
        if batch.pieces is not None:
            return batch
        flat = [*self._flat(batch.x), *_flatten(batch.y), *_flatten(batch.sample_weight)]
        return dataclasses.replace(batch, pieces=self._traced[batch.key].place(*flat))

    def _run(self, batch: "_Batch") -> dict[str, tf.Tensor]:
        assert self.run is not None
        pieces = self._placed(batch).pieces
        assert pieces is not None
        self._feeders[batch.key[0]].take_ahead()
        self.run.store.before_step()
        return self._traced[batch.key].run(*pieces)

    def _train_on(self, batch: "_Batch") -> dict[str, tf.Tensor]:
        if self._compares_batch:
            self._compares_batch = False
            fed = [*_flatten(batch.x), *_flatten(batch.y), *_flatten(batch.sample_weight)]
            agreement.check_batch(cluster.current(), fed)
        if batch.key not in self._traced:
            step = self._capture(batch)
            if self.run is None:
                self.run = self._start(step)
                # Validation, from now on, runs under the strategy as well.
                self.model.test_function = self.test
                self.model.predict_function = self.predict
            run = self.run
            self._trace(
                batch, run.place_function(step, True, batch.sizes), run.train_function(step)
            )
        logs = self._run(batch)
        assert self.run is not None
        self.run.store.after_step()
        return logs

    def _test_on(self, batch: "_Batch") -> dict[str, tf.Tensor]:
        run = self.run
        assert run is not None
        if batch.key not in self._traced:
            step = self._capture(batch)
            self._trace(
                batch, run.place_function(step, False, batch.sizes), run.test_function(step)
            )
        logs = self._run(batch)
        self._after_inference()
        return logs

    def _after_inference(self) -> None:
        assert self.run is not None
        if self.run.infers_states:
            self.run.store.after_step()

    def _predict_on(self, data: Any) -> Any:
        assert self.run is not None
        x, _, _ = _unpack(data)
        sizes = self._sizes("predict", _flatten(x))
        key = (sizes, *_shapes(x))
        if key not in self._predicting:
            learn_inputs(self.model, x)
            self._predicting[key] = self.run.predict_function(
                capture(self.model, _batch_size(x, sizes), self.time_chunk), sizes
            )
        self.run.store.before_step()
        outputs = self._predicting[key](*self._flat(x))
        self._after_inference()
        return outputs

    def _trace(self, batch: "_Batch", place: Any, run: Any) -> None:
        self._traced[batch.key] = trace(_PURPOSES[batch.key[0]], place, run)

    def _capture(self, batch: "_Batch") -> CapturedStep:
        size = _batch_size(batch.x, batch.sizes)
        data = (batch.x, batch.y, batch.sample_weight)
        if batch.sizes is not None:
            data = batch_shards.outline(data, size)
        self.model._symbolic_build(data_batch=data)
        learn_inputs(self.model, batch.x)
        _, y, sample_weight = data
        return capture_step(self.model, size, y, sample_weight, self.time_chunk)

    def _flat(self, x: Any) -> list[tf.Tensor]:
        """The inputs in Keras's order, converted as `model(x)` converts them."""
        return flat_inputs(self.model, x)


def _unpack(data: Any) -> tuple[Any, Any, Any]:
    data = keras.tree.map_structure(
        lambda x: None if isinstance(x, tf.experimental.Optional) else x, data
    )
    return unpack_x_y_sample_weight(data)


def _flatten(tensors: Any) -> list[Any]:
    return [] if tensors is None else keras.tree.flatten(tensors)


def _shapes(*data: Any) -> tuple[Any, ...]:
    return tuple(tuple(tuple(t.shape) for t in _flatten(tensors)) for tensors in data)


def _batch_size(x: Any, sizes: Sizes | None) -> int:
    return sum(sizes) if sizes is not None else int(keras.tree.flatten(x)[0].shape[0])
