"""A whole task graph simulated in compiled code, equal to `reference.simulate`."""

import numpy as np

from keras_soap.jit import entry
from keras_soap.simulator import queue


@entry
def simulate(
    capacity,
    run_time_ns,
    alone_time_ns,
    resource_offsets,
    resources,
    successor_offsets,
    successors,
    ready,
    start,
    end,
):
    """Runs all tasks; fills `ready`, `start` and `end`. Gives the number of tasks that ran."""
    num_tasks = len(run_time_ns)
    missing = np.zeros(num_tasks, np.int32)
    for task in successors:
        missing[task] += 1
    # Of each resource as many places as it can run tasks at once, one after the other.
    places = np.zeros(len(capacity) + 1, np.int64)
    places[1:] = np.cumsum(capacity)
    free = np.zeros(places[len(capacity)], np.int64)
    chosen = places[:-1].copy()
    heap = np.empty(3 * (num_tasks + 1), np.int64)
    size = 0
    for task in range(num_tasks):
        ready[task] = 0
        if missing[task] == 0:
            size = queue.push(heap, size, 0, task, 0)
    num_done = 0
    while size:
        task = heap[1]
        size = queue.pop(heap, size)
        begin = ready[task]
        for k in range(resource_offsets[task], resource_offsets[task + 1]):
            resource = resources[k]
            place = places[resource]
            for other in range(place + 1, places[resource + 1]):
                if free[other] < free[place]:
                    place = other
            chosen[resource] = place
            begin = max(begin, free[place])
        freed = begin + run_time_ns[task]
        done = max(freed, ready[task] + alone_time_ns[task])
        start[task], end[task] = begin, done
        for k in range(resource_offsets[task], resource_offsets[task + 1]):
            free[chosen[resources[k]]] = freed
        num_done += 1
        for k in range(successor_offsets[task], successor_offsets[task + 1]):
            successor = successors[k]
            ready[successor] = max(ready[successor], done)
            missing[successor] -= 1
            if missing[successor] == 0:
                size = queue.push(heap, size, ready[successor], successor, 0)
    return num_done
