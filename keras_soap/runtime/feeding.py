"""Batches, on their way to the devices ahead of the steps that read them.

While a step runs, a thread takes the next batch from the iterator, cuts it, and copies the pieces
to their devices. So a step begins with all of its inputs where it reads them, which is what the
task graph takes for granted.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from absl import logging

THREAD = "keras_soap_feed"
"""How names of threads begin that take batches."""


@dataclass(frozen=True)
class FedStep:
    """A traced step, and what places batches for it.

    Attributes:
        place: From flat whole tensors to pieces on the devices.
        run: From pieces to logs.
        tracing_seconds: It took to trace the step.
    """

    place: Callable[..., Sequence[tf.Tensor]]
    run: Callable[..., dict[str, tf.Tensor]]
    tracing_seconds: float


def trace(name: str, place: Any, run: Any) -> FedStep:
    """Traces the functions of a step, and says how long it took.

    Args:
        name: Of the kind of step, for the log.
        place: The `tf.function` from whole tensors to pieces.
        run: The `tf.function` on pieces.
    """
    start = time.perf_counter()
    step = run.get_concrete_function()
    seconds = time.perf_counter() - start
    count = len(step.graph.get_operations())
    logging.info("Traced a step of %s in %.1f s: %d operations.", name, seconds, count)
    return FedStep(place.get_concrete_function(), step, seconds)


class Feeder:
    """Takes batches from an iterator one ahead.

    Args:
        prepare: What is done to a batch ahead of its step.
        end: What is done when there are no more.
    """

    def __init__(self, prepare: Callable[[Any], Any], end: Callable[[], Any] = lambda: None):
        self._prepare = prepare
        self._end = end
        self._iterator: Any = None
        self._ahead: Future[Any] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=THREAD)

    def next(self, iterator: Any) -> Any:
        """The next batch of `iterator`, prepared.

        Raises:
            StopIteration: At the end.
        """
        if self._iterator is not iterator:
            self._wait()
            self._iterator = iterator
        self.take_ahead()
        ahead, self._ahead = self._ahead, None
        assert ahead is not None
        try:
            found = ahead.result()
        except BaseException:
            self._iterator = None
            raise
        if found is None:
            self._iterator = None
            raise StopIteration
        return found[0]

    def take_ahead(self) -> None:
        """Sends for the batch after the one that was taken last.

        Call it when that one is placed: clients that send each other samples all place batches one
        after the other.
        """
        if self._ahead is None and self._iterator is not None:
            self._ahead = self._thread.submit(self._take, self._iterator)

    def close(self) -> None:
        """Waits for the batch that is on its way, and ends the thread."""
        self._wait()
        self._iterator = None
        self._thread.shutdown()

    def _take(self, iterator: Any) -> tuple[Any] | None:
        """The next batch, prepared; None at the end."""
        try:
            batch = _next(iterator)
        except StopIteration:
            self._end()
            return None
        return (self._prepare(batch),)

    def _wait(self) -> None:
        if self._ahead is not None:
            # What went wrong with a batch that nobody asks for concerns nobody.
            self._ahead.exception()
            self._ahead = None


def _next(iterator: Any) -> Any:
    """The next of an iterator.

    `next` of a `tf.data` iterator gives its thread another executor for as long as it takes. At the
    end of an epoch Keras waits for the executors of all threads (`context.async_wait`), and would
    crash if it got hold of one that ends meanwhile.
    """
    if not isinstance(iterator, tf.data.Iterator):
        return next(iterator)
    found = iterator.get_next_as_optional()
    if not found.has_value():
        raise StopIteration
    return found.get_value()
