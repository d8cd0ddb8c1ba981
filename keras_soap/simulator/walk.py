"""A Markov chain of proposals that never leaves compiled code; as `search.metropolis.step`.

The chain stands where the simulator's state and `Moves` do. Both move together. What is known to
take too long is not simulated again (`strategy.refusals`), which changes nothing of where it goes.
"""

import math

from keras_soap.jit import entry, njit
from keras_soap.simulator.kernel import build_change, drop_change, run_change, take_change
from keras_soap.simulator.layout import (
    BEST_EXCESS_BYTES,
    BEST_MOVED_BYTES,
    BEST_STEP_NS,
    DONE,
    EXCEEDED,
    EXCESS_BYTES,
    MISSES_RANDOM,
    MOST_PAIRS,
    MOVED_BYTES,
    NEVER,
    NEW_EXCESS_BYTES,
    NEW_STEP_NS,
    NUM_ACCEPTED,
    NUM_CHANGED,
    PAIRS_OF_PROPOSAL,
    PATIENCE_NS,
    STEP_NS,
)
from keras_soap.strategy import moves as of_moves
from keras_soap.strategy import refusals as of_refusals
from keras_soap.strategy.proposals import propose


@entry
def walk(
    machine, model, tables, state, moves, refusals, numbers, first_number, beta_per_ns, proposals
):
    """Makes `proposals`, or as many as it can.

    Args:
        machine: Devices and links.
        model: Operators and edges.
        tables: Configurations.
        state: The strategy where the chain stands.
        moves: The same, and what it may change to.
        refusals: What was refused before, of the same space.
        numbers: For each operator and choice its configuration.
        first_number: For each operator, where its choices begin there, less its first choice.
        beta_per_ns: How much longer steps are refused.
        proposals: How many.

    Returns:
        How many were made; DONE, or what is missing for the next, which is drawn already.
    """
    scalar = state.scalar
    # On more devices an edge may have so many pairs that not its time decides.
    remembers = machine.num_devices * machine.num_devices <= PAIRS_OF_PROPOSAL
    if scalar[PATIENCE_NS] < 0:
        of_refusals.stand_here(refusals, moves)
    made = 0
    while made < proposals:
        if scalar[PATIENCE_NS] < 0:
            if not of_moves.has_enough(moves):
                return made, MISSES_RANDOM
            # u < exp(-beta * slowdown) is slowdown < -ln(u) / beta; 1 - u is never 0.
            patience = -math.log(1.0 - of_moves.draw(moves)) / beta_per_ns
            scalar[PATIENCE_NS] = int(min(patience, 2.0**61))
            propose(moves)
            if of_moves.changes_nothing(moves):
                scalar[PATIENCE_NS] = -1
                scalar[NUM_ACCEPTED] += 1
                made += 1
                continue
            of_refusals.propose_this(refusals, moves)
        limit = NEVER if scalar[EXCESS_BYTES] else scalar[STEP_NS] + scalar[PATIENCE_NS]
        if remembers and of_refusals.exceeds(refusals, limit):
            scalar[PATIENCE_NS] = -1
            made += 1
            continue
        _want(moves, state, numbers, first_number)
        scalar[MOST_PAIRS] = NEVER if scalar[EXCESS_BYTES] else PAIRS_OF_PROPOSAL
        done = build_change(machine, model, tables, state, limit)
        if done == EXCEEDED:
            of_refusals.refuse(refusals, limit)
            scalar[PATIENCE_NS] = -1
            made += 1
            continue
        if done != DONE:
            return made, done
        made += 1
        scalar[PATIENCE_NS] = -1
        if scalar[EXCESS_BYTES]:
            accepted = _is_better(machine, model, tables, state)
        else:
            accepted = (
                scalar[NEW_EXCESS_BYTES] == 0
                and run_change(machine, model, tables, state, limit) == DONE
            )
        if not accepted:
            drop_change(model, tables, state)
            if not scalar[EXCESS_BYTES]:
                # What fits into no memory takes longer than anything that does.
                exceeded = NEVER - 1 if scalar[NEW_EXCESS_BYTES] else limit
                of_refusals.refuse(refusals, exceeded)
            continue
        take_change(model, state)
        of_moves.move(moves)
        of_refusals.go_there(refusals)
        scalar[NUM_ACCEPTED] += 1
        excess, best_excess = scalar[EXCESS_BYTES], scalar[BEST_EXCESS_BYTES]
        if excess < best_excess or (
            excess == best_excess and scalar[STEP_NS] < scalar[BEST_STEP_NS]
        ):
            of_moves.keep_best(moves)
            scalar[BEST_STEP_NS] = scalar[STEP_NS]
            scalar[BEST_EXCESS_BYTES] = excess
            scalar[BEST_MOVED_BYTES] = scalar[MOVED_BYTES]
    return made, DONE


@njit
def _want(moves, state, numbers, first_number):
    """Hands the proposal to the simulator."""
    count = 0
    for i in range(moves.scalar[of_moves.NUM_CHANGED]):
        family = moves.changed[i]
        choice = moves.new_choice[family]
        parts = 1
        for degree in moves.choices[choice]:
            parts *= degree
        for k in range(moves.member_start[family], moves.member_start[family + 1]):
            n = moves.members[k]
            state.changed[count] = n
            count += 1
            state.wanted_config[n] = numbers[first_number[n] + choice]
            for part in range(parts):
                state.wanted_devices[n, part] = moves.new_devices[family, part]
    state.scalar[NUM_CHANGED] = count


@njit
def _is_better(machine, model, tables, state):
    """Whether a proposal ranks no lower than a strategy that does not fit into memory."""
    scalar = state.scalar
    if scalar[NEW_EXCESS_BYTES] > scalar[EXCESS_BYTES]:
        return False
    run_change(machine, model, tables, state, NEVER)
    return scalar[NEW_EXCESS_BYTES] < scalar[EXCESS_BYTES] or (
        scalar[NEW_STEP_NS] <= scalar[STEP_NS]
    )
