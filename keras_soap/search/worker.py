"""A helper process: reads a problem, then chains to advance, until its input ends."""

import pickle
import signal
import sys

from keras_soap.search.chains import advance


def main() -> None:
    """Serves `keras_soap.search.workers`. Ctrl-C is for the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        problem = pickle.load(source)
        while True:
            pairs, proposals, seconds = pickle.load(source)
            advanced = [
                advance(problem, chain, phase, proposals, seconds) for chain, phase in pairs
            ]
            pickle.dump(advanced, sink)
            sink.flush()
    except (EOFError, BrokenPipeError):
        pass


if __name__ == "__main__":
    main()
