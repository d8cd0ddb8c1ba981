"""What operators read of each other, and of the batch."""

import pytest

from keras_soap.graph.operator_graph import TensorRef
from keras_soap.graph.zoo import MODELS
from tests.search import toys

GRAPHS = {"chain": toys.chain(), "diamond": toys.diamond(), "nmt": MODELS["nmt"]()}


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_read_is_an_edge_or_comes_with_the_batch(name):
    graph = GRAPHS[name]
    reads = [
        (ref, consumer, position)
        for consumer, operator in enumerate(graph.operators)
        for position, ref in enumerate(operator.inputs)
    ]
    for found, comes_with_batch in ((graph.edges, False), (graph.feeds, True)):
        assert [edge.index for edge in found] == list(range(len(found)))
        assert [(edge.producer, edge.consumer, edge.input) for edge in found] == [
            read
            for read in reads
            if (graph.operators[read[0].operator].kind == "input") == comes_with_batch
        ]


def test_what_reads_the_batch_alone_waits_for_nothing():
    graph = toys.chain()
    assert graph.is_fed(TensorRef(0))
    assert not graph.is_fed(TensorRef(1))
    assert graph.in_edges[1] == ()
    assert graph.out_edges[0] == ()
    assert [edge.consumer for edge in graph.out_edges[1]] == [2]
