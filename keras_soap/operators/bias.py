"""Where `keras.ops.add(x, y)` takes y for a bias.

1. It does if all axes of y but one have size 1, and that one has the size of the last axis of x, or
   else of the second: then y is added along that axis, wherever its own is.
2. Parts can have equal sizes where the whole has not, so what is added along the right axis as a
   whole would be added along another in parts: `is_misread` tells, and such parts are spelled out.
3. Where Keras adds the whole along another axis than broadcasting does, rules refuse the call.
4. The number of samples is no size to go by: Keras mostly does not know it when it reads shapes.
"""

from collections.abc import Sequence

UNKNOWN = -1
"""The size of an axis that Keras does not know."""


def is_misread(x: Sequence[int], y: Sequence[int]) -> bool:
    """Whether `keras.ops.add` adds y other than by broadcasting.

    Args:
        x: Shape of the first argument.
        y: Of the second.
    """
    long = [axis for axis, size in enumerate(y) if size != 1]
    if len(long) != 1 or len(x) < 2:
        return False
    size = y[long[0]]
    if size == UNKNOWN or size not in (x[1], x[-1]):
        return False
    taken_for = len(x) - 1 if size == x[-1] else 1
    return len(y) > len(x) or taken_for != len(x) - len(y) + long[0]
