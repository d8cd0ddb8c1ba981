"""Traces one step of a strategy: every task of the task graph, each under its own device.

The order and the facts are those of `tasks.build`, read from the same `Lowering`:

1. forward: each part reads its input regions from the parts that make them, cut where they are
   made and moved to where they are read; what it reads of the batch is there already;
2. backward: each part has a tape of its own, differentiated under its own device (one tape over
   several devices would put all gradients on the first), and sends gradients back along the same
   overlaps;
3. gradients of weights are reduced over the devices that hold the same region, and the user's own
   optimizer updates each shard.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.graph.operator_graph import INPUT, LOSS_KINDS, Edge, TensorRef
from keras_soap.operators import registry
from keras_soap.operators.rule import Part, PartCall
from keras_soap.runtime import collectives
from keras_soap.runtime.collectives import Reductions
from keras_soap.runtime.exchange import FEED, here, move, on
from keras_soap.runtime.part_trace import PartTrace, apart
from keras_soap.runtime.pieces import Piece, Region, accumulate, add_up, assemble, cut, ranges
from keras_soap.runtime.shards import ShardStore
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import Lowering
from keras_soap.tasks.task_graph import TaskKind
from keras_soap.tasks.task_names import TaskName


class StepTracer:
    """Traces forward and backward tasks of one captured model under one strategy.

    Args:
        captured: The model; with losses for a backward pass.
        lowering: Of its graph.
        strategy: A configuration for each operator.
        reductions: Among the topology's devices, which they name.
        store: The sharded variables.
        training: Whether layers run in training mode, with gradients.
    """

    def __init__(
        self,
        captured: CapturedModel,
        lowering: Lowering,
        strategy: Strategy,
        reductions: Reductions,
        store: ShardStore,
        training: bool,
    ):
        self.captured = captured
        self.graph = captured.graph
        self.lowering = lowering
        self.configs = strategy.configs
        self.reductions = reductions
        self.device_names = reductions.device_names
        self.store = store
        self.training = training
        self.parts: list[tuple[Part, ...]] = [
            lowering.parts(number, config.degrees) for number, config in enumerate(self.configs)
        ]
        self.traces: list[list[PartTrace]] = []
        self.updates: dict[int, dict[str, tf.Tensor]] = {}
        self.weight_gradients: dict[int, dict[str, list[Any]]] = {}
        self._overlaps_of: dict[int, list[list[tuple[int, Region]]]] = {}
        self._loss_scale: Callable[[str], Any] | None = None
        self._fed: dict[Piece, tf.Tensor] = {}
        self._arriving: dict[tuple[int, int], list[list[tuple[Region, tf.Tensor]]]] = {}

    def devices(self, number: int) -> list[str]:
        """Names of the devices of an operator's parts."""
        return [self.device_names[device] for device in self.configs[number].devices]

    def whole(self, number: int) -> Piece:
        """All of an input, on the device of its only part."""
        return Piece(number, self.parts[number][0].output, self.devices(number)[0])

    def forward(self, fed: Mapping[Piece, tf.Tensor]) -> None:
        """Traces all forward tasks.

        Args:
            fed: What is read of the batch; see `batch_pieces`.
        """
        with tf.name_scope(FEED):
            # Says where they are.
            self._fed = {piece: move(x, piece.device, piece.device) for piece, x in fed.items()}
        for number, operator in enumerate(self.graph.operators):
            if operator.kind == INPUT:
                made = self._fed.get(self.whole(number))
                self.traces.append([PartTrace(tf.GradientTape(), [], [], [], [], (made,))])
            else:
                self.traces.append(self._forward(number))

    @contextlib.contextmanager
    def _task(self, kind: TaskKind, number: int, part: int, device: str) -> Iterator[None]:
        """Places and names what follows: it is a task's."""
        name = TaskName(kind, self.graph.operators[number].name, part)
        with on(device), tf.name_scope(name.scope):
            yield

    def _forward(self, number: int) -> list[PartTrace]:
        operator = self.graph.operators[number]
        rule = registry.find(operator.kind)
        devices = self.devices(number)
        arriving = [self._inputs(number, part) for part in range(len(devices))]
        traces, calls = [], []
        for part, device, inputs in zip(self.parts[number], devices, arriving, strict=True):
            with self._task(TaskKind.FORWARD, number, part.index, device):
                weights = [self._read(w, device) for w in operator.weights]
            tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
            trace = PartTrace(tape, inputs, weights, [], [], ())
            traces.append(trace)
            calls.append(
                PartCall(
                    part,
                    self.captured.layers[number],
                    self.captured.arguments[number] or _no_arguments,
                    trace.inputs,
                    trace.weights,
                    trace.combined,
                    self.training,
                )
            )
        block = self.lowering.operator(number, self.configs[number].degrees)
        combines = block.combines_in(self.training)
        for stage, combine in enumerate(combines):
            for part, (trace, call, device) in enumerate(zip(traces, calls, devices, strict=True)):
                with self._task(TaskKind.FORWARD, number, part, device):
                    with trace.tape:
                        trace.watch()
                        trace.contributions.append(rule.contribute(call, stage))
                    self._keep(trace, call, stage)
            contributions = [trace.contributions[stage] for trace in traces]
            reduced = self._over_groups(
                TaskName(TaskKind.COMBINE, operator.name),
                combine.group,
                contributions,
                devices,
                combine.combine.reduction,
            )
            for trace, value in zip(traces, reduced, strict=True):
                trace.combined.append(value)
        for part, (trace, call, device) in enumerate(zip(traces, calls, devices, strict=True)):
            with self._task(TaskKind.FORWARD, number, part, device), trace.tape:
                trace.watch()
                result = rule.compute(call)
            trace.outputs = result.outputs
            trace.report = result.report
            for position, value in result.updates.items():
                self.updates.setdefault(operator.weights[position], {})[device] = value
        return traces

    def _keep(self, trace: PartTrace, call: PartCall, stage: int) -> None:
        """Replaces what a stage made and put into memory by copies that the tape starts from."""
        copies = {id(copy): copy for _, _, copy in trace.kept}

        def copy(tensor: tf.Tensor) -> tf.Tensor:
            if id(tensor) not in copies:
                copies[id(tensor)] = tf.identity(tensor)
                trace.kept.append((stage, tensor, copies[id(tensor)]))
                copies[id(copies[id(tensor)])] = copies[id(tensor)]
            return copies[id(tensor)]

        for name, value in call.memory.items():
            call.memory[name] = tf.nest.map_structure(copy, value)

    def gathered(self, ref: TensorRef) -> tf.Tensor:
        """A tensor as a whole, on the host of every client."""
        number = ref.operator
        block = self.lowering.operator(number, self.configs[number].degrees)
        # Of parts that make the same, one.
        made = {
            ranges(region): (trace.outputs[ref.output], device)
            for region, trace, device in zip(
                block.outputs[ref.output], self.traces[number], self.devices(number), strict=True
            )
        }
        pieces = [(region, collectives.on_host(*one)) for region, one in made.items()]
        with on(here()):
            return assemble(pieces)

    def _read(self, weight: int, device: str) -> tf.Tensor:
        """The region of a weight on a device, as it is when the layers before have run."""
        updated = self.updated(weight, device)
        if updated is not None:
            return updated
        return self.store[self.captured.variables[weight]].on(device).value.read_value()

    def updated(self, weight: int, device: str) -> tf.Tensor | None:
        """What layers have made of the region of a weight on a device; None if nothing."""
        made = self.updates.get(weight)
        if made is None or device in made:
            return made and made[device]
        sharded = self.store[self.captured.variables[weight]]
        source = next(d for d in made if sharded.region(d) == sharded.region(device))
        return move(made[source], source, device)

    def _inputs(self, number: int, part: int) -> list[tf.Tensor | None]:
        """The input regions of a part, on its device; None where it reads nothing."""
        device = self.devices(number)[part]
        operator, regions = self.graph.operators[number], self.parts[number][part].inputs
        read = zip(operator.inputs, regions, strict=True)
        fed = [Piece(ref.operator, region, device) for ref, region in read]
        result: list[tf.Tensor | None] = [self._fed.get(piece) for piece in fed]
        for edge in self.graph.in_edges[number]:
            pieces = []
            for producer, region in self._overlaps(edge)[part]:
                trace = self.traces[edge.producer.operator][producer]
                source = self.devices(edge.producer.operator)[producer]
                with self._task(TaskKind.TRANSFER, number, part, source):
                    output = trace.outputs[edge.producer.output]
                    piece = cut(output, self._made(edge, producer), region)
                if source != device:
                    name = TaskName(TaskKind.TRANSFER, self.graph.operators[number].name, part)
                    with tf.name_scope(name.scope):
                        piece = move(piece, source, device)
                pieces.append((region, piece))
            with self._task(TaskKind.TRANSFER, number, part, device):
                result[edge.input] = apart(assemble(pieces)) if pieces else None
        return result

    def _made(self, edge: Edge, producer: int) -> Region:
        """The region of the tensor on `edge` that part `producer` makes."""
        degrees = self.configs[edge.producer.operator].degrees
        block = self.lowering.operator(edge.producer.operator, degrees)
        return ranges(block.outputs[edge.producer.output][producer])

    def _overlaps(self, edge: Edge) -> list[list[tuple[int, Region]]]:
        """For each part of the consumer the producer's parts that it reads, and which regions."""
        if edge.index not in self._overlaps_of:
            consumer = self.configs[edge.consumer]
            producer = self.configs[edge.producer.operator]
            found = self.lowering.edge(edge, producer.degrees, consumer.degrees)
            by_consumer: list[list[tuple[int, Region]]] = [[] for _ in consumer.devices]
            for p, c, region in zip(found.producer, found.consumer, found.regions, strict=True):
                by_consumer[c].append((int(p), ranges(region)))
            self._overlaps_of[edge.index] = by_consumer
        return self._overlaps_of[edge.index]

    def _over_groups(
        self,
        name: TaskName,
        group: Any,
        tensors: Sequence[tf.Tensor],
        devices: Sequence[str],
        reduction: str,
    ) -> list[tf.Tensor]:
        """Reduces within each group of parts; gives each part its group's value."""
        result: list[tf.Tensor] = list(tensors)
        for number in range(int(group.max()) + 1):
            members = self._in_device_order(
                [part for part in range(len(devices)) if group[part] == number], devices
            )
            with tf.name_scope(name.scope):
                reduced = self.reductions.reduce(
                    [tensors[part] for part in members],
                    [devices[part] for part in members],
                    reduction,
                )
            for part, value in zip(members, reduced, strict=True):
                result[part] = value
        return result

    def _in_device_order(self, parts: list[int], devices: Sequence[str]) -> list[int]:
        return sorted(parts, key=lambda part: self.device_names.index(devices[part]))

    def backward(self, loss_scale: Callable[[str], Any] | None = None) -> None:
        """Traces all backward tasks; leaves `weight_gradients` by weight and device.

        Args:
            loss_scale: Gives what losses are multiplied by, on a device; None for nothing.
        """
        self._loss_scale = loss_scale
        for number in reversed(range(len(self.graph.operators))):
            if self.graph.has_backward[number]:
                self._backward(number)

    def _backward(self, number: int) -> None:
        operator = self.graph.operators[number]
        devices = self.devices(number)
        traces = self.traces[number]
        block = self.lowering.operator(number, self.configs[number].degrees)
        # For each part and source what is to be added up: at once, as adding one after the other
        # would go over the gradient of a weight again at every stage.
        gradients: list[list[list[Any]]] = []
        for part, (trace, device) in enumerate(zip(traces, devices, strict=True)):
            with self._task(TaskKind.BACKWARD, number, part, device):
                arrived = self._arrived(number, part, trace)
                sources = trace.sources()
                made = [tensor for tensor in trace.outputs if tensor is not None]
                found = trace.tape.gradient(made, sources, output_gradients=arrived)
                gradients.append([[] if gradient is None else [gradient] for gradient in found])
        for stage in reversed(range(len(traces[0].combined))):
            self._combine_gradients(number, stage, gradients, block)
        for part, (trace, device) in enumerate(zip(traces, devices, strict=True)):
            with self._task(TaskKind.BACKWARD, number, part, device):
                of_inputs = [add_up(some) for some in gradients[part][: len(trace.inputs)]]
                of_weights = [add_up(some) for some in gradients[part][len(trace.inputs) :]]
            for weight, gradient in zip(operator.weights, of_weights, strict=False):
                if gradient is not None and self.graph.weights[weight].trainable:
                    by_device = self.weight_gradients.setdefault(weight, {})
                    by_device.setdefault(device, []).append(gradient)
            self._send_back(number, part, of_inputs, device)

    def _arrived(self, number: int, part: int, trace: PartTrace) -> list[tf.Tensor]:
        """Sums of the gradients that arrived for outputs; a loss starts from its weight."""
        if self.graph.operators[number].kind in LOSS_KINDS:
            dtype = trace.outputs[0].dtype
            start = tf.constant(self.captured.layers[number].weight, dtype)
            scale = self._loss_scale and self._loss_scale(self.devices(number)[part])
            return [start if scale is None else start * tf.cast(scale, dtype)]
        arriving = self._arriving.pop((number, part), [[] for _ in trace.outputs])
        block = self.lowering.operator(number, self.configs[number].degrees)
        result: list[tf.Tensor] = []
        for output, pieces in enumerate(arriving):
            if trace.outputs[output] is None:
                continue
            if pieces:
                result.append(accumulate(pieces, ranges(block.outputs[output][part])))
            else:
                result.append(tf.zeros_like(trace.outputs[output]))
        return result

    def _combine_gradients(self, number: int, stage: int, gradients: list, block: Any) -> None:
        """Sums the gradient of a combined value over its group, and takes it on from there."""
        devices = self.devices(number)
        traces = self.traces[number]
        position = len(traces[0].inputs) + len(traces[0].weights)
        reduced: list[tf.Tensor] = []
        if block.combines[stage].combine.reduction == "sum":
            of_combined = []
            for part, (trace, device) in enumerate(zip(traces, devices, strict=True)):
                with self._task(TaskKind.BACKWARD, number, part, device):
                    gradient = add_up(gradients[part][position + stage])
                    of_combined.append(
                        tf.zeros_like(trace.combined[stage]) if gradient is None else gradient
                    )
            name = TaskName(TaskKind.GRADIENT_COMBINE, self.graph.operators[number].name)
            group = block.combines[stage].group
            reduced = self._over_groups(name, group, of_combined, devices, "sum")
        for part, (trace, device) in enumerate(zip(traces, devices, strict=True)):
            of_kept = gradients[part][position + len(trace.combined) :]
            targets = [(trace.contributions[stage], reduced[part])] if reduced else []
            with self._task(TaskKind.BACKWARD, number, part, device):
                targets += [
                    (made, add_up(some))
                    for (at, made, _), some in zip(trace.kept, of_kept, strict=True)
                    if at == stage and some
                ]
            if not targets:
                continue
            with self._task(TaskKind.BACKWARD, number, part, device):
                more = trace.tape.gradient(
                    [made for made, _ in targets],
                    trace.sources(),
                    output_gradients=[gradient for _, gradient in targets],
                )
                for some, gradient in zip(gradients[part], more, strict=True):
                    if gradient is not None:
                        some.append(gradient)

    def _send_back(self, number: int, part: int, gradients: Sequence[Any], device: str) -> None:
        name = TaskName(TaskKind.GRADIENT_TRANSFER, self.graph.operators[number].name, part)
        for edge in self.graph.in_edges[number]:
            gradient = gradients[edge.input]
            source = edge.producer.operator
            if not self.graph.sends_back[edge.index]:
                continue
            read = self.parts[number][part].inputs[edge.input]
            targets = self.devices(source)
            for producer, region in self._overlaps(edge)[part]:
                with self._task(TaskKind.GRADIENT_TRANSFER, number, part, device):
                    if gradient is None:
                        whole = self.traces[number][part].inputs[edge.input]
                        gradient = tf.zeros_like(whole)
                    piece = cut(tf.convert_to_tensor(gradient), read, region)
                if targets[producer] != device:
                    with tf.name_scope(name.scope):
                        piece = move(piece, device, targets[producer])
                outputs = self.graph.operators[source].output_specs
                slots = self._arriving.setdefault((source, producer), [[] for _ in outputs])
                slots[edge.producer.output].append((region, piece))


def _no_arguments(inputs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(inputs), {}
