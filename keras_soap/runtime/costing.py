"""What `SoapStrategy` plans with: the topology and the times of operators that it was asked for.

1. By default costs are measured where a search depends on them; a strategy that is given, or named,
   depends on none.
2. Measured are all parts that the search may ask for, before it begins; what is asked for beyond
   them is measured when it is.
3. Connections are measured where the topology is this machine's own; a file says what its writer
   knows.
"""

import os

import keras
from absl import logging

from keras_soap.capture.captured_model import CapturedModel
from keras_soap.costs import fitting
from keras_soap.costs import proto_io as cost_io
from keras_soap.costs.cost_profile import CostProfile
from keras_soap.costs.measure import MeasuredProfile, environment_of
from keras_soap.costs.roofline import Roofline
from keras_soap.runtime import cluster, cluster_topology
from keras_soap.runtime.measured_topology import as_measured, measure_topology, with_pool
from keras_soap.runtime.measuring import measure_all, with_measured_pool
from keras_soap.strategy.baselines import BASELINES
from keras_soap.tasks.lowering import Costs, Lowering
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.local import local_topology

Asked = str | os.PathLike[str] | CostProfile | None
"""As the argument `profile` of `SoapStrategy`."""


def measures(asked: Asked, method: str | None) -> bool:
    """Whether costs are measured.

    Args:
        asked: For what.
        method: Of the search; None if there is none.
    """
    if asked is None:
        return method is not None and method not in BASELINES
    return isinstance(asked, str) and asked == "measured"


def measured_costs(
    captured: CapturedModel,
    lowering: Lowering,
    topology: DeviceTopology,
    optimizer: keras.optimizers.Optimizer,
    *,
    num_slots: int,
    is_local: bool,
    dims: str | None,
    progress: bool,
) -> Costs:
    """Times of this process's devices; of several clients, client 0 measures for all.

    Args:
        captured: The model.
        lowering: Of its graph.
        topology: To plan for.
        optimizer: Which updates its weights.
        num_slots: Variables that it keeps beside each weight.
        is_local: Whether the topology describes this machine, or all clients, and is not a file's.
        dims: Letters of the kinds of splits that a search may use; None if nothing is searched for.
        progress: Whether to show a progress bar.
    """
    ours = cluster.current()
    # Of one process the topology's own devices, which may be fewer than there are.
    here = topology if ours is None else local_topology()
    if is_local and dims is not None:
        here = with_measured_pool(
            lowering, here, lambda on: MeasuredProfile(captured, on, optimizer), progress
        )
        here, _ = measure_topology(here, progress=progress)
        topology = here if ours is None else cluster_topology.with_inside(topology, here)
    elif ours is not None:
        here = with_pool(here)
    profile = MeasuredProfile(captured, here, optimizer)
    if dims is not None:
        measure_all(profile, lowering, topology, dims, progress)
    return Costs(lowering, topology, profile, num_slots)


def given_costs(
    asked: Asked, lowering: Lowering, topology: DeviceTopology, *, num_slots: int, is_local: bool
) -> Costs:
    """Times that are not measured now; arguments as of `measured_costs`.

    Args:
        asked: For what; a file that does not fit this machine or this model gives a warning.
        lowering: Of the model's graph.
        topology: To plan for.
        num_slots: Variables that the optimizer keeps beside each weight.
        is_local: Whether the topology describes this machine, or all clients, and is not a file's.

    Raises:
        CostError: If a file cannot be read.
    """
    if asked is None or asked == "analytic":
        return Costs(lowering, topology, Roofline(), num_slots)
    if not isinstance(asked, (str, os.PathLike)):
        return Costs(lowering, topology, asked, num_slots)
    table = cost_io.load(asked)
    if is_local and cluster.current() is None:
        topology = as_measured(topology, table)
    for reason in fitting.misfits(table, lowering.graph, environment_of(topology)):
        logging.warning("profile=%r %s", os.fspath(asked), reason)
    return Costs(lowering, topology, table, num_slots)
