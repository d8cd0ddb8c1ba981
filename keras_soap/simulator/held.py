"""What a task holds while it runs: links, and a place where several tasks run at once."""

from keras_soap.jit import inline
from keras_soap.simulator.layout import (
    GRADIENTS,
    LINKS_BITS,
    LINKS_MASK,
    REPORTS,
    TRANSFERS,
)


@inline
def links_of_task(route_offsets, num_devices, ints, kind, resource, links):
    """Where in `ints` the links of a task stand: (first, end)."""
    if kind == REPORTS:
        at = resource * num_devices
        return route_offsets[at], route_offsets[at + 1]
    if kind == TRANSFERS or kind == GRADIENTS:
        first = links >> LINKS_BITS
        return first, first + (links & LINKS_MASK)
    first = -resource
    return first, first + ints[first - 1]


@inline
def place_of(free, held, capacity, spare):
    """Where a resource is free the soonest, of all the places where it runs tasks."""
    place = held
    for other in range(spare[held], spare[held] + capacity[held] - 1):
        if free[other] < free[place]:
            place = other
    return place
