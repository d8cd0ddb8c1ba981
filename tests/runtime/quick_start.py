"""Runs a module as a program, after it has imported Keras as quickly as that goes.

    python -m tests.runtime.quick_start PROGRAM …

Programs are started again and again, and for most of their time they import. A third of it is left
out: what Keras imports for its wrappers and plots, and looking for garbage among modules.
"""

import gc
import os
import runpy
import sys


def main() -> None:
    """Leaves the program its own arguments."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.modules |= dict.fromkeys(("matplotlib", "sklearn"))  # As if they were not installed.
    gc.disable()
    import keras  # noqa: F401

    gc.freeze()
    gc.enable()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
