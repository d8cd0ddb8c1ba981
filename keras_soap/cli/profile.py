"""`keras-soap profile`: measures a model's operators and this machine's connections."""

import sys
import time
from collections.abc import Sequence

from absl import flags

from keras_soap.cli.main import UsageError
from keras_soap.cli.models import TIME_CHUNK_HELP, load_layers
from keras_soap.cli.quiet import quiet
from keras_soap.costs import proto_io as cost_io
from keras_soap.costs.measure import MeasuredProfile
from keras_soap.topology import proto_io as topology_io
from keras_soap.topology.device_topology import DeviceTopology

SUMMARY = "Measures a model's operators, and the connections of this machine's devices."
USAGE = """--model=M --batch_size=N --profile_out=FILE --topology_out=FILE

What was measured before is taken from the user's cache directory, so that a profile that was
interrupted goes on where it was. Measure on an idle machine. Of several clients, each runs the
command, and client 0 measures and writes; the network between them is measured by all."""


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    flags.DEFINE_string(
        "model",
        None,
        "The model: module:function that returns a Keras model, a .keras file, or a name in "
        "keras.applications.",
        flag_values=values,
        required=True,
    )
    flags.DEFINE_integer("time_chunk", None, TIME_CHUNK_HELP, lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Samples in one step, over all devices together.",
        lower_bound=1,
        flag_values=values,
        required=True,
    )
    flags.DEFINE_string("profile_out", None, "File for the times.", flag_values=values)
    flags.DEFINE_string("topology_out", None, "File for the machine.", flag_values=values)
    flags.DEFINE_integer(
        "num_devices",
        None,
        "Logical CPU devices, with one thread each; by default the GPUs, or else one device.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "dims",
        "SAP",
        "Kinds of splits to measure parts of: S samples, A attributes, P parameters.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "part_seconds",
        1.0,
        "Seconds at most to repeat a part until its median is known well enough.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool("progress", True, "Show a progress bar.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> None:
    """Measures, prints and writes."""
    if arguments:
        raise UsageError(f"There is an argument {arguments[0]!r} that belongs to no flag.")
    if not (values.profile_out or values.topology_out):
        raise UsageError("Nothing would be written. Give --profile_out or --topology_out, or both.")
    if set(values.dims.upper()) - set("SAP"):
        raise UsageError(f"--dims={values.dims} must be letters of SAP, such as SP.")
    with quiet():
        from keras_soap.costs.timing import Precision
        from keras_soap.runtime import cluster, cluster_topology
        from keras_soap.runtime.devices import use_logical_cpus
        from keras_soap.runtime.measured_network import measure_network
        from keras_soap.runtime.measured_topology import measure_topology
        from keras_soap.runtime.measuring import measure_all, with_measured_pool
        from keras_soap.tasks.lowering import Lowering
        from keras_soap.topology.local import local_topology

        if values.num_devices is not None:
            use_logical_cpus(values.num_devices)
        client = cluster.join_cluster()
    # Of the network, all clients measure; of the rest, client 0 does, as others would alike.
    everyone, network = None, []
    if values.topology_out and cluster.current() is not None:
        everyone = cluster_topology.everyone()
        names = cluster_topology.tensorflow_names(everyone)
        everyone, network = measure_network(everyone, names)
    if client:
        return
    began = time.perf_counter()
    precision = Precision(seconds=values.part_seconds)
    model, captured = load_layers(values.model, values.batch_size, True, values.time_chunk)
    lowering = Lowering(captured.graph)
    profiles: list[MeasuredProfile] = []

    def profile_on(topology: DeviceTopology) -> MeasuredProfile:
        profiles.append(MeasuredProfile(captured, topology, model.optimizer, precision=precision))
        return profiles[-1]

    try:
        topology = with_measured_pool(lowering, local_topology(), profile_on, values.progress)
    except KeyboardInterrupt:
        _say_interrupted(profiles)
        raise
    if values.topology_out:
        _say("Measuring connections of " + ", ".join(device.name for device in topology.devices))
        topology, links = measure_topology(topology, precision, progress=values.progress)
        whole = cluster_topology.with_inside(everyone, topology) if everyone else topology
        topology_io.save(values.topology_out, whole)
        print(_links_table(topology, links))
        print(_network_table(network), end="")
        print(f"Wrote the topology to {values.topology_out}")
    if not values.profile_out:
        return
    profile = profile_on(topology)
    try:
        measure_all(profile, lowering, topology, values.dims.upper(), values.progress)
    except KeyboardInterrupt:
        _say_interrupted(profiles)
        raise
    seconds = time.perf_counter() - began
    table = profile.table()
    num_measured = sum(made.num_measured for made in profiles)
    cost_io.save(values.profile_out, table)
    print(
        f"{len(table.entries)} times; {num_measured} were measured now, the others come from "
        f"{profile.cache.path}\nMeasuring took {seconds:.1f} s\n"
        f"Wrote the profile to {values.profile_out}"
    )


def _links_table(topology, links) -> str:
    from keras_soap.runtime.measured_topology import predict

    lines = [
        f"overhead of a task {topology.devices[0].task_overhead_ns / 1e3:.1f} µs",
        *(
            f"{m.kind:<11}{m.num_bytes / 1024:>8,.0f} KiB{m.time_ns / 1e3:>11,.0f} µs ± "
            f"{100 * m.relative_spread:>2.0f} % measured{predict(topology, m) / 1e3:>11,.0f} µs "
            "as modelled"
            for m in links
        ),
    ]
    return "\n".join(lines)


def _network_table(network) -> str:
    return "".join(
        f"{m.kind:<11}{m.num_bytes / 1024:>8,.0f} KiB{m.time_ns / 1e3:>11,.0f} µs ± "
        f"{100 * m.relative_spread:>2.0f} % measured\n"
        for m in network
    )


def _say_interrupted(profiles: Sequence[MeasuredProfile]) -> None:
    num_measured = sum(profile.num_measured for profile in profiles)
    _say(f"Interrupted; {num_measured} new times are kept in {profiles[-1].cache.path.parent}")


def _say(line: str) -> None:
    print(f"keras-soap: {line}", file=sys.stderr)
