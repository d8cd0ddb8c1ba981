"""`equality.py` compares what it has started, and fails where losses differ."""

import json
import subprocess
import sys

import pytest
from absl import flags

from tests.examples.programs import FOLDER, loaded


def test_an_operation_split_across_hosts_trains_as_keras_and_one_process_do(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *[sys.executable, str(FOLDER / "equality.py"), "--networks=rnnlm", "--hosts=1x4,2x2"],
            *["--strategies=parameters across hosts", "--num_steps=2", f"--json_out={figures}"],
        ],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    found = json.loads(figures.read_text())
    plain = found["keras"]["rnnlm"]["keras"]
    assert len(set(plain)) == 2, "nothing was trained"
    for hosts in ("1x4", "2x2"):
        assert found[hosts]["rnnlm"]["parameters across hosts"] == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([[2.0, 1.0], [2.0, 1.0]], None),
        ([[2.0, 1.0001], [2.0, 1.0001]], 1),
        ([[2.0, 1.0], [2.0, 1.0000001]], "2x2: losses differ between clients."),
    ],
)
def test_it_fails_where_losses_differ(monkeypatch, capsys, losses, says):
    def start(hosts):
        if hosts == "2x2":
            return [{"digits": {"expert": of_client}} for of_client in losses]
        return [{"digits": {"keras" if hosts == "keras" else "expert": [2.0, 1.0]}}]

    with loaded("equality") as modules:
        equality = modules["equality"]
        monkeypatch.setattr(equality, "start", start)
        flags.FLAGS.networks, flags.FLAGS.hosts = ["digits"], ["1x4", "2x2"]
        if says is None:
            equality.main(["equality.py"])
            assert "passed" in capsys.readouterr().out
        else:
            with pytest.raises(SystemExit) as stop:
                equality.main(["equality.py"])
            assert stop.value.code == says
