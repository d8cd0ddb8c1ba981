"""What tests share that need TensorFlow set up in another way than `tests/conftest.py` does."""

import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def in_new_process(request):
    """Runs a program in a process of its own, and looks for words in what it prints."""

    def run(program: str, says: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=request.config.rootpath,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert says in done.stdout + done.stderr

    return run


@pytest.fixture
def launch(request):
    """Runs a module as a program on several clients, as `python -m keras_soap.launch` does."""

    def run(num_clients: int, devices_per_client: int, program: str, *arguments: object):
        command = [sys.executable, "-m", "keras_soap.launch", f"--num_clients={num_clients}"]
        command += [f"--devices_per_client={devices_per_client}", "--"]
        command += [sys.executable, "-m", "tests.runtime.quick_start"]
        return subprocess.run(
            [*command, program, *map(str, arguments)],
            cwd=request.config.rootpath,
            capture_output=True,
            text=True,
            timeout=540,
        )

    return run


@pytest.fixture
def double_precision():
    """Models are made, and trained, in float64."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
