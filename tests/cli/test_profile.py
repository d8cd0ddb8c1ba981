"""`keras-soap profile`, and its files as `search` and `simulate` take them."""

import re
import textwrap

import pytest
import tensorflow as tf  # noqa: F401  # so that conftest makes devices

from keras_soap.cli.main import main
from keras_soap.costs import measure, measure_parts
from keras_soap.costs import proto_io as cost_io
from keras_soap.runtime import measured_topology
from keras_soap.topology import proto_io as topology_io

MODELS = """
    import keras
    from keras import layers

    def small():
        stack = [layers.Dense(6, "relu"), layers.Dense(4, "softmax")]
        return keras.Sequential([keras.Input((8,)), *stack])

    def wide():
        return keras.Sequential([keras.Input((8,)), layers.Dense(64)])

    def graph(batch_size):
        from keras_soap.capture.planning import capture_for_planning
        return capture_for_planning(small(), batch_size, True)
"""


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    (tmp_path / "models_to_profile.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "UPDATE_BYTES", (1024, 4096))
    monkeypatch.setattr(measure_parts, "NUM_COPIES", 2)
    monkeypatch.setattr(measured_topology, "COPY_BYTES", (4096, 2**20))

    def run(command, *arguments, model="small", batch_size=4):
        named = [f"--model=models_to_profile:{model}", f"--batch_size={batch_size}"]
        code = main([command, *named, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


PROFILE = ("profile", "--profile_out=p.pb", "--dims=S", "--part_seconds=0.01", "--noprogress")


def test_a_profile_is_measured_once_and_planned_with(run, tmp_path):
    code, out, err = run(*PROFILE, "--topology_out=t.textproto")
    assert code == 0, err
    table = cost_io.load("p.pb")
    count = len(table.entries)
    # Some are measured in two ways, to tell how many cores a task uses.
    found = re.search(r"(\d+) times; (\d+) were measured now", out)
    assert found
    assert int(found[1]) == count <= int(found[2])
    assert list((tmp_path / "cache/keras_soap/costs").glob("*.json"))
    topology = topology_io.load("t.textproto")
    assert "measured by keras_soap" in topology.source
    assert "all_reduce" in out

    code, out, err = run(*PROFILE, "--topology_out=again.textproto")
    assert code == 0
    assert topology_io.load("again.textproto") == topology
    assert f"{count} times; 0 were measured now" in out
    assert cost_io.load("p.pb").entries == table.entries

    planned = ("--topology=t.textproto", "--profile=p.pb")
    code, out, err = run("simulate", *planned)
    assert (code, err) == (0, "")
    assert "simulated from measured costs" in out


def test_a_profile_of_something_else_is_used_with_a_warning(run):
    assert run(*PROFILE)[0] == 0
    code, _, err = run("simulate", "--topology=local", "--profile=p.pb", model="wide")
    assert code == 0
    assert "warning: --profile=p.pb has no times of" in err
    message = cost_io.to_proto(cost_io.load("p.pb"))
    message.versions["tensorflow"] = "1.15.0"
    cost_io.save("old.pb", cost_io.from_proto(message))
    code, _, err = run("simulate", "--topology=local", "--profile=old.pb")
    assert code == 0
    # Whether cores of a task differ as well depends on how many a part kept busy.
    assert re.search(r"warning: --profile=old\.pb was made elsewhere: .*tensorflow '1\.15\.0'", err)


@pytest.mark.parametrize(
    ("arguments", "model", "code", "reason"),
    [
        ((), "small", 2, "Nothing would be written. Give --profile_out"),
        (("--profile_out=p.pb", "--dims=O"), "small", 2, "--dims=O must be letters of SAP"),
        (("--profile_out=p.pb", "--num_devices=7"), "small", 1, "there cannot be 7 any more"),
        (("--profile_out=p.pb", "--time_chunk=2"), "small", 1, "cuts recurrent layers, and"),
        (("--profile_out=p.pb", "--time_chunk=0"), "small", 2, "positive integer"),
        (("--profile_out=p.pb",), "graph", 1, "is an operator graph, with no layers to run"),
    ],
)
def test_mistakes_are_one_line(run, arguments, model, code, reason):
    found, out, err = run("profile", *arguments, model=model)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert reason in err
