"""Whatever clients are at, the others end with an error that names one that is killed or stopped.

The launcher ends all soon after the first has failed, so an error that is printed came in time.
"""

import sys

import pytest

from tests.runtime.test_cluster import launch

STRUCK = [
    (2, 2, "start", 1, "SIGKILL", "does not answer"),
    (2, 2, "start", 0, "SIGSTOP", "could not start"),
    (2, 2, "search", 1, "SIGKILL", "has ended"),
    (2, 2, "search", 0, "SIGSTOP", "has not answered"),
    (2, 2, "step", 0, "SIGSTOP", "has not answered"),
    (2, 2, "evaluate", 0, "SIGKILL", "has ended"),
    (2, 2, "save", 0, "SIGSTOP", "has not answered"),
    (2, 2, "fail", 1, "none", "has ended with LookupError: no such sample"),
    (4, 1, "step", 2, "SIGKILL", "has ended"),
    (4, 1, "read", 3, "SIGSTOP", "has not answered"),
]
"""Numbers of clients and of devices of each; the phase, the client that is struck, and by what;
what the others say of it."""


def strike(request, tmp_path, num_clients, devices_per_client, phase, client, by="none"):
    program = [sys.executable, "-m", "tests.runtime.struck_program"]
    program += [phase, str(client), by, str(tmp_path)]
    return launch(request, num_clients, devices_per_client, *program)


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
    request, tmp_path, num_clients, devices_per_client, phase, client, by, says
):
    done = strike(request, tmp_path, num_clients, devices_per_client, phase, client, by)
    assert f"[{client}] struck" in done.stdout
    assert done.returncode != 0
    for other in set(range(num_clients)) - {client}:
        assert any(
            f"client {client} (127.0.0.1:" in said and says in said
            for said in errors(done.stderr, other)
        ), done.stderr


@pytest.mark.parametrize("first", [0, 1])
def test_programs_may_end_one_after_the_other(request, tmp_path, first):
    done = strike(request, tmp_path, 2, 2, "leave", first)
    assert done.returncode == 0, done.stderr
    assert f"[{1 - first}] has done the rest alone" in done.stdout


def test_a_program_that_ends_before_others_do_is_named_by_those_who_need_it(request, tmp_path):
    done = strike(request, tmp_path, 2, 2, "miss", 1)
    assert done.returncode == 1
    (said,) = errors(done.stderr, 0)
    assert "client 1 (127.0.0.1:" in said
    assert "has come to the end of its program, before others" in said
