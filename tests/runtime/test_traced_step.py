"""A step that really runs is told apart by task, and written beside the simulated one."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_soap import SoapStrategy
from keras_soap.errors import ExecutionError
from keras_soap.runtime.profiled_step import STEPS_BEFORE, StepProfiler
from keras_soap.tasks.task_graph import TaskKind
from tests.runtime.strategies import NAMED
from tests.runtime.subjects import SUBJECTS, lowering


def train(path, subject="images", strategy="A and P", steps=STEPS_BEFORE + 2):
    model = SUBJECTS[subject].model("adam")
    x, y, _ = SUBJECTS[subject].samples()
    x, y = (np.concatenate([a, a])[: steps * 8] for a in (x, y))
    chosen = NAMED[strategy](lowering(subject))
    soap = SoapStrategy(strategy=chosen, trace_out=path, verbose=0)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[soap])
    return soap


def test_every_task_that_computes_or_moves_is_seen_to_run(tmp_path):
    soap = train(tmp_path / "trace.json")
    rows = {row.name: row for row in soap.plan.breakdown(soap.ran)}
    unseen = {
        name for name, row in rows.items() if name and row.predicted_ns and not row.measured_ns
    }
    # What moves as a whole is sent and received, by no operation of its own.
    moved_whole = {TaskKind.TRANSFER, TaskKind.GRADIENT_TRANSFER}
    assert {name for name in unseen if name.kind not in moved_whole} == set()
    kinds = {name.kind for name, row in rows.items() if name and row.measured_ns}
    assert {TaskKind.FORWARD, TaskKind.BACKWARD, TaskKind.UPDATE, TaskKind.REPORT} <= kinds
    assert {TaskKind.TRANSFER, TaskKind.GRADIENT_TRANSFER, TaskKind.ALL_REDUCE} <= kinds
    # The next batch is fed meanwhile, moving averages are stored, devices meet at the end.
    stray = {
        operation.name.split("/")[0]
        for span in soap.ran.spans()
        if not span.scope
        for operation in span.operations
    }
    operators = {operator.name for operator in soap.costs.lowering.graph.operators}
    assert "feed" in stray
    assert not stray & (operators | {"gradient_tape", "adam"})


def test_the_file_has_the_simulated_and_the_real_step(tmp_path):
    train(tmp_path / "trace.json", "texts", "S and P")
    content = json.loads((tmp_path / "trace.json").read_text("utf-8"))
    assert content["otherData"]["source"] == "simulated and measured"
    titles = {
        event["args"]["name"] for event in content["traceEvents"] if event["name"] == "process_name"
    }
    assert {title.rpartition(" ")[2] for title in titles} == {"(simulated)", "(measured)"}
    for pid in (1, 3):
        names = {e["name"] for e in content["traceEvents"] if e["ph"] == "X" and e["pid"] == pid}
        assert {"inner forward", "inner backward"} <= names


def test_training_that_is_too_short_says_so(tmp_path, caplog):
    soap = train(tmp_path / "trace.json", steps=2)
    assert soap.ran is None
    assert "training ended after 2 steps, and it is of step 6" in caplog.text
    assert not (tmp_path / "trace.json").exists()


def test_another_profiler_is_named(tmp_path):
    tf.profiler.experimental.start(str(tmp_path))
    try:
        with pytest.raises(ExecutionError, match="profiler is at work already"):
            StepProfiler().start()
    finally:
        tf.profiler.experimental.stop()


def test_a_trace_is_of_one_training(tmp_path):
    soap = train(tmp_path / "trace.json")
    first = soap.ran
    keras.utils.set_random_seed(0)
    x, y, _ = SUBJECTS["images"].samples()
    soap.model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[soap])
    assert soap.ran is not first
