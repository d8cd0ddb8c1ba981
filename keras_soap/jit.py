"""How the kernel is compiled: once, and then cached on disk.

1. numba keeps compiled code as long as the file of a function does not change; it does not notice
   a change of a function that was compiled into it from another file. So compiled code is thrown
   away when any file of `strategy/` or `simulator/` has changed, or one of which it has a constant.
2. Functions that Python does not call borrow their arrays: they make no arrays, so there are no
   references to count, which would cost more than the work. Nothing is compiled that Python or C
   would call them through, which would be most of the code.
3. Of processes that need the same kernel, one compiles it, and the others wait for its cache.
4. An index of an array counts from its beginning. As a rule numba looks whether each one is below
   0, and so counts from the end. For that it has to have the lengths of all arrays at hand, and
   walks take longer. It has no option for that, so the function that does it is replaced while it
   compiles. A numba without that function compiles as it does.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.np import arrayobj

from keras_soap.locks import locked

_OF_INDICES = "fix_integer_index"
_HAVE_CONSTANTS = ("tasks/all_reduce.py", "topology/device_topology.py")


def _forget_other_sources() -> None:
    folders = [Path(__file__).with_name(name) for name in ("strategy", "simulator")]
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in _HAVE_CONSTANTS:
        digest.update(Path(__file__).parent.joinpath(name).read_bytes())
    for folder in folders:
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    stamp = folders[-1] / "__pycache__" / "kernel.sha256"
    # Where files cannot be written nobody edits them.
    with contextlib.suppress(OSError):
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            stamp.parent.mkdir(exist_ok=True)
            for folder in folders:
                for index in (folder / "__pycache__").glob("*.nbi"):
                    index.unlink(missing_ok=True)
            stamp.write_text(digest.hexdigest())


_forget_other_sources()

_OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}
_BORROWING: dict[str, Any] = {
    **_OPTIONS,
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def entry(function: Callable[..., Any]) -> Any:
    """For what Python calls, or what makes arrays."""
    dispatcher = numba.njit(**_OPTIONS)(function)
    if hasattr(dispatcher, "stats"):  # Else numba is switched off.
        dispatcher.compile = _in_turn(dispatcher)
    return dispatcher


@contextlib.contextmanager
def _counting_from_the_beginning() -> Iterator[None]:
    """What is compiled meanwhile takes indices as they are; see rule 4."""

    def as_it_is(context: Any, builder: Any, kind: Any, index: Any, _: Any) -> Any:
        return context.cast(builder, index, kind, types.intp if kind.signed else types.uintp)

    with global_compiler_lock:
        usual = getattr(arrayobj, _OF_INDICES, None)
        if usual is not None:
            setattr(arrayobj, _OF_INDICES, as_it_is)
        try:
            yield
        finally:
            if usual is not None:
                setattr(arrayobj, _OF_INDICES, usual)


def _in_turn(dispatcher: Any) -> Callable[..., Any]:
    """What compiles or loads an `entry` function, under a lock."""
    compile_or_load = dispatcher.compile
    path = Path(dispatcher.stats.cache_path) / f"{_name_on_disk(dispatcher)}.lock"

    def compile_in_turn(*signature: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_counting_from_the_beginning())
            with contextlib.suppress(OSError):  # Where files cannot be written each compiles.
                stack.enter_context(locked(path))
            return compile_or_load(*signature)

    return compile_in_turn


def _name_on_disk(function: Any) -> str:
    source = Path(function.py_func.__code__.co_filename)
    return f"{source.stem}.{function.py_func.__qualname__}"


njit = numba.njit(**_BORROWING)
"""For all others."""

inline = numba.njit(inline="always", **_BORROWING)
"""For what runs once for each task: a call would cost more than the work."""


def is_compiled(function: Any) -> bool:
    """Whether compiled code of an `entry` function is on disk, or it needs none."""
    if not hasattr(function, "stats"):
        return True  # numba is switched off.
    pattern = f"{_name_on_disk(function)}-*.nbi"
    return any(Path(function.stats.cache_path).glob(pattern))
