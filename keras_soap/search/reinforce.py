"""Device placement by policy gradient: the O of SOAP alone, every operator whole on one device.

What "Device placement optimization with reinforcement learning" (A. Mirhoseini et al., ICML 2017)
does with a recurrent policy and measured times, here with a table of logits and simulated ones.

    π(device of family f) = softmax(θ_f)
    θ_f ← θ_f + rate · advantage · (onehot(device) - π(θ_f)) / batch        (R. Williams, 1992)
    advantage = (mean of the batch - cost) / deviation of the batch
"""

import numpy as np

from keras_soap.search.placement_bound import placement_bound_ns
from keras_soap.search.problem import NO_OPTIONS, Budget, Problem, RunOptions
from keras_soap.search.result import SearchResult, StopReason
from keras_soap.search.tracker import Tracker
from keras_soap.strategy.parallel_config import ParallelConfig
from keras_soap.strategy.strategy import Strategy

BATCH = 16
RATE = 1.0


def search(
    problem: Problem, budget: Budget, seed: int, options: RunOptions = NO_OPTIONS
) -> SearchResult:
    """Draws placements, and makes those more likely that turn out fast.

    With `dims="O"` the result says what no placement is faster than.
    """
    tracker = Tracker(problem, budget, options)
    rng = np.random.default_rng(seed)
    num_devices = problem.topology.num_devices if problem.space.places else 1
    logits = np.zeros((len(problem.space.families), num_devices))
    stopped_by = tracker.spent()
    try:
        while stopped_by is None:
            logits, stopped_by = step(rng, logits, problem, tracker)
    except KeyboardInterrupt:
        stopped_by = StopReason.INTERRUPTED
    bound_ns = placement_bound_ns(problem) if problem.space.dims == "O" else 0
    return tracker.result(problem, "reinforce", seed, stopped_by, lower_bound_ns=bound_ns)


def step(
    rng: np.random.Generator, logits: np.ndarray, problem: Problem, tracker: Tracker
) -> tuple[np.ndarray, StopReason | None]:
    """One batch of placements, and the logits that it leads to."""
    policy = softmax(logits)
    placements, costs = [], []
    stopped_by = None
    while len(placements) < BATCH and stopped_by is None:
        devices = draw(rng, policy)
        evaluation = problem.objective.evaluate(whole(problem, devices))
        tracker.proposals += 1
        tracker.offer(evaluation)
        placements.append(devices)
        # What does not fit is made to look as slow as it is too large.
        memory = sum(device.memory_bytes for device in problem.topology.devices)
        costs.append(evaluation.step_time_ns * (1 + evaluation.excess_bytes / memory))
        stopped_by = tracker.spent()
    tracker.report()
    return improved(logits, policy, np.array(placements), np.array(costs)), stopped_by


def improved(
    logits: np.ndarray, policy: np.ndarray, placements: np.ndarray, costs: np.ndarray
) -> np.ndarray:
    """Logits after a batch.

    Args:
        logits: float64 (families, devices).
        policy: Their softmax.
        placements: int64 (batch, families). Devices drawn.
        costs: float64 (batch,). Step times.
    """
    deviation = costs.std()
    if deviation == 0:
        return logits
    advantages = (costs.mean() - costs) / deviation
    gradient = np.zeros_like(logits)
    families = np.arange(len(logits))
    for devices, advantage in zip(placements, advantages, strict=True):
        gradient -= advantage * policy
        gradient[families, devices] += advantage
    return logits + RATE * gradient / len(costs)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def draw(rng: np.random.Generator, policy: np.ndarray) -> np.ndarray:
    """int64 (families,): a device for each, by its row of the policy."""
    below = policy.cumsum(axis=1) < rng.random((len(policy), 1))
    return np.minimum(below.sum(axis=1), policy.shape[1] - 1)


def whole(problem: Problem, devices: np.ndarray) -> Strategy:
    """The strategy with each family whole on its device."""
    configs: dict[int, ParallelConfig] = {}
    for members, device in zip(problem.space.families, devices.tolist(), strict=True):
        for number in members:
            configs[number] = ParallelConfig(
                (1,) * len(problem.lowering.dimensions[number]), (device,)
            )
    return Strategy(tuple(configs[number] for number in range(len(configs))))
