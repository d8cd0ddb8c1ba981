"""What is in a task graph, counted from the operators and the strategy."""

from collections import Counter

import numpy as np
import pytest

from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import dtype_bytes
from keras_soap.simulator import reference
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks import all_reduce
from keras_soap.tasks.build import REPORT_DEVICE, build
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.tasks.task_graph import TaskGraph, TaskKind
from tests import invariants
from tests.simulator import random_problems

seeds = pytest.mark.parametrize("seed", range(60))


def problem(seed: int) -> tuple[Costs, Strategy]:
    rng = np.random.default_rng(seed)
    topology = random_problems.machine(rng)
    lowering = Lowering(random_problems.operator_graph(rng))
    strategy = random_problems.Space(lowering, topology.num_devices).strategy(rng)
    return Costs(lowering, topology, Roofline()), strategy


def moves(graph: TaskGraph, kind: TaskKind) -> Counter:
    """Transfers: operator, part, source, destination, bytes; with how often they are there."""
    tasks = np.flatnonzero(graph.kind == kind)
    columns = (graph.operator, graph.part, graph.source, graph.destination, graph.num_bytes)
    return Counter(zip(*(column[tasks].tolist() for column in columns), strict=True))


def expected_moves(costs: Costs, strategy: Strategy, back: bool) -> Counter:
    """The overlapping pairs of all edges (of those that gradients go back) on two devices.

    And those on one device that are cut or joined either way, where others share its memory.
    """
    computes_with = Counter(costs.topology.compute)
    operators, result = costs.lowering.graph, Counter()
    for edge in operators.edges:
        producer, consumer = edge.producer.operator, edge.consumer
        if back and not (
            operators.carries_gradient[edge.index]
            and operators.has_backward[producer]
            and operators.has_backward[consumer]
        ):
            continue
        ends = strategy.configs[producer], strategy.configs[consumer]
        found = costs.lowering.edge(edge, ends[0].degrees, ends[1].degrees)
        dtype = operators.operators[consumer].input_specs[edge.input].dtype
        for p, c, count, copied, added in zip(
            found.producer.tolist(),
            found.consumer.tolist(),
            found.num_elements,
            found.copied.T,
            found.added * operators.sends_back[edge.index],
            strict=True,
        ):
            way = ends[0].devices[p], ends[1].devices[c]
            if way[0] != way[1]:
                way = way[::-1] if back else way
                result[consumer, c, *way, int(count) * dtype_bytes(dtype)] += 1
            elif (copied.any() or added) and computes_with[costs.topology.compute[way[0]]] > 1:
                result[consumer, c, *way, 0] += 1
    return result


@seeds
def test_transfers_are_the_overlapping_pairs_on_different_devices(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    assert moves(graph, TaskKind.TRANSFER) == expected_moves(costs, strategy, back=False)


@seeds
def test_gradients_go_back_the_way_that_values_came(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    assert moves(graph, TaskKind.GRADIENT_TRANSFER) == expected_moves(costs, strategy, back=True)


def reductions(costs: Costs, strategy: Strategy) -> Counter:
    """By operator, group and bytes: reductions of gradients that are due.

    Dense ones of an operator that are of one dtype, held alike, and small are one reduction.
    """
    graph, result = costs.lowering.graph, Counter()
    for number, operator in enumerate(graph.operators):
        sharers = graph.sharers[number]
        if number != sharers[0] or not any(graph.has_backward[other] for other in sharers):
            continue
        config = strategy.configs[number]
        block = costs.lowering.operator(number, config.degrees)
        dense: dict[tuple, int] = Counter()
        for at, (spec, weight) in enumerate(zip(operator.weight_specs, block.weights, strict=True)):
            if not spec.trainable:
                continue
            holders: dict[bytes, list[int]] = {}
            for part, region in enumerate(weight.regions):
                holders.setdefault(region.tobytes(), []).append(part)
            for group, parts in enumerate(holders.values()):
                count = int(weight.num_elements[parts[0]])
                if len(parts) == 1:
                    continue
                if weight.sparse_rows is None:
                    num_bytes = count * weight.element_bytes * (len(parts) - 1)
                    is_small = num_bytes <= all_reduce.DIRECT_BYTES
                    key = None if is_small else at
                    dense[key, spec.dtype, weight.element_bytes, group, tuple(parts)] += count
                else:
                    rows = int(weight.sparse_rows[parts[0]])
                    first, last = weight.regions[parts[0], 0]
                    row_bytes = count // int(last - first)
                    row_bytes = row_bytes * weight.element_bytes + 4  # and an int32 index
                    pairs = len(parts) * (len(parts) - 1)
                    result[number, group, pairs * rows * row_bytes] += 1
        for (key, _, element_bytes, group, parts), count in dense.items():
            assert key is not None or count * element_bytes * (len(parts) - 1) <= 2**16
            devices = sorted(config.devices[part] for part in parts)
            plan = all_reduce.plan(costs.topology, devices, count, element_bytes)
            result[number, group, sum(plan.pair_bytes().values())] += 1
    return result


@seeds
def test_every_weight_on_several_devices_is_reduced(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    tasks = np.flatnonzero(graph.kind == TaskKind.ALL_REDUCE)
    columns = (graph.operator, graph.part, graph.num_bytes)
    found = Counter(zip(*(column[tasks].tolist() for column in columns), strict=True))
    assert found == reductions(costs, strategy)


@seeds
def test_weights_are_updated_once_on_each_device_that_holds_them(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    of_graph = costs.lowering.graph
    expected = Counter()
    for number, operator in enumerate(of_graph.operators):
        sharers = of_graph.sharers[number]
        trainable = any(spec.trainable for spec in operator.weight_specs)
        backward = any(of_graph.has_backward[other] for other in sharers)
        if number == sharers[0] and trainable and backward:
            expected.update((number, device) for device in strategy.configs[number].devices)
    tasks = np.flatnonzero(graph.kind == TaskKind.UPDATE)
    found = zip(graph.operator[tasks].tolist(), graph.part[tasks].tolist(), strict=True)
    assert Counter(found) == expected


@seeds
def test_updates_wait_for_gradients_of_weights_and_reductions(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    before = invariants.predecessors(graph)
    for task in np.flatnonzero(graph.kind == TaskKind.UPDATE):
        kinds = {graph.kind[p] for p in before[task]}
        assert TaskKind.WEIGHT_GRADIENT in kinds
        assert kinds <= {TaskKind.WEIGHT_GRADIENT, TaskKind.ALL_REDUCE}
    for task in np.flatnonzero(graph.kind == TaskKind.ALL_REDUCE):
        first, last = graph.successor_offsets[task : task + 2]
        after = graph.successors[first:last]
        assert (graph.kind[after] == TaskKind.UPDATE).all()
        assert len(set(graph.part[after].tolist())) >= 2


@seeds
def test_only_reductions_and_updates_wait_for_gradients_of_weights(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    before = invariants.predecessors(graph)
    of_graph = costs.lowering.graph
    expected = Counter(
        (number, part)
        for number, operator in enumerate(of_graph.operators)
        if of_graph.has_backward[number] and any(spec.trainable for spec in operator.weight_specs)
        for part in range(strategy.configs[number].num_parts)
    )
    tasks = np.flatnonzero(graph.kind == TaskKind.WEIGHT_GRADIENT)
    found = zip(graph.operator[tasks].tolist(), graph.part[tasks].tolist(), strict=True)
    assert Counter(found) == expected
    for task in tasks:
        (own,) = before[task]
        assert graph.kind[own] == TaskKind.BACKWARD
        assert (graph.operator[own], graph.part[own]) == (graph.operator[task], graph.part[task])
        first, last = graph.successor_offsets[task : task + 2]
        kinds = set(graph.kind[graph.successors[first:last]].tolist())
        assert kinds <= {TaskKind.ALL_REDUCE, TaskKind.UPDATE}
        assert TaskKind.UPDATE in kinds


@seeds
def test_tasks_only_wait_for_tasks_before_them(seed):
    graph = build(*problem(seed))
    tasks = np.repeat(np.arange(graph.num_tasks), np.diff(graph.successor_offsets))
    assert (tasks < graph.successors).all()


@seeds
def test_communication_holds_links_and_computation_devices(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    invariants.check_links(graph, any(device.pool for device in costs.topology.devices))
    quiet = [not TaskKind(kind).is_communication for kind in graph.kind.tolist()]
    assert not graph.num_bytes[quiet].any()


@seeds
def test_where_cores_are_shared_they_copy(seed):
    costs, strategy = problem(seed)
    graph, topology = build(costs, strategy), costs.topology
    for task in np.flatnonzero(graph.source >= 0).tolist():
        source = int(graph.source[task])
        cores = [r for r in invariants.held(graph, task) if r < graph.num_devices]
        assert cores == ([topology.compute[source]] if topology.devices[source].pool else [])


@seeds
def test_stages_share_the_time_of_their_part(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    for backward, kind in enumerate((TaskKind.FORWARD, TaskKind.BACKWARD)):
        for number, config in enumerate(strategy.configs):
            for part, device in enumerate(config.devices):
                mine = (graph.kind == kind) & (graph.operator == number) & (graph.part == part)
                if backward and not costs.lowering.graph.has_backward[number]:
                    assert not mine.any()
                    continue
                times = costs.part_times_ns(number, config.degrees, device)[backward]
                assert graph.run_time_ns[mine].sum() == times[part]


def in_training_only(costs: Costs, strategy: Strategy) -> list[int]:
    """Operators that only a step of training reduces something of in the forward pass."""
    blocks = map(costs.lowering.operator, range(len(strategy.configs)), degrees_of(strategy))
    return [
        number
        for number, block in enumerate(blocks)
        if any(combine.combine.training_only for combine in block.combines)
    ]


def degrees_of(strategy: Strategy) -> list[tuple[int, ...]]:
    return [config.degrees for config in strategy.configs]


@seeds
def test_inference_is_the_forward_half_of_training(seed):
    costs, strategy = problem(seed)
    training, inference = build(costs, strategy), build(costs, strategy, training=False)
    assert set(inference.kind.tolist()) <= {
        TaskKind.FORWARD,
        TaskKind.TRANSFER,
        TaskKind.COMBINE,
        TaskKind.REPORT,
        TaskKind.REPORT_TRANSFER,
    }
    left_out = in_training_only(costs, strategy)
    assert not np.isin(inference.operator[inference.kind == TaskKind.COMBINE], left_out).any()
    if left_out:
        return
    count = inference.num_tasks
    for name in ("kind", "operator", "part", "source", "destination", "num_bytes", "run_time_ns"):
        np.testing.assert_array_equal(getattr(training, name)[:count], getattr(inference, name))


def test_batch_statistics_are_reduced_in_training_only():
    found = 0
    for seed in range(60):
        costs, strategy = problem(seed)
        graph = build(costs, strategy)
        combined = set(graph.operator[graph.kind == TaskKind.COMBINE].tolist())
        found += len(combined.intersection(in_training_only(costs, strategy)))
    assert found


@seeds
def test_losses_are_reported_once_to_one_device(seed):
    costs, strategy = problem(seed)
    graph = build(costs, strategy)
    expected, reports = Counter(), False
    for number, operator in enumerate(costs.lowering.graph.operators):
        num_bytes = operator.attributes.get("report_bytes", 0)
        reports = reports or num_bytes > 0
        for part, device in enumerate(strategy.configs[number].devices):
            if num_bytes and device != REPORT_DEVICE:
                expected[number, part, device, REPORT_DEVICE, num_bytes] += 1
    assert moves(graph, TaskKind.REPORT_TRANSFER) == expected
    assert (graph.kind == TaskKind.REPORT).sum() == reports


@pytest.mark.parametrize("seed", range(10))
def test_one_device_never_communicates_nor_waits(seed):
    costs, strategy = problem(seed)
    whole = Strategy(tuple(ParallelConfig((1,) * len(c.degrees), (0,)) for c in strategy.configs))
    graph = build(costs, whole)
    assert graph.communication_bytes == 0
    assert reference.simulate(graph).step_time_ns == graph.run_time_ns.sum()


@seeds
@pytest.mark.parametrize("back", [False, True])
def test_a_part_waits_for_all_that_it_reads_and_for_nothing_else(seed, back):
    costs, strategy = problem(seed)
    graph, of_graph = build(costs, strategy), costs.lowering.graph
    before = invariants.predecessors(graph)
    kinds = (TaskKind.FORWARD, TaskKind.BACKWARD)
    first, last = {}, {}
    for task, kind in enumerate(graph.kind.tolist()):
        if kind in kinds:
            key = kind, int(graph.operator[task]), int(graph.part[task])
            first.setdefault(key, task)
            last[key] = task
    kind = kinds[back]
    expected = {key: [] for key in first if key[0] == kind}
    if back:
        for _, number, part in expected:
            expected[kind, number, part].append(last[TaskKind.FORWARD, number, part])
    for edge in of_graph.edges:
        ends = edge.producer.operator, edge.consumer
        if back and not (
            of_graph.carries_gradient[edge.index] and all(of_graph.has_backward[e] for e in ends)
        ):
            continue
        found = costs.lowering.edge(edge, *(strategy.configs[e].degrees for e in ends))
        for pair in zip(found.producer.tolist(), found.consumer.tolist(), strict=True):
            source, target = zip(ends, pair, strict=True)
            source, target = (target, source) if back else (source, target)
            expected[kind, *target].append(last[kind, *source])
    moving = (TaskKind.TRANSFER, TaskKind.GRADIENT_TRANSFER)
    for key, tasks in expected.items():
        found = [before[p][0] if graph.kind[p] in moving else p for p in before[first[key]]]
        assert sorted(found) == sorted(tasks)
