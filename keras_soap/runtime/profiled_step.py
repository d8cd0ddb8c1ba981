"""Runs a step under TensorFlow's profiler, and reads which operations ran, where and when."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from absl import logging
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from keras_soap.errors import ExecutionError
from keras_soap.report.plan import Plan
from keras_soap.report.ran_step import RanOperation, RanStep
from keras_soap.runtime import cluster
from keras_soap.topology.local import sync_devices

HOST = "/host:CPU"
"""The profiler's plane of this process's threads."""

TRACER_LEVEL = 2
"""Of the profiler: from this on it notes each operation."""


STEPS_BEFORE = 5
"""Steps that run before the one that is traced: memory is allocated in the first ones."""


class StepTrace:
    """Writes the trace of one step of training, simulated and real side by side.

    Attributes:
        ran: The step, once it has run.
    """

    def __init__(self, path: "str | os.PathLike[str]"):
        """For a file; client 0 writes it."""
        self.ran: RanStep | None = None
        self._path = path
        self._num_steps = 0
        self._profiler = StepProfiler()

    @property
    def _is_next(self) -> bool:
        return self._num_steps == STEPS_BEFORE and cluster.client() == 0

    def before_step(self) -> None:
        """Is called before every step."""
        if self._is_next:
            self._profiler.start()

    def after_step(self, make_plan: Callable[[], Plan]) -> None:
        """Is called after every step.

        Args:
            make_plan: Gives what the strategy was predicted to do.
        """
        if self._is_next:
            self.ran = self._profiler.stop()
            make_plan().write_trace(self._path, self.ran)
        self._num_steps += 1

    def end(self) -> None:
        """Is called after training; the next one counts steps anew."""
        if self._num_steps <= STEPS_BEFORE:
            logging.warning(
                "There is no trace in %s: training ended after %d steps, and it is of step %d.",
                os.fspath(self._path),
                self._num_steps,
                STEPS_BEFORE + 1,
            )
        self._num_steps = 0


class StepProfiler:
    """Notes what runs between `start` and `stop`."""

    def __init__(self):
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._began_ns = 0

    def start(self) -> None:
        """Begins.

        Raises:
            ExecutionError: If another profiler is at work in this process.
        """
        folder = tempfile.TemporaryDirectory()
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=TRACER_LEVEL, python_tracer_level=0
        )
        try:
            tf.profiler.experimental.start(folder.name, options)
        except tf.errors.AlreadyExistsError as error:
            folder.cleanup()
            raise ExecutionError(
                "Cannot trace the step: TensorFlow's profiler is at work already, as it is for "
                "TensorBoard(profile_batch=…). There is one in a process; drop trace_out, or that."
            ) from error
        self._folder = folder
        self._began_ns = time.time_ns()

    def stop(self) -> RanStep:
        """Ends, when the devices have done all that they were told."""
        assert self._folder is not None
        sync_devices()
        time_ns = time.time_ns() - self._began_ns
        tf.profiler.experimental.stop()
        with self._folder as folder:
            (path,) = Path(folder).rglob("*.xplane.pb")
            space = xplane_pb2.XSpace.FromString(path.read_bytes())
        self._folder = None
        return RanStep(list(_operations(space, self._began_ns)), time_ns)


def _operations(space: xplane_pb2.XSpace, began_ns: int) -> Iterator[RanOperation]:
    for plane in space.planes:
        if plane.name != HOST:
            continue
        for thread, line in enumerate(plane.lines):
            for event in line.events:
                metadata = plane.event_metadata[event.metadata_id]
                # Operations are "name:type"; all else has no name for people, or no colon.
                name, colon, kind = metadata.name.rpartition(":")
                if colon and kind == metadata.display_name:
                    start_ns = line.timestamp_ns + event.offset_ps // 1000 - began_ns
                    yield RanOperation(
                        thread, name, kind, start_ns, start_ns + event.duration_ps // 1000
                    )
