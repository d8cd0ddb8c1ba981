"""What the benchmark programs share: their flags, and training under a strategy.

A program is a `Benchmark`: the sizes of a model, what builds it, and its data. Every size is a
flag; `--preset=paper` has those of the paper, `--preset=tiny` some that train in less than a minute
on the logical CPU devices of a laptop.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def size(default: int, meaning: str) -> Any:
    """A field of a dataclass of sizes, which becomes a flag.

    Args:
        default: The size in the paper.
        meaning: What it is, for `--help`.
    """
    return dataclasses.field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that all benchmarks have; each adds its own."""

    batch_size: int = size(64, "Samples in a step.")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ValueError(
                    f"{field.name}={value} must be 1 or more: {field.metadata['help']}"
                )


@dataclass(frozen=True, kw_only=True)
class ImageSizes(Sizes):
    """Sizes of a network for images."""

    image_size: int = size(224, "Height and width of images, in pixels.")
    classes: int = size(1000, "Classes of images.")


@dataclass(frozen=True, kw_only=True)
class SentenceSizes(Sizes):
    """Sizes of a recurrent network."""

    length: int = size(40, "Words in a sentence: steps of recurrent layers.")
    units: int = size(1024, "Units of recurrent layers, and width of embeddings.")
    vocabulary: int = size(10_000, "Words that are told apart.")
    time_chunk: int = size(10, "Steps of a recurrent layer in one operator; must divide length.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length % self.time_chunk:
            below = max(d for d in range(1, self.time_chunk + 1) if self.length % d == 0)
            raise ValueError(
                f"time_chunk={self.time_chunk} does not divide the {self.length} steps of a "
                f"sentence. Use a divisor of {self.length}, such as {below}."
            )
        if self.vocabulary < 4:
            raise ValueError(f"vocabulary={self.vocabulary} must be 4 or more.")


Pool = tuple[Any, ...]
"""Inputs, targets and, perhaps, weights of targets, to draw batches from."""


@dataclass(frozen=True)
class Benchmark:
    """A program.

    Attributes:
        name: Of the network.
        presets: `"paper"` and `"tiny"`.
        model: Makes the network, compiled.
        data: By name, what makes a pool of samples; `"synthetic"` is one.
    """

    name: str
    presets: Mapping[str, Any]
    model: Callable[[Any], Any]
    data: Mapping[str, Callable[[Any, np.random.Generator], Pool]]


@dataclass(frozen=True)
class Options:
    """How to train; see the flags of the same names."""

    steps: int = 20
    data: str = "synthetic"
    num_devices: int = 4
    topology: str = "local"
    search_budget_s: float = 10.0
    seed: int = 0
    export_strategy: str | None = None
    import_strategy: str | None = None
    only_data_parallel: bool = False
    profile: str | None = None
    verbose: bool = True


def train(benchmark: Benchmark, sizes: Any, options: Options) -> list[float]:
    """Trains under a strategy; gives the loss of each step."""
    import keras
    import tensorflow as tf

    import keras_soap

    if not tf.config.list_physical_devices("GPU"):
        keras_soap.use_logical_cpus(options.num_devices)
    client = keras_soap.join_cluster()
    keras.utils.set_random_seed(options.seed)
    pool = benchmark.data[options.data](sizes, np.random.default_rng(options.seed))
    samples = tf.data.Dataset.from_tensor_slices(pool)
    samples = samples.shuffle(len(pool[1]), options.seed).repeat().batch(sizes.batch_size, True)
    network = benchmark.model(sizes)
    soap = keras_soap.SoapStrategy(
        options.topology,
        options.search_budget_s,
        strategy=options.import_strategy,
        seed=options.seed,
        method="data_parallel" if options.only_data_parallel else "mcmc",
        profile=options.profile,
        time_chunk=getattr(sizes, "time_chunk", None),
        verbose=int(options.verbose),
    )
    losses: list[float] = []
    network.fit(
        samples.take(options.steps),
        callbacks=[soap, _record(losses, options.verbose)],
        verbose=0,
    )
    if options.export_strategy and soap.strategy is not None and client == 0:
        soap.save(options.export_strategy)
    return losses


def operator_graph(model: Any, batch_size: int, time_chunk: int) -> Any:
    """The operators of a training step, opened in time, for `keras-soap`."""
    from keras_soap.capture.planning import capture_for_planning

    return capture_for_planning(model, batch_size, training=True, time_chunk=time_chunk)


def main(benchmark: Benchmark) -> None:
    """Runs a program: defines its flags, reads them, and trains."""
    _define_flags(benchmark)
    app.run(lambda argv: _main(benchmark, argv))


def _main(benchmark: Benchmark, argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    values = flags.FLAGS
    preset = benchmark.presets[values.preset]
    names = [field.name for field in dataclasses.fields(preset)]
    given = {name: values[name].value for name in names if values[name].value is not None}
    options = Options(
        **{f.name: values[f.name].value for f in dataclasses.fields(Options) if f.name in values}
    )
    from keras_soap.errors import SoapError

    try:
        losses = train(benchmark, dataclasses.replace(preset, **given), options)
    except (ValueError, SoapError) as error:
        raise app.UsageError(str(error)) from error
    few = max(len(losses) // 4, 1)
    first, last = np.mean(losses[:few]), np.mean(losses[-few:])
    print(f"{benchmark.name}: loss {first:.4f} in the first steps, {last:.4f} in the last")
    if options.export_strategy:
        print(f"Wrote the strategy to {options.export_strategy}")


def _define_flags(benchmark: Benchmark) -> None:
    flags.DEFINE_enum("preset", "paper", list(benchmark.presets), "Which sizes.")
    for field in dataclasses.fields(benchmark.presets["paper"]):
        sizes = ", ".join(f"{n}: {getattr(p, field.name)}" for n, p in benchmark.presets.items())
        meaning = f"{field.metadata['help']} ({sizes})"
        flags.DEFINE_integer(field.name, None, meaning, lower_bound=1)
    flags.DEFINE_enum("data", "synthetic", list(benchmark.data), "What to train on.")
    flags.DEFINE_integer("steps", 20, "Training steps.", lower_bound=1)
    flags.DEFINE_integer(
        "num_devices", 4, "Logical CPU devices, where there is no GPU.", lower_bound=1
    )
    flags.DEFINE_string("topology", "local", "The machine: local, or the path of a topology file.")
    flags.DEFINE_float("search_budget_s", 10.0, "Seconds to search.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of data, weights and the search.")
    flags.DEFINE_string("export_strategy", None, "Where to write the strategy.")
    flags.DEFINE_string("import_strategy", None, "A strategy to train under, without searching.")
    flags.DEFINE_bool("only_data_parallel", False, "Train data-parallel, without searching.")
    flags.DEFINE_string(
        "profile",
        None,
        "Times of operators: measured (the default of a search), analytic, or a file of them.",
    )


def _record(losses: list[float], verbose: bool) -> Any:
    """A callback that notes, and perhaps prints, the loss of each step."""
    import keras

    class Record(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.reset_metrics()

        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))
            if verbose:
                print(f"step {len(losses)}: loss {losses[-1]:.4f}", flush=True)

    return Record()
