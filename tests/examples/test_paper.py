"""The paper's evaluation: its rows, its file, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest
from absl import app
from absl.testing import flagsaver

from keras_soap.graph.zoo import PAPER, rnntc
from keras_soap.search.result import StopReason
from keras_soap.strategy.baselines import BASELINES
from tests.examples.programs import loaded


@pytest.fixture(scope="module")
def programs():
    with loaded("paper", "paper_records", "paper_tables") as modules:
        yield modules


@pytest.fixture
def run(programs, monkeypatch, capsys):
    """Runs the program on a small network that stands for RNNTC."""
    small = {**PAPER, "rnntc": lambda **sizes: rnntc(16, 4, 2, 32, 100, 2)}
    monkeypatch.setattr(programs["paper"], "PAPER", small)

    def run(**values):
        defaults = {"num_devices": ["2"], "models": ["rnntc"], "num_proposals": 50, "num_cores": 1}
        with flagsaver.flagsaver(**defaults | values):
            programs["paper"].main(["paper.py"])
        return capsys.readouterr()

    return run


def test_every_row_is_there_and_the_search_is_not_behind_the_baselines(run, tmp_path):
    path, table = tmp_path / "f.json", tmp_path / "f.csv"
    page = tmp_path / "f.md"
    files = {"json_out": str(path), "csv_out": str(table), "markdown_out": str(page)}
    out = run(num_devices=["1", "2"], **files).out
    record = json.loads(path.read_text())["rnntc"]
    rows = set(record["iteration_time_ms"])
    assert rows >= {"soap", "data_parallel", "model_parallel", "expert", "optcnn", "reinforce"}
    times = record["iteration_time_ms"]
    assert times["soap"] <= min(times[name] for name in BASELINES)
    assert set(record["communication_bytes"]) == rows
    assert record["search_seconds"] > 0
    assert (record["time_source"], record["cost_source"]) == ("simulated", "analytic")
    assert (record["num_devices"], list(record["by_num_devices"])) == (2, ["1", "2"])
    assert "rnntc, batch size 16, 2 devices of p100: simulated steps, analytic costs" in out
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert len(lines) == 2 * len(rows)
    assert {line["row"] for line in lines} == rows
    header, _, one, two = [line.strip("| \n").split(" | ") for line in page.open()]
    assert len(header) == len(one) == len(two)
    cells = dict(zip(header, two, strict=True))
    assert cells["`soap`"] == f"{times['soap']:,.1f}"
    usual = min(("data_parallel", "expert"), key=times.__getitem__)
    assert cells["best usual / `soap`"] == f"{times[usual] / times['soap']:.2f}×"


def test_rows_that_are_there_are_kept_unless_they_were_made_otherwise(run, tmp_path, programs):
    path = str(tmp_path / "f.json")
    rows = {"rows": ["soap", "data_parallel", "optcnn"], "json_out": path}
    run(**rows)
    before = json.loads(Path(path).read_text())
    assert run(**rows).err == ""
    assert json.loads(Path(path).read_text()) == before
    assert [line.rpartition(" ")[2] for line in run(**rows, seed=1).err.splitlines()] == [
        "soap",
        "optcnn",
    ]
    assert run(**{**rows, "rows": ["soap", "reinforce"]}, seed=1).err.split()[-1] == "reinforce"


def test_the_outcome_of_a_number_of_proposals_depends_on_the_seed_alone(run, tmp_path):
    found = []
    for name in ("a", "b"):
        path = tmp_path / name
        run(json_out=str(path), rows=["soap", "reinforce"])
        found.append(json.loads(path.read_text())["rnntc"]["iteration_time_ms"])
    assert found[0] == found[1]


def test_what_was_found_before_an_interruption_is_kept(run, tmp_path, programs, monkeypatch):
    path = tmp_path / "f.json"
    find = programs["paper"].find

    def interrupted(task, graph, topology):
        result = find(task, graph, topology)
        if task.row == "optcnn":
            object.__setattr__(result, "stopped_by", StopReason.INTERRUPTED)
        return result

    monkeypatch.setattr(programs["paper"], "find", interrupted)
    rows = ["data_parallel", "optcnn", "expert"]
    with pytest.raises(SystemExit, match="goes on from here"):
        run(json_out=str(path), rows=rows)
    assert list(json.loads(path.read_text())["rnntc"]["iteration_time_ms"]) == ["data_parallel"]
    monkeypatch.setattr(programs["paper"], "find", find)
    run(json_out=str(path), rows=rows)
    assert list(json.loads(path.read_text())["rnntc"]["iteration_time_ms"]) == rows


def test_the_ablation_searches_with_fewer_letters(run, tmp_path):
    path = tmp_path / "f.json"
    run(json_out=str(path), rows=["soap"], ablation=True)
    times = json.loads(path.read_text())["rnntc"]["iteration_time_ms"]
    assert set(times) == {"soap", *(f"soap_{dims}" for dims in "S SO SA SP SAP SOA SOP".split())}  # noqa: SIM905


def test_plots_are_written(run, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    run(rows=["soap", "expert"], num_devices=["1", "2"], plot_out=str(path))
    assert "<svg" in path.read_text()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"models": ["lenet"]}, "--models has 'lenet'; use some of alexnet"),
        ({"rows": ["best"]}, "--rows has 'best'"),
        ({"rows": []}, "--rows is empty"),
        ({"num_devices": ["-4"]}, "--num_devices has '-4'"),
        ({"num_devices": ["many"]}, "--num_devices has 'many'"),
        ({"plot_out": "plot.gif"}, "must end in .png or .svg"),
    ],
)
def test_flags_that_make_no_sense_are_refused(run, values, reason):
    with pytest.raises(app.UsageError, match=reason):
        run(**values)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("[1]", "is not a file of this program"), ("{", "is not a file of this program")],
)
def test_another_file_is_left_alone(run, tmp_path, content, reason):
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match=reason):
        run(json_out=str(path))
    assert path.read_text() == content


def test_a_file_of_another_cluster_is_refused(run, tmp_path):
    path = str(tmp_path / "f.json")
    run(json_out=path, rows=["expert"])
    with pytest.raises(SystemExit, match="is of cluster 'p100', not 'k80'"):
        run(json_out=path, rows=["expert"], cluster="k80")
