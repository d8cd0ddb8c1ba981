"""What the rest of the package may ask about a kind of operator.

1. `dimensions`: which dimensions of the output can be split, and of which SOAP kind.
2. `input_regions`, `weight_regions`: what a part reads, given the region that it makes.
3. `flops`, `backward_flops`: how much work that is.
4. `combines`: what parts must reduce among each other in the middle of their work.
5. `compute`: how a part is computed, mostly by a shrunk clone of the layer.

1 to 4 are pure arithmetic over all parts of an operator at once and need no TensorFlow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from keras_soap.graph.operator_graph import Operator, TensorSpec
from keras_soap.graph.region import Regions, broadcast_regions, volume, whole

NOT_AN_AXIS = -1
"""In `Dimension.axes`, for an output of which all parts along the dimension make the same."""


class DimensionKind(StrEnum):
    """The letters S, A and P; O is the choice of devices."""

    SAMPLE = "sample"
    ATTRIBUTE = "attribute"
    PARAMETER = "parameter"

    @property
    def letter(self) -> str:
        return self.value[0].upper()


@dataclass(frozen=True, slots=True)
class Dimension:
    """One parallelizable dimension of an operator.

    Attributes:
        name: The field's word for it: `"sample"`, `"height"`, `"units"`, …
        axes: For each output of the operator the axis that it is, or `NOT_AN_AXIS`: then parts
            along it make copies of that output. It is an axis of the first output.
        size: Its size.
        kind: S, A or P.
        step: Parts hold whole multiples of this many elements.
    """

    name: str
    axes: tuple[int, ...]
    size: int
    kind: DimensionKind
    step: int = 1

    @property
    def axis(self) -> int:
        """Its axis in the first output."""
        return self.axes[0]

    def allows(self, degree: int) -> bool:
        """Whether it can be split into `degree` equal parts."""
        return degree >= 1 and (self.size // self.step) % degree == 0

    def degrees(self, most: int) -> tuple[int, ...]:
        """All degrees up to `most` that it can be split by."""
        return tuple(degree for degree in range(1, most + 1) if self.allows(degree))


@dataclass(frozen=True, slots=True)
class Combine:
    """A reduction among parts between two stages of an operator's forward pass.

    Parts that differ only along `over` form a group, and each gets the reduced value. In the
    backward pass the gradients of the reduced value are summed over the group likewise.

    Attributes:
        name: For people: `"moments"`.
        over: Names of the dimensions that are reduced over.
        elements: int64 (parts,): elements of the value that each part contributes.
        dtype: Its dtype.
        reduction: `"sum"`, or `"max"`, which carries no gradient.
        training_only: Whether it is left out in inference.
    """

    name: str
    over: tuple[str, ...]
    elements: np.ndarray
    dtype: str = "float32"
    reduction: str = "sum"
    training_only: bool = False


@dataclass(frozen=True)
class Part:
    """One part of an operator under a configuration.

    Attributes:
        operator: Whose part it is.
        index: Its row-major number.
        output: Region of the first output that it makes: (start, stop) for each axis.
        inputs: For each input the region that it reads.
        weights: For each weight the region that it reads, of its view (`Rule.weight_shapes`).
    """

    operator: Operator
    index: int
    output: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class PartCall:
    """What `Rule.compute` works on.

    Attributes:
        part: The part to compute.
        layer: The Keras layer, operation or loss term that the operator was captured from.
        arguments: Puts flat inputs back into the layer's arguments: `(args, kwargs)`.
        inputs: For each input a tensor of the region `part.inputs`; None where it is empty.
        weights: For each weight a tensor of the region `part.weights`.
        combined: Reduced values of the operator's combines so far.
        training: Whether in training mode.
        memory: What the part keeps from stage to stage: tensors, or nests of them, by name. A rule
            puts in new values, and takes gradients through them for granted.
    """

    part: Part
    layer: Any
    arguments: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    inputs: Sequence[Any]
    weights: Sequence[Any]
    combined: Sequence[Any]
    training: bool
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartResult:
    """What a part makes.

    Attributes:
        outputs: For each output a tensor; None for a space.
        updates: New values of weights, by position.
        report: Of a loss or metric: the vector that it sends to the reporting device.
    """

    outputs: tuple[Any, ...]
    updates: dict[int, Any] = field(default_factory=dict)
    report: Any = None


class Rule:
    """Base of all rules: an elementwise operator without weights, split along any axis.

    Subclasses are stateless: one instance serves all operators of the kind. The attribute
    `"weight_inputs"` of an operator has the positions of inputs that are made of weights alone.

    Attributes:
        kind: Name of the kind, as in `Operator.kind`.
        layers: Names of the Keras layers (or other Keras operations) that it covers.
        sparse_weights: Positions of weights whose gradients come as rows (`IndexedSlices`).
        free: Whether it takes no time: a view of what is there already.
        several_outputs: Whether it covers calls that make more than one tensor.
        takes_weights: Whether it covers operations that are called on weights; where they stand
            among the arguments, the attribute `"operands"` says.
        takes_arrays: Whether it covers calls with arrays among their arguments, which are the same
            in every step. Parts are called with the whole arrays.
    """

    kind: ClassVar[str] = ""
    layers: ClassVar[tuple[str, ...]] = ()
    sparse_weights: ClassVar[tuple[int, ...]] = ()
    free: bool = False
    several_outputs: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = False
    takes_arrays: ClassVar[bool] = False

    def refuses(
        self, attributes: dict[str, Any], inputs: Sequence[TensorSpec], output: TensorSpec
    ) -> str | None:
        """Why a call with these attributes is beyond this rule, if it is.

        The call is then handled by a fallback: split by sample only, or not at all.
        """
        return None

    def output_specs(
        self, attributes: dict[str, Any], made: Sequence[TensorSpec]
    ) -> tuple[TensorSpec, ...]:
        """Outputs of an operator for a call that makes `made`. Here: those.

        A rule that splits along what is no axis of them puts a space before them
        (`Operator.output_specs`). Parts along that axis each make all of the rest, so they must
        combine what they have; `compute` then gives None for the space.
        """
        return tuple(made)

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        """Its parallelizable dimensions: here the batch, and every other axis as an attribute."""
        return axis_dimensions(operator)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        """For each input what parts that make `regions` of the first output read.

        Here: the same region, with broadcasting.
        """
        return [broadcast_regions(regions, spec.shape) for spec in operator.input_specs]

    def weight_shapes(self, operator: Operator) -> list[tuple[int, ...]]:
        """For each weight the shape that it is seen in, so that what parts need of it are boxes.

        Regions of weights, and the tensors that `compute` is given, are of that view. Here: the
        weight's own shape.
        """
        return [spec.shape for spec in operator.weight_specs]

    def weight_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        """For each weight what parts that make `regions` read and train. Here: all of it."""
        return [whole(len(regions), shape) for shape in self.weight_shapes(operator)]

    def output_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        """For each output what parts that make `regions` of the first one make of it."""
        result = [whole(len(regions), spec.shape) for spec in operator.output_specs]
        for dimension in self.dimensions(operator):
            for made, axis in zip(result, dimension.axes, strict=True):
                if axis != NOT_AN_AXIS:
                    made[:, axis] = regions[:, dimension.axis]
        return result

    def made_outputs(self, operator: Operator) -> Sequence[int]:
        """Positions of outputs that take memory of their own. Here: all, unless it is `free`."""
        return () if self.free and operator.inputs else range(len(operator.output_specs))

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        """float64 (parts,): forward floating-point operations. Here: one per output element."""
        return volume(regions).astype(np.float64)

    def backward_flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        """float64 (parts,): as much again for inputs, and for weights if it has any."""
        passes = 2 if operator.weight_specs else 1
        return passes * self.flops(operator, regions)

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        """Reductions between stages; n of them make n + 1 stages."""
        return ()

    def rows_of_inputs(self, operator: Operator) -> Sequence[int]:
        """Positions of inputs of whose regions parts read a few rows only. Here: none."""
        return ()

    def sparse_rows(self, operator: Operator, regions: Regions) -> np.ndarray:
        """int64 (parts,): rows in the sparse gradient of each weight in `sparse_weights`.

        Rules that have such weights define it; nobody asks others.
        """
        raise NotImplementedError(f"{type(self).__name__} has sparse_weights but no sparse_rows")

    def shrink(self, part: Part) -> dict[str, Any]:
        """Changes to the layer's config that make it compute this part. Here: none."""
        return {}

    def prepare(self, part: Part, inputs: list[Any]) -> list[Any]:
        """The inputs as the shrunk layer takes them (explicitly padded, for example)."""
        return inputs

    def contribute(self, call: PartCall, number: int) -> Any:
        """What the part puts into combine `number`: a tensor of that many elements.

        Rules that have `combines` define it; nobody asks others.
        """
        raise NotImplementedError(f"{type(self).__name__} has combines but no contribute")

    def compute(self, call: PartCall) -> PartResult:
        """Computes the part. Here: the shrunk layer's own `stateless_call`."""
        from keras_soap.operators import computation

        inputs = self.prepare(call.part, list(call.inputs))
        return computation.call_shrunk(call, self.shrink(call.part), inputs)


def axis_dimensions(
    operator: Operator,
    names: Sequence[str] | None = None,
    kinds: dict[str, DimensionKind] | None = None,
    steps: dict[str, int] | None = None,
    skip: Sequence[int] = (),
) -> tuple[Dimension, ...]:
    """Dimensions of the axes of the first output.

    Args:
        operator: Whose.
        names: Of the axes; the first is `"sample"`. By default words that fit the rank.
        kinds: Of the names that are neither sample nor attribute.
        steps: `Dimension.step` of the names where it is not 1.
        skip: Axes that cannot be split.
    """
    shape = operator.output.shape
    names = names or default_names(len(shape))
    return tuple(
        Dimension(
            name,
            (axis,) * len(operator.output_specs),
            shape[axis],
            (kinds or {}).get(name, DimensionKind.SAMPLE if axis == 0 else DimensionKind.ATTRIBUTE),
            (steps or {}).get(name, 1),
        )
        for axis, name in enumerate(names)
        if axis not in {skipped % len(shape) for skipped in skip}
    )


def default_names(rank: int) -> tuple[str, ...]:
    """Names of the axes of a channels-last tensor."""
    middle = {2: (), 3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
    if rank < 2:
        return ("sample",)[:rank]
    spatial = middle.get(rank, tuple(f"axis_{axis}" for axis in range(1, rank - 1)))
    return ("sample", *spatial, "channel")
