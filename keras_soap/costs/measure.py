"""`MeasuredProfile`: times of one model's parts on this machine, measured when asked for.

1. What was measured before, in this environment, is in the cache and is not measured again.
2. Operators with equal signatures have one time, as everywhere: their gradients go to any input
   that they go to in one of them.
3. Layers from outside Keras are measured in each process anew: their code may have changed.
4. What is measured again (`runtime.measuring`, `runtime.measured_search`) replaces what was known.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_soap.costs.cache import CostCache
from keras_soap.costs.cost_profile import CostSource, PartTimes
from keras_soap.costs.cost_table import CostTable, PartTime, part_keys, update_key
from keras_soap.costs.timing import Precision
from keras_soap.errors import CostError
from keras_soap.graph.operator_graph import LOSS_KINDS, Operator
from keras_soap.graph.region import Regions
from keras_soap.operators import registry
from keras_soap.topology.device_topology import Device, DeviceTopology
from keras_soap.topology.local import num_cores

if TYPE_CHECKING:
    from keras_soap.capture.captured_model import CapturedModel

UPDATE_BYTES = tuple(4**exponent * 1024 for exponent in range(9))
"""Sizes of updates that are measured: 1 KiB to 64 MiB. Between them it is interpolated."""


class MeasuredProfile:
    """A `CostProfile` that measures what it does not know yet.

    Sent to another process it is the `CostTable` of what is known so far.

    Attributes:
        environment: What the times depend on; see `costs.environment`.
        cache: Where times are kept.
        num_measured: Parts and updates that were run, and not found in the cache.
    """

    source = CostSource.MEASURED

    def __init__(
        self,
        captured: "CapturedModel",
        topology: DeviceTopology,
        optimizer: Any = None,
        *,
        cache_folder: "str | os.PathLike[str] | None" = None,
        precision: Precision | None = None,
        on_measured: Callable[[str], None] | None = None,
    ):
        """Measures nothing yet.

        Args:
            captured: The model whose parts are asked for; with losses for training.
            topology: The devices of this process, all of one model.
            optimizer: A Keras optimizer, for updates; by default SGD with momentum.
            cache_folder: By default the user's cache directory.
            precision: When to stop repeating.
            on_measured: Called with the name of an operator, or `"update"`, after each
                measurement.

        Raises:
            CostError: If the devices are of several models.
        """
        from keras_soap.costs import environment, measure_parts

        models = {device.model for device in topology.devices}
        if len(models) > 1:
            raise CostError(
                f"Topology {topology.name!r} has devices of models {sorted(models)}; measured are "
                "those of one model at a time. Profile each kind on its own, or use "
                "profile='analytic'."
            )
        self._run = measure_parts
        self._captured = captured
        self._device = topology.devices[0]
        self._optimizer = _default_optimizer() if optimizer is None else optimizer
        self._optimizer_name = _optimizer_name(self._optimizer)
        self._precision = precision or Precision()
        self._on_measured = on_measured
        self._entries: dict[str, PartTime] = {}
        self._updates: CostTable | None = None
        self._cores = cores_of_task(topology)
        self.environment = environment.describe(self._device.name, self._cores)
        self.cache = CostCache(self.environment, cache_folder)
        self.num_measured = 0
        self._first, self._gradients, self._backward = _by_signature(captured)

    def part_times_ns(self, operator: Operator, regions: Regions, device: Device) -> PartTimes:
        self._check(device)
        times = np.zeros((3, len(regions)), np.int64)
        if not registry.find(operator.kind).free:
            for index, key in enumerate(part_keys(operator, regions)):
                time = self._entries.get(key) or self._find(operator, regions, index, key)
                times[:, index] = time.forward_ns, time.backward_ns, time.weight_gradient_ns
        return PartTimes(*times)

    def update_time_ns(self, num_bytes: int, device: Device) -> int:
        self._check(device)
        self.measure_updates()
        assert self._updates is not None
        return self._updates.update_time_ns(num_bytes, device)

    def missing(self, wanted: Iterable[tuple[Operator, Regions]]) -> list[tuple[Operator, Regions]]:
        """The parts among `wanted` that would have to be measured, one by one, each once."""
        found: dict[str, tuple[Operator, Regions]] = {}
        for operator, regions in wanted:
            if registry.find(operator.kind).free:
                continue
            for index, key in enumerate(part_keys(operator, regions)):
                if key not in self._entries and key not in found:
                    cached = self._cached(operator, key)
                    if cached is None:
                        found[key] = operator, regions[index : index + 1]
                    else:
                        self._entries[key] = cached
        return list(found.values())

    def num_looks(self, operator: Operator, regions: Regions) -> int:
        """How often the parts were measured, the least of them; 0 where it never is."""
        if registry.find(operator.kind).free:
            return 0
        looks = [self._entries[key].num_looks for key in part_keys(operator, regions)]
        return min(looks)

    def measure_again(self, operator: Operator, regions: Regions) -> None:
        """Measures parts of which something is known already; the new times replace it."""
        done: set[str] = set()
        for index, key in enumerate(part_keys(operator, regions)):
            if key not in done:
                done.add(key)
                self._measure(operator, regions, index, key, self._entries[key].num_looks)

    def measure_updates(self) -> None:
        """Makes sure that updates of all sizes are known."""
        if self._updates is not None:
            return
        for num_bytes in UPDATE_BYTES:
            key = update_key(self._optimizer_name, num_bytes)
            if key in self._entries:
                continue
            time = self.cache.get(key)
            if time is None:
                time = self._run.measure_update(
                    self._optimizer,
                    num_bytes,
                    self._device.name,
                    self._precision,
                    self._cores,
                )
                self._keep(key, time, "update")
            self._entries[key] = time
        self._updates = CostTable(self._device.model, dict(self._entries))

    def table(self) -> CostTable:
        """All that was asked for so far."""
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        return CostTable(
            self._device.model,
            dict(self._entries),
            created=now.isoformat().replace("+00:00", "Z"),
            versions=self.environment,
        )

    def __reduce__(self):
        table = self.table()
        fields = (table.device_model, table.entries, table.roofline, table.source)
        return CostTable, (*fields, table.created, table.versions)

    def _check(self, device: Device) -> None:
        if device.model != self._device.model:
            raise CostError(
                f"Device {device.name!r} is of model {device.model!r}, but here, where it would "
                f"be measured, are devices of model {self._device.model!r}. Profile it where it "
                "is, or use the analytic costs."
            )

    def _find(self, operator: Operator, regions: Regions, index: int, key: str) -> PartTime:
        time = self._cached(operator, key)
        if time is None:
            return self._measure(operator, regions, index, key)
        self._entries[key] = time
        return time

    def _measure(
        self,
        operator: Operator,
        regions: Regions,
        index: int,
        key: str,
        num_looks: int = 0,
    ) -> PartTime:
        time = self._run.measure_part(
            self._captured,
            self._number(operator),
            self._run.make_part(operator, regions, index),
            self._gradients[operator.signature],
            self._backward[operator.signature],
            self._device.name,
            self._precision,
            self._cores,
        )
        time = dataclasses.replace(time, num_looks=num_looks + 1)
        self._entries[key] = time
        self._keep(self._cache_key(operator, key), time, operator.name)
        return time

    def _keep(self, key: str | None, time: PartTime, name: str) -> None:
        self.num_measured += 1
        if key is not None:
            self.cache.add(key, time)
        if self._on_measured is not None:
            self._on_measured(name)

    def _cached(self, operator: Operator, key: str) -> PartTime | None:
        cache_key = self._cache_key(operator, key)
        return None if cache_key is None else self.cache.get(cache_key)

    def _cache_key(self, operator: Operator, key: str) -> str | None:
        """The part's key, and what else its time depends on; None if that cannot be told."""
        layer = self._captured.layers[self._number(operator)]
        owner = getattr(layer, "loss", layer) if operator.kind in LOSS_KINDS else layer
        if type(owner).__module__.partition(".")[0] != "keras":
            return None
        gradients = self._gradients[operator.signature]
        trainable = [spec.trainable for spec in operator.weight_specs]
        more: list[Any] = [gradients, self._backward[operator.signature], trainable]
        if operator.kind in LOSS_KINDS:
            metrics = [_config(tracked.metric) for tracked in layer.metrics]
            more += [_config(layer.loss), getattr(layer, "logits_at", None), metrics]
        return json.dumps([json.loads(key), more], separators=(",", ":"), default=str)

    def _number(self, operator: Operator) -> int:
        number = self._first.get(operator.signature)
        if number is None:
            raise CostError(
                f"Operator {operator.name!r} of kind {operator.kind!r} and output shape "
                f"{operator.output.shape} is not one of model {self._captured.graph.name!r}, which "
                "this profile measures. Make a profile of the model that it belongs to."
            )
        return number


def cores_of_task(topology: DeviceTopology) -> int:
    """How many cores a task has; 0: it is timed alone.

    What a task leaves idle of the cores that logical CPUs share others fill. A device that is
    alone, or whose operations all use all cores, is timed alone, as GPUs are.
    """
    first = topology.devices[0]
    if not first.pool or topology.num_devices == 1 or num_places() == 1:
        return 0
    return max(1, num_places() * cores_per_place() // first.pool_size)


def environment_of(topology: DeviceTopology) -> dict[str, str]:
    """The environment of measurements for a topology of this process."""
    from keras_soap.costs import environment

    return environment.describe(topology.devices[0].name, cores_of_task(topology))


def num_places() -> int:
    """How many operations logical CPUs run at once.

    As many as TensorFlow has threads for, but no more than there are cores for.
    """
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads() or num_cores()
    return max(1, min(num_cores() // cores_per_place(), threads))


def cores_per_place() -> int:
    """Cores that an operation may use."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or num_cores()


def _by_signature(captured: "CapturedModel"):
    """By signature: an operator, the inputs that gradients go to, whether there is a backward."""
    graph = captured.graph
    first: dict[str, int] = {}
    gradients: dict[str, list[int]] = {}
    backward: dict[str, bool] = {}
    for number, operator in enumerate(graph.operators):
        signature = operator.signature
        first.setdefault(signature, number)
        backward[signature] = backward.get(signature, False) or graph.has_backward[number]
        carried = {e.input for e in graph.in_edges[number] if graph.carries_gradient[e.index]}
        gradients[signature] = sorted(carried.union(gradients.get(signature, ())))
    return first, gradients, backward


def _default_optimizer() -> Any:
    import keras

    return keras.optimizers.SGD(0.01, momentum=0.9)


def _optimizer_name(optimizer: Any) -> str:
    """Class and configuration, but for what changes no time."""
    config = {
        key: value
        for key, value in optimizer.get_config().items()
        if key not in ("name", "learning_rate")
    }
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return f"{type(optimizer).__name__} {text}"


def _config(value: Any) -> Sequence[Any]:
    config = {k: v for k, v in value.get_config().items() if k != "name"}
    return [type(value).__name__, config]
