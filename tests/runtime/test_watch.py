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


@pytest.mark.parametrize(
    ("num_clients", "devices_per_client", "phase", "client", "by", "says"), STRUCK
)
def test_all_others_name_who_is_lost(
    request, tmp_path, num_clients, devices_per_client, phase, client, by, says
):
    program = [sys.executable, "-m", "tests.runtime.struck_program"]
    done = launch(
        request, num_clients, devices_per_client, *program, phase, str(client), by, str(tmp_path)
    )
    assert f"[{client}] struck" in done.stdout
    assert done.returncode != 0
    for other in set(range(num_clients)) - {client}:
        errors = [
            line
            for line in done.stderr.splitlines()
            if line.startswith(f"[{other}] ") and ("ClusterError: " in line or "soap: " in line)
        ]
        assert any(f"client {client} (127.0.0.1:" in e and says in e for e in errors), done.stderr
