"""Opens layers in time: an operator for each block of `time_chunk` consecutive steps.

1. Recurrent layers are opened. A block starts from the states that the one before hands on.
2. So is what follows them step by step: layers, losses and operations of which a step of the
   output depends on the same step of an input, and on nothing else that changes with time.
3. What cannot be opened reads the blocks joined; what is not in blocks yet is cut for those that
   are opened. Tables of embeddings stay whole: their gradients are rows.
4. Blocks on one layer's weights hand them on (see `operators.handed_weights`), so that each block
   has a configuration of its own. Blocks that draw random numbers share the layer's seed instead,
   and each draws its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keras_soap.capture.calls import Arguments
from keras_soap.capture.traced import Traced
from keras_soap.capture.weights import Weights
from keras_soap.errors import CaptureError
from keras_soap.graph.operator_graph import Operator, TensorRef, TensorSpec
from keras_soap.graph.region import whole
from keras_soap.operators import registry
from keras_soap.operators.handed_weights import BLOCK
from keras_soap.operators.noise import is_seed
from keras_soap.operators.recurrent import Recurrent
from keras_soap.operators.rule import Part, Rule


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer that is to become operators.

    Attributes:
        name: Of the operator.
        kind: Of its rule.
        layer_name: As in `Operator.layer`.
        layer: The layer or operation.
        arguments: Puts flat inputs back into its arguments.
        attributes: As in `Operator`.
        input_specs: Of its inputs, whole.
        output_specs: Of its outputs, whole.
        owner: Whose weights it has.
        fixed: Keyword arguments that the call fixes.
        has_constants: Whether there are arrays among its arguments.
    """

    name: str
    kind: str
    layer_name: str
    layer: Any
    arguments: Arguments | None
    attributes: dict[str, Any]
    input_specs: tuple[TensorSpec, ...]
    output_specs: tuple[TensorSpec, ...]
    owner: Any = None
    fixed: dict[str, Any] | None = None
    has_constants: bool = False


class Graph(Protocol):
    """What is asked of `capture.model.GraphBuilder`."""

    operators: list[Operator]
    weights: Weights

    def add(self, *args: Any, **kwargs: Any) -> int: ...

    def spec(self, tensor: Traced) -> TensorSpec: ...


class TimeBlocks:
    """Joins, cuts and opens.

    Args:
        graph: Where operators go.
        steps: In one block.
    """

    def __init__(self, graph: Graph, steps: int):
        if steps < 1:
            raise CaptureError(f"time_chunk={steps} must be 1 or more.")
        self.graph = graph
        self.steps = steps

    def joined(self, tensor: Traced) -> TensorRef:
        """The whole of `tensor`."""
        if tensor.whole is None:
            made = self.graph.spec(tensor)
            name = f"{self._name(tensor.blocks[0]).rsplit('/', 1)[0]}/joined"
            tensor.whole = TensorRef(
                self.graph.add(name, "concatenate", "", tensor.blocks, (made,), {"axis": 1})
            )
        return tensor.whole

    def cut(self, tensor: Traced) -> tuple[TensorRef, ...]:
        """The blocks of `tensor`."""
        if not tensor.blocks:
            assert tensor.whole is not None
            spec = self.graph.spec(tensor)
            batch, length, *rest = spec.shape
            made = TensorSpec((batch, self.steps, *rest), spec.dtype)
            tensor.blocks = tuple(
                TensorRef(
                    self.graph.add(
                        f"{self._name(tensor.whole)}/steps_{start}",
                        "steps",
                        "",
                        [tensor.whole],
                        (made,),
                        {"start": start},
                    )
                )
                for start in range(0, length, self.steps)
            )
        return tensor.blocks

    def open(self, call: LayerCall, inputs: Sequence[Traced]) -> list[Traced] | None:
        """Adds an operator for each block of a call, and gives its outputs, if it is opened."""
        rule = registry.find(call.kind)
        if isinstance(rule, Recurrent):
            return self._open_recurrent(call, rule, inputs)
        return self._open_stepwise(call, rule, inputs)

    def _open_recurrent(
        self, call: LayerCall, rule: Recurrent, inputs: Sequence[Traced]
    ) -> list[Traced] | None:
        batch, length, _ = call.input_specs[0].shape
        if length % self.steps:
            fits = max(d for d in range(1, self.steps + 1) if length % d == 0)
            raise CaptureError(
                f"Cannot cut the {length} steps of {call.name!r} into blocks of "
                f"time_chunk={self.steps}. Use a divisor of {length}, such as {fits}."
            )
        count = length // self.steps
        if count == 1:
            return None
        output = call.output_specs[0]
        is_sequence = len(output.shape) == 3
        made = (batch, self.steps, output.shape[-1]) if is_sequence else output.shape
        states_spec = (TensorSpec((batch, output.shape[-1]), output.dtype),) * rule.num_states
        pieces = self.cut(inputs[0])
        if call.attributes.get("go_backwards"):
            pieces = pieces[::-1]
        states = [self.joined(tensor) for tensor in inputs[1:]]
        operator = self._whole_operator(call)
        fixed = call.fixed or {}

        def arguments(tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            states = {"initial_state": list(tensors[1:])} if len(tensors) > 1 else {}
            return (tensors[0],), {**states, **fixed}

        blocks: list[TensorRef] = []
        weights: list[TensorRef] = []
        for number in range(count):
            returns = states_spec[: len(call.output_specs) - 1 if number == count - 1 else None]
            block = self._add_block(
                call,
                rule,
                operator,
                (number, count),
                [pieces[number], *states],
                weights,
                (TensorSpec(made, output.dtype), *returns),
                arguments,
            )
            blocks.append(TensorRef(block))
            states = [TensorRef(block, 1 + i) for i in range(len(returns))]
            first = 1 + len(returns)
            last = len(self.graph.operators[block].output_specs)
            weights = [TensorRef(block, position) for position in range(first, last)]
        sequence = Traced(blocks=tuple(blocks)) if is_sequence else Traced(blocks[-1])
        return [sequence, *(Traced(state) for state in states)]

    def _open_stepwise(
        self, call: LayerCall, rule: Rule, inputs: Sequence[Traced]
    ) -> list[Traced] | None:
        counts = {len(t.blocks) for t in inputs if t.blocks}
        operator = self._whole_operator(call)
        if len(counts) != 1 or not self._has_blocks(call, operator, counts):
            return None
        (count,) = counts
        reads = self._reads_in_blocks(rule, operator, count)
        if reads is None or not any(r and t.blocks for r, t in zip(reads, inputs, strict=True)):
            return None
        batch, _, *rest = call.output_specs[0].shape
        made = TensorSpec((batch, self.steps, *rest), call.output_specs[0].dtype)
        refs = [
            self.cut(tensor) if read else (self.joined(tensor),) * count
            for tensor, read in zip(inputs, reads, strict=True)
        ]
        blocks: list[TensorRef] = []
        weights: list[TensorRef] = []
        for number in range(count):
            block = self._add_block(
                call,
                rule,
                operator,
                (number, count),
                [of_input[number] for of_input in refs],
                weights,
                (made,),
                call.arguments,
            )
            blocks.append(TensorRef(block))
            last = len(self.graph.operators[block].output_specs)
            weights = [TensorRef(block, position) for position in range(1, last)]
        return [Traced(blocks=tuple(blocks))]

    def _has_blocks(self, call: LayerCall, operator: Operator, counts: set[int]) -> bool:
        """Whether a call is of the kind that may be opened, as far as its rule need not say."""
        seeds = [is_seed(spec) for spec in operator.weight_specs]
        output = operator.output.shape
        return (
            len(operator.output_specs) == 1
            and len(output) > 1
            and output[1] == self.steps * min(counts)
            and not call.has_constants
            and not registry.find(call.kind).sparse_weights
            and (all(seeds) or not any(seeds))
            # One number may stand for all steps.
            and call.kind != "spatial_noise"
            and not call.attributes.get("noise_shape")
        )

    def _reads_in_blocks(self, rule: Rule, operator: Operator, count: int) -> list[bool] | None:
        """For each input whether a block reads the same steps of it, or all; None if neither."""
        length = self.steps * count
        steps = [d for d in rule.dimensions(operator) if d.axis == 1]
        if not steps or self.steps % steps[0].step:
            return None
        bounds = np.arange(0, length + 1, self.steps)
        ranges = np.stack([bounds[:-1], bounds[1:]], axis=1)
        regions = whole(count, operator.output.shape)
        regions[:, 1] = ranges
        everything = whole(count, operator.output.shape)
        weights = zip(
            rule.weight_regions(operator, regions),
            rule.weight_regions(operator, everything),
            strict=True,
        )
        if rule.combines(operator, regions) or any(not np.array_equal(*pair) for pair in weights):
            return None
        if rule.shrink(_part(rule, operator, regions)) != rule.shrink(
            _part(rule, operator, everything)
        ):
            return None
        reads = []
        for spec, region in zip(
            operator.input_specs, rule.input_regions(operator, regions), strict=True
        ):
            expected = whole(count, spec.shape)
            is_whole = np.array_equal(region, expected)
            if not is_whole:
                if len(spec.shape) < 2 or spec.shape[1] != length:
                    return None
                expected[:, 1] = ranges
                if not np.array_equal(region, expected):
                    return None
            reads.append(not is_whole)
        return reads

    def _add_block(
        self,
        call: LayerCall,
        rule: Rule,
        operator: Operator,
        position: tuple[int, int],
        inputs: Sequence[TensorRef],
        weights: Sequence[TensorRef],
        outputs: tuple[TensorSpec, ...],
        arguments: Arguments | None,
    ) -> int:
        """Adds block `position` (number, count), which reads `weights` where they are handed on."""
        number, count = position
        kind, owner, attributes = call.kind, call.owner, dict(call.attributes)
        if any(is_seed(spec) for spec in operator.weight_specs):
            attributes["block"] = [number, count]
        elif operator.weight_specs:
            kind += BLOCK
            owner = call.owner if number == 0 else ()
            specs = operator.weight_specs
            attributes["weights"] = [[list(w.shape), w.dtype, w.trainable] for w in specs]
            attributes["handed"] = list(range(len(specs))) if number > 0 else []
            attributes["hands_on"] = number < count - 1
            if number > 0:
                attributes["constant_inputs"] = [
                    len(inputs) + i for i, w in enumerate(specs) if not w.trainable
                ]
            if number < count - 1:
                views = rule.weight_shapes(operator)
                outputs = (
                    *outputs,
                    *(TensorSpec(v, w.dtype) for v, w in zip(views, specs, strict=True)),
                )
        return self.graph.add(
            f"{call.name}/block_{number}",
            kind,
            call.layer_name,
            [*inputs, *weights],
            outputs,
            attributes,
            call.layer,
            arguments,
            owner,
        )

    def _whole_operator(self, call: LayerCall) -> Operator:
        """The call as one operator, which is not added."""
        weights, specs = self.graph.weights.of(call.owner)
        return Operator(
            call.name,
            call.kind,
            call.layer_name,
            tuple(TensorRef(0) for _ in call.input_specs),
            call.input_specs,
            call.output_specs,
            weights,
            specs,
            call.attributes,
        )

    def _name(self, ref: TensorRef) -> str:
        return self.graph.operators[ref.operator].name


def _part(rule: Rule, operator: Operator, regions: np.ndarray) -> Part:
    """The first part that makes `regions`."""

    def ranges(region: np.ndarray) -> tuple[tuple[int, int], ...]:
        return tuple((start, stop) for start, stop in region[0].tolist())

    return Part(
        operator,
        0,
        ranges(regions),
        tuple(map(ranges, rule.input_regions(operator, regions))),
        tuple(map(ranges, rule.weight_regions(operator, regions))),
    )
