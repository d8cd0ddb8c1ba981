"""`keras-soap simulate`: predicts a step of a model under a given strategy."""

from absl import flags

from keras_soap import planning
from keras_soap.cli.outputs import finish
from keras_soap.cli.planning import define_problem_flags, load_problem
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
    problem = load_problem(values, arguments)
    plan = planning.simulate(
        problem.model,
        values.strategy,
        problem.topology,
        training=problem.training,
        profile=problem.profile,
    )
    finish(plan, values)
