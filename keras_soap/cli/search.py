"""`keras-soap search`: finds the fastest strategy for a model on a machine."""

from absl import flags

from keras_soap.cli.main import UsageError
from keras_soap.cli.outputs import finish
from keras_soap.cli.planning import define_problem_flags, load_problem
from keras_soap.planning import find_strategy
from keras_soap.search.run import METHODS

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
    problem = load_problem(values, arguments)
    seconds, proposals = values.search_budget_s, values.search_budget
    if seconds is None and proposals is None:
        seconds = 30.0
    plan = find_strategy(
        problem.model,
        problem.topology,
        search_budget_s=seconds,
        search_budget=proposals,
        seed=values.seed,
        dims=values.dims.upper(),
        method=values.method,
        training=problem.training,
        profile=problem.profile,
        initial=[values.import_strategy] if values.import_strategy else [],
        progress=values.progress,
    )
    finish(plan, values)
    result = plan.result
    assert result is not None
    print(
        f"Searched {result.search_seconds:.1f} s, {result.proposals:,} strategies "
        f"({result.proposals_per_second:,.0f}/s); stopped by: {result.stopped_by}."
    )
