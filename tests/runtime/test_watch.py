"""Whatever clients are at, the others end with an error that names one that is killed or stopped.

The launcher ends all soon after the first has failed, so an error that is printed came in time.
"""

import pytest

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
