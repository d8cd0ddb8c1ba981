"""A tensor of the model while it is captured."""

from dataclasses import dataclass

from keras_soap.graph.operator_graph import TensorRef


@dataclass
class Traced:
    """As a whole, in blocks of steps, or both."""

    whole: TensorRef | None = None
    blocks: tuple[TensorRef, ...] = ()
    of_weights: bool = False
    """Whether it is made of weights alone, and so the same for all samples."""

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """The whole, or else its blocks along axis 1."""
        return self.blocks if self.whole is None else (self.whole,)
