"""Several clients on the loopback interface train as one process does, and notice who is lost."""

import json
import re

import keras
import numpy as np
import pytest

from tests.runtime import backup_program, callbacks_program

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


@pytest.mark.parametrize(
    ("num_clients", "devices_per_client", "cases"),
    [(2, 2, CASES), (4, 1, ["wide|S|sgd", "vectors|anything 3|adam", "pairs|P|adam|sharded"])],
)
def test_training_evaluation_and_prediction_are_those_of_keras_on_every_client(
    launch, tmp_path, num_clients, devices_per_client, cases
):
    # Client 0 compares with plain Keras itself.
    program = "tests.runtime.cluster_program"
    done = launch(num_clients, devices_per_client, program, tmp_path, *cases)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *others = (
        json.loads((tmp_path / f"{client}.json").read_text()) for client in range(num_clients)
    )
    assert list(first) == cases
    for other in others:
        assert other == first, "not to the last bit"


def losses(output):
    """By client and epoch."""
    found = re.findall(r"\[(\d)\] epoch (\d) loss (\S+)", output)
    return {(int(client), int(epoch)): float(loss) for client, epoch, loss in found}


def test_killed_training_goes_on_from_the_last_epoch_on_other_numbers_of_hosts(launch, tmp_path):
    program = "tests.runtime.backup_program"
    model = backup_program.model()
    plain = model.fit(
        *backup_program.data(),
        batch_size=16,
        epochs=backup_program.EPOCHS,
        shuffle=False,
        verbose=0,
    ).history["loss"]

    def assert_epochs(output, clients, epochs):
        found = losses(output)
        assert found.keys() == {(client, epoch) for client in clients for epoch in epochs}
        for (_, epoch), loss in found.items():
            assert loss == pytest.approx(plain[epoch], rel=1e-5)

    two = launch(2, 2, program, tmp_path, 1, 1)
    assert two.returncode == 128 + 9
    assert re.search(r"\[0\] .*ClusterError: client 1 \(127.0.0.1:\d+\) has ended", two.stderr)
    assert_epochs(two.stdout, (0, 1), [0])
    four = launch(4, 1, program, tmp_path, 0, 2)
    assert four.returncode == 128 + 9
    assert re.search(r"\[3\] .*ClusterError: client 0 \(127.0.0.1:\d+\) has ended", four.stderr)
    assert_epochs(four.stdout, range(4), [1])
    one = launch(1, 4, program, tmp_path)
    assert one.returncode == 0, one.stderr
    assert_epochs(one.stdout, [0], [2, 3])


def test_callbacks_decide_alike_on_all_clients_and_write_on_client_0_alone(launch, tmp_path):
    done = launch(2, 2, "tests.runtime.callbacks_program", tmp_path)
    assert done.returncode == 0, done.stderr
    ours, other = (json.loads((tmp_path / f"{client}.json").read_text()) for client in (0, 1))
    assert other == ours
    plain = callbacks_program.train(tmp_path / "plain", [])
    assert ours["stopped in"] == plain["stopped in"] > 0
    assert len(set(plain["history"]["learning_rate"])) > 1, "it never reached a plateau"
    for name, values in plain["history"].items():
        assert ours["history"][name] == pytest.approx(values, rel=1e-4), name

    def files(name):
        # TensorBoard's names hold the time and the process.
        found = (path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*"))
        return sorted({str(path).partition(".tfevents")[0] for path in found})

    assert files("0") == files("0 alone") == files("plain")
    assert not (tmp_path / "1").exists()
    assert not (tmp_path / "1 alone").exists()
    assert (tmp_path / "0.csv").read_text().count("\n") == len(ours["history"]["loss"]) + 1
    assert not (tmp_path / "1.csv").exists()
    best = keras.models.load_model(tmp_path / "0" / "best" / "1.keras")
    best.load_weights(tmp_path / "0" / "weights" / "best.weights.h5")
    for saved, trained in zip(best.get_weights(), ours["weights"], strict=True):
        np.testing.assert_array_equal(saved, np.array(trained, "float32"))
