"""Several clients on the loopback interface train as one process does, and notice who is lost."""

import json
import re
import subprocess
import sys

import pytest

from tests.runtime import backup_program

CASES = [
    "wide|S|sgd",
    "images|anything 1|adam",
    "texts|S and P|adam",
    "transformer|anything 1|adam",
    "vectors|O|sgd",
    "vectors|S and P|scaled",
    "vectors|P|clipped",
    "vectors|anything 2|adam",
    "images|anything 1|adam|sharded",
    "vectors, sample_weight|O|sgd|sharded",
]
"""Subject, strategy (of four devices), optimizer, and whether each client has a shard of batches,
not equally large."""


def launch(request, num_clients, devices_per_client, *program, timeout_s=540):
    command = [sys.executable, "-m", "keras_soap.launch", f"--num_clients={num_clients}"]
    command += [f"--devices_per_client={devices_per_client}", "--", *program]
    return subprocess.run(
        command, cwd=request.config.rootpath, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.mark.parametrize(
    ("num_clients", "devices_per_client", "cases"),
    [(2, 2, CASES), (4, 1, ["wide|S|sgd", "vectors|anything 3|adam", "pairs|P|adam|sharded"])],
)
def test_training_evaluation_and_prediction_are_those_of_keras_on_every_client(
    request, tmp_path, num_clients, devices_per_client, cases
):
    # Each client compares with plain Keras itself.
    program = ["-m", "tests.runtime.cluster_program", str(tmp_path), *cases]
    done = launch(request, num_clients, devices_per_client, sys.executable, *program)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *others = (
        json.loads((tmp_path / f"{client}.json").read_text()) for client in range(num_clients)
    )
    assert list(first) == cases
    for other in others:
        assert other == first, "not to the last bit"


def backup(request, *arguments):
    program = [sys.executable, "-m", "tests.runtime.backup_program", *map(str, arguments)]
    return launch(request, 2, 2, *program)


def losses(output):
    """By client and epoch."""
    found = re.findall(r"\[(\d)\] epoch (\d) loss (\S+)", output)
    return {(int(client), int(epoch)): float(loss) for client, epoch, loss in found}


def test_after_a_client_was_killed_training_goes_on_from_the_last_epoch(request, tmp_path):
    model = backup_program.model()
    plain = model.fit(
        *backup_program.data(),
        batch_size=16,
        epochs=backup_program.EPOCHS,
        shuffle=False,
        verbose=0,
    ).history["loss"]
    killed = backup(request, tmp_path, 1, "SIGKILL")
    assert killed.returncode == 128 + 9
    assert re.search(r"\[0\] .*ClusterError: client 1 \(127.0.0.1:\d+\) has ended", killed.stderr)
    assert losses(killed.stdout).keys() == {(0, 0), (1, 0)}
    resumed = backup(request, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for client in (0, 1):
        for epoch in range(1, backup_program.EPOCHS):
            found = losses(resumed.stdout)[client, epoch]
            assert found == pytest.approx(plain[epoch], rel=1e-5)
    assert (0, 0) not in losses(resumed.stdout)


def test_a_client_that_hangs_is_named(request, tmp_path):
    # Client 0, which watches the others, and is watched by them.
    done = backup(request, tmp_path, 0, "SIGSTOP")
    assert done.returncode == 1
    assert re.search(r"\[1\] .*ClusterError: client 0 .* has ended or hangs", done.stderr)


def test_clients_with_different_models_name_the_first_operator_that_differs(request, tmp_path):
    done = backup(request, tmp_path, "differ")
    assert done.returncode == 1
    for client in (0, 1):
        assert re.search(
            rf"\[{client}\] .*ClusterError: Clients differ .* operator 1 is inner .* on client 0"
            r".* but inner .* on client 1",
            done.stderr,
        )
