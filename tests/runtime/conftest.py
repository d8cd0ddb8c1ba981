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
