"""The simulator's definition, in plain Python. `kernel` must agree with it exactly.

1. A task is ready when its last predecessor ends.
2. Tasks are started in order of (ready time, task number): first in, first out on every resource.
3. A task starts when it is ready and all its resources are free, and holds them for its run time. A
   resource is free while fewer tasks hold it than it can run at once.
4. Then it ends, but no sooner after it was ready than it takes alone. That is longer where it does
   not use all of its place in a pool: others use the rest, before it starts and after it frees it.

This is the full simulation of Jia, Zaharia, Aiken, "Beyond data and model parallelism for deep
neural networks" (SysML 2019), with links that a transfer holds together instead of one connection.
"""

import heapq

import numpy as np

from keras_soap.simulator.timeline import Timeline
from keras_soap.tasks.task_graph import TaskGraph


def simulate(graph: TaskGraph) -> Timeline:
    """Runs all tasks of `graph` and says when each ran.

    Raises:
        ValueError: If tasks wait for each other in a circle.
    """
    missing = [0] * graph.num_tasks
    for task in graph.successors.tolist():
        missing[task] += 1
    ready = [0] * graph.num_tasks
    start = [0] * graph.num_tasks
    end = [0] * graph.num_tasks
    free = [[0] * capacity for capacity in graph.capacity.tolist()]
    queue = [(0, task) for task in range(graph.num_tasks) if missing[task] == 0]
    heapq.heapify(queue)
    num_done = 0
    while queue:
        ready_ns, task = heapq.heappop(queue)
        first, last = graph.resource_offsets[task : task + 2]
        held = graph.resources[first:last].tolist()
        start[task] = max([ready_ns, *(free[resource][0] for resource in held)])
        freed_ns = start[task] + int(graph.run_time_ns[task])
        end[task] = max(freed_ns, ready_ns + int(graph.alone_time_ns[task]))
        for resource in held:
            heapq.heapreplace(free[resource], freed_ns)
        num_done += 1
        first, last = graph.successor_offsets[task : task + 2]
        for successor in graph.successors[first:last].tolist():
            ready[successor] = max(ready[successor], end[task])
            missing[successor] -= 1
            if missing[successor] == 0:
                heapq.heappush(queue, (ready[successor], successor))
    if num_done < graph.num_tasks:
        raise ValueError(f"{graph.num_tasks - num_done} tasks wait for each other in a circle")
    return Timeline(*(np.array(times, np.int64) for times in (ready, start, end)))
