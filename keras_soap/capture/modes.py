"""A `call` that branches on `training`: traces in both modes become one graph.

What both modes compute alike is there once, and follows the mode. Where they differ, a layer
`ByMode` hands on what the mode has made, as early as the rest is alike again; the operators of the
other mode are not run (`graph.unread`).
"""

import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops.function import _build_map
from keras.src.ops.symbolic_arguments import SymbolicArguments

from keras_soap.capture.calls import recorded_mode
from keras_soap.capture.draws import Draw

_NOT_COMPARED = {"name", "_inbound_nodes", "_outbound_nodes", "_auto_config", "_remat_mode"}


class ByMode(keras.Layer):
    """One tensor in training, another in inference."""

    def __init__(self, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.built = True

    def call(self, in_training: Any, in_inference: Any, training: bool | None = None) -> Any:
        return in_training if training else in_inference


class _Merging:
    """What has become of the nodes of the trace in inference, one after the other.

    Args:
        training: The nodes of the trace in training.
    """

    def __init__(self, training: Sequence[Any]):
        self._left = list(training)
        self._same: dict[int, Any] = {}
        """By the id of a tensor in inference the one in training that has taken its place."""
        self._joined: dict[tuple[int, int], Any] = {}

    def read(self, tensor: Any) -> Any:
        """What a tensor of the trace in inference is now."""
        return self._same.get(id(tensor), tensor)

    def joined(self, in_training: Any, in_inference: Any) -> Any:
        """One of two tensors, by mode."""
        if in_training is in_inference:
            return in_training
        key = (id(in_training), id(in_inference))
        if key not in self._joined:
            self._joined[key] = ByMode()(in_training, in_inference)
        return self._joined[key]

    def add(self, node: Any) -> None:
        """Finds the node that computes the same in training, or keeps this one."""
        args, kwargs = node.arguments.convert(self.read)
        node.arguments = SymbolicArguments(*args, **kwargs)
        alike = [one for one in self._left if _do_the_same(one, node)]
        for allowed in (_read_the_same, self._can_be_joined):
            twin = next((one for one in alike if allowed(one, node)), None)
            if twin is not None:
                self._join(twin, node)
                return

    def _can_be_joined(self, twin: Any, node: Any) -> bool:
        """Whether one node can do for both modes, on inputs that a mode chooses.

        A layer always should, so that it is there once. An operation should where that takes no
        more choices than after it.
        """
        pairs = list(zip(twin.input_tensors, node.input_tensors, strict=True))
        others = {(id(x), id(y)) for x, y in pairs if x is not y}
        if not isinstance(node.operation, keras.Layer) and (
            len(others) > 1 or all(x is not y for x, y in pairs)
        ):
            return False
        return all(_spec(x) == _spec(y) for x, y in pairs) and not _depends(node, twin)

    def _join(self, twin: Any, node: Any) -> None:
        """Has `twin` do for both modes."""
        given = iter(node.input_tensors)
        args, kwargs = twin.arguments.convert(
            lambda x: self.joined(x, next(given)) if isinstance(x, keras.KerasTensor) else x
        )
        if recorded_mode(twin) != recorded_mode(node):
            kwargs["training"] = None
        twin.arguments = SymbolicArguments(*args, **kwargs)
        self._left.remove(twin)
        self._same.update(zip(map(id, node.outputs), twin.outputs, strict=True))


def merged(symbols: Sequence[Any], in_training: Any, in_inference: Any) -> Any:
    """What `call` returns in either mode, as one trace of it would.

    Args:
        symbols: What both traces begin with.
        in_training: What `call` returned in training. The nodes that lead to it are changed.
        in_inference: The same in inference.

    Raises:
        ValueError: If they differ in more than values.
    """
    _check_alike(in_training, in_inference)
    merging = _Merging(_nodes(symbols, in_training))
    for node in _nodes(symbols, in_inference):
        merging.add(node)
    return keras.tree.map_structure(
        lambda one, two: merging.joined(one, merging.read(two)), in_training, in_inference
    )


def _nodes(symbols: Sequence[Any], structure: Any) -> list[Any]:
    """The nodes that lead from symbols to what `call` returned, in an order that is like in both.

    Depths, by which Keras orders them, are others once a branch is longer.
    """
    nodes, _ = _build_map(list(symbols), keras.tree.flatten(structure))
    return [node for node in nodes if not node.is_input]


def _depends(node: Any, other: Any) -> bool:
    """Whether what `node` reads is made of what `other` makes."""
    pending, seen = list(node.parent_nodes), set()
    while pending:
        parent = pending.pop()
        if parent is other:
            return True
        if id(parent) not in seen:
            seen.add(id(parent))
            pending += parent.parent_nodes
    return False


def _check_alike(training: Any, inference: Any) -> None:
    """Raises `ValueError` if what is returned differs in more than values."""
    modes = [keras.tree.map_structure(_spec, returned) for returned in (training, inference)]
    if modes[0] != modes[1]:
        raise ValueError(
            f"call() returns {modes[0]} in training and {modes[1]} in inference. Return tensors "
            "of the same structure, shapes and dtypes in both"
        )


def _spec(tensor: Any) -> str:
    return f"{tensor.dtype}{tuple(tensor.shape)}"


def _do_the_same(twin: Any, node: Any) -> bool:
    """Whether a node in training does what `node` does in inference, if perhaps to other inputs."""
    modes = (recorded_mode(twin), recorded_mode(node))
    if modes[0] != modes[1] and (modes[0] is False or modes[1] is True):
        return False
    return _same_operation(twin.operation, node.operation) and _equal(
        _constants(twin.arguments), _constants(node.arguments)
    )


def _read_the_same(twin: Any, node: Any) -> bool:
    return all(map(operator.is_, twin.input_tensors, node.input_tensors))


def _constants(arguments: SymbolicArguments) -> Any:
    """Arguments without what they hold of tensors and of the mode."""
    args, kwargs = arguments.convert(
        lambda x: keras.KerasTensor if isinstance(x, keras.KerasTensor) else x
    )
    return [args, {key: value for key, value in kwargs.items() if key != "training"}]


def _same_operation(one: Any, two: Any) -> bool:
    """Whether two operations are one, or do the same."""
    if one is two:
        return True
    if type(one) is not type(two):
        return False
    if isinstance(one, Draw):
        return one.draws_as(two)
    if isinstance(one, keras.Layer):
        return False
    first, second = (
        {key: value for key, value in vars(x).items() if key not in _NOT_COMPARED}
        for x in (one, two)
    )
    return _equal(first, second)


def _equal(one: Any, two: Any) -> bool:
    """Whether arguments are equal; tensors of the model, and weights, if they are the same."""
    if one is two:
        return True
    if isinstance(one, (keras.KerasTensor, keras.Variable)) or type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(_equal, one, two))
    if hasattr(one, "shape"):
        return np.array_equal(*map(keras.ops.convert_to_numpy, (one, two)))
    return bool(one == two)
