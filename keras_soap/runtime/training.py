"""The training step as one multi-device function per batch size, and the shards it works on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.capture.losses import CapturedStep
from keras_soap.graph.operator_graph import INPUT
from keras_soap.runtime import (
    batch_pieces,
    between_clients,
    cluster,
    collectives,
    layouts,
    reports,
)
from keras_soap.runtime.batch_shards import Sizes, rows
from keras_soap.runtime.collectives import Reductions
from keras_soap.runtime.exchange import here, is_here, on, tracing
from keras_soap.runtime.gradients import reduced_gradients
from keras_soap.runtime.optimizers import ShardedOptimizer
from keras_soap.runtime.penalties import WeightPenalties
from keras_soap.runtime.pieces import ranges
from keras_soap.runtime.shards import ShardedVariable, ShardStore
from keras_soap.runtime.step import StepTracer
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy, check_strategy
from keras_soap.tasks.build import REPORT_DEVICE
from keras_soap.tasks.lowering import Lowering
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName
from keras_soap.topology.device_topology import DeviceTopology


@dataclass
class TrainingRun:
    """A model's variables, sharded as a strategy says.

    Attributes:
        model: The user's model; compiled, its optimizer built.
        step: What was captured of it, on full batches.
        lowering: Of its graph.
        strategy: A configuration for each operator.
        topology: The machine.
        device_names: TensorFlow's names of its devices.
        store: Of the variables.
        infers_states: Whether layers change their weights in inference, too.
    """

    model: keras.Model
    step: CapturedStep
    lowering: Lowering
    strategy: Strategy
    topology: DeviceTopology
    device_names: Sequence[str]
    store: ShardStore = field(default_factory=ShardStore)
    infers_states: bool = False

    def __post_init__(self) -> None:
        graph = self.step.model.graph
        check_strategy(graph, self.lowering.dimensions, self.strategy, len(self.device_names))
        self.reductions = Reductions(self.topology, self.device_names)
        self.meshes = [
            layouts.mesh(dimensions, config, self.device_names)
            for dimensions, config in zip(
                self.lowering.dimensions, self.strategy.configs, strict=True
            )
        ]
        between_clients.take_over([*self.model.variables, *self.model.optimizer.variables])
        try:
            for number in range(len(graph.operators)):
                self._shard_weights(number)
            self.penalties = WeightPenalties(self.model.trainable_variables, self.store)
            model, names = self.model, self.device_names
            self.optimizer = ShardedOptimizer(
                model.optimizer, model.trainable_variables, self.store, self._everywhere, names
            )
        except BaseException:
            self.store.release()
            raise

    def _shard_weights(self, number: int) -> None:
        config = self.strategy.configs[number]
        dimensions = self.lowering.dimensions[number]
        block = self.lowering.operator(number, config.degrees)
        for weight, spread in zip(
            self.step.model.graph.operators[number].weights, block.weights, strict=True
        ):
            variable = self.step.model.variables[weight]
            if variable not in self.store:
                layout = layouts.weight_layout(
                    self.meshes[number], dimensions, config, spread.regions
                )
                regions = [ranges(region) for region in spread.regions]
                devices = [self.device_names[device] for device in config.devices]
                self.store.add(ShardedVariable(variable, layout, devices, regions))

    def _everywhere(self, variable: keras.Variable) -> ShardedVariable:
        """A variable of the optimizer as a whole, copied to every device with weights."""
        devices = list(dict.fromkeys(d for s in self.store.sharded for d in s.devices))
        mesh = layouts.make_mesh((("devices", len(devices)),), tuple(devices))
        whole = tuple((0, int(size)) for size in variable.shape)
        layout = dtensor.Layout.replicated(mesh, rank=len(whole))
        return ShardedVariable(variable, layout, devices, [whole] * len(devices))

    def devices(self, number: int) -> list[str]:
        """Names of the devices of an operator's parts, under full batches."""
        return [self.device_names[device] for device in self.strategy.configs[number].devices]

    def place_function(
        self, step: CapturedStep, training: bool, sizes: Sizes | None = None
    ) -> Callable[..., list[tf.Tensor]]:
        """The `tf.function` from a batch like those of `step` to its pieces on their devices.

        It takes the flat inputs, targets and sample weights; training or evaluation takes what it
        makes.

        Args:
            step: What the batch is for.
            training: Whether for training, rather than evaluation, which may read other inputs.
            sizes: Samples that each client gives; None if each has the whole batch.
        """
        order = step.fed
        tracer = self._tracer(step.model if training else step.model.in_evaluation(), training)

        @tf.function(
            input_signature=batch_pieces.signature(step.model, order, sizes), autograph=False
        )
        def place(*fed: tf.Tensor) -> list[tf.Tensor]:
            with tracing("a batch"):
                cut = batch_pieces.cut_batch(tracer, order, fed, sizes)
            return [tensor for piece, tensor in cut.items() if is_here(piece.device)]

        return place

    def train_function(self, step: CapturedStep) -> Callable[..., dict[str, tf.Tensor]]:
        """The `tf.function` of one training step, from the pieces of a batch to Keras's logs."""
        placed = self._tracer(step.model, training=True)

        @tf.function(
            input_signature=batch_pieces.piece_signature(placed, step.fed), autograph=False
        )
        def train(*pieces: tf.Tensor) -> dict[str, tf.Tensor]:
            with tracing("a training step"):
                tracer = self._tracer(step.model, training=True)
                tracer.forward(batch_pieces.by_piece(tracer, step.fed, pieces))
                # Before the optimizer, as what layers assign may be what it updates.
                self._assign_updates(tracer)
                logs = self._report(step, tracer)
                tracer.backward(self.optimizer.loss_scale)
                gradients = reduced_gradients(tracer)
                self.penalties.add_to(gradients, self.optimizer.loss_scale)
                self.optimizer.apply(gradients)
                return logs

        return train

    def test_function(self, step: CapturedStep) -> Callable[..., dict[str, tf.Tensor]]:
        """The `tf.function` of one evaluation step, with the arguments of a training step's."""
        captured = step.model.in_evaluation()
        placed = self._tracer(captured, training=False)

        @tf.function(
            input_signature=batch_pieces.piece_signature(placed, step.fed), autograph=False
        )
        def test(*pieces: tf.Tensor) -> dict[str, tf.Tensor]:
            with tracing("an evaluation step"):
                tracer = self._tracer(captured, training=False)
                tracer.forward(batch_pieces.by_piece(tracer, step.fed, pieces))
                self._assign_updates(tracer)
                return self._report(step, tracer)

        return test

    def predict_function(
        self, captured: CapturedModel, sizes: Sizes | None = None
    ) -> Callable[..., Any]:
        """The `tf.function` from flat inputs to outputs nested like the model's, on the host.

        Args:
            captured: The model alone, whose operators are the first of the step's.
            sizes: Samples that each client gives, and gets the outputs of; None if each has the
                whole batch.
        """
        captured, order = captured.in_prediction(), captured.inputs
        made = {ref.operator for refs in captured.outputs for ref in refs}
        handed_out = sorted(made.intersection(order))

        @tf.function(
            input_signature=batch_pieces.signature(captured, order, sizes), autograph=False
        )
        def predict(*fed: tf.Tensor) -> Any:
            with tracing("a prediction step"):
                tracer = self._tracer(captured, training=False)
                tracer.forward(batch_pieces.cut_batch(tracer, order, fed, sizes, handed_out))
                self._assign_updates(tracer)
                flat = [_join([tracer.gathered(ref) for ref in refs]) for refs in captured.outputs]
                if sizes is not None:
                    start, stop = rows(sizes)[cluster.client()]
                    with on(here()):
                        flat = [output[start:stop] for output in flat]
                return keras.tree.map_structure(
                    lambda position: flat[position], captured.output_structure
                )

        return predict

    def outputs_function(self, captured: CapturedModel) -> Callable[..., list[list[tf.Tensor]]]:
        """The `tf.function` that gives, for each operator, the output of each part on this client.

        Of inputs, nothing.

        Args:
            captured: The model alone, whose operators are the first of the step's.
        """
        captured, order = captured.in_prediction(), captured.inputs

        @tf.function(input_signature=batch_pieces.signature(captured, order), autograph=False)
        def forward(*fed: tf.Tensor) -> list[list[tf.Tensor]]:
            with tracing("activations"):
                tracer = self._tracer(captured, training=False)
                tracer.forward(batch_pieces.cut_batch(tracer, order, fed))
                return [
                    [
                        trace.outputs[operator.first_made]
                        for trace, device in zip(traces, tracer.devices(number), strict=True)
                        if is_here(device) and operator.kind != INPUT
                    ]
                    for number, (operator, traces) in enumerate(
                        zip(captured.graph.operators, tracer.traces, strict=True)
                    )
                ]

        return forward

    def _tracer(self, captured: CapturedModel, training: bool) -> StepTracer:
        lowering, strategy = self._for_batch(captured)
        return StepTracer(captured, lowering, strategy, self.reductions, self.store, training)

    def _for_batch(self, captured: CapturedModel) -> tuple[Lowering, Strategy]:
        """Lowering and strategy for batches of the captured size.

        Another batch is split by the largest sample degrees that divide both it and the
        strategy's; its parts stay on devices that hold the weights they need.
        """
        lowering = Lowering(captured.graph)
        known = {
            operator.name: config
            for operator, config in zip(
                self.step.model.graph.operators, self.strategy.configs, strict=True
            )
        }
        configs = []
        for operator, dimensions in zip(captured.graph.operators, lowering.dimensions, strict=True):
            # Sample weights there may be in training alone, or in evaluation alone.
            whole = ParallelConfig((1,) * len(dimensions), (REPORT_DEVICE,))
            configs.append(_fit_samples(known.get(operator.name, whole), dimensions))
        return lowering, Strategy(tuple(configs))

    def _report(self, step: CapturedStep, tracer: StepTracer) -> dict[str, tf.Tensor]:
        """Sums losses and metrics of all parts on the reporting device, into Keras's metrics."""
        device = self.device_names[REPORT_DEVICE]
        total = []
        with tf.name_scope(TaskName(TaskKind.REPORT).scope):
            batch_size = step.model.graph.batch_size
            for numbers in step.losses:
                term = step.term(numbers[0])
                summed = reports.summed(numbers, tracer, device)
                report, ours = collectives.everywhere(summed, device)
                with on(ours):
                    loss = report[0]
                    reports.add_states(report[1:], term.metric_variables)
                    if term.tracker is not None:
                        term.tracker.update_state(loss, sample_weight=batch_size)
                    total.append(loss * term.weight)
            for numbers in step.metrics:
                summed = reports.summed(numbers, tracer, device)
                report, ours = collectives.everywhere(summed, device)
                with on(ours):
                    term = step.term(numbers[0])
                    update = reports.set_states if term.replaces_states else reports.add_states
                    update(report, term.metric_variables)
            penalties = self.penalties.values(device)
            if penalties:
                with on(device):
                    penalty = tf.add_n(penalties)
                total.append(collectives.everywhere(penalty, device)[0])
            with on(ours):
                total = [tf.cast(value, total[0].dtype) for value in total]
                self.model._loss_tracker.update_state(tf.add_n(total), sample_weight=batch_size)
                return self.model.get_metrics_result()

    def _assign_updates(self, tracer: StepTracer) -> None:
        """Stores what layers made of their weights, on every device."""
        self.infers_states |= bool(tracer.updates) and not tracer.training
        with tf.name_scope("update_state"):
            for weight in sorted(tracer.updates):
                sharded = self.store[self.step.model.variables[weight]]
                for device in sharded.devices:
                    value = tracer.updated(weight, device)
                    if is_here(device):
                        with on(device):
                            sharded.on(device).value.assign(value)


def _join(blocks: list[tf.Tensor]) -> tf.Tensor:
    return blocks[0] if len(blocks) == 1 else tf.concat(blocks, 1)


def _fit_samples(config: ParallelConfig, dimensions: Sequence[Any]) -> ParallelConfig:
    """The configuration with degrees lowered until they divide this batch."""
    devices = np.array(config.devices).reshape(config.degrees)
    degrees = list(config.degrees)
    for column, dimension in enumerate(dimensions):
        # Any of them: samples may be another axis than the first, inside of a layer.
        old = degrees[column]
        new = max(d for d in range(1, old + 1) if old % d == 0 and dimension.allows(d))
        degrees[column] = new
        devices = devices.take(range(0, old, old // new), axis=column)
    return ParallelConfig(tuple(degrees), tuple(devices.ravel().tolist()))
