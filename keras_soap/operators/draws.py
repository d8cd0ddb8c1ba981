"""Random numbers that a `call` draws itself, by functions of `keras.random`.

Parts draw their own, as those of a layer like `Dropout` do (see `noise`).
"""

from typing import Any

import numpy as np

from keras_soap.graph.operator_graph import Operator
from keras_soap.graph.region import Regions, volume
from keras_soap.operators.noise import SEED_STRIDE, number_of_part
from keras_soap.operators.rule import Part, Rule


class Draw(Rule):
    """A tensor of random numbers (`capture.draws.Draw`), split along any axis."""

    kind = "draw"
    layers = ("Draw",)

    def flops(self, operator: Operator, regions: Regions) -> np.ndarray:
        # A Philox number is about ten operations.
        return 10.0 * volume(regions)

    def shrink(self, part: Part) -> dict[str, Any]:
        # The clone never reads its own seed: it runs on the state that it is handed.
        return {
            "shape": [stop - start for start, stop in part.output],
            "shift": number_of_part(part) * SEED_STRIDE,
            "seed": 0,
        }
