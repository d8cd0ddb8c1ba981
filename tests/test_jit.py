"""Kernels are compiled once, however many processes need them; their indices are not looked at."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_soap import jit

KERNEL = """
from keras_soap.jit import entry

@entry
def total(values):
    result = 0
    for value in values:
        result += value
    return result

@entry
def at(values, index):
    return values[index]
"""
CALL = """
import sys
import numpy as np
from own_kernel import total
print("ready", flush=True)
sys.stdin.readline()
assert total(np.arange(4)) == 6
print("compiled" if total.stats.cache_misses else "loaded")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own_kernel.py").write_text(KERNEL)
    return tmp_path


def test_of_processes_that_need_a_kernel_at_once_one_compiles_it(request, folder):
    path = os.pathsep.join(map(str, (folder, request.config.rootpath)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CALL],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    found = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(found) == ["compiled\n", "loaded\n", "loaded\n"]


def test_it_is_known_whether_a_kernel_is_on_disk(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    import own_kernel

    assert not jit.is_compiled(own_kernel.total)
    assert own_kernel.total((1, 2)) == 3
    assert jit.is_compiled(own_kernel.total)


def test_compiled_code_does_not_look_whether_an_index_counts_from_the_end(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    import own_kernel

    values = np.arange(4)
    assert own_kernel.at(values[1:], 2) == 3
    assert own_kernel.at(values[1:], -1) == 0, "what lies before it, not its last"


def test_no_kernel_writes_an_index_that_counts_from_the_end():
    kernels = 0
    for path in Path(jit.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            if not {"entry", "njit", "inline"} & set(map(ast.unparse, function.decorator_list)):
                continue
            kernels += 1
            for node in ast.walk(function):
                if isinstance(node, ast.Subscript):
                    indices = getattr(node.slice, "elts", [node.slice])
                    assert not any(
                        isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub)
                        for index in indices
                    ), f"{path.name}:{node.lineno}: {ast.unparse(node)}"
    assert kernels > 50
