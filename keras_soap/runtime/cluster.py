"""Several processes that train one model together: how they meet, and what they tell each other.

1. One process on each host is a client (`cluster_spec` says which one this is). All run the same
   program, and trace the same steps in the same order.
2. DTensor's start-up joins them. From then on they watch each other (`watch`).
3. Through TensorFlow's coordination service, which client 0 keeps, clients compare what must be
   equal (`agree`), and client 0 hands out what it has found (`share`). Both are meetings: every
   client comes, or all get an error that names who did not.
"""

import contextlib
import functools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow.experimental import dtensor
from tensorflow.python.eager import context

from keras_soap.errors import ClusterError
from keras_soap.runtime import devices
from keras_soap.runtime.cluster_spec import ClusterSpec, from_environment
from keras_soap.runtime.roll_call import call_roll
from keras_soap.runtime.start_guard import guarded
from keras_soap.runtime.watch import Watch

JOB = "worker"
"""TensorFlow's name of the job that all clients are tasks of."""

START_S = 45.0
"""How long TensorFlow may take to start on all clients, once all of them are there."""

MEETING_TIMEOUT_S = 300.0
"""How long a client waits for others who run the same program: for one who writes a checkpoint,
or captures a model on a slower machine."""

CHUNK_BYTES = 1 << 20
"""Longer values are handed out in pieces: the service takes 4 MB in one message."""

REPORT = "This is a bug of keras_soap, unless programs differ. Please report it with the model."
"""Advice on what users cannot cause."""

LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
"""Errors of steps and meetings that a client is missing from for certain, if they speak of the
cluster."""

OF_CLUSTER = re.compile("collective|coordination|grpc|heartbeat", re.IGNORECASE)
"""What such errors speak of."""


@dataclass
class Cluster:
    """The cluster that this process is a client of.

    Attributes:
        spec: Who the clients are.
        watch: What watches the others.
        bytes_between: By what was traced last, the bytes that all clients together send to others
            when it runs.
    """

    spec: ClusterSpec
    watch: Watch
    bytes_between: dict[str, int] = field(default_factory=dict)
    _groups: dict[tuple[str, str], int] = field(default_factory=dict)
    _num_transfers: int = 0
    _num_meetings: dict[str, int] = field(default_factory=dict)

    def number_transfer(self, source: str, device: str) -> tuple[int, int]:
        """The numbers of the next move between clients: of its pair of devices, and its own.

        All clients ask for all moves, in the same order.
        """
        self._num_transfers += 1
        return self._groups.setdefault((source, device), len(self._groups)), self._num_transfers

    def meet(
        self,
        what: str,
        value: Any,
        timeout_s: float = MEETING_TIMEOUT_S,
        place: str = "program",
    ) -> list[Any]:
        """What all clients say, in the order of their numbers.

        Args:
            what: What it is about; all clients must mean the same.
            value: What this client says; something that JSON can hold.
            timeout_s: How long to wait for the last of them.
            place: Where. Meetings at one place are held one after the other, in an order that all
                clients keep; a thread of its own needs a place of its own.

        Raises:
            ClusterError: If one does not come, has ended, or means something else.
        """
        number = self._num_meetings[place] = self._num_meetings.get(place, 0) + 1
        me = self.spec.client
        deadline = time.monotonic() + timeout_s
        with self.watching(what):
            if number > 2:  # All have read those, or they would not have come to the last meeting.
                context.context().delete_config_key_value(_key(place, number - 2, me))
            context.context().set_config_key_value(
                _key(place, number, me), json.dumps([what, value])
            )
            found = [
                json.loads(
                    self._read(_key(place, number, client), client, what, deadline, timeout_s)
                )
                for client in range(self.spec.num_clients)
            ]
        for client, (theirs, _) in enumerate(found):
            if theirs != what:
                raise ClusterError(
                    f"{self.spec.name(client)} is at {theirs!r}, but this is {what!r} on client "
                    f"{self.spec.client}. Run the same program on all clients, and read weights, "
                    "evaluate and predict on all of them."
                )
        return [value for _, value in found]

    def agree(self, what: str, facts: Mapping[str, Any], advice: str) -> None:
        """Raises `ClusterError`, on every client, if the clients' `facts` differ.

        Args:
            what: What the facts are about.
            facts: By name; JSON can hold them.
            advice: What to do about a difference.
        """
        everyone = self.meet(what, dict(facts))
        for client, theirs in enumerate(everyone):
            for name in everyone[0] | theirs:
                first = everyone[0].get(name)
                if theirs.get(name) != first:
                    raise ClusterError(
                        f"Clients differ at {what}: {name} is {first} on {self.spec.name(0)}, but "
                        f"{theirs.get(name)} on {self.spec.name(client)}. {advice}"
                    )

    def share(self, what: str, make: Callable[[], str], timeout_s: float = float("inf")) -> str:
        """What client 0 makes, on all clients. If it fails there, it fails on all.

        Args:
            what: What it is.
            make: Called on client 0 only.
            timeout_s: How long to wait for it.
        """
        pieces: list[str] = []
        problem: BaseException | None = None
        if self.spec.client == 0:
            try:
                made = make()
                pieces = [made[at : at + CHUNK_BYTES] for at in range(0, len(made), CHUNK_BYTES)]
            except BaseException as error:
                problem = error
        told = f"{type(problem).__name__}: {problem}" if problem else None
        first = self.meet(what, [len(pieces), told], timeout_s)[0]
        if problem:
            raise problem
        if first[1]:
            raise ClusterError(f"{self.spec.name(0)} could not find the {what}: {first[1]}")
        return "".join(
            self.meet(f"{what}, piece {piece}", pieces[piece] if pieces else None)[0]
            for piece in range(first[0])
        )

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Surrounds what all clients have a part in; errors then name who is lost.

        Args:
            what: What it is.
        """
        self.watch.check(what)
        with self.watch.waiting():
            try:
                yield
            except tf.errors.OpError as error:
                # Where a client is missing, what fails first may be cancelled for that, or speak of
                # a connection: only probes tell these errors from those of the model.
                speaks = OF_CLUSTER.search(str(error)) is not None
                self.watch.explain(what, is_of_cluster=speaks and isinstance(error, LOST))
                raise

    def _read(self, key: str, client: int, what: str, deadline: float, timeout_s: float) -> str:
        while True:
            # Not longer at once, so that it can be interrupted.
            left_ms = int(1e3 * min(1.0, max(0.001, deadline - time.monotonic())))
            try:
                return context.context().get_config_key_value(key, left_ms)
            except tf.errors.DeadlineExceededError as error:
                self.watch.check(what, needs=client)
                if "GetKeyValue() timed out" not in str(error):
                    raise
                if time.monotonic() >= deadline:
                    raise ClusterError(
                        f"{self.spec.name(client)} did not come to {what!r} within "
                        f"{timeout_s:g} s. Run the same program on all clients, and read weights, "
                        "evaluate and predict on all of them."
                    ) from None


def _key(place: str, number: int, client: int) -> str:
    return f"keras_soap/{place}/{number}/{client}"


_current: list[Cluster] = []


def current() -> Cluster | None:
    """The cluster that this process has joined, if any."""
    return _current[0] if _current else None


def client() -> int:
    """The number of this client; 0 without a cluster."""
    return _current[0].spec.client if _current else 0


def num_clients() -> int:
    """How many processes train together; 1 without a cluster."""
    return _current[0].spec.num_clients if _current else 1


def watched(what: str) -> contextlib.AbstractContextManager[None]:
    """`Cluster.watching`, if there is a cluster."""
    return _current[0].watching(what) if _current else contextlib.nullcontext()


def join_cluster(start_timeout_s: float = 120.0, heartbeat_timeout_s: float = 20.0) -> int:
    """Joins the other clients that environment variables name; does nothing where none do.

    Call it at the beginning of a program, after `use_logical_cpus` and before anything else that
    uses TensorFlow. It returns when all clients are there. Random numbers of Keras, NumPy and
    Python get the same seed on all of them, so that they make and shuffle alike. Keras's callbacks
    write files on client 0 alone.

    Args:
        start_timeout_s: How long to wait for the other clients.
        heartbeat_timeout_s: For how long a client may be silent before the others give it up. Then
            they raise `ClusterError`; a program that does not come to that within 10 s more,
            because it searches, loads or saves, is ended.

    Returns:
        The number of this client, from 0.

    Raises:
        ClusterError: If a client is missing, there twice, unreachable or of another version.
    """
    if _current:
        return client()
    spec = from_environment(os.environ)
    if spec is None or spec.num_clients == 1:
        return 0
    told = os.environ.get(devices.LOGICAL_CPUS)
    if told and not tf.config.list_physical_devices("GPU"):
        devices.use_logical_cpus(int(told))
    call_roll(spec, start_timeout_s)
    _start(spec, start_timeout_s, heartbeat_timeout_s)
    cluster = Cluster(spec, Watch(spec, heartbeat_timeout_s))
    cluster.watch.start()
    from keras_soap.runtime import versions

    cluster.agree("start", versions.facts(), "Install and configure all clients alike.")
    import keras

    seed = cluster.share("seed", lambda: str(int.from_bytes(os.urandom(4), "big")))
    keras.utils.set_random_seed(int(seed))
    if spec.client:
        from keras_soap.runtime import checkpoints

        checkpoints.silence_callbacks()
    _current.append(cluster)
    logging.info("Joined %d clients as client %d.", spec.num_clients, spec.client)
    return spec.client


def _start(spec: ClusterSpec, start_timeout_s: float, heartbeat_timeout_s: float) -> None:
    """Starts TensorFlow as one of the clients."""
    os.environ["DTENSOR_JOBS"] = ",".join(spec.addresses)
    os.environ["DTENSOR_CLIENT_ID"] = str(spec.client)
    os.environ["DTENSOR_NUM_CLIENTS"] = str(spec.num_clients)
    os.environ["DTENSOR_JOB_NAME"] = JOB
    # All were there a moment ago, so this is short.
    start_s = min(start_timeout_s, START_S)
    ours = context.context()
    # DTensor asks for the service, but takes no time limits for it.
    ours.configure_coordination_service = functools.partial(
        ours.configure_coordination_service,
        cluster_register_timeout_in_ms=int(start_s * 1e3),
        heartbeat_timeout_in_ms=int(heartbeat_timeout_s * 1e3),
    )
    previous = signal.getsignal(signal.SIGTERM)
    try:
        # If one ends now, TensorFlow waits for ever, and cannot be interrupted.
        with guarded(spec, start_s):
            dtensor.initialize_accelerator_system(dtensor.preferred_device_type())
    except ValueError as error:
        raise ClusterError(
            "TensorFlow has started its devices already. Call join_cluster before anything else "
            "that uses them."
        ) from error
    except tf.errors.OpError as error:
        names = sorted({int(task) for task in re.findall(r"task:(\d+)", str(error))})
        missing = [spec.name(task) for task in names if task < spec.num_clients]
        raise ClusterError(
            f"{spec.name(spec.client)} could not start with the {spec.num_clients} clients that "
            f"{spec.source} names, within {start_s:g} s. TensorFlow says"
            f"{' of ' + ', '.join(missing) if missing else ''}: {error}"
        ) from error
    # TensorFlow makes a note of this signal, and goes on.
    if previous is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, previous)
