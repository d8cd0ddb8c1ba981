"""Whether several hosts train as one process does, and as plain Keras on one device.

Trains small networks for a few steps with plain Keras on one device; then under data parallelism,
two hybrids, a strategy that splits operations across hosts, and random ones, in one process with
four devices, on two clients with two devices each, and on four with one. Losses of every step must
agree to `--tolerance`, and those of clients with each other to the last bit. Exits with 1 if
anything differs.

    python examples/benchmarks/equality.py --json_out=equality.json

In float64 by default, with the optimizers that the networks have: Adam divides gradients by their
own size, so that what rounding leaves of a gradient that should be zero becomes a full step, on one
device as on several. Dropout is left out: it draws other numbers for other parts.
"""

import functools
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

NETWORKS = ("digits", "alexnet", "rnnlm", "transformer")
HOSTS = {"keras": (1, 1), "1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}
"""Clients, and devices of each. On one device there is no strategy: it is plain Keras."""

_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), f"Of {', '.join(NETWORKS)}.")
_HOSTS = flags.DEFINE_list("hosts", ["1x4", "2x2", "4x1"], "What to compare with plain Keras.")
_STRATEGIES = flags.DEFINE_list("strategies", None, "Names of those to try; all by default.")
_NUM_RANDOM = flags.DEFINE_integer("num_random", 5, "Random strategies.", lower_bound=0)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 3, "Steps to train.", lower_bound=1)
_FIRST_RANDOM = flags.DEFINE_integer("first_random", 0, "Number of the first of them.")
_DTYPE = flags.DEFINE_enum("dtype", "float64", ["float32", "float64"], "To compute in.")
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-5, "Relative.", lower_bound=0.0)
_JSON_OUT = flags.DEFINE_string("json_out", None, "File for the losses.")
_RECORD_IN = flags.DEFINE_string(
    "record_in", None, "Train only, and leave losses in this folder: what the program starts."
)

BATCH_SIZE = 16
SEED = 0
"""Of weights and data, and, with their numbers, of random strategies."""

Losses = dict[str, dict[str, list[float]]]
"""Of each step; by network and strategy."""


def network(name: str) -> tuple[Any, Any, Any, int | None]:
    """A compiled model, always with the same weights; inputs, targets; steps in a block of time."""
    import keras
    from architecture import without_dropout

    rng = np.random.default_rng(SEED)
    size, chunk = _NUM_STEPS.value * BATCH_SIZE, None
    keras.utils.set_random_seed(SEED)
    if name == "digits":
        digits = importlib.import_module("digits")
        (x, _, y, _), made = digits.data(), digits.model()
    elif name == "transformer":
        architecture = importlib.import_module("architectures").ARCHITECTURES["language_model"]
        (x, y), made = architecture.data(rng, size), architecture.build()
        made.compile(keras.optimizers.AdamW(1e-3), architecture.loss)
    else:
        benchmark = importlib.import_module(name).BENCHMARK
        sizes = benchmark.presets["tiny"]
        pools = [benchmark.data["synthetic"](sizes, rng) for _ in range(size)]
        x, y = (np.concatenate(arrays) for arrays in zip(*pools, strict=True))
        made, chunk = benchmark.model(sizes), getattr(sizes, "time_chunk", None)
    keras.utils.set_random_seed(SEED)
    model = keras.models.clone_model(made, clone_function=without_dropout)
    model.compile(made.optimizer, made.loss)
    return model, x[:size], y[:size], chunk


def train(name: str, soap: Any = None) -> list[float]:
    """The loss of each step, under a strategy if there is one."""
    import keras

    model, x, y, _ = network(name)
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: model.reset_metrics(),
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"])),
    )
    model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        shuffle=False,
        verbose=0,
        callbacks=[record] if soap is None else [soap, record],
    )
    return losses


def strategies(graph: Any, topology: Any) -> Mapping[str, Callable[[], Any]]:
    """By name, what makes a strategy for four devices."""
    from keras_soap.strategy import baselines
    from keras_soap.strategy.search_space import SearchSpace
    from keras_soap.tasks.lowering import Lowering

    dimensions = Lowering(graph).dimensions
    space = SearchSpace(graph, dimensions, topology)

    def random(number: int) -> Any:
        return space.random_strategy(np.random.default_rng([SEED, number]))

    return {
        "data parallel": lambda: baselines.data_parallel(graph, dimensions, topology),
        "expert": lambda: baselines.expert(graph, dimensions, topology),
        # Of two hosts the first has devices 0 and 1: samples across hosts, parameters inside.
        "samples and parameters": lambda: split(space, "SP", (0, 1, 2, 3)),
        "parameters across hosts": lambda: split(space, "P", (0, 2)),
        **{
            f"random {number}": functools.partial(random, number)
            for number in range(_FIRST_RANDOM.value, _FIRST_RANDOM.value + _NUM_RANDOM.value)
        },
    }


def split(space: Any, letters: str, devices: tuple[int, ...]) -> Any:
    """Splits dimensions of each kind into two, where operators allow it.

    Args:
        space: All degrees that operators allow.
        letters: Kinds of dimensions to split, in the order in which they lie in an operator.
        devices: Where the parts go, in this order.
    """
    from keras_soap.strategy.parallel_config import ParallelConfig
    from keras_soap.strategy.strategy import Strategy

    configs: dict[int, Any] = {}
    for family, members in enumerate(space.families):

        def by_kind(degrees: tuple[int, ...], first: int = members[0]) -> dict[str, int]:
            of = zip(degrees, space.dimensions[first], strict=True)
            kinds = {d.kind.letter: 1 for d in space.dimensions[first]}
            for degree, dimension in of:
                kinds[dimension.kind.letter] *= degree
            return kinds

        fitting = [
            degrees
            for degrees in space.degrees[family]
            if all(n <= 2 * (kind in letters) or n == 1 for kind, n in by_kind(degrees).items())
        ]
        degrees = max(fitting, key=math.prod)
        config = ParallelConfig(degrees, devices[: math.prod(degrees)])
        configs |= dict.fromkeys(members, config)
    return Strategy(tuple(configs[number] for number in range(len(space.graph.operators))))


def capture(name: str) -> Any:
    """The operators of a training step."""
    from keras_soap.capture.functions import learn_inputs
    from keras_soap.capture.losses import capture_step

    model, x, y, chunk = network(name)
    x, y = x[:BATCH_SIZE], y[:BATCH_SIZE]
    model._symbolic_build(data_batch=(x, y))
    learn_inputs(model, x)
    return capture_step(model, BATCH_SIZE, y, None, chunk).model.graph


def record(folder: Path) -> None:
    """Trains all networks as this process is told, and leaves their losses in a folder."""
    import keras

    import keras_soap

    num_devices = int(os.environ["KERAS_SOAP_LOGICAL_CPUS"])
    keras_soap.use_logical_cpus(num_devices)
    client = keras_soap.join_cluster()
    keras.config.set_floatx(_DTYPE.value)
    found: Losses = {}
    for name in _NETWORKS.value:
        if num_devices == int(os.environ["DTENSOR_NUM_CLIENTS"]) == 1:
            found[name] = {"keras": train(name)}
            continue
        found[name] = {}
        topology = keras_soap.SoapStrategy().topology
        for strategy, make in strategies(capture(name), topology).items():
            if _STRATEGIES.value and strategy not in _STRATEGIES.value:
                continue
            chunk = network(name)[3]
            soap = keras_soap.SoapStrategy(strategy=make(), time_chunk=chunk, verbose=0)
            found[name][strategy] = train(name, soap)
    (folder / f"{client}.json").write_text(json.dumps(found))


def start(hosts: str) -> list[Losses]:
    """Losses that each client has found, started on this machine."""
    num_clients, num_devices = HOSTS[hosts]
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "keras_soap.launch", f"--num_clients={num_clients}"]
        same = [flag.serialize() for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
        done = subprocess.run(
            [
                *[*launcher, f"--devices_per_client={num_devices}", "--", __file__],
                *[flag for flag in same if flag and not flag.startswith("--json_out")],
                f"--record_in={folder}",
            ]
        )
        if done.returncode:
            sys.exit(f"{hosts}: a client has failed with exit code {done.returncode}; see above.")
        return [
            json.loads(Path(folder, f"{client}.json").read_text()) for client in range(num_clients)
        ]


def difference(expected: list[float], found: list[float]) -> float:
    """The largest relative difference of a step's losses."""
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(expected, found, strict=True))


def main(argv: list[str]) -> None:
    """Starts all, compares, and prints a row for each network and strategy."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    for flag, known in ((_NETWORKS, NETWORKS), (_HOSTS, list(HOSTS)[1:])):
        wrong = set(flag.value) - set(known)
        if wrong or not flag.value:
            raise app.UsageError(f"--{flag.name}: choose from {', '.join(known)}; not {wrong}.")
    if _RECORD_IN.value:
        record(Path(_RECORD_IN.value))
        return
    plain = start("keras")[0]
    found = {}
    for hosts in _HOSTS.value:
        found[hosts], *others = start(hosts)
        if any(other != found[hosts] for other in others):
            sys.exit(f"{hosts}: losses differ between clients.")
    pairs = [("keras", hosts) for hosts in found] + list(itertools.combinations(found, 2))
    print(
        f"Largest relative difference of the loss in {_NUM_STEPS.value} steps of "
        f"{BATCH_SIZE} samples, in {_DTYPE.value}: rounding of gradients that should be "
        "zero, which Adam makes full steps of, would hide in float32 what is compared."
        if _DTYPE.value == "float64"
        else f"Largest relative difference of the loss in {_NUM_STEPS.value} steps, in float32."
    )
    titles = [f"{a}, {b}" for a, b in pairs]
    print(f"{'':<36}" + "".join(f"{title:>12}" for title in titles))
    worst = 0.0
    for name in _NETWORKS.value:
        for strategy in next(iter(found.values()))[name]:
            losses = {"keras": plain[name]["keras"]}
            losses |= {hosts: by_name[name][strategy] for hosts, by_name in found.items()}
            row = [difference(losses[a], losses[b]) for a, b in pairs]
            worst = max(worst, *row)
            cells = "".join(f"{value:>12.1e}" for value in row)
            print(f"{name:<13}{strategy:<23}{cells}")
    passed = worst <= _TOLERANCE.value
    print(f"Largest: {worst:.1e}, {'passed' if passed else 'FAILED'} ({_TOLERANCE.value:g})")
    if _JSON_OUT.value:
        figures = {"keras": plain, **found, "largest_relative_difference": worst}
        Path(_JSON_OUT.value).write_text(json.dumps(figures, indent=2) + "\n")
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
