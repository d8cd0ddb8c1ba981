"""Whether the server of a client runs, and what is said if one does not."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from keras_soap.runtime import start_guard
from keras_soap.runtime.cluster_spec import ClusterSpec


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return address


@pytest.fixture
def running():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_a_server_of_grpc_answers(running):
    assert start_guard.problem(running) is None


def test_a_process_that_is_stopped_does_not(monkeypatch, listening):
    # The system accepts connections for it.
    monkeypatch.setattr(start_guard, "ANSWER_TIMEOUT_S", 0.2)
    assert "hangs" in start_guard.problem(listening[1])


def test_a_process_that_ends_closes_connections(listening):
    server, address = listening
    thread = threading.Thread(target=lambda: server.accept()[0].close())
    thread.start()
    found = start_guard.problem(address)
    thread.join()
    assert "has ended" in found or "reset" in found


def test_all_who_do_not_answer_are_named(running, closed):
    spec = ClusterSpec(("127.0.0.1:1", running, closed), 0, "JOBS")
    said = start_guard.report(spec, 5.0)
    assert f"client 2 ({closed}) does not answer: Connection refused" in said
    assert "client 1" not in said
    assert "client 0 (127.0.0.1:1) has not started with all clients within 5 s" in said
