"""Clients that differ are told so, each of them, and name what differs and where."""

import re

PROGRAM = "tests.runtime.differing_program"
DIFFERENCES = {
    "model": r"Clients differ at the model .*: operator 1 is inner .* on client 0 .*, but inner .* "
    r"on client 1",
    "optimizer": r"Clients differ at the model .*: the optimizer's beta_1 is 0.9 on client 0 .*, "
    r"but 0.5 on client 1",
    "strategy": r"Clients differ at the model .*: the strategy is one with .* on client 0 .*, but "
    r"one with .* on client 1",
    "steps": r"Clients differ at the beginning of an epoch: the number of steps is 4 on client 0 "
    r".*, but 2 on client 1",
    "data": r"Clients differ at the first batch of an epoch: a digest of the values is .* on client"
    r" 0 .*, but .* on client 1",
    "batches": r"client 1 .* has no more batches for training, but client 0 .* has",
    "shape": r"Samples for training differ: float32 \(6,\), int64 \(\) on client 0 .*, but float32 "
    r"\(6,\), int64 \(1,\) on client 1",
    "rows": r"inputs, targets and weights of client 1 .* have 8, 7 samples",
}


def test_each_difference_is_named_on_every_client(launch):
    done = launch(2, 2, PROGRAM, *DIFFERENCES)
    assert done.returncode == 0, done.stderr
    for client in (0, 1):
        for what, says in DIFFERENCES.items():
            assert re.search(rf"\[{client}\] {what}: .*{says}", done.stdout), done.stdout


def test_a_difference_of_versions_and_settings_is_named_at_the_start(launch):
    done = launch(2, 2, PROGRAM, "floatx")
    assert done.returncode == 1
    for client in (0, 1):
        assert re.search(
            rf"\[{client}\] .*ClusterError: Clients differ at start: keras.config.floatx\(\) is "
            r"float32 on client 0 .*, but float64 on client 1",
            done.stderr,
        )
