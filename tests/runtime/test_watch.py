"""Whatever clients are at, the others end with an error that names one that is killed or stopped.

The launcher ends all soon after the first has failed, so an error that is printed came in time.
"""

import time

import pytest
import tensorflow as tf

from keras_soap.errors import ClusterError
from keras_soap.runtime import watch
from keras_soap.runtime.cluster import Cluster
from keras_soap.runtime.cluster_spec import ClusterSpec

PROGRAM = "tests.runtime.struck_program"
STRUCK = [
    (2, 2, "start", 1, "SIGKILL", "does not answer"),
    (2, 2, "start", 0, "SIGSTOP", "could not start"),
    (2, 2, "search", 1, "SIGKILL", "has ended"),
    (2, 2, "search", 0, "SIGSTOP", "has not answered"),
    (2, 2, "step", 0, "SIGSTOP", "has not answered"),
    (2, 2, "evaluate", 0, "SIGKILL", "has ended"),
    (2, 2, "save", 0, "SIGSTOP", "has not answered"),
    (2, 2, "fail", 1, "none", "has ended with LookupError: no such sample"),
    (3, 1, "step", 2, "SIGKILL", "has ended"),
    (3, 1, "read", 1, "SIGSTOP", "has not answered"),
]
"""Numbers of clients and of devices of each; the phase, the client that is struck, and by what;
what the others say of it."""


def errors(output, client):
    """What a client says that it ends with."""
    return [
        line
        for line in output.splitlines()
        if line.startswith(f"[{client}] ") and ("ClusterError: " in line or "soap: " in line)
    ]


@pytest.mark.parametrize(
    ("num_clients", "devices_per_client", "phase", "client", "by", "says"), STRUCK
)
def test_all_others_name_who_is_lost(
    launch, tmp_path, num_clients, devices_per_client, phase, client, by, says
):
    done = launch(num_clients, devices_per_client, PROGRAM, phase, client, by, tmp_path)
    assert f"[{client}] struck" in done.stdout
    assert done.returncode != 0
    for other in set(range(num_clients)) - {client}:
        assert any(
            f"client {client} (127.0.0.1:" in said and says in said
            for said in errors(done.stderr, other)
        ), done.stderr


@pytest.mark.parametrize("first", [0, 1])
def test_programs_may_end_one_after_the_other(launch, tmp_path, first):
    done = launch(2, 2, PROGRAM, "leave", first, "none", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"[{1 - first}] has done the rest alone" in done.stdout


def test_a_program_that_ends_before_others_do_is_named_by_those_who_need_it(launch, tmp_path):
    done = launch(2, 2, PROGRAM, "miss", 1, "none", tmp_path)
    assert done.returncode == 1
    (said,) = errors(done.stderr, 0)
    assert "client 1 (127.0.0.1:" in said
    assert "has come to the end of its program, before others" in said


class Service:
    """What TensorFlow says of client 1, to client 0: that it is there, for so many probes."""

    def __init__(self, probes):
        self.probes = probes

    def check_collective_ops_peer_health(self, task, timeout_ms):
        self.probes -= 1
        if self.probes < 0:
            raise tf.errors.UnavailableError(None, None, "connection refused")

    def get_config_key_value(self, key, timeout_ms):
        time.sleep(0.01)
        raise tf.errors.DeadlineExceededError(None, None, "no such key")

    def set_config_key_value(self, key, value):
        pass

    def abort_collective_ops(self, code, message):
        pass


@pytest.fixture
def a_cluster(monkeypatch):
    """Client 0 of two, and the service that it asks of client 1."""
    service = Service(probes=200)
    monkeypatch.setattr(watch.context, "context", lambda: service)
    monkeypatch.setattr(watch, "PERIOD_S", 0.02)
    monkeypatch.setattr(watch, "CLOSED_S", 0.1)
    monkeypatch.setattr(watch, "GRACE_S", 600.0)
    spec = ClusterSpec(("127.0.0.1:1", "127.0.0.1:2"), 0, "the test")
    looks = watch.Watch(spec, timeout_s=60.0)
    looks._thread.start()  # `start` would also have a hand in how this process ends.
    yield Cluster(spec, looks), service
    looks._stopping.set()
    looks._raised.set()  # Where a test has failed.
    looks._thread.join()


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.CancelledError(None, None, "RecvAsync is cancelled."),
        tf.errors.UnknownError(None, None, "Stream removed"),
        tf.errors.UnavailableError(None, None, "Collective ops is aborted"),
    ],
)
def test_whatever_error_a_step_ends_with_names_who_is_lost(a_cluster, error):
    cluster, service = a_cluster
    service.probes = 0
    with (
        pytest.raises(ClusterError, match=r"client 1 \(127.0.0.1:2\) has ended"),
        cluster.watching("a step"),
    ):
        raise error


def test_errors_of_the_model_are_raised_as_soon_as_all_others_have_answered(a_cluster):
    cluster, _ = a_cluster  # Who waits for longer finds that client 1 has ended.
    with (
        pytest.raises(tf.errors.InvalidArgumentError, match="not in"),
        cluster.watching("a step"),
    ):
        raise tf.errors.InvalidArgumentError(None, None, "indices[0] = 7 is not in [0, 7)")
