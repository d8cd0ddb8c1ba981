"""Before TensorFlow starts, a client that is missing or wrong is named on every client."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_soap.errors import ClusterError
from keras_soap.runtime import roll_call
from keras_soap.runtime.cluster_spec import ClusterSpec


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch):
    monkeypatch.setattr(roll_call, "LINGER_S", 1.0)


def addresses(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = tuple(f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes)
    for probe in probes:
        probe.close()
    return found


def call_all(specs, timeout_s):
    """What each of the clients says: an error, or None."""

    def call(spec):
        try:
            roll_call.call_roll(spec, timeout_s)
        except ClusterError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(len(specs)) as pool:
        return list(pool.map(call, specs))


def test_clients_that_are_all_there_go_on_and_free_their_ports():
    found = addresses(3)
    assert call_all([ClusterSpec(found, n, "JOBS") for n in range(3)], 10) == [None] * 3
    for address in found:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(address.rpartition(":")[2])))


def test_a_missing_client_is_named_within_the_time():
    found = addresses(3)
    for said in call_all([ClusterSpec(found, n, "JOBS") for n in (0, 2)], 1):
        assert f"client 1 ({found[1]}): Connection refused" in said
        assert "within 1 s" in said


def test_a_client_that_knows_other_numbers_of_clients_is_named_on_all():
    found = addresses(3)
    specs = [ClusterSpec(found[:2], 0, "JOBS"), *(ClusterSpec(found, n, "JOBS") for n in (1, 2))]
    first, second, third = call_all(specs, 10)
    assert "client 0 knows 2 clients" in first
    assert "client 1 knows 3" in first
    for said in (second, third):
        assert "knows 3 clients" in said
        assert "client 0 knows 2" in said


def test_two_clients_of_one_number_are_named_on_all():
    found = addresses(3)
    specs = [ClusterSpec(found, n, "JOBS") for n in (0, 1, 1)]
    # They wait for client 2.
    for said in call_all(specs, 10):
        assert f"client 1 ({found[1]}) cannot listen on its port: Address already in use" in said


def test_a_port_in_use_is_named_on_all():
    found = addresses(3)
    with socket.socket() as other:
        other.bind(("", int(found[1].rpartition(":")[2])))
        other.listen()
        for said in call_all([ClusterSpec(found, n, "JOBS") for n in range(3)], 10):
            assert (
                f"client 1 ({found[1]}) cannot listen on its port: Address already in use" in said
            )


def test_an_address_of_something_else_is_not_taken_for_a_client():
    found = addresses(2)
    with socket.create_server(("127.0.0.1", int(found[1].rpartition(":")[2]))) as other:
        other.settimeout(5)

        def answer():
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-OpenSSH\n")
            connection.close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(answer)
            with pytest.raises(ClusterError, match="client 1 "):
                roll_call.call_roll(ClusterSpec(found, 0, "JOBS"), 1)
