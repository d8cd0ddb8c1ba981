"""`keras-soap COMMAND …`: finds the command, parses its flags, reports errors in one line.

A command is a module of this package with `SUMMARY`, `USAGE`, `define_flags(flag_values)` and
`run(flag_values, arguments)`. Each is imported when it is asked for, and TensorFlow by it only
where a Keras model or this process's devices are needed.

Exit codes: 0 done, 1 it could not be done, 2 the command line makes no sense.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from absl import flags

from keras_soap.errors import SoapError

COMMANDS = ("search", "simulate", "profile", "show")


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command.

    Args:
        arguments: The command's name, its flags and other arguments.

    Returns:
        The exit code.
    """
    # TensorFlow's start-up chatter would bury the answer.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not arguments or arguments[0] in ("help", "-h", "--help", "-help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        return _fail(f"There is no command {name!r}. Use one of: {', '.join(COMMANDS)}.", 2)
    command = importlib.import_module(f"keras_soap.cli.{name}")
    values = flags.FlagValues()
    command.define_flags(values)
    if any(word in ("-h", "--help", "-help") for word in rest):
        print(_help(name, command, values))
        return 0
    try:
        others = values([f"keras-soap {name}", *rest])[1:]
    except flags.Error as error:
        reason = " ".join(str(error).split()).rstrip(" .?")
        return _fail(f"{reason}. See keras-soap {name} --help.", 2)
    try:
        command.run(values, others)
    except UsageError as error:
        return _fail(f"{error} See keras-soap {name} --help.", 2)
    except (SoapError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("Interrupted.", 130)
    return 0


class UsageError(Exception):
    """The flags or arguments of a command do not go together."""


def _fail(reason: str, code: int) -> int:
    print(f"keras-soap: {' '.join(reason.split())}", file=sys.stderr)
    return code


def _overview() -> str:
    lines = [
        "Finds the fastest way to train a Keras model on several devices, and shows what it found.",
        "",
        "usage: keras-soap COMMAND [--flag=value …]",
        "",
    ]
    for name in COMMANDS:
        command = importlib.import_module(f"keras_soap.cli.{name}")
        lines.append(f"  {name:<10}{command.SUMMARY}")
    return "\n".join([*lines, "", "keras-soap COMMAND --help lists the flags of a command."])


def _help(name: str, command, values: flags.FlagValues) -> str:
    text = f"{command.SUMMARY}\n\nusage: keras-soap {name} {command.USAGE}"
    listed = "\n".join(
        _flag_help(values[flag]) for flag in sorted(values) if values[flag].name == flag
    )
    return f"{text}\n\n{listed}" if listed else text


def _flag_help(flag: flags.Flag) -> str:
    default = "" if flag.default is None else f" (default: {flag.default})"
    return f"  --{flag.name}\n      {flag.help}{default}"
