"""Planning in Python: what `keras-soap search` and `keras-soap simulate` do, as functions.

No device of the machine that is planned for needs to be there.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_soap.costs.cost_profile import CostProfile
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import StrategyError
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.objective import Objective
from keras_soap.report.plan import Plan
from keras_soap.search.problem import Budget
from keras_soap.search.run import search
from keras_soap.strategy import proto_io
from keras_soap.strategy.baselines import BASELINES
from keras_soap.strategy.strategy import Strategy
from keras_soap.tasks.lowering import NUM_SLOTS, Costs, Lowering
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.resolve import resolve

if TYPE_CHECKING:
    import keras

Topology = str | os.PathLike[str] | DeviceTopology


def find_strategy(
    model: "keras.Model | OperatorGraph",
    topology: Topology = "local",
    batch_size: int | None = None,
    search_budget_s: float | None = 30.0,
    *,
    search_budget: int | None = None,
    seed: int = 0,
    dims: str = "SOAP",
    method: str = "mcmc",
    training: bool = True,
    profile: CostProfile | None = None,
    time_chunk: int | None = None,
    initial: Sequence[Strategy | str | os.PathLike[str]] = (),
    progress: bool = True,
) -> Plan:
    """Searches for the fastest strategy of a model on a machine, at hand or not.

    Example:
        ```python
        plan = keras_soap.find_strategy(model, "k80:16", batch_size=256, search_budget_s=60)
        print(plan.summary())
        plan.save("strategy.textproto")
        ```

    Args:
        model: A built Keras model, or an operator graph. Memory is counted with what the
            optimizer that it is compiled with keeps beside each weight; else with two moments.
        topology: `"local"`, a preset such as `"p100:8"`, the path of a topology file, or a
            `DeviceTopology`.
        batch_size: Samples in one step, over all devices; an operator graph has its own.
        search_budget_s: Seconds to search at most.
        search_budget: Strategies to try at most.
        seed: Same seed and same `search_budget` give the same strategy.
        dims: Kinds of parallelism to use, letters of `"SOAP"`.
        method: Name of the search; see `keras_soap.search.run.METHODS`.
        training: Whether a step is one of training, or of inference.
        profile: Times of operators; by default analytic ones.
        time_chunk: Steps of a recurrent layer in one operator, as in `SoapStrategy`; a Keras model
            alone can be opened so.
        initial: Strategies, or their files, to start from.
        progress: Whether to show a progress bar.
    """
    costs = _costs(model, topology, batch_size, training, profile, time_chunk)
    result = search(
        costs.lowering.graph,
        costs.topology,
        costs.profile,
        budget=Budget(search_budget_s, search_budget),
        seed=seed,
        dims=dims,
        method=method,
        initial=[_strategy(costs, start) for start in initial],
        training=training,
        num_slots=costs.num_slots,
        progress=progress,
    )
    evaluations = {"soap": result.evaluation, **result.baselines}
    return Plan(costs, evaluations, training, result.method, result)


def simulate(
    model: "keras.Model | OperatorGraph",
    strategy: Strategy | str | os.PathLike[str] = "data_parallel",
    topology: Topology = "local",
    batch_size: int | None = None,
    *,
    training: bool = True,
    profile: CostProfile | None = None,
    time_chunk: int | None = None,
) -> Plan:
    """Predicts a step of a model under a strategy, beside the usual ones.

    Args:
        model: As for `find_strategy`, like `topology`, `batch_size`, `training` and `profile`.
        strategy: A `Strategy`, the path of a strategy file, or the name of a baseline:
            `"data_parallel"`, `"model_parallel"` or `"expert"`.
        topology: The machine.
        batch_size: Samples in one step.
        training: Whether a step is one of training, or of inference.
        profile: Times of operators.
        time_chunk: As for `find_strategy`.
    """
    costs = _costs(model, topology, batch_size, training, profile, time_chunk)
    lowering = costs.lowering
    strategies = {
        name: make(lowering.graph, lowering.dimensions, costs.topology)
        for name, make in BASELINES.items()
    }
    name = strategy if isinstance(strategy, str) and strategy in BASELINES else "strategy"
    asked = strategies[name] if name in BASELINES else _strategy(costs, strategy)
    objective = Objective(costs, training)
    evaluations = {
        key: objective.evaluate(value) for key, value in {name: asked, **strategies}.items()
    }
    return Plan(costs, evaluations, training, name)


def _costs(
    model: "keras.Model | OperatorGraph",
    topology: Topology,
    batch_size: int | None,
    training: bool,
    profile: CostProfile | None,
    time_chunk: int | None = None,
) -> Costs:
    slots = NUM_SLOTS
    if isinstance(model, OperatorGraph):
        graph = model
        if batch_size not in (None, graph.batch_size):
            raise StrategyError(
                f"Operator graph {graph.name!r} is for batch size {graph.batch_size}, not "
                f"{batch_size}. Leave batch_size out, or make the graph again."
            )
        if time_chunk is not None:
            raise StrategyError(
                f"time_chunk={time_chunk} opens layers of Keras models, but {graph.name!r} is an "
                "operator graph. Leave it out, and make the graph in blocks."
            )
    else:
        from keras_soap.capture.optimizer_slots import num_slots
        from keras_soap.capture.planning import capture_for_planning

        if batch_size is None:
            raise StrategyError("Planning needs a batch size. Give batch_size=, such as 64.")
        if model.compiled:
            slots = num_slots(model)
        graph = capture_for_planning(model, batch_size, training, time_chunk)
    return Costs(Lowering(graph), resolve(topology), profile or Roofline(), slots)


def _strategy(costs: Costs, strategy: Strategy | str | os.PathLike[str]) -> Strategy:
    if isinstance(strategy, Strategy):
        return strategy
    lowering = costs.lowering
    return proto_io.load(strategy, lowering.graph, lowering.dimensions, costs.topology)
