"""Watches the other clients: when one is lost, all end within a minute, with an error naming it.

1. A thread of each client probes the servers of all others, which TensorFlow answers whatever a
   program does. Who has not answered for `timeout_s`, or whose port is closed, is lost.
2. An error that nobody catches is told to all, so that they name it at once.
3. Then collective operations are aborted, and who waits in a step or a meeting raises the error. A
   program that does not come to that, because it searches, loads or saves, is ended after
   `GRACE_S`: no step of it could be finished.
4. A client that comes to its end without an error says farewell. It is lost only to those who wait
   for it. Client 0, which keeps TensorFlow's coordination service, first sees all informed.
"""

import atexit
import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from keras_soap.errors import ClusterError
from keras_soap.runtime import feeding
from keras_soap.runtime.cluster_spec import ClusterSpec

PERIOD_S = 0.5
"""Between two probes of a client."""

PROBE_TIMEOUT_S = 0.2
"""Of one probe. TensorFlow keeps Python's lock meanwhile."""

CLOSED_S = 3.0
"""A port that has been closed for so long is one of a process that has ended."""

GRACE_S = 10.0
"""How long a program has to raise the error itself."""

FAREWELL_S = 5.0
"""How long client 0 waits, at its end, for others to take note of it."""

MOST_SAID = 2000
"""Characters of an error that others are told."""

_END = "keras_soap/end"
"""Key of the first verdict on a client that is lost; of the end of client 0, which has none."""

_CLOSED = re.compile("refused|Socket closed", re.IGNORECASE)

_ADVICE = "Start all clients again: BackupAndRestore goes on from the last epoch."


class Watch:
    """The thread that watches, and what it has found.

    Args:
        spec: Who the clients are.
        timeout_s: For how long a client may be silent.
    """

    def __init__(self, spec: ClusterSpec, timeout_s: float):
        self._spec = spec
        self._timeout_s = timeout_s
        self._lost: str | None = None
        self._found = threading.Event()
        self._raised = threading.Event()
        self._stopping = threading.Event()
        self._ended: dict[int, float] = {}
        self._silent_since: dict[int, float] = {}
        self._answered: dict[int, float] = {}
        self._waiting_since: dict[int, float] = {}
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="keras_soap_watch", daemon=True)

    def start(self) -> None:
        """Begins to watch, until the process ends."""
        atexit.register(self._say_farewell)
        self._hook, sys.excepthook = sys.excepthook, self._tell_error
        self._thread.start()

    def check(self, what: str, needs: int | None = None) -> None:
        """Raises the error that names a client that is lost, if one is.

        Args:
            what: What this client is at.
            needs: A client that it waits for, which is lost if it has come to its end.
        """
        if needs is not None and needs in self._ended:
            self._lose(needs, "has come to the end of its program, before others")
        if self._lost is not None:
            # The program is told by its feeding thread when it asks for the next batch.
            if not threading.current_thread().name.startswith(feeding.THREAD):
                self._raised.set()
            raise ClusterError(f"{self._lost} Client {self._spec.client} stops at {what!r}.")

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Surrounds what other clients have a part in."""
        me = threading.get_ident()
        outer = self._waiting_since.get(me)
        self._waiting_since[me] = outer or time.monotonic()
        try:
            yield
        finally:
            if outer is None:
                del self._waiting_since[me]

    def explain(self, what: str, is_of_cluster: bool) -> None:
        """Raises the error that names who is lost as soon as that is clear; returns if nobody is.

        Args:
            what: What this client is at.
            is_of_cluster: Whether the error that is to be explained speaks of the cluster. If not,
                nobody is lost once all others have answered a probe that began after it.
        """
        began = time.monotonic()
        deadline = began + self._timeout_s + 4 * PERIOD_S
        while not self._found.wait(PERIOD_S / 4) and time.monotonic() < deadline:
            if not is_of_cluster and self._all_have_answered(began):
                break
        self.check(what)

    def _all_have_answered(self, since: float) -> bool:
        return all(
            client in self._ended or self._answered.get(client, since) > since
            for client in range(self._spec.num_clients)
            if client != self._spec.client
        )

    def _run(self) -> None:
        while not self._stopping.is_set() and self._lost is None:
            self._wait_for_verdict()
            for client in range(self._spec.num_clients):
                if client != self._spec.client and client not in self._ended:
                    self._probe(client)
            now = time.monotonic()
            since = min(self._waiting_since.copy().values(), default=now)
            for client, ended in self._ended.items():
                if now - max(ended, since) > self._timeout_s:
                    self._lose(client, "has come to the end of its program, before others")
        if self._lost is not None:
            self._end_program(str(self._lost))

    def _wait_for_verdict(self) -> None:
        """Waits a period; less, if a client finds that one is lost, or client 0 ends."""
        if 0 in self._ended or self._has_failed:
            self._stopping.wait(PERIOD_S)
            return
        try:
            said = context.context().get_config_key_value(_END, int(1e3 * PERIOD_S))
        except tf.errors.DeadlineExceededError:
            return
        except tf.errors.OpError:
            # Client 0 cannot be reached; probes tell why.
            self._stopping.wait(PERIOD_S)
            return
        verdict = json.loads(said)
        if verdict is not None:
            self._take(verdict)
        elif self._spec.client == 0:
            self._stopping.wait(PERIOD_S)
        else:
            self._ended[0] = time.monotonic()
            self._put(_seen(self._spec.client))

    def _probe(self, client: int) -> None:
        began = time.monotonic()
        try:
            context.context().check_collective_ops_peer_health(
                f"/job:worker/replica:0/task:{client}", int(1e3 * PROBE_TIMEOUT_S)
            )
        except tf.errors.FailedPreconditionError:
            self._lose(client, "has been started again")
        except tf.errors.OpError as error:
            if self._has_said_farewell(client):
                self._ended[client] = time.monotonic()
                return
            now = time.monotonic()
            silent_s = now - self._silent_since.setdefault(client, now)
            if _CLOSED.search(str(error)) and silent_s > CLOSED_S:
                self._lose(client, "has ended")
            elif silent_s > self._timeout_s:
                how = f"has not answered for {silent_s:.0f} s: it hangs, or cannot be reached"
                self._lose(client, how)
        else:
            self._answered[client] = began
            self._silent_since.pop(client, None)

    def _has_said_farewell(self, client: int) -> bool:
        if 0 in self._ended:
            # Nobody keeps farewells any more, and nothing is left that takes all.
            return True
        try:
            context.context().get_config_key_value(_farewell(client), 100)
        except tf.errors.OpError:
            return False
        return True

    def _lose(self, client: int, how: str) -> None:
        self._take(
            f"{self._spec.name(client)} {how}. See what client {client} has printed. {_ADVICE}"
        )

    def _take(self, verdict: str) -> None:
        if self._lost is None:
            self._lost = verdict
            self._found.set()

    def _end_program(self, verdict: str) -> None:
        """Has the program raise what was found; ends it if it does not."""
        self._put(_END, json.dumps(verdict))
        context.context().abort_collective_ops(tf.errors.UNAVAILABLE, verdict)
        if self._raised.wait(GRACE_S):
            return
        print(
            f"keras_soap: {verdict} The program of client {self._spec.client} does not come to "
            "where it would raise this, and is ended here:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback()
        os._exit(1)

    def _tell_error(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """Tells all clients what ends this one; called where nobody has caught it."""
        self._has_failed = True
        me = self._spec.client
        said = f"{kind.__name__}: {str(error)[:MOST_SAID]}".rstrip(". ")
        self._put(
            _END,
            json.dumps(
                self._lost
                or f"{self._spec.name(me)} has ended with {said}. See what client {me} has "
                f"printed. {_ADVICE}"
            ),
        )
        self._hook(kind, error, trace)

    def _say_farewell(self) -> None:
        me = self._spec.client
        is_alone = self._lost is not None or self._has_failed
        if not is_alone:
            is_alone = not (self._put(_farewell(me)) if me else self._put(_END, json.dumps(None)))
        if is_alone:
            # TensorFlow's end must not wait for a service that has ended or hangs. By then there is
            # no Python left, nor anything to print.
            self._nowhere = open(os.devnull, "w")  # noqa: SIM115  # For as long as the process.
            faulthandler.dump_traceback_later(GRACE_S, exit=True, file=self._nowhere)
        elif me == 0:
            self._wait_for_readers()
        self._stopping.set()
        self._raised.set()
        # TensorFlow is taken down after this, and must not be under the thread.
        self._thread.join()

    def _wait_for_readers(self) -> None:
        """Client 0's end takes the service away: first all others take note of it."""
        others = set(range(1, self._spec.num_clients)) - set(self._ended)
        deadline = time.monotonic() + FAREWELL_S
        while others and time.monotonic() < deadline and self._lost is None:
            client = min(others)
            for key in (_seen(client), _farewell(client)):
                with contextlib.suppress(tf.errors.OpError):
                    context.context().get_config_key_value(key, 50)
                    others.discard(client)

    def _put(self, key: str, value: str = "") -> bool:
        """Sets a key that has none; gives up, and says so, where the service hangs."""

        def put() -> None:
            with contextlib.suppress(tf.errors.OpError):
                context.context().set_config_key_value(key, value)

        thread = threading.Thread(target=put, daemon=True)
        thread.start()
        thread.join(PERIOD_S)
        return not thread.is_alive()


def _farewell(client: int) -> str:
    return f"keras_soap/farewell/{client}"


def _seen(client: int) -> str:
    return f"keras_soap/seen/{client}"
