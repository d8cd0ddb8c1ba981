"""Ready tasks, first by (ready time, code): a binary heap.

Its entries of (ready, code, known) stand in one row, so that the compiler knows how far apart they
are.
"""

from keras_soap.jit import njit


@njit
def push(heap, size, ready, code, known):
    """Adds a task to the queue; gives its new size."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[3 * above] < ready or (heap[3 * above] == ready and heap[3 * above + 1] < code):
            break
        heap[3 * at] = heap[3 * above]
        heap[3 * at + 1] = heap[3 * above + 1]
        heap[3 * at + 2] = heap[3 * above + 2]
        at = above
    heap[3 * at] = ready
    heap[3 * at + 1] = code
    heap[3 * at + 2] = known
    return size + 1


@njit
def pop(heap, size):
    """Takes the first task off the queue; gives its new size.

    The gap goes down to a leaf, and the last task up from there: fewer branches than on the way
    down, and none that the processor cannot foresee.
    """
    size -= 1
    at, below = 0, 1
    while below + 1 < size:
        left, right = 3 * below, 3 * below + 3
        first = (heap[right] < heap[left]) | (
            (heap[right] == heap[left]) & (heap[right + 1] < heap[left + 1])
        )
        below += int(first)
        heap[3 * at] = heap[3 * below]
        heap[3 * at + 1] = heap[3 * below + 1]
        heap[3 * at + 2] = heap[3 * below + 2]
        at = below
        below = 2 * at + 1
    if below < size:
        heap[3 * at] = heap[3 * below]
        heap[3 * at + 1] = heap[3 * below + 1]
        heap[3 * at + 2] = heap[3 * below + 2]
        at = below
    push(heap, at, heap[3 * size], heap[3 * size + 1], heap[3 * size + 2])
    return size
