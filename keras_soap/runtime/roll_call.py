"""Before TensorFlow starts: are all clients there, once each, with the same list of clients?

TensorFlow waits for a client that is missing without saying so, and two processes may listen on one
port without noticing. So every client first listens on its own port in TensorFlow's stead. Each
calls each other until it answers: the caller says who it is, the other who it is, both with their
lists. When all have been called and have called, the port is TensorFlow's. One that cannot listen
tells the others why, instead.
"""

import contextlib
import json
import os
import socket
import socketserver
import threading
import time
from typing import Any

from keras_soap.errors import ClusterError
from keras_soap.runtime.cluster_spec import ClusterSpec

LINE_BYTES = 1 << 20
"""Longer lines are not from a client."""

ANSWER_TIMEOUT_S = 5.0
"""How long one connection may take."""

LINGER_S = 3.0
"""How long a client that has found something wrong still answers, so that others find it too."""


TELL_S = 10.0
"""How long a client that cannot listen waits for others that are still starting, to say so."""


class _Answering(socketserver.ThreadingTCPServer):
    """Listens in TensorFlow's stead.

    Attributes:
        me: What this client says of itself.
        callers: What others have said of themselves, by their number.
        problem: What is wrong with a caller.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, spec: ClusterSpec, me: dict[str, Any]):
        self.me = me
        self.spec = spec
        self.callers: dict[int, dict[str, Any]] = {}
        self.problem: ClusterError | None = None
        dual = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if dual else socket.AF_INET
        port = int(spec.addresses[spec.client].rpartition(":")[2])
        super().__init__(("", port), _Answer)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def heard(self, caller: dict[str, Any]) -> None:
        """Notes a caller, or what it says is wrong."""
        if caller.get("problem"):
            self.problem = self.problem or ClusterError(caller["problem"])
            return
        known = self.callers.setdefault(caller["client"], caller)
        if known["process"] != caller["process"] or caller["client"] == self.spec.client:
            self.problem = self.problem or ClusterError(
                f"{self.spec.name(caller['client'])} is there twice: {known['process']} and "
                f"{caller['process']}. Give each process a number of its own."
            )


class _Answer(socketserver.StreamRequestHandler):
    timeout = ANSWER_TIMEOUT_S
    server: _Answering

    def handle(self) -> None:
        try:
            caller = _read(self.rfile)
            self.wfile.write(_line(self.server.me))
        except OSError:
            return
        if caller is not None and _problem(self.server.spec, caller, None) is None:
            self.server.heard(caller)
        elif caller is not None:
            self.server.problem = self.server.problem or _problem(self.server.spec, caller, None)


def call_roll(spec: ClusterSpec, timeout_s: float) -> None:
    """Returns when all clients are there.

    Args:
        spec: Who they are, as this client knows it.
        timeout_s: How long to wait for the last of them.

    Raises:
        ClusterError: If one is missing or there twice, or lists differ, or the port is in use.
    """
    deadline = time.monotonic() + timeout_s
    process = f"process {os.getpid()} on {socket.gethostname()}"
    me = {"client": spec.client, "addresses": list(spec.addresses), "process": process}
    try:
        server = _Answering(spec, me)
    except OSError as error:
        problem = ClusterError(
            f"{spec.name(spec.client)} cannot listen on its port: {error.strerror or error}. "
            "Perhaps another program uses it, a client with the same number, or one that has not "
            "ended. Choose another port, or end that program."
        )
        _tell_all(spec, me | {"problem": str(problem)}, min(deadline, time.monotonic() + TELL_S))
        raise problem from error
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        _call_all(server, deadline, timeout_s)
    except ClusterError:
        time.sleep(LINGER_S)
        raise
    finally:
        server.shutdown()
        server.server_close()


def _call_all(server: _Answering, deadline: float, timeout_s: float) -> None:
    spec = server.spec
    others = [client for client in range(spec.num_clients) if client != spec.client]
    reasons = dict.fromkeys(others, "no answer")
    uncalled = list(others)
    while uncalled or any(client not in server.callers for client in others):
        for client in list(uncalled):
            try:
                answer = _call(spec.addresses[client], server.me)
                problem = _problem(spec, answer, client)
                if problem:
                    raise problem
                uncalled.remove(client)
            except OSError as error:
                reasons[client] = error.strerror or str(error) or "no answer"
        if server.problem:
            raise server.problem
        if time.monotonic() > deadline:
            missing = [c for c in others if c in uncalled]
            if missing:
                what = "; ".join(f"{spec.name(c)}: {reasons[c]}" for c in missing)
                raise ClusterError(
                    f"Client {spec.client} cannot reach all of the {spec.num_clients} clients "
                    f"that {spec.source} names within {timeout_s:g} s: {what}. Start them, or "
                    "check addresses and firewalls."
                )
            silent = ", ".join(spec.name(c) for c in others if c not in server.callers)
            raise ClusterError(
                f"{silent} can be reached from client {spec.client}, but did not reach "
                f"{spec.name(spec.client)} within {timeout_s:g} s. Check that address, and "
                "firewalls."
            )
        time.sleep(0.05)


def _tell_all(spec: ClusterSpec, message: dict[str, Any], deadline: float) -> None:
    """Calls all others that can be reached in time, and one that has this client's number."""
    with contextlib.suppress(OSError):
        _call(spec.addresses[spec.client], message)
    untold = [client for client in range(spec.num_clients) if client != spec.client]
    while untold and time.monotonic() < deadline:
        for client in list(untold):
            try:
                _call(spec.addresses[client], message)
                untold.remove(client)
            except OSError:
                time.sleep(0.05)


def _call(address: str, me: dict[str, Any]) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S) as connection:
        connection.sendall(_line(me))
        with connection.makefile("rb") as stream:
            answer = _read(stream)
    if answer is None:
        raise OSError("what answers there is not a client that is starting")
    return answer


def _problem(spec: ClusterSpec, other: dict[str, Any], expected: int | None) -> ClusterError | None:
    """What is wrong with what another client says of itself."""
    client, addresses = other["client"], other["addresses"]
    if addresses != list(spec.addresses):
        return ClusterError(
            f"Clients differ: client {spec.client} knows {spec.num_clients} clients "
            f"({', '.join(spec.addresses)}), but client {client} knows {len(addresses)} "
            f"({', '.join(addresses)}). Give all clients the same list."
        )
    if expected is not None and client != expected:
        return ClusterError(
            f"{spec.addresses[expected]}, which {spec.source} names as client {expected}, answers "
            f"that it is client {client}. Give all clients the same list, in the same order."
        )
    return None


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(stream: Any) -> dict[str, Any] | None:
    """What a client says of itself; None from anybody else."""
    try:
        message = json.loads(stream.readline(LINE_BYTES))
        is_ours = isinstance(message["client"], int) and isinstance(message["addresses"], list)
        return message if is_ours and isinstance(message["process"], str) else None
    except (ValueError, KeyError, TypeError):
        return None
