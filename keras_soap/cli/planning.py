"""What `search` and `simulate` have in common: the problem."""

import sys
from dataclasses import dataclass

from absl import flags

from keras_soap.cli.main import UsageError
from keras_soap.cli.models import MODEL_HELP, TIME_CHUNK_HELP, load_graph
from keras_soap.cli.outputs import define_output_flags
from keras_soap.cli.quiet import quiet
from keras_soap.costs import environment, fitting
from keras_soap.costs import proto_io as cost_io
from keras_soap.costs.cost_profile import CostProfile
from keras_soap.costs.measure import environment_of
from keras_soap.costs.roofline import Roofline
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.topology.device_topology import DeviceTopology
from keras_soap.topology.resolve import resolve


def define_problem_flags(values: flags.FlagValues) -> None:
    """Flags that say what to plan for, and where results go."""
    flags.DEFINE_string(
        "model",
        None,
        MODEL_HELP,
        flag_values=values,
        required=True,
    )
    flags.DEFINE_string(
        "topology",
        "local",
        "The machine: local, a preset such as p100, or a topology file; name:n takes the first n "
        "devices. p100:n and k80:n go on beyond the paper's clusters, and tpu_v5e_RxC is any slice "
        "of a pod.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Samples in one step, over all devices together.",
        lower_bound=1,
        flag_values=values,
        required=True,
    )
    flags.DEFINE_integer("time_chunk", None, TIME_CHUNK_HELP, lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "mode",
        "training",
        ["training", "inference"],
        "What a step is: training, or inference (forward only).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile",
        None,
        "File of a cost profile, as keras-soap profile writes it; without it, costs are analytic.",
        flag_values=values,
    )
    define_output_flags(values)


@dataclass(frozen=True, slots=True)
class PlannedProblem:
    """What flags say of the problem, as `keras_soap.planning` takes it."""

    model: OperatorGraph
    topology: DeviceTopology
    profile: CostProfile
    training: bool


def load_problem(values: flags.FlagValues, arguments: list[str]) -> PlannedProblem:
    """The problem that flags describe."""
    if arguments:
        raise UsageError(f"There is an argument {arguments[0]!r} that belongs to no flag.")
    with quiet():
        topology = resolve(values.topology)
    profile = cost_io.load(values.profile) if values.profile else Roofline()
    training = values.mode == "training"
    graph = load_graph(values.model, values.batch_size, training, values.time_chunk)
    if values.topology.partition(":")[0] == "local":
        from keras_soap.runtime.measured_topology import as_measured

        topology = as_measured(topology, profile)
        here = environment_of(topology)
    else:
        here = environment.software_versions()
    model = getattr(profile, "device_model", None)
    if model in (None, *(device.model for device in topology.devices)):  # Else it is refused.
        for reason in fitting.misfits(profile, graph, here):
            print(f"keras-soap: warning: --profile={values.profile} {reason}", file=sys.stderr)
    return PlannedProblem(graph, topology, profile, training)
