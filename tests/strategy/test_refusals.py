"""Signatures of strategies, and what is remembered by them."""

import numba
import numpy as np

from keras_soap.strategy import moves as of_moves
from keras_soap.strategy import refusals
from keras_soap.strategy.proposals import propose
from tests.search import toys

# Python calls none of these; not kept on disk, as nothing would notice that they have changed.


@numba.njit
def stand(of, moves):
    refusals.stand_here(of, moves)


@numba.njit
def draw(of, moves):
    propose(moves)
    refusals.propose_this(of, moves)


@numba.njit
def go(of, moves):
    of_moves.move(moves)
    refusals.go_there(of)


@numba.njit
def refuse_and_ask(of, limit, asked):
    refusals.refuse(of, limit)
    return refusals.exceeds(of, asked)


@numba.njit
def ask(of, limit):
    return refusals.exceeds(of, limit)


def walking(num_devices):
    space = toys.problem(toys.diamond(), toys.machine(num_devices)).space
    rng = np.random.default_rng(0)
    moves, of = space.moves, refusals.no_refusals()
    moves.shares[:] = of_moves.USUAL
    of_moves.stand_at(moves, space, space.random_strategy(rng))
    stand(of, moves)

    def next_proposal():
        of_moves.refill(moves, rng)
        draw(of, moves)

    return space, moves, of, next_proposal


def test_a_strategy_has_one_signature_however_it_was_reached():
    space, moves, of, next_proposal = walking(8)
    seen = {}
    for _ in range(2000):
        next_proposal()
        go(of, moves)
        here = int(of.scalar[refusals.HERE])
        stand(of, moves)
        assert of.scalar[refusals.HERE] == here
        strategy = space.strategy_of(moves.choice, moves.devices)
        assert seen.setdefault(here, strategy) == strategy
    assert len(set(seen.values())) == len(seen) > 1000


def test_where_one_proposes_to_go_has_the_signature_of_being_there():
    space, moves, of, next_proposal = walking(4)
    here, strategy = int(of.scalar[refusals.HERE]), space.strategy_of(moves.choice, moves.devices)
    for _ in range(200):
        next_proposal()
        proposed = int(of.scalar[refusals.PROPOSED])
        there = strategy.replace(space._proposed())
        assert (proposed == here) is (there == strategy)
        other = refusals.no_refusals()
        of_moves.stand_at(moves, space, there)
        stand(other, moves)
        assert other.scalar[refusals.HERE] == proposed
        of_moves.stand_at(moves, space, strategy)


def test_what_took_longer_than_a_limit_does_so_again_but_no_more_is_known():
    _, _, of, next_proposal = walking(4)
    next_proposal()
    assert not ask(of, 1)
    assert refuse_and_ask(of, 100, 100)
    assert ask(of, 99)
    assert not ask(of, 101)
    before = int(of.scalar[refusals.PROPOSED])
    while of.scalar[refusals.PROPOSED] == before:
        next_proposal()
    assert not ask(of, 1)
