"""Measured times on disk."""

import subprocess
import sys

import pytest

from keras_soap.costs.cache import CostCache, default_folder
from keras_soap.costs.cost_table import PartTime

HERE = {"tensorflow": "2.21.0", "hardware": "a machine"}


def test_times_come_back_in_their_environment_only(tmp_path):
    CostCache(HERE, tmp_path).add("a part", PartTime(1, 2, 0.5, 7, 3))
    assert CostCache(HERE, tmp_path).get("a part") == PartTime(1, 2, 0.5, 7, 3)
    assert CostCache(HERE, tmp_path).get("another") is None
    assert len(CostCache({**HERE, "tensorflow": "2.22.0"}, tmp_path)) == 0


def test_writers_keep_what_others_wrote(tmp_path):
    first, second = CostCache(HERE, tmp_path), CostCache(HERE, tmp_path)
    first.add("a", PartTime(1, 1))
    second.add("b", PartTime(2, 2))
    assert second.get("a") == PartTime(1, 1)
    assert len(CostCache(HERE, tmp_path)) == 2


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    program = (
        "import sys; from keras_soap.costs.cache import CostCache; "
        "from keras_soap.costs.cost_table import PartTime; "
        f"cache = CostCache({HERE!r}, sys.argv[1]); "
        "[cache.add(sys.argv[2] + str(n), PartTime(n, n)) for n in range(40)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(CostCache(HERE, tmp_path)) == 120
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".lock"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"entries": {"a": 1}}'])
def test_what_is_not_a_cache_is_replaced_with_a_warning(tmp_path, text, caplog):
    path = CostCache(HERE, tmp_path).path
    path.write_text(text)
    cache = CostCache(HERE, tmp_path)
    assert f"{path} is not a file of measured times" in caplog.text
    cache.add("a", PartTime(1, 1))
    assert CostCache(HERE, tmp_path).get("a") == PartTime(1, 1)


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = CostCache(HERE, tmp_path / "file" / "folder")
    cache.add("a", PartTime(1, 1))
    assert cache.get("a") == PartTime(1, 1)


@pytest.mark.parametrize("base", ["", "relative"])
def test_the_folder_is_the_users_cache(monkeypatch, tmp_path, base):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert default_folder() == tmp_path / ".cache/keras_soap/costs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x/keras_soap/costs"
