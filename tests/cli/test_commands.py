"""The commands, as a user types them."""

import json
import subprocess
import sys

import pytest

from keras_soap.cli.main import COMMANDS, main
from keras_soap.costs import proto_io as cost_io
from keras_soap.costs.cost_table import CostTable
from keras_soap.costs.roofline import Roofline
from keras_soap.graph import proto_io as graph_io
from keras_soap.strategy import proto_io as strategy_io
from keras_soap.strategy.baselines import BASELINES
from tests.search.toys import chain, problem


@pytest.fixture
def graph_file(tmp_path):
    path = tmp_path / "toy.textproto"
    graph_io.save(path, chain())
    return path


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def problem_flags(graph_file, topology="p100:4", batch_size=32):
    return [f"--model={graph_file}", f"--topology={topology}", f"--batch_size={batch_size}"]


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out
    assert run()[0] == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"usage: keras-soap {command}" in out
    assert "None" not in out


def test_show_knows_all_protos(run, tmp_path, graph_file):
    of = problem()
    strategy_io.save(
        tmp_path / "s.pb",
        of.baselines["expert"].strategy,
        of.graph,
        of.lowering.dimensions,
        of.topology,
    )
    cost_io.save(tmp_path / "c.textproto", Roofline())
    graph_io.save(tmp_path / "g.pb", chain())
    for name, start in {
        "s.pb": "Strategy for model toy",
        "c.textproto": "Cost profile for any device",
        "g.pb": "Model toy",
        graph_file: "Model toy",
    }.items():
        code, out, _ = run("show", tmp_path / name)
        assert (code, out[: len(start)]) == (0, start)
    assert run("show", "p100:3")[1].startswith("Topology p100:3: 3 devices")


def test_show_reads_text_without_a_header(run, tmp_path):
    cost_io.save(tmp_path / "c.textproto", Roofline())
    text = (tmp_path / "c.textproto").read_text()
    (tmp_path / "c.textproto").write_text(text[text.index("schema_version") :])
    assert run("show", tmp_path / "c.textproto")[1].startswith("Cost profile")


def test_simulate_puts_a_strategy_beside_the_baselines(run, tmp_path, graph_file):
    files = {name: tmp_path / name for name in ("f.json", "t.json", "r.html", "s.textproto")}
    code, out, _ = run(
        "simulate",
        *problem_flags(graph_file),
        "--strategy=expert",
        f"--json_out={files['f.json']}",
        f"--trace_out={files['t.json']}",
        f"--report_out={files['r.html']}",
        f"--export_strategy={files['s.textproto']}",
    )
    assert code == 0
    assert all(path.exists() and f"{path}\n" in out for path in files.values())
    figures = json.loads(files["f.json"].read_text())
    assert figures["topology"] == "p100:4"
    assert (figures["num_devices"], figures["num_operators"]) == (4, 5)
    assert (figures["time_source"], figures["cost_source"]) == ("simulated", "analytic")
    assert next(iter(figures["iteration_time_ms"])) == "expert"
    assert set(figures["iteration_time_ms"]) == set(BASELINES)
    again = tmp_path / "again.json"
    code, *_ = run(
        "simulate",
        *problem_flags(graph_file),
        f"--strategy={files['s.textproto']}",
        f"--json_out={again}",
    )
    assert code == 0
    times = json.loads(again.read_text())["iteration_time_ms"]
    assert times["strategy"] == figures["iteration_time_ms"]["expert"]


def test_search_is_no_worse_than_the_baselines_and_leaves_its_strategy(run, tmp_path, graph_file):
    strategy, figures = tmp_path / "s.textproto", tmp_path / "f.json"
    arguments = [
        "search",
        *problem_flags(graph_file),
        "--search_budget=50",
        "--noprogress",
        f"--export_strategy={strategy}",
        f"--json_out={figures}",
    ]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "strategies" in out
    found = json.loads(figures.read_text())
    times = found["iteration_time_ms"]
    assert times["soap"] == min(times.values())
    assert {"proposals", "proposals_per_second", "search_seconds", "stopped_by"} <= set(found)
    assert strategy_io.read(strategy).figures.step_time_ns == round(times["soap"] * 1e6)
    code, *_ = run(*arguments, f"--import_strategy={strategy}")
    assert code == 0
    assert json.loads(figures.read_text())["iteration_time_ms"]["soap"] <= times["soap"]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["serch"], 2, "no command 'serch'. Use one of: search, simulate, profile, show."),
        (["show"], 2, "show takes one file, not 0."),
        (["show", "missing.pb"], 1, "missing.pb: No such file or directory."),
        (["show", "p10"], 1, "no topology 'p10'. Did you mean 'p100'?"),
        (["search", "--batch_size=8"], 2, "--model"),
        (["search", "--model=G", "--batch_size=-1"], 2, "-1 is not a positive integer"),
        (["search", "--model=G", "--batch=1"], 2, "Unknown command line flag 'batch'"),
        (["search", "--model=G", "--batch_size=32", "--dims=SX"], 2, "--dims=SX must be letters"),
        (["search", "--model=G", "--batch_size=32", "--mode=x"], 2, "training|inference"),
        (["simulate", "--model=G", "--batch_size=32", "extra"], 2, "'extra' that belongs to no"),
        (
            ["simulate", "--model=nmt", "--batch_size=8", "--time_chunk=7"],
            1,
            "40 steps into blocks",
        ),
        (["simulate", "--model=nmt", "--batch_size=8", "--time_chunk=0"], 2, "positive integer"),
        (["search", "--model=G", "--batch_size=32", "--time_chunk=2"], 1, "operator graph already"),
        (["search", "--model=G", "--batch_size=32", "--search_budget_s=-1"], 2, "non-negative"),
        (["search", "--model=G", "--batch_size=32", "--search_budget=-1"], 2, "non-negative"),
        (["simulate", "--model=G", "--batch_size=8"], 1, "for batch size 32, not 8"),
        (["simulate", "--model=G", "--batch_size=32", "--strategy=x"], 1, "Cannot read x: No such"),
        (["simulate", "--model=os:nope", "--batch_size=8"], 1, "'os' has no function 'nope'"),
        (["simulate", "--model=no_such:f", "--batch_size=8"], 1, "Cannot import 'no_such'"),
        (["simulate", "--model=os:getcwd", "--batch_size=8"], 1, "is a str. Return a Keras model"),
        (["simulate", "--model=G", "--batch_size=32", "--profile=P"], 1, "devices of model 'T4'"),
    ],
)
def test_mistakes_are_one_line_on_stderr(run, tmp_path, graph_file, arguments, code, reason):
    cost_io.save(tmp_path / "t4.textproto", CostTable("T4"))
    arguments = [
        argument.replace("=G", f"={graph_file}").replace("=P", f"={tmp_path / 't4.textproto'}")
        for argument in arguments
    ]
    if arguments[0] in ("search", "simulate"):
        arguments.append("--topology=p100:2")
    found, out, err = run(*arguments)
    assert reason in err
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("keras-soap: ")


def test_inference_is_searched_by_the_latency_of_a_forward_step(run, tmp_path):
    times = {}
    for mode in ("training", "inference"):
        path = tmp_path / f"{mode}.json"
        flags = ["--model=lenet", "--topology=p100:2", "--batch_size=64", f"--mode={mode}"]
        code, out, err = run(
            "search", *flags, "--search_budget=200", "--noprogress", f"--json_out={path}"
        )
        assert (code, err) == (0, "")
        assert f"One {mode} step" in out
        figures = json.loads(path.read_text())
        assert figures["mode"] == mode
        times[mode] = figures["iteration_time_ms"]
    assert all(times["inference"][row] < times["training"][row] / 2 for row in times["training"])


def test_a_strategy_for_another_machine_is_refused(run, tmp_path, graph_file):
    path = tmp_path / "s.textproto"
    run("simulate", *problem_flags(graph_file), f"--export_strategy={path}")
    code, _, err = run("simulate", *problem_flags(graph_file, "dgx_a100:4"), f"--strategy={path}")
    assert code == 1
    assert "its device 0 is 'node0/GPU:0', but that of topology 'dgx_a100:4' is 'GPU:0'" in err


def test_planning_an_operator_graph_does_not_import_tensorflow(graph_file):
    program = (
        "import sys; from keras_soap.cli.main import main; "
        f"main(['simulate', *{problem_flags(graph_file)!r}]); main(['show', 'k80']); "
        "sys.exit(', '.join({'keras', 'tensorflow'} & set(sys.modules)) or None)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
