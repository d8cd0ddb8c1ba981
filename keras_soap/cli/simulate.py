"""`keras-soap simulate`: predicts a step of a model under a given strategy."""

from absl import flags

from keras_soap.cli.outputs import Plan, finish
from keras_soap.cli.planning import define_problem_flags, load_problem
from keras_soap.objective import objective_of
from keras_soap.strategy import proto_io
from keras_soap.strategy.baselines import BASELINES

SUMMARY = "Predicts how a model runs under a strategy, beside the usual ones."
USAGE = f"--model=M --topology=T --batch_size=N --strategy=FILE|{'|'.join(BASELINES)}"


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this command."""
    define_problem_flags(values)
    flags.DEFINE_string(
        "strategy",
        "data_parallel",
        f"File of a strategy, or one of {', '.join(BASELINES)}.",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: list[str]) -> None:
    """Simulates, prints and writes."""
    graph, topology, profile, training = load_problem(values, arguments)
    objective = objective_of(graph, topology, profile, training)
    dimensions = objective.costs.lowering.dimensions
    strategies = {name: make(graph, dimensions, topology) for name, make in BASELINES.items()}
    if values.strategy in BASELINES:
        strategies = {values.strategy: strategies[values.strategy], **strategies}
        method = values.strategy
    else:
        asked = proto_io.load(values.strategy, graph, dimensions, topology)
        strategies = {"strategy": asked, **strategies}
        method = proto_io.read(values.strategy).figures.search_method
    evaluations = {name: objective.evaluate(strategy) for name, strategy in strategies.items()}
    finish(Plan(objective.costs, evaluations, training, method), values)
