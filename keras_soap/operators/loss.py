"""Losses and metrics: what ends a step, and is reported.

1. Parts of a loss add up to it. Where it is a mean over what a mask or weights leave, parts first
   add up how much that is.
2. A cross-entropy of a softmax is split along the classes, too: its logits are never gathered.
   Parts of one sample find the largest logit m, then add up Z = Σ exp(x - m), what the label
   picks, P = x_label - m or Σ label · (x - m), and W = 1 or Σ label: a few numbers for a sample.
   That with the first class then has

       loss = W · log Z - P.

   So what goes over all logits is in one stage, backwards too.

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
        sums = values * (2 if operator.attributes["is_sparse"] else 3)
        more = [
            Combine("largest", over, np.maximum(values, searched), dtype, "max"),
            Combine("sum", over, sums, dtype),
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
            sums = _sums_of_numbers if call.layer.is_sparse else _sums_of_vectors
            return tf.concat([tf.reshape(x, [-1]) for x in sums(call, logits)], 0)
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
        shape = call.inputs[0].shape[:-1]
        is_first = start == 0
        hits = None
        if is_first and operator.attributes["finds_classes"]:
            found, *labels = tf.split(-_combined(call, 2), _num_searched(operator))
            label = labels[0] if labels else tf.reshape(call.inputs[1], [-1])
            hits = tf.reshape(found == tf.cast(label, found.dtype), shape)
        # The parts of one sample have its loss once.
        values = _values(call, shape) if is_first else tf.zeros(shape, operator.output.dtype)
        loss = term.reduced(values, call.inputs, _normalizer(call))
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


def _sums_of_numbers(call: PartCall, logits: Any) -> tuple[Any, Any]:
    """Z, and P of the labels that are numbers of this part's classes; else 0."""
    import tensorflow as tf

    largest = tf.reshape(_largest(call, logits), [-1])
    labels, _ = _labels(call)
    start, stop = call.part.output[-1]
    size = call.part.operator.output.shape[-1]
    # What is no class at all is for the first or last part, and fails there as it does whole.
    after = labels >= start if start > 0 else tf.ones_like(labels, tf.bool)
    before = labels < stop if stop < size else tf.ones_like(labels, tf.bool)
    is_here = after & before
    at = tf.where(is_here, labels - start, 0)

    # Gradients of the two in one pass: of their own they would make a tensor of all logits each.
    @tf.custom_gradient
    def sums(logits: Any) -> Any:
        exponentials = tf.exp(logits - largest[:, None])
        picked = tf.gather(logits, at, axis=-1, batch_dims=1) - largest

        def gradient(of_total: Any, of_picked: Any) -> Any:
            of_picked = tf.where(is_here, of_picked, tf.zeros_like(of_picked))
            index = tf.stack([tf.range(at.shape[0], dtype=at.dtype), at], 1)
            return tf.tensor_scatter_nd_add(exponentials * of_total[:, None], index, of_picked)

        total = tf.reduce_sum(exponentials, -1)
        return (total, tf.where(is_here, picked, tf.zeros_like(picked))), gradient

    return sums(tf.reshape(logits, [-1, logits.shape[-1]]))


def _sums_of_vectors(call: PartCall, logits: Any) -> tuple[Any, Any, Any]:
    """Z, P and W of this part's classes, where labels are vectors."""
    import tensorflow as tf

    term = call.layer
    shifted = logits - _largest(call, logits)[..., None]
    labels = tf.cast(call.inputs[1], logits.dtype)
    if term.label_smoothing:
        size = call.part.operator.output.shape[-1]
        labels = labels * (1.0 - term.label_smoothing) + term.label_smoothing / size
    return (
        tf.reduce_sum(tf.exp(shifted), -1),
        tf.reduce_sum(labels * shifted, -1),
        tf.reduce_sum(labels, -1),
    )


def _labels(call: PartCall) -> tuple[Any, Any]:
    """Numbers of classes, flat, 0 for those to ignore; and which count, or None if all do."""
    import tensorflow as tf

    labels = tf.cast(tf.reshape(call.inputs[1], [-1]), tf.int64)
    if call.layer.ignore_class is None:
        return labels, None
    is_valid = labels != call.layer.ignore_class
    return tf.where(is_valid, labels, 0), is_valid


def _values(call: PartCall, shape: Any) -> Any:
    """The unreduced values of the loss, of the sums of all parts."""
    import tensorflow as tf

    sums = _combined(call, 1)
    if not call.layer.is_sparse:
        total, picked, weight = tf.split(sums, 3)
        return tf.reshape(weight * tf.math.log(total) - picked, shape)
    total, picked = tf.split(sums, 2)
    values = tf.math.log(total) - picked
    _, is_valid = _labels(call)
    if is_valid is not None:
        values = tf.where(is_valid, values, tf.zeros([], values.dtype))
    return tf.reshape(values, shape)
