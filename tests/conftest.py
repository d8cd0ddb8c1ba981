"""TensorFlow with four logical CPU devices, for all tests that use it.

Tests of the middle of the package import no TensorFlow, so it is set up when collection has shown
that a test at hand does. Threads are few: the devices share them, and workers of pytest the cores.
"""

import gc
import os
import sys

from hypothesis import settings

settings.register_profile("no clocks", deadline=None)
settings.load_profile("no clocks")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
gc.disable()  # Until all is imported.

NUM_DEVICES = 4


def pytest_collection_modifyitems(items):
    items.sort(key=_turn)


def _turn(item) -> int:
    """When a test is to run, where `--dist worksteal` hands a stretch of tests to each worker."""
    if "launch" in item.fixturenames:
        return 0  # Long, but its clients mostly wait: others compute meanwhile.
    # What one has traced the next one needs.
    return 2 if "traced" in vars(item.module) else 1


def pytest_collection_finish(session):
    # Modules stay: to look for garbage among them again and again would be a part in fifteen.
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()
    if "tensorflow" not in sys.modules:
        return

    import keras_soap

    keras_soap.use_logical_cpus(NUM_DEVICES)
