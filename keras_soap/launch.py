"""Starts the clients of a cluster on this machine, on ports of its loopback interface.

    python -m keras_soap.launch --num_clients=2 --devices_per_client=2 -- train.py --epochs=3

Each client runs the program with DTensor's environment variables set, so that
`keras_soap.join_cluster()` finds the others. When one fails, all are stopped, and its exit code is
the launcher's. An interrupt goes to all of them.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from absl import app, flags

GRACE_S = 5.0
"""How long clients may take to end when asked to, before they are killed."""

FAILED_TOGETHER_S = 40.0
"""How long clients may take to notice that one has failed, and to say so."""

_NUM_CLIENTS = flags.DEFINE_integer("num_clients", 2, "Processes to start.", lower_bound=1)
_DEVICES_PER_CLIENT = flags.DEFINE_integer(
    "devices_per_client", 1, "Logical CPU devices of each, where there is no GPU.", lower_bound=1
)
_PORT = flags.DEFINE_integer(
    "port", 0, "Of client 0; the others have the ports after it. 0: any that are free.",
    lower_bound=0, upper_bound=65535,
)  # fmt: skip


def launch(command: Sequence[str], num_clients: int, devices_per_client: int, port: int = 0) -> int:
    """Runs `command` once for each client; gives the exit code of the first that fails, or 0.

    Args:
        command: A program with its arguments.
        num_clients: How many times.
        devices_per_client: Logical CPU devices of each.
        port: Of client 0; 0 for any.
    """
    ports = [port + n for n in range(num_clients)] if port else _free_ports(num_clients)
    addresses = ",".join(f"127.0.0.1:{p}" for p in ports)
    clients: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    restore = {
        number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for client in range(num_clients):
            environment = {
                **os.environ,
                "DTENSOR_JOBS": addresses,
                "DTENSOR_CLIENT_ID": str(client),
                "DTENSOR_NUM_CLIENTS": str(num_clients),
                "KERAS_SOAP_LOGICAL_CPUS": str(devices_per_client),
                "PYTHONUNBUFFERED": "1",
            }
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # A group of its own: what a client starts ends with it, and an interrupt reaches
                # it from here alone.
                start_new_session=True,
            )
            clients.append(process)
            for pipe, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                reader = threading.Thread(target=_prefix, args=(pipe, target, client), daemon=True)
                reader.start()
                readers.append(reader)
        code = _wait(clients)
    except KeyboardInterrupt as interrupt:
        code = 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)
    finally:
        # A second interrupt must not leave clients behind.
        for number in restore:
            signal.signal(number, signal.SIG_IGN)
        _stop(clients)
        for reader in readers:
            reader.join(timeout=GRACE_S)
        for number, handler in restore.items():
            signal.signal(number, handler)
    return code


def _wait(clients: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all; if one fails, not much longer than the others need to notice."""
    failed: int | None = None
    deadline = float("inf")
    reported: set[int] = set()
    while time.monotonic() < deadline:
        running = [process for n, process in enumerate(clients) if n not in reported]
        if not running or (failed is not None and all(map(_is_stopped, running))):
            break
        for client, process in enumerate(clients):
            code = process.poll()
            if code is None or client in reported:
                continue
            reported.add(client)
            if code:
                what = f"exit code {code}" if code > 0 else signal.Signals(-code).name
                print(f"launch: client {client} has failed with {what}.", file=sys.stderr)
                if failed is None:
                    failed = code if code > 0 else 128 - code
                    deadline = time.monotonic() + FAILED_TOGETHER_S
        time.sleep(0.05)
    return failed or 0


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a signal has stopped a process, which then notices nothing."""
    options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    try:
        return os.waitid(os.P_PID, process.pid, options) is not None
    except ChildProcessError:
        return False  # It has just ended.


def _stop(clients: Sequence[subprocess.Popen[bytes]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = [process for process in clients if process.poll() is None]
        for process in running:
            # A stopped client takes a signal when it goes on.
            for each in (number, signal.SIGCONT):
                os.killpg(process.pid, each)
        deadline = time.monotonic() + GRACE_S
        while any(p.poll() is None for p in running) and time.monotonic() < deadline:
            time.sleep(0.05)


def _prefix(source: IO[bytes], target: IO[str], client: int) -> None:
    for line in source:
        target.write(f"[{client}] {line.decode(errors='replace').rstrip()}\n")
        target.flush()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; held until all are found, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise app.UsageError("Name a program: python -m keras_soap.launch -- train.py …")
    program = argv[1:]
    is_python = program[0].endswith(".py") or program[0] == "-m"
    command = [sys.executable, *program] if is_python else program
    if shutil.which(command[0]) is None:
        raise app.UsageError(f"There is no program {command[0]!r} to start.")
    sys.exit(launch(command, _NUM_CLIENTS.value, _DEVICES_PER_CLIENT.value, _PORT.value))


def main() -> None:
    """Reads the flags before `--`; what follows is the program's."""
    app.run(_main, argv=sys.argv)


if __name__ == "__main__":
    main()
