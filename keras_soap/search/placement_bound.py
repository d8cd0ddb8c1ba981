"""A step time that no placement of whole operators is faster than.

With every operator whole on one device, as device placement has it (O alone):

1. A step takes as long as any path of tasks that wait for each other, even if transfers are free.
2. A device does its tasks one after the other, so the busiest is no faster than the mean, nor than
   all that operators on the same weights do.

    begin_v    = max over edges u → v of begin_u + forward_u
    gradient_v = max(begin_v + forward_v, max over edges v → w with a gradient of
                 gradient_w + backward_w)
    step ≥ gradient_v + backward_v,  step ≥ gradient_v + weight_gradient_v + update_v
"""

import numpy as np

from keras_soap.search.path_bounds import update_times_ns
from keras_soap.search.problem import Problem
from keras_soap.strategy.parallel_config import ParallelConfig


def placement_bound_ns(problem: Problem) -> int:
    """The bound, in ns of simulated time, whatever `problem.dims` says."""
    graph, topology = problem.graph, problem.topology
    trains = [problem.training and has for has in graph.has_backward]
    forward, backward, weight_gradient, update = _times_ns(problem, trains).T.tolist()
    begin = [0] * len(graph.operators)
    for number, edges in enumerate(graph.in_edges):
        for edge in edges:
            before = edge.producer.operator
            begin[number] = max(begin[number], begin[before] + forward[before])
    longest = 0
    gradient = [0] * len(graph.operators)
    for number in reversed(range(len(graph.operators))):
        gradient[number] = begin[number] + forward[number]
        for edge in graph.out_edges[number]:
            after = edge.consumer
            if trains[after] and graph.carries_gradient[edge.index]:
                gradient[number] = max(gradient[number], gradient[after] + backward[after])
        longest = max(
            longest,
            gradient[number] + backward[number],
            gradient[number] + weight_gradient[number] + update[number],
        )
    work = np.array([forward, backward, weight_gradient, update]).sum(axis=0)
    by_family = np.bincount(problem.space.family_of, weights=work)
    return max(longest, int(by_family.max()), -(-int(work.sum()) // topology.num_devices))


def _times_ns(problem: Problem, trains: list[bool]) -> np.ndarray:
    """int64 (operators, 4): forward, backward, weight gradient and update, on the fastest device.

    Zero for tasks that a step does not have.
    """
    graph = problem.graph
    times = np.zeros((len(graph.operators), 4), np.int64)
    for number, of_operator in enumerate(problem.lowering.dimensions):
        degrees = (1,) * len(of_operator)
        on_devices = []
        for device in range(problem.topology.num_devices):
            parts = problem.costs.part_times_ns(number, degrees, device)
            update = update_times_ns(problem, number, ParallelConfig(degrees, (device,)))
            on_devices.append([*(of_kind[0] for of_kind in parts), update[0]])
        times[number] = np.min(on_devices, axis=0)
        times[number, 1] *= trains[number]
        times[number, 2] *= trains[number] and graph.has_weight_gradients[number]
        times[number, 3] *= trains[number] and number == graph.sharers[number][0]
    return times
