"""Programs that go through architectures find nothing that differs, or that cannot be captured."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app, flags

from tests.examples.programs import loaded

ROOT = Path(__file__).parents[2]


def run(program, *arguments):
    path = ROOT / "examples" / "benchmarks" / program
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_small_models_train_under_random_strategies_as_on_one_device():
    models = ["convnet", "siamese", "structured_data", "deep_and_cross", "memory_network"]
    models.append("bidirectional")
    done = run("conformance.py", f"--model={','.join(models)}", "--num_strategies=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(models)} models, 1 strategies each: all passed." in done.stdout


@pytest.fixture
def conform(capsys):
    """Runs `conformance.py` on one strategy in this process; gives its exit code and its output."""
    # As in a process of its own: Keras derives the policy from floatx once.
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")

    def run(*arguments):
        with loaded("conformance") as modules:
            flags.FLAGS(["conformance.py", "--num_strategies=1", *arguments])
            try:
                code = modules["conformance"].main(["conformance.py"])
            except SystemExit as end:
                code = end.code
        return code, capsys.readouterr().out

    yield run
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def test_a_difference_ends_the_program_with_the_names_of_the_models(conform):
    code, out = conform("--model=categories", "--tolerance=0")
    assert code == 1
    assert "Failed: categories." in out


@pytest.mark.parametrize(
    ("loss", "weight", "difference", "of"),
    [
        (2.0, 1.001, 0.0, "loss of step 0"),
        (2.2, 1.001, 0.1, "loss of step 0"),
        (2.0, 1.00101, 0.01, "dense/kernel"),  # Of 0.001, not of 1.001.
        (math.nan, 1.001, None, "loss of step 0 is not a number"),
        (2.0, math.inf, None, "dense/kernel is not a number"),
    ],
)
def test_weights_are_compared_by_how_they_changed(loss, weight, difference, of):
    with loaded("conformance") as modules:
        conformance = modules["conformance"]

        def training(loss, weight):
            start, end = np.ones(3), np.array([1.0, weight, 1.0])
            return conformance.Training(
                [{"loss": loss}], [("dense/kernel", start)], [("dense/kernel", end)]
            )

        found = conformance.compare(training(2.0, 1.001), training(loss, weight))
    assert found.of == of
    assert found.difference == (None if difference is None else pytest.approx(difference))
    assert found.passes(1e-4) == (difference == 0)


def test_weights_in_float32_may_differ_by_their_last_digit_and_no_more():
    with loaded("conformance") as modules:
        conformance = modules["conformance"]

        def passes(digits):
            start, one, other = np.ones((3, 1), "float32")
            one = one + np.float32(1e-5)
            other = one + digits * np.spacing(one)
            trainings = [
                conformance.Training([{"loss": 1.0}], [("gamma", start)], [("gamma", end)])
                for end in (one, other)
            ]
            return conformance.compare(*trainings).passes(1e-4)

        assert passes(1)
        assert not passes(2)


def test_what_has_passed_before_is_not_trained_again(conform, tmp_path):
    json_out = f"--json_out={tmp_path / 'results.json'}"
    page = tmp_path / "table.md"
    code, out = conform("--model=categories", json_out)
    assert code is None
    assert "strategy 0:" in out
    code, out = conform("--model=categories,cate-gories", json_out, f"--markdown_out={page}")
    assert code is None
    assert "categories (1 of 1): has passed before" in out
    assert "strategy 0:" not in out
    assert re.search(r"`keras_io` \(1 of \d+\) \| categories \de-\d+ \|", page.read_text())
    with pytest.raises(app.UsageError, match="Give --json_out another name"):
        conform("--model=categories", "--num_strategies=2", json_out)


def test_the_table_in_the_readme_is_what_was_found():
    path = ROOT / "examples" / "benchmarks" / "results" / "conformance.json"
    settings = json.loads(path.read_text())["settings"]
    with loaded("conformance_models", "conformance_results") as modules:
        results = modules["conformance_results"].Results.load(path, settings, tolerance=1e-4)
        found = results.markdown(modules["conformance_models"].GROUPS)
    assert found in (path.parents[1] / "README.md").read_text("utf-8")


def test_groups_name_their_models_and_nothing_is_trained_twice():
    with loaded("conformance_models") as modules:
        names_of, groups = modules["conformance_models"].names_of, modules["conformance_models"]
        assert names_of(["keras_io", "Conv-Net"]) == list(groups.GROUPS["keras_io"])
        assert names_of(["applications", "resnet_50", "VGG19"]) == [*groups.APPLICATIONS, "VGG19"]
        with pytest.raises(ValueError, match=r"There is no model 'convnets'.*all, own, keras_io"):
            names_of(["convnets"])


def test_every_family_of_applications_is_in_their_group():
    with loaded("conformance_models") as modules:
        names = modules["conformance_models"].APPLICATIONS
    builders = {key: value for key, value in vars(keras.applications).items() if callable(value)}
    families = {builder.__module__ for builder in builders.values()}
    ours = {builders[name].__module__ for name in names}
    assert families - ours == {"keras.src.applications.vgg19"}  # Of one family with vgg16.


def test_applications_are_captured_and_simulated(tmp_path):
    names = ["MobileNetV3Small", "ConvNeXtTiny"]
    path = tmp_path / "figures.json"
    done = run("applications.py", f"--models={','.join(names)}", f"--json_out={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(path.read_text())["models"]
    assert list(found) == names
    assert not any(figures["num_whole"] for figures in found.values())
