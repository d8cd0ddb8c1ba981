"""Variables of a model and its optimizer, sharded as DVariables while a strategy trains.

The user's `keras.Variable`s stay what they are: reading one gathers it from its shards if a step
has changed them since; writing one sends it to its shards before the next step. So callbacks may
read, save or set weights at any time, and nobody pays for it who does not. In between, a user's
variable holds no value: else its device would hold the whole of it beside its shard. Only where
gathering takes other clients it does, as they may be lost.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from tensorflow.experimental import dtensor
from tensorflow.python.ops import handle_data_util
from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

from keras_soap.operators.computation import without_values
from keras_soap.runtime import between_clients
from keras_soap.runtime.exchange import is_here, placeholder
from keras_soap.runtime.layouts import of_shards_here
from keras_soap.runtime.pieces import Region, assemble, cut

_NEVER = -1
"""The version of a user's variable that holds no value."""


class ShardedVariable:
    """A `keras.Variable` whose value lives on several devices, as the shards of a `DVariable`.

    Args:
        variable: The user's variable, with its value.
        layout: Of the DVariable. Where devices are of several clients, each has a DVariable of the
            shards that are there.
        devices: Names of the devices, in the order of the layout's mesh.
        regions: For each device the region that it holds, of the variable's view (see
            `Rule.weight_shapes`): together they cover it.
    """

    def __init__(
        self,
        variable: keras.Variable,
        layout: dtensor.Layout,
        devices: Sequence[str],
        regions: Sequence[Region],
    ):
        self.variable = variable
        self.original = variable._value
        self.layout = layout
        self.devices = tuple(devices)
        self.regions = tuple(regions)
        self.view = tuple(max(stop for _, stop in axis) for axis in zip(*regions, strict=True))
        self.store: ShardStore | None = None
        self.version = 0
        self.is_written = False
        self.is_spread = between_clients.is_spread(self)
        self._on_device: dict[str, Any] = {
            device: AbsentShard(variable, device, region)
            for device, region in zip(devices, regions, strict=True)
        }
        here = [(d, r) for d, r in zip(devices, regions, strict=True) if is_here(d)]
        if here:
            pieces = [piece for _, piece in self._cut(self.original.read_value())]
            # DTensor takes meshes only of which all clients have equally many devices.
            own = [device for device, _ in here]
            kept = layout if len(own) == len(devices) else of_shards_here(own, len(self.view))
            self.dvariable = dtensor.DVariable(dtensor.pack(pieces, kept))
            self._handles = dtensor.unpack(self.dvariable.handle)
            for (device, region), handle in zip(here, self._handles, strict=True):
                self._on_device[device] = shard_variable(variable, handle, region)

    def on(self, device: str) -> keras.Variable:
        """The shard on `device`, as a `keras.Variable` of its own.

        Of another client's shard only the shape can be told.
        """
        return self._on_device[device]

    def region(self, device: str) -> Region:
        """The region of the shard on `device`."""
        return self.regions[self.devices.index(device)]

    def gather(self) -> None:
        """Brings the user's variable up to date."""
        if self.store is None or not self.is_stale:
            return
        if self.is_spread:
            self.store.gather_spread([self])
        else:
            self.version = self.store.version
            self.store.gathered.append(self)
            pieces = {
                region: self._on_device[device].value.read_value()
                for device, region in reversed(list(zip(self.devices, self.regions, strict=True)))
                if is_here(device)
            }
            with tf.device(self.original.device):
                value = assemble([(region, tf.identity(p)) for region, p in pieces.items()])
                value = tf.reshape(value, self.original.shape)
            # Unlike `assign`, it does not mind that there is nothing now.
            tf.raw_ops.AssignVariableOp(resource=self.original.handle, value=value)

    def let_go(self) -> None:
        """Frees the memory of the user's variable, if it is no scalar; reading it gathers it."""
        assert self.store is not None
        is_asked_for = self.is_written or id(self) in self.store.kept_gathered
        if self.is_spread or is_asked_for or not self.original.shape.rank:
            return
        self.version = _NEVER
        with tf.device(self.original.device):
            nothing = tf.zeros([0], self.original.dtype)
        tf.raw_ops.AssignVariableOp(resource=self.original.handle, value=nothing)

    @property
    def is_stale(self) -> bool:
        """Whether a step has changed the shards since the user's variable was up to date."""
        return self.store is not None and self.version != self.store.version

    def keep_gathered(self) -> None:
        """Brings the user's variable up to date now and after every step.

        A function that somebody traces will read it without asking.
        """
        assert self.store is not None
        self.store.kept_gathered.setdefault(id(self), self)
        with tf.init_scope():
            self.gather()

    def scatter(self) -> None:
        """Brings the shards up to date with the user's variable."""
        self.gather()
        self.is_written = False
        for device, piece in self._cut(self.original.read_value()):
            with tf.device(device):
                self._on_device[device].value.assign(piece)

    def _cut(self, value: tf.Tensor) -> list[tuple[str, tf.Tensor]]:
        """By device of this client its shard."""
        value = tf.reshape(value, self.view)
        whole = tuple((0, size) for size in self.view)
        pieces = []
        for device, region in zip(self.devices, self.regions, strict=True):
            if is_here(device):
                piece = cut(value, whole, region)
                with tf.device(device):
                    pieces.append((device, tf.identity(piece)))
        return pieces


class AbsentShard:
    """Stands for the shard of a variable that another client has, where steps are traced.

    Attributes:
        value: Itself, as the value of a `keras.Variable` is read.
        shape: Of the shard.
    """

    def __init__(self, variable: keras.Variable, device: str, region: Region):
        self.value = self
        self.shape = tuple(stop - start for start, stop in region)
        self._dtype = tf.as_dtype(variable.dtype)
        self._device = device

    def read_value(self) -> tf.Tensor:
        """A tensor of its shape, which never has a value here."""
        return placeholder(self.shape, self._dtype, self._device)


class GatheredVariable(BaseResourceVariable):
    """Stands in for a user's variable: up to date when read, and noticed when written."""

    def __init__(self, sharded: ShardedVariable):
        original = sharded.original
        self._sharded = sharded
        super().__init__(
            trainable=original.trainable,
            shape=original.shape,
            dtype=original.dtype,
            handle=original.handle,
            handle_name=original._handle_name,
            unique_id=original._unique_id,
            in_graph_mode=False,
        )

    @property
    def handle(self):
        if tf.executing_eagerly():
            self._sharded.gather()
        elif not in_stateless_scope():
            self._sharded.keep_gathered()
        return self._handle


def _writing(name: str) -> Any:
    method = getattr(BaseResourceVariable, name)

    def write(self: GatheredVariable, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        self._sharded.is_written = True
        self._sharded.store.written = True
        return result

    return write


for _name in ("assign", "assign_add", "assign_sub", "scatter_update", "scatter_add", "scatter_sub"):
    setattr(GatheredVariable, _name, _writing(_name))


class ShardStore:
    """All sharded variables of a training run."""

    def __init__(self) -> None:
        self.sharded: list[ShardedVariable] = []
        self.written = False
        self.version = 0
        self.kept_gathered: dict[int, ShardedVariable] = {}
        self.gathered: list[ShardedVariable] = []
        """Of which the user's variables hold values, until the next step."""
        self._gather_functions: dict[tuple[int, ...], Callable[[], list[tf.Tensor]]] = {}
        self._by_variable: dict[int, ShardedVariable] = {}

    def add(self, sharded: ShardedVariable) -> ShardedVariable:
        """Takes over a variable: from now on the user sees a `GatheredVariable` of its shards."""
        sharded.store, sharded.version = self, self.version
        self.sharded.append(sharded)
        self._by_variable[id(sharded.variable)] = sharded
        sharded.variable._value = GatheredVariable(sharded)
        sharded.let_go()
        return sharded

    def acquire(self) -> None:
        """Takes the variables over again after `release`, with the values that they have now."""
        for sharded in self.sharded:
            if not isinstance(sharded.variable._value, GatheredVariable):
                sharded.scatter()
                sharded.variable._value = GatheredVariable(sharded)
                sharded.let_go()

    def __getitem__(self, variable: keras.Variable) -> ShardedVariable:
        return self._by_variable[id(variable)]

    def __contains__(self, variable: keras.Variable) -> bool:
        return id(variable) in self._by_variable

    def before_step(self) -> None:
        """Sends what the user wrote to the shards."""
        if self.written:
            self.written = False
            for sharded in self.sharded:
                if sharded.is_written:
                    sharded.scatter()
                    self.gathered.append(sharded)
        for sharded in self.gathered:
            sharded.let_go()
        self.gathered.clear()

    def after_step(self) -> None:
        """Notes that the shards are newer than what the user sees."""
        self.version += 1
        for sharded in self.kept_gathered.values():
            sharded.gather()

    def scatter(self) -> None:
        """Sends all of the user's variables to the shards."""
        for sharded in self.sharded:
            sharded.scatter()

    def gather(self) -> None:
        """Brings all of the user's variables up to date."""
        self.gather_spread([s for s in self.sharded if s.is_spread and s.is_stale])
        for sharded in self.sharded:
            sharded.gather()

    def gather_spread(self, variables: "Sequence[ShardedVariable]") -> None:
        """Brings variables up to date whose shards are on several clients: all take part."""
        if not variables:
            return
        key = tuple(id(sharded) for sharded in variables)
        if key not in self._gather_functions:
            self._gather_functions[key] = between_clients.gather_function(variables)
        for sharded, value in zip(variables, self._gather_functions[key](), strict=True):
            sharded.version = self.version
            sharded.original.assign(tf.reshape(value, sharded.original.shape))

    def release(self, gather: bool = True) -> None:
        """Gives the user's variables back, up to date but for what other clients may have to give.

        Args:
            gather: Whether to ask those.
        """
        if gather:
            self.gather()
        for sharded in self.sharded:
            if not sharded.is_spread:
                sharded.gather()
            sharded.variable._value = sharded.original


def shard_variable(like: keras.Variable, handle: tf.Tensor, region: Region) -> keras.Variable:
    """A `keras.Variable` over a resource, with the name, path and settings of `like`."""
    shape = tuple(stop - start for start, stop in region)
    with without_values():
        variable = keras.Variable(
            "zeros", shape=shape, dtype=like.dtype, trainable=like.trainable, name=like.name
        )
    dtype = tf.as_dtype(like.dtype)
    handle = _local_handle(handle, shape, dtype)
    variable._path = like.path
    variable.constraint = like.constraint
    with tf.device(handle.device):
        variable._value = BaseResourceVariable(
            trainable=like.trainable,
            shape=shape,
            dtype=dtype,
            handle=handle,
            handle_name=like.name,
            unique_id=f"{like.name}_{id(variable)}",
            in_graph_mode=False,
        )
    return variable


def _local_handle(handle: tf.Tensor, shape: Sequence[int], dtype: tf.DType) -> tf.Tensor:
    """A handle to the same resource that knows the shape of the shard.

    The handle that DTensor unpacks says the shape of the whole variable, and graph optimisation
    believes it: it would fold that shape into gradients, whose kernels then fail.
    """
    named = re.search(r'name="([^"]*)", .*container="([^"]*)"', str(handle))
    assert named, f"no name in {handle}"
    with tf.device(handle.device):
        local = tf.raw_ops.VarHandleOp(
            dtype=dtype, shape=shape, shared_name=named.group(1), container=named.group(2)
        )
    local._handle_data = handle_data_util.create_handle_data(tf.TensorShape(shape), dtype)
    return local
