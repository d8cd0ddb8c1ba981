"""`keras-soap search`: finds the fastest strategy for a model on a machine."""

from absl import flags

from keras_soap.cli.main import UsageError
from keras_soap.cli.outputs import Plan, finish
from keras_soap.cli.planning import define_problem_flags, load_problem
from keras_soap.search.problem import Budget
from keras_soap.search.run import METHODS, search
from keras_soap.strategy import proto_io
from keras_soap.tasks.lowering import Costs, Lowering

SUMMARY = "Searches for the fastest strategy of a model on a machine, at hand or not."
USAGE = "--model=M --topology=T --batch_size=N --export_strategy=FILE"


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    define_problem_flags(values)
    flags.DEFINE_float(
        "search_budget_s", None, "Seconds to search at most.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "search_budget",
        None,
        "Strategies to try at most. Without any budget, search for 30 seconds.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the search.", flag_values=values)
    flags.DEFINE_string(
        "dims",
        "SOAP",
        "Kinds of parallelism to use: S samples, O operators, A attributes, P parameters.",
        flag_values=values,
    )
    flags.DEFINE_enum("method", "mcmc", METHODS, "How to search.", flag_values=values)
    flags.DEFINE_string(
        "import_strategy", None, "File of a strategy to start from.", flag_values=values
    )
    flags.DEFINE_bool("progress", True, "Show a progress bar.", flag_values=values)


def run(values: flags.FlagValues, arguments: list[str]) -> None:
    """Searches, prints and writes."""
    if set(values.dims.upper()) - set("SOAP") or not values.dims:
        raise UsageError(f"--dims={values.dims} must be letters of SOAP, such as SP.")
    graph, topology, profile, training = load_problem(values, arguments)
    lowering = Lowering(graph)
    initial = []
    if values.import_strategy:
        initial = [proto_io.load(values.import_strategy, graph, lowering.dimensions, topology)]
    seconds, proposals = values.search_budget_s, values.search_budget
    if seconds is None and proposals is None:
        seconds = 30.0
    result = search(
        graph,
        topology,
        profile,
        budget=Budget(seconds, proposals),
        seed=values.seed,
        dims=values.dims.upper(),
        method=values.method,
        initial=initial,
        training=training,
        progress=values.progress,
    )
    said = {
        "proposals": result.proposals,
        "proposals_per_second": result.proposals_per_second,
        "search_seconds": result.search_seconds,
        "stopped_by": str(result.stopped_by),
        "seed": result.seed,
        "method": result.method,
        "proved_optimal": result.proved,
    }
    evaluations = {"soap": result.evaluation, **result.baselines}
    finish(
        Plan(Costs(lowering, topology, profile), evaluations, training, result.method, said),
        values,
    )
    print(
        f"Searched {result.search_seconds:.1f} s, {result.proposals:,} strategies "
        f"({result.proposals_per_second:,.0f}/s); stopped by: {result.stopped_by}."
    )
