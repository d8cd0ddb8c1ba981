"""The parts of the accuracy benchmark that need TensorFlow, each in a process of its own.

A folder holds what is known of one network: `plan.json` with predictions, the strategies, the
profile and the topology, and `measured.json`, to which every turn of every strategy is added. Of
each step it says how fast cores were beside each other before and after it.
"""

import dataclasses
import importlib
import itertools
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIZES: dict[str, dict[str, int]] = {
    "alexnet": {"batch_size": 64, "image_size": 128, "classes": 100, "width": 32, "units": 1024},
    "inception_v3": {"batch_size": 16, "image_size": 139, "classes": 100, "width": 24},
    "resnet101": {"batch_size": 32, "image_size": 96, "classes": 100, "width": 32},
    "rnntc": {"batch_size": 32, "length": 16, "units": 512, "vocabulary": 5000, "time_chunk": 8},
    "rnnlm": {"batch_size": 32, "length": 16, "units": 512, "vocabulary": 5000, "time_chunk": 8},
    "nmt": {"batch_size": 32, "length": 16, "units": 512, "vocabulary": 5000, "time_chunk": 8},
}
"""Changes to the tiny sizes that make a step take 0.1 s or more on two cores."""

RANDOM_DIMS = ("SOAP", "S", "O", "A", "P", "SAP", "SOAP", "SOP")
"""What random strategies may use, in turn."""

DRAWN = 64
"""Random strategies that are drawn for each that is asked for: those far apart are taken."""

WARMUP_STEPS = 1
"""Of each turn: no batch was taken ahead of the first one."""

FIRST_STEPS = 3
"""Before the first turn: variables are put on their devices, and memory is allocated."""


@dataclasses.dataclass(frozen=True)
class Options:
    """See the flags of the same names."""

    size: str = "benchmark"
    num_strategies: int = 12
    num_devices: int = 2
    num_rounds: int = 24
    num_steps: int = 3
    search_budget_s: float = 10.0
    part_seconds: float = 1.0
    seed: int = 0


def start_devices(num_devices: int) -> None:
    """Logical CPUs with one thread each, in this process."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras_soap

    keras_soap.use_logical_cpus(num_devices)


def network_and_batch(name: str, size: str) -> tuple[Any, tuple, int | None]:
    """The compiled network, one batch of its data, and how it is opened in time."""
    import keras

    keras.utils.set_random_seed(0)
    benchmark = importlib.import_module(name).BENCHMARK
    sizes = benchmark.presets["tiny"]
    if size == "benchmark":
        sizes = dataclasses.replace(sizes, **SIZES[name])
    pool = benchmark.data["synthetic"](sizes, np.random.default_rng(0))
    batch = _tree_map(lambda array: array[: sizes.batch_size], tuple(pool))
    return benchmark.model(sizes), batch, getattr(sizes, "time_chunk", None)


def plan(name: str, folder: Path, options: Options) -> None:
    """Measures this machine, makes strategies and predicts them; fills the folder."""
    start_devices(options.num_devices)
    import tensorflow as tf
    from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

    from keras_soap.capture.losses import capture_step
    from keras_soap.costs import proto_io as cost_io
    from keras_soap.costs.measure import MeasuredProfile
    from keras_soap.costs.timing import Precision
    from keras_soap.proto.files import write_atomically
    from keras_soap.runtime.measured_search import measured_search
    from keras_soap.runtime.measured_topology import measure_topology
    from keras_soap.runtime.measuring import measure_all, with_measured_pool
    from keras_soap.search.problem import Problem
    from keras_soap.strategy import proto_io
    from keras_soap.tasks.lowering import Lowering
    from keras_soap.topology import proto_io as topology_io
    from keras_soap.topology.device_topology import DeviceTopology
    from keras_soap.topology.local import local_topology

    network, batch, time_chunk = network_and_batch(name, options.size)
    x, y, weights = unpack_x_y_sample_weight(_tree_map(tf.convert_to_tensor, batch))
    network._symbolic_build(data_batch=(x, y, weights))
    captured = capture_step(network, len(y), y, weights, time_chunk).model
    precision = Precision(seconds=options.part_seconds)
    lowering = Lowering(captured.graph)

    def profile_on(topology: DeviceTopology) -> MeasuredProfile:
        return MeasuredProfile(captured, topology, network.optimizer, precision=precision)

    topology = with_measured_pool(lowering, local_topology(), profile_on)
    topology, _ = measure_topology(topology, precision)
    profile = profile_on(topology)
    measure_all(profile, lowering, topology)
    found = measured_search(
        lowering, topology, profile, options.search_budget_s, False, seed=options.seed
    )
    table = profile.table()
    folder.mkdir(parents=True, exist_ok=True)
    topology_io.save(folder / "topology.textproto", topology)
    cost_io.save(folder / "profile.textproto", table)
    problem = Problem(captured.graph, topology, table)
    named = {"soap": found.evaluation.strategy}
    named |= {name: made.strategy for name, made in problem.baselines.items()}
    rng = np.random.default_rng(options.seed)
    spaces = {
        dims: Problem(captured.graph, topology, table, dims).space
        for dims in dict.fromkeys(RANDOM_DIMS)
    }
    drawn = {}
    for number in range(DRAWN * options.num_strategies):
        dims = RANDOM_DIMS[number % len(RANDOM_DIMS)]
        drawn[f"random_{number}_{dims}"] = partly_random(spaces[dims], rng)
    made_by: dict[Any, str] = {}
    for made, strategy in {**named, **drawn}.items():
        made_by.setdefault(strategy, made)
    strategies = {made: strategy for strategy, made in made_by.items()}
    times = {
        made: problem.objective.evaluate(strategy).step_time_ns / 1e9
        for made, strategy in strategies.items()
    }
    predicted = far_apart(times, [made for made in times if made in named], options.num_strategies)
    for made in predicted:
        path = folder / f"{made}.pb"
        dimensions = problem.lowering.dimensions
        proto_io.save(path, strategies[made], captured.graph, dimensions, topology)
    # Last, so that a plan that is there is whole.
    write_atomically(folder / "plan.json", json.dumps(predicted, indent=2).encode())


def partly_random(space: Any, rng: np.random.Generator) -> Any:
    """A strategy in which a random share of operators is anywhere, and the others on one device.

    Were all anywhere, strategies of models with many operators would be alike.
    """
    from keras_soap.strategy.strategy import Strategy

    share = rng.random()
    spread, together = space.random_strategy(rng).configs, space.whole().configs
    is_spread = rng.random(len(space.families)) < share
    return Strategy(
        tuple(
            (spread if is_spread[family] else together)[number]
            for number, family in enumerate(space.family_of)
        )
    )


def far_apart(times: dict[str, float], first: Sequence[str], count: int) -> dict[str, float]:
    """`count` of `times`: those of `first`, then by turns the one farthest from all before.

    Far in proportion, from the nearest. The order of two that take as long would be chance.
    """
    chosen = list(first[:count])
    while len(chosen) < min(count, len(times)):
        gaps = {
            name: min((abs(math.log(seconds / times[other])) for other in chosen), default=0.0)
            for name, seconds in times.items()
            if name not in chosen
        }
        chosen.append(max(gaps, key=lambda name: gaps[name]))
    return {name: times[name] for name in chosen}


def measure(name: str, folder: Path, options: Options) -> None:
    """Trains under all strategies of a folder, in turn, until each has all of its turns.

    Every second round goes backwards, so that of a machine that slows down steadily none gets the
    worse part.
    """
    from keras_soap.proto.files import write_atomically

    path = folder / "measured.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    planned = json.loads((folder / "plan.json").read_text())
    turns_of = [len(done.get(made, {"measured_s": ()})["measured_s"]) for made in planned]
    if min(turns_of) >= options.num_rounds:
        return
    start_devices(options.num_devices)
    fits = {made: _Fit(name, folder / f"{made}.pb", options) for made in planned}
    for number in range(options.num_rounds):
        for made in list(fits) if number % 2 == 0 else reversed(fits):
            turns = done.setdefault(made, {"measured_s": [], "processor_s": [], "speed": []})
            if len(turns["measured_s"]) <= number:
                for figure, of_steps in fits[made].turn().items():
                    turns[figure].append(of_steps)
                write_atomically(path, json.dumps(done).encode())


class _Fit:
    """A network that is trained under a strategy, some steps at a time."""

    def __init__(self, name: str, strategy: Path, options: Options):
        import keras_soap
        from keras_soap.costs.cores import of_this_process

        self._options = options
        self._cores = of_this_process()
        self._network, self._batch, time_chunk = network_and_batch(name, options.size)
        self._soap = keras_soap.SoapStrategy(
            strategy.parent / "topology.textproto",
            strategy=strategy,
            time_chunk=time_chunk,
            verbose=0,
        )
        self._run(FIRST_STEPS)

    def turn(self) -> dict[str, list[float]]:
        """Seconds of each step, those of all cores together in it, and `Cores.speed` around it."""
        marks = self._run(WARMUP_STEPS + self._options.num_steps)[WARMUP_STEPS - 1 :]
        steps = list(itertools.pairwise(marks))
        clocks = [np.subtract(after.ended, before.begins).tolist() for before, after in steps]
        return {
            "measured_s": [seconds for seconds, _ in clocks],
            "processor_s": [seconds for _, seconds in clocks],
            "speed": [min(before.speed, after.speed) for before, after in steps],
        }

    def _run(self, num_steps: int) -> list["_Mark"]:
        """The end of each step, and the beginning of the next."""
        import keras
        import tensorflow as tf

        marks: list[_Mark] = []

        def mark(batch: int, logs: dict[str, Any]) -> None:
            float(logs["loss"])  # Comes when the step has ended.
            ended = _clocks()
            speed = self._cores.speed()
            marks.append(_Mark(ended, speed, _clocks()))

        clock = keras.callbacks.LambdaCallback(on_train_batch_end=mark)
        data = tf.data.Dataset.from_tensors(self._batch).cache().repeat(num_steps)
        self._network.fit(data, epochs=1, verbose=0, callbacks=[self._soap, clock])
        return marks


class _Mark(NamedTuple):
    """Between two steps.

    Attributes:
        ended: What the clock and the processor time of all cores were when the first had ended.
        speed: `Cores.speed` then.
        begins: What both were when the second began.
    """

    ended: tuple[float, float]
    speed: float
    begins: tuple[float, float]


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def trace(name: str, folder: Path, strategy: str, trace_out: str, options: Options) -> None:
    """Writes the trace of a step under a strategy; prints where prediction and step part."""
    start_devices(options.num_devices)
    import tensorflow as tf

    import keras_soap
    from keras_soap.report import breakdown
    from keras_soap.runtime.profiled_step import STEPS_BEFORE

    network, batch, time_chunk = network_and_batch(name, options.size)
    data = tf.data.Dataset.from_tensors(batch).cache().repeat(STEPS_BEFORE + 1)
    soap = keras_soap.SoapStrategy(
        folder / "topology.textproto",
        strategy=folder / f"{strategy}.pb",
        profile=folder / "profile.textproto",
        time_chunk=time_chunk,
        trace_out=trace_out,
        verbose=0,
    )
    network.fit(data, epochs=1, verbose=0, callbacks=[soap])
    assert soap.ran is not None
    print(
        f"{name} {strategy}: {soap.plan.evaluation.step_time_ns / 1e6:.2f} ms predicted, "
        f"{soap.ran.time_ns / 1e6:.2f} ms in the step that was traced\n\n"
        + breakdown.render(soap.plan.breakdown(soap.ran))
    )


def _tree_map(function: Any, value: Any) -> Any:
    """`function` of every array in nested tuples and lists."""
    if isinstance(value, (tuple, list)):
        return tuple(_tree_map(function, inner) for inner in value)
    if isinstance(value, dict):
        return {key: _tree_map(function, inner) for key, inner in value.items()}
    return function(value)
