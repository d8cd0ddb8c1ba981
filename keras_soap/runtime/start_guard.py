"""Names who does not answer while TensorFlow starts on all clients, and cannot be interrupted.

A process of its own: TensorFlow holds Python's lock until all clients are there. It ends when its
standard input does.

    python -m keras_soap.runtime.start_guard SECONDS CLIENT ADDRESS …
"""

import contextlib
import faulthandler
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from keras_soap.runtime.cluster_spec import ClusterSpec

ANSWER_TIMEOUT_S = 2.0
"""Of a server that runs."""

REPORT_S = 3 * ANSWER_TIMEOUT_S
"""How long it may take to ask all servers and say what they answer."""

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a connection of HTTP/2 begins, which gRPC speaks (RFC 9113, 3.4). Servers answer at once."""


@contextlib.contextmanager
def guarded(spec: ClusterSpec, limit_s: float) -> Iterator[None]:
    """Ends this process, if what it surrounds takes longer, after naming who does not answer.

    Args:
        spec: Who the clients are.
        limit_s: How long it may take.
    """
    guard = subprocess.Popen(
        [sys.executable, "-m", __name__, str(limit_s), str(spec.client), *spec.addresses],
        stdin=subprocess.PIPE,
        # Where this process has found the package.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    faulthandler.dump_traceback_later(limit_s + REPORT_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        guard.communicate()


def report(spec: ClusterSpec, limit_s: float) -> str:
    """Says who does not answer.

    Args:
        spec: Who the clients are.
        limit_s: For how long this one has waited.
    """
    others = [client for client in range(spec.num_clients) if client != spec.client]
    with ThreadPoolExecutor(len(others)) as pool:
        found = pool.map(problem, [spec.addresses[client] for client in others])
        silent = [
            f"{spec.name(client)} {what}"
            for client, what in zip(others, found, strict=True)
            if what
        ]
    return (
        f"keras_soap: TensorFlow of {spec.name(spec.client)} has not started with all clients "
        f"within {limit_s:g} s: {'; '.join(silent) or 'all answer, but one is slow'}. See what the "
        "others have printed, and start all clients again."
    )


def problem(address: str) -> str | None:
    """What is wrong with the server of a client; None if it answers."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT_S) as server:
            server.sendall(HELLO)
            return None if server.recv(1) else "closes connections: it has ended"
    except TimeoutError:
        return "does not answer: it hangs, or cannot be reached"
    except OSError as error:
        return f"does not answer: {error.strerror or error}"


def main(arguments: Sequence[str]) -> None:
    """Waits for the end of the start, or the limit."""
    limit_s, client, *addresses = arguments
    spec = ClusterSpec(tuple(addresses), int(client), "the cluster")
    if not select.select([sys.stdin], [], [], float(limit_s))[0]:
        print(report(spec, float(limit_s)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
