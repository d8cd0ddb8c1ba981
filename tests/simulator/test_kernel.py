"""The compiled simulator of whole task graphs, against the plain one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from keras_soap.simulator import reference
from keras_soap.simulator.simulator import simulate
from keras_soap.tasks.task_graph import TaskGraph
from tests import invariants
from tests.simulator import random_problems

OF_NO_TIME = ("kind", "operator", "part", "source", "destination", "num_bytes")
"""Fields of a task graph that make no difference to when its tasks run."""


def assert_agrees(seed: int) -> None:
    graph = random_problems.task_graph(np.random.default_rng(seed))
    expected, found = reference.simulate(graph), simulate(graph)
    for name in ("ready_ns", "start_ns", "end_ns"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def test_agrees_with_the_reference_on_any_graph():
    for seed in range(3000):
        assert_agrees(seed)


def test_the_reference_obeys_the_rules():
    for seed in range(300):
        graph = random_problems.task_graph(np.random.default_rng(seed))
        invariants.check(graph, reference.simulate(graph))


@pytest.mark.parametrize("run", [simulate, reference.simulate])
def test_tasks_use_what_others_leave_of_a_place(run):
    # Each holds the place for 10 of the 20 that it takes alone; the last waits for the first.
    count = 4
    graph = TaskGraph(
        num_devices=1,
        num_resources=1,
        capacity=np.array([1]),
        run_time_ns=np.full(count, 10),
        alone_time_ns=np.full(count, 20),
        resource_offsets=np.arange(count + 1),
        resources=np.zeros(count, np.int32),
        successor_offsets=np.array([0, 1, 1, 1, 1]),
        successors=np.array([3], np.int32),
        **dict.fromkeys(OF_NO_TIME, np.zeros(count, int)),
    )
    timeline = run(graph)
    # Three keep the place at work until 30. The fourth, ready at 20, is done no sooner than 40.
    assert timeline.start_ns.tolist() == [0, 10, 20, 30]
    assert timeline.end_ns.tolist() == [20, 20, 30, 40]
    assert timeline.step_time_ns == 40


@pytest.mark.parametrize("run", [simulate, reference.simulate])
def test_a_circle_is_an_error(run):
    graph = random_problems.task_graph(np.random.default_rng(1))
    fields = vars(graph) | {
        "run_time_ns": np.ones(2, np.int64),
        "alone_time_ns": np.ones(2, np.int64),
        "resource_offsets": np.array([0, 0, 0]),
        "successor_offsets": np.array([0, 1, 2]),
        "successors": np.array([1, 0], np.int32),
    }
    with pytest.raises(ValueError, match="2 tasks wait for each other in a circle"):
        run(type(graph)(**fields))


SMALL_RUN = """
from tests.simulator.test_kernel import assert_agrees
from tests.simulator.test_simulator import walk
from tests.simulator.test_walk import assert_walks_as_defined
for seed in range(200):
    assert_agrees(seed)
for seed in range(12):
    walk(seed, num_changes=3)
for seed in range(6):
    assert_walks_as_defined(seed, num_steps=4)
"""


def test_agrees_without_compilation_too():
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SMALL_RUN], env=environment, check=True)
