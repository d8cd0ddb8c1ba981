"""The launcher starts clients, shows what they print, and leaves none behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest


def launch(tmp_path, program, *flags, num_clients=2):
    """The launcher, started with a program that finds its number in the variable `client`."""
    script = tmp_path / "program.py"
    head = "import os, signal, sys, time\nclient = int(os.environ['DTENSOR_CLIENT_ID'])\n"
    script.write_text(head + textwrap.dedent(program))
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "keras_soap.launch",
            f"--num_clients={num_clients}",
            "--devices_per_client=3",
            "--",
            str(script),
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_client_is_told_its_number_and_all_addresses(tmp_path):
    done = launch(
        tmp_path,
        """
        addresses = set(os.environ['DTENSOR_JOBS'].split(','))
        print(client, os.environ['DTENSOR_NUM_CLIENTS'], len(addresses))
        print(os.environ['KERAS_SOAP_LOGICAL_CPUS'], sys.argv[1:])
        """,
        "--epochs=3",
        num_clients=3,
    )
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert sorted(out.splitlines()) == sorted(
        f"[{client}] {line}"
        for client in range(3)
        for line in (f"{client} 3 3", "3 ['--epochs=3']")
    )


def test_what_a_client_writes_to_stderr_goes_there_with_its_number(tmp_path):
    done = launch(tmp_path, "if client: print('careful', file=sys.stderr)")
    out, err = done.communicate(timeout=60)
    assert (out, err) == ("", "[1] careful\n")


def test_the_exit_code_is_that_of_the_client_that_failed_first_and_others_are_stopped(
    tmp_path, monkeypatch
):
    script = "sys.exit(7) if client else (print(os.getpid(), flush=True), time.sleep(600))"
    program = "import keras_soap.launch as l; l.FAILED_TOGETHER_S = 0.5; "
    path = tmp_path / "program.py"
    path.write_text(
        f"import os, sys, time\nclient = int(os.environ['DTENSOR_CLIENT_ID'])\n{script}\n"
    )
    program += f"raise SystemExit(l.launch([{sys.executable!r}, {str(path)!r}], 2, 1))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7
    assert "client 1 has failed with exit code 7" in done.stderr
    assert not is_running(int(done.stdout.removeprefix("[0] ")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_clients_and_what_they_have_started(tmp_path, number):
    running = launch(
        tmp_path,
        """
        import subprocess
        child = subprocess.Popen(['sleep', '600'])
        print(os.getpid(), child.pid, flush=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(600)
        """,
    )
    lines = [running.stdout.readline() for _ in range(2)]
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == 128 + number
    pids = [int(word) for line in lines for word in line.split()[1:]]
    assert len(pids) == 4
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def test_a_client_that_is_stopped_is_not_waited_for_when_another_has_failed(tmp_path):
    done = launch(
        tmp_path,
        """
        if client:
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(2)
        sys.exit(3)
        """,
    )
    out, _ = done.communicate(timeout=30)  # Sooner than a client that runs is ended.
    assert done.returncode == 3
    assert not is_running(int(out.removeprefix("[1] ")))


def test_without_a_program_it_says_how_it_is_used():
    done = subprocess.run(
        [sys.executable, "-m", "keras_soap.launch", "--num_clients=2"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "Name a program" in done.stdout + done.stderr
