"""The rules of the simulator, checked on a timeline from outside."""

import itertools

import numpy as np

from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph, TaskKind


def predecessors(graph: TaskGraph) -> list[list[int]]:
    result: list[list[int]] = [[] for _ in range(graph.num_tasks)]
    for task in range(graph.num_tasks):
        first, last = graph.successor_offsets[task : task + 2]
        for successor in graph.successors[first:last].tolist():
            result[successor].append(task)
    return result


def held(graph: TaskGraph, task: int) -> list[int]:
    first, last = graph.resource_offsets[task : task + 2]
    return graph.resources[first:last].tolist()


def check(graph: TaskGraph, timeline: Timeline) -> None:
    """Asserts that `timeline` is what the rules of `reference` make of `graph`."""
    ready, start, end = timeline.ready_ns, timeline.start_ns, timeline.end_ns
    freed = start + graph.run_time_ns
    np.testing.assert_array_equal(end, np.maximum(freed, ready + graph.alone_time_ns))
    before = predecessors(graph)
    for task in range(graph.num_tasks):
        assert ready[task] == max((end[p] for p in before[task]), default=0)
    on: list[list[int]] = [[] for _ in range(graph.num_resources)]
    for task in range(graph.num_tasks):
        for resource in held(graph, task):
            on[resource].append(task)
    for resource, tasks in enumerate(on):
        tasks.sort(key=lambda t: (start[t], freed[t], ready[t]))
        capacity = int(graph.capacity[resource])
        for number, task in enumerate(tasks):
            running = [t for t in tasks[:number] if freed[t] > start[task]]
            assert len(running) < capacity or start[task] == freed[task], "too many tasks at once"
        if capacity > 1:
            continue  # What waits for another resource may be overtaken.
        for earlier, later in itertools.pairwise(tasks):
            assert ready[earlier] <= ready[later] or freed[earlier] == start[earlier]
            # Ties go by number, but a task without length may have made the other one ready.
            if ready[earlier] == ready[later] and later < earlier and start[later] < freed[later]:
                assert any(ready[p] == ready[later] for p in before[later])
    for task in range(graph.num_tasks):
        busy = [other for r in held(graph, task) for other in on[r]]
        assert start[task] == ready[task] or any(freed[o] == start[task] for o in busy), "idle"


def check_links(graph: TaskGraph, share_cores: bool = False) -> None:
    """Asserts that computation holds one device, and communication links (and cores that copy)."""
    for task in range(graph.num_tasks):
        resources = held(graph, task)
        if graph.kind[task] < TaskKind.TRANSFER:
            assert len(resources) == 1
            assert resources[0] < graph.num_devices
        else:
            copies = [r for r in resources if r < graph.num_devices]
            stays = graph.kind[task] <= TaskKind.GRADIENT_TRANSFER and (
                graph.source[task] == graph.destination[task]
            )
            assert (len(resources) == len(copies)) == stays
            assert not copies or share_cores, "only shared cores copy"
            assert len(set(resources)) == len(resources)
