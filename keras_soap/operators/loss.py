"""Losses and metrics: what ends a step, and is reported.

1. Parts of a loss add up to it. Where it is a mean over what a mask or weights leave, parts first
   add up how much that is.
2. A cross-entropy of a softmax is split along the classes, too: its logits are never gathered.
   Parts of one sample find the largest logit m and Z = Σ exp(x - m), one number each for a sample;
   then each adds what its own classes have in

       loss = log Z - (x_label - m)    or    loss = Σ label · (log Z - (x - m)).

3. Accuracies want the first class with the largest logit, and with the largest label where labels
   are vectors. Parts find the largest first, then the first class that has it.
4. Metrics that need whole predictions are operators of their own, which read them whole.
"""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume, whole
from keras_soap.operators.rule import (
    Combine,
    Dimension,
    PartCall,
    PartResult,
    Rule,
    axis_dimensions,
    default_names,
)


class Loss(Rule):
    """Unreduced values of a loss: any axis that it does not reduce over can be split.

    Inputs (prediction, target, sample weights, mask) have the axes of the values first; axes after
    those are reduced over, and read whole. With the attribute `"is_normalized"` it is divided by a
    sum over all parts; with `"is_whole"` it needs the whole batch.
    """

    kind = "loss"

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        return () if operator.attributes.get("is_whole") else super().dimensions(operator)

    def input_regions(self, operator: Operator, regions: Regions) -> list[Regions]:
        result = []
        for spec in operator.input_specs:
            region = whole(len(regions), spec.shape)
            for axis in range(min(regions.shape[1], len(spec.shape))):
                if spec.shape[axis] == operator.output.shape[axis]:
                    region[:, axis] = regions[:, axis]
            result.append(region)
        return result

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # Exponentials and logarithms of a softmax cross-entropy: about ten operations an element.
        return 10.0 * volume(self.input_regions(operator, regions)[0])

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        is_whole = np.all(volume(regions) == operator.output.num_elements)
        if is_whole or not operator.attributes.get("is_normalized"):
            return ()
        over = tuple(dimension.name for dimension in self.dimensions(operator))
        return (Combine("normalizer", over, np.ones(len(regions), np.int64), _dtype(operator)),)

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        return tf.reshape(call.layer.normalizer(call.inputs), [1])

    def compute(self, call: PartCall) -> PartResult:
        loss, report = call.layer.result(call.inputs, _normalizer(call))
        return PartResult((loss,), report=report)


class Metrics(Loss):
    """Metrics of whole predictions. Nothing is trained by them."""

    kind = "metrics"


class CrossEntropy(Loss):
    """Cross-entropy of a softmax over the last axis, given its logits.

    Its output has the shape of the logits: what is kept of them for the backward pass.

    Attributes: `"is_sparse"`, whether labels are numbers of classes; `"finds_classes"`, whether a
    metric asks for the classes with the largest logits.
    """

    kind = "cross_entropy"

    def dimensions(self, operator: Operator) -> tuple[Dimension, ...]:
        names = (*default_names(len(operator.output.shape))[:-1], "classes")
        return axis_dimensions(operator, names)

    def combines(self, operator: Operator, regions: Regions) -> tuple[Combine, ...]:
        first = super().combines(operator, regions)
        if np.all(regions[:, -1] == (0, operator.output.shape[-1])):
            return first
        values = volume(regions[:, :-1])
        searched = values * _num_searched(operator)
        over, dtype = ("classes",), _dtype(operator)
        more = [
            Combine("largest", over, np.maximum(values, searched), dtype, "max"),
            Combine("sum", over, values, dtype),
        ]
        if operator.attributes["finds_classes"]:
            more.append(Combine("class", over, searched, dtype, "max"))
        return *first, *more

    def contribute(self, call: PartCall, number: int) -> Any:
        import tensorflow as tf

        if _is_normalized(call):
            number -= 1
        if number < 0:
            # The parts of one sample count it once.
            return super().contribute(call, 0) * (1.0 if call.part.output[-1][0] == 0 else 0.0)
        logits = _logits(call)
        if number == 0:
            searched = _searched(call, logits) or [logits]
            largest = [tf.reshape(tf.reduce_max(x, -1), [-1]) for x in searched]
            return tf.stop_gradient(tf.concat(largest, 0))
        if number == 1:
            shifted = logits - _largest(call, logits)[..., None]
            return tf.reshape(tf.reduce_sum(tf.exp(shifted), -1), [-1])
        start, size = call.part.output[-1][0], call.part.operator.output.shape[-1]
        found = []
        largest = tf.split(_combined(call, 0), _num_searched(call.part.operator))
        for x, most in zip(_searched(call, logits), largest, strict=True):
            is_largest = tf.reshape(tf.reduce_max(x, -1), [-1]) == most
            at = tf.reshape(tf.argmax(x, -1), [-1]) + start
            # The first of all is the largest negative one.
            found.append(tf.cast(tf.where(is_largest, -at, -size), logits.dtype))
        return tf.stop_gradient(tf.concat(found, 0))

    def compute(self, call: PartCall) -> PartResult:
        import tensorflow as tf

        operator, term = call.part.operator, call.layer
        start, stop = call.part.output[-1]
        if stop - start == operator.output.shape[-1]:
            return super().compute(call)
        logits = _logits(call)
        log_sum = tf.math.log(tf.reshape(_combined(call, 1), logits.shape[:-1]))
        values = _values(call, logits, log_sum)
        loss = term.reduced(values, call.inputs, _normalizer(call))
        is_first = start == 0
        hits = None
        if is_first and operator.attributes["finds_classes"]:
            found, *labels = tf.split(-_combined(call, 2), _num_searched(operator))
            label = labels[0] if labels else tf.reshape(call.inputs[1], [-1])
            hits = tf.reshape(found == tf.cast(label, found.dtype), logits.shape[:-1])
        return PartResult((loss,), report=term.report_of_classes(loss, call.inputs, hits))


def _dtype(operator: Operator) -> str:
    return operator.output.dtype


def _num_searched(operator: Operator) -> int:
    """Tensors of which the class with the largest value is asked for: logits, vectors of labels."""
    if not operator.attributes["finds_classes"]:
        return 0
    return 1 if operator.attributes["is_sparse"] else 2


def _searched(call: PartCall, logits: Any) -> list[Any]:
    import tensorflow as tf

    labels = [] if call.layer.is_sparse else [tf.cast(call.inputs[1], logits.dtype)]
    return [logits, *labels][: _num_searched(call.part.operator)]


def _logits(call: PartCall) -> Any:
    import tensorflow as tf

    return tf.cast(call.inputs[0], call.part.operator.output.dtype)


def _is_normalized(call: PartCall) -> bool:
    return bool(call.part.operator.attributes.get("is_normalized"))


def _normalizer(call: PartCall) -> Any:
    """What all parts have added up, if the loss is divided by it; None for its own."""
    is_whole = all(
        stop - start == size
        for (start, stop), size in zip(
            call.part.output, call.part.operator.output.shape, strict=True
        )
    )
    return call.combined[0][0] if _is_normalized(call) and not is_whole else None


def _combined(call: PartCall, number: int) -> Any:
    """Value `number` of those that parts of one sample have combined."""
    return call.combined[number + _is_normalized(call)]


def _largest(call: PartCall, logits: Any) -> Any:
    import tensorflow as tf

    count = int(np.prod(logits.shape[:-1]))
    return tf.reshape(_combined(call, 0)[:count], logits.shape[:-1])


def _values(call: PartCall, logits: Any, log_sum: Any) -> Any:
    """What the classes of this part add to the unreduced values of the loss."""
    import tensorflow as tf

    term = call.layer
    start, stop = call.part.output[-1]
    size = call.part.operator.output.shape[-1]
    shifted_by = _largest(call, logits)
    if not term.is_sparse:
        labels = tf.cast(call.inputs[1], logits.dtype)
        if term.label_smoothing:
            labels = labels * (1.0 - term.label_smoothing) + term.label_smoothing / size
        return tf.reduce_sum(labels * (log_sum[..., None] - (logits - shifted_by[..., None])), -1)
    labels = tf.cast(tf.reshape(call.inputs[1], shifted_by.shape), tf.int64)
    is_valid = None
    if term.ignore_class is not None:
        is_valid = labels != term.ignore_class
        labels = tf.where(is_valid, labels, 0)
    # What is no class at all is for the first or last part, and fails there as it does whole.
    after = labels >= start if start > 0 else tf.ones_like(labels, tf.bool)
    before = labels < stop if stop < size else tf.ones_like(labels, tf.bool)
    is_here = after & before
    at = tf.where(is_here, labels - start, 0)
    picked = tf.gather(logits, at, axis=-1, batch_dims=len(at.shape)) - shifted_by
    values = tf.where(is_here, -picked, tf.zeros([], logits.dtype))
    if start == 0:
        values = values + log_sum
    return values if is_valid is None else tf.where(is_valid, values, tf.zeros([], values.dtype))
