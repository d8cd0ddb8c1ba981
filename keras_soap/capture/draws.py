"""Random numbers that a traced `call` draws itself, with functions of `keras.random`.

1. A draw is recorded as a call of a layer, `Draw`, which draws when it runs. `keras.random.dropout`
   is recorded as what it does with the numbers that it draws.
2. A layer keeps its seed generators, but each has one draw at most: operators on one state would
   have to be split alike. Other draws from it, and those from Keras's global one, have generators
   of their own. They are as good, and repeatable.
3. Draws with a number for a seed give the same every time: they are constants.
4. To compare a trace with `call`, both draw from one fixed seed. To compare parts of a batch with
   all of it, parts are given their share of what is drawn for it.
"""

import contextlib
import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras.src import backend
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.ops.node import Node
from keras.src.random.seed_generator import global_seed_generator

from keras_soap.errors import CaptureError
from keras_soap.operators.noise import SEED_STRIDE

_FUNCTIONS = ("normal", "uniform", "truncated_normal", "randint", "gamma", "binomial", "beta")
"""Those of `keras.random` that make numbers of a shape that they are given."""

_generators: "weakref.WeakKeyDictionary[keras.Layer, dict[Any, keras.random.SeedGenerator]]"
_generators = weakref.WeakKeyDictionary()
"""By layer, the number of the draw in its `call`, and the rank of what is drawn."""
_num_draws: "weakref.WeakKeyDictionary[keras.random.SeedGenerator, int]"
_num_draws = weakref.WeakKeyDictionary()
"""How many draws of all layers there are from a generator of the user's."""


class Draw(keras.Layer):
    """Draws random numbers.

    Args:
        function: Name of a function of `keras.random`.
        shape: Of what it makes.
        options: Its other arguments.
        seed: A generator; a number stands for one that begins with it.
        shift: Added to the seed, for this draw alone.
    """

    def __init__(
        self,
        function: str,
        shape: Sequence[int],
        options: dict[str, Any],
        seed: keras.random.SeedGenerator | int,
        shift: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.function = function
        self.shape = tuple(shape)
        self.options = options
        generator = keras.random.SeedGenerator(seed) if isinstance(seed, int) else seed
        self.seed_generator = generator
        self.shift = shift
        self.built = True

    def call(self, inputs: None = None) -> Any:
        """The numbers. There is nothing to read."""
        draw = getattr(backend.random, self.function)
        return draw(self.shape, **self.options, seed=_Shifted(self.seed_generator, self.shift))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "function": self.function,
            "shape": self.shape,
            "options": dict(self.options),
            "seed": self.seed_generator,
            "shift": self.shift,
        }

    def draws_as(self, other: "Draw") -> bool:
        """Whether another draw is the same, as one that another trace has recorded."""
        return self.seed_generator is other.seed_generator and (
            (self.function, self.shape, self.options)
            == (other.function, other.shape, other.options)
        )


class _Shifted(keras.random.SeedGenerator):
    """The seeds of another generator, moved by a number."""

    def __init__(self, generator: keras.random.SeedGenerator, shift: int):
        self._generator = generator
        self._shift = shift

    def next(self, ordered: bool = True) -> Any:
        state = self._generator.next(ordered)
        return state + keras.ops.convert_to_tensor([self._shift, 0], state.dtype)


@contextlib.contextmanager
def recorded_draws(layer: keras.Layer) -> Iterator[None]:
    """Has the draws in the traced `call` of a layer recorded."""
    count = 0

    def recording(name: str) -> Any:
        original = getattr(backend.random, name)

        @functools.wraps(original)
        def record(shape: Any, *args: Any, seed: Any = None, **options: Any) -> Any:
            nonlocal count
            is_number = isinstance(seed, int)
            # In a symbolic scope Keras runs inner layers, to learn shapes.
            if is_number or args or not _is_plain((shape, options)) or in_symbolic_scope():
                return original(shape, *args, seed=seed, **options)
            generator = _generator(layer, (count, len(shape)), seed)
            count += 1
            options = {key: value for key, value in options.items() if value is not None}
            draw = Draw(name, [int(size) for size in shape], options, generator)
            dtype = options.get("dtype") or (
                "int32" if name == "randint" else keras.config.floatx()
            )
            made = keras.KerasTensor(draw.shape, keras.backend.standardize_dtype(dtype))
            Node(operation=draw, call_args=(), call_kwargs={}, outputs=made)
            return made

        return record

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if not isinstance(inputs, keras.KerasTensor) or in_symbolic_scope() or not 0 < rate < 1:
            return originals["dropout"](inputs, rate, noise_shape, seed)
        return _dropout(inputs, rate, noise_shape, seed)

    originals = {name: getattr(backend.random, name) for name in (*_FUNCTIONS, "dropout")}
    replaced = {**{name: recording(name) for name in _FUNCTIONS}, "dropout": dropout}
    with _replaced(replaced):
        yield


@contextlib.contextmanager
def fixed_draws() -> Iterator[None]:
    """Has whatever is drawn depend on its shape alone, and no generator change."""
    original = backend.random.draw_seed

    def draw_seed(seed: Any) -> Any:
        return original(seed if isinstance(seed, int) else SEED_STRIDE)

    with _replaced({"draw_seed": draw_seed}):
        yield


@contextlib.contextmanager
def draws_of_part(operation: Any, part: slice, batch_size: int) -> Iterator[None]:
    """Has a part of a batch draw its samples' share of what the batch draws.

    What is drawn for all samples alike is another in each part, as parts have seeds of their own.

    Args:
        operation: What draws.
        part: Its samples.
        batch_size: Samples in the batch.

    Raises:
        CaptureError: For draws from Keras's global seed: a layer that is not opened up must keep
            its own.
    """
    start, size = part.start, part.stop - part.start

    def seeded(seed: Any, shift: int) -> Any:
        if seed is None:
            raise CaptureError(
                f"Layer {operation.name!r} of type {type(operation).__name__} draws random "
                "numbers from Keras's global seed, in a call() that cannot be opened up. Make a "
                "keras.random.SeedGenerator in its __init__, and draw with "
                "seed=self.seed_generator."
            )
        return seed if isinstance(seed, int) else SEED_STRIDE + shift

    def cut(name: str) -> Any:
        original = originals[name]

        @functools.wraps(original)
        def draw(shape: Any, *args: Any, seed: Any = None, **options: Any) -> Any:
            sizes = tuple(shape)
            if isinstance(seed, int) or sizes[:1] != (size,):
                return original(shape, *args, seed=seed, **options)
            seed = seeded(seed, 0)
            return original((batch_size, *sizes[1:]), *args, seed=seed, **options)[part]

        return draw

    def dropout(inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None) -> Any:
        if not 0 < rate < 1:
            return originals["dropout"](inputs, rate, noise_shape, seed)
        return _dropout(inputs, rate, noise_shape, seed)

    originals = {name: getattr(backend.random, name) for name in (*_FUNCTIONS, "dropout")}
    draw_seed = backend.random.draw_seed
    replaced = {**{name: cut(name) for name in _FUNCTIONS}, "dropout": dropout}
    replaced["draw_seed"] = lambda seed: draw_seed(seeded(seed, 1 + start))
    with _replaced(replaced):
        yield


def _dropout(inputs: Any, rate: float, noise_shape: Any, seed: Any) -> Any:
    """What `keras.random.dropout` does, with the numbers that it draws."""
    sizes = noise_shape or inputs.shape
    shape = [x if y is None else y for x, y in zip(inputs.shape, sizes, strict=True)]
    drawn = keras.random.uniform(shape, dtype=inputs.dtype, seed=seed)
    return keras.ops.where(drawn >= rate, inputs * (1 / (1 - rate)), 0.0)


@contextlib.contextmanager
def _replaced(functions: dict[str, Any]) -> Iterator[None]:
    """Puts functions in the places of those of Keras's backend."""
    originals = {name: getattr(backend.random, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(backend.random, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(backend.random, name, function)


def _is_plain(arguments: Any) -> bool:
    """Whether arguments are numbers and words."""
    return all(
        value is None or isinstance(value, (bool, int, float, str))
        for value in keras.tree.flatten(arguments)
    )


def _generator(
    layer: keras.Layer, draw: tuple[int, int], seed: keras.random.SeedGenerator | None
) -> keras.random.SeedGenerator:
    """The generator of a draw, always the same one."""
    known = _generators.setdefault(layer, {})
    if draw not in known:
        asked = global_seed_generator() if seed is None else seed
        count = _num_draws.get(asked, 0)
        _num_draws[asked] = count + 1
        if count == 0 and seed is not None:
            known[draw] = asked
        else:
            start = int(keras.ops.convert_to_numpy(asked.state)[0])
            known[draw] = keras.random.SeedGenerator(start + (count + 1) * SEED_STRIDE)
    return known[draw]
