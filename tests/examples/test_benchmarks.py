"""The programs train at their tiny sizes, and refuse what makes no sense."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401  # so that conftest makes devices

from tests.conftest import NUM_DEVICES

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def program(name):
    return importlib.import_module(name)


def train(name, steps=8, **changes):
    training, benchmark = program("training"), program(name).BENCHMARK
    fields = {field.name for field in dataclasses.fields(training.Options)}
    options = {key: changes.pop(key) for key in fields & changes.keys()}
    defaults = {"steps": steps, "num_devices": NUM_DEVICES, "profile": "analytic", "verbose": False}
    sizes = dataclasses.replace(benchmark.presets["tiny"], **changes)
    return training.train(benchmark, sizes, training.Options(**defaults | options))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("alexnet", {"search_budget_s": 1.0}),
        ("rnntc", {"search_budget_s": 1.0}),
        ("rnnlm", {"data": "topics", "only_data_parallel": True}),
        ("nmt", {"search_budget_s": 1.0, "length": 4, "time_chunk": 2}),
    ],
)
def test_loss_falls_at_tiny_sizes(name, changes):
    losses = train(name, **changes)
    assert len(losses) == 8
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


def test_losses_of_the_transformer_fall_as_those_of_keras_alone(monkeypatch):
    import keras

    import keras_soap

    # Time by time their noise differs, and so do their losses: equal ones are no accident.
    found = train("dit", search_budget_s=0.5, num_layers=1, data="digits")
    assert np.mean(found[-2:]) < np.mean(found[:2])
    alone = keras.callbacks.Callback()
    alone.strategy = None
    monkeypatch.setattr(keras_soap, "SoapStrategy", lambda *args, **kwargs: alone)
    assert train("dit", num_layers=1, data="digits") == pytest.approx(found, rel=1e-4)


def test_a_strategy_is_written_and_used_again(tmp_path):
    path = str(tmp_path / "strategy.textproto")
    small = {"steps": 2, "batch_size": 8}
    before = train("rnntc", search_budget_s=0.5, export_strategy=path, **small)
    assert train("rnntc", import_strategy=path, **small) == pytest.approx(before, rel=1e-4)


def test_paper_sizes_are_those_of_the_paper():
    for name, parameters in {"alexnet": 61e6, "resnet101": 44.6e6, "inception_v3": 23.8e6}.items():
        network = program(name).model()
        assert network.count_params() == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_images_are_at_hand(name):
    sizes = program("resnet101").TINY
    sizes = dataclasses.replace(sizes, classes=2 if name == "photos" else 10)
    images, classes = program("datasets").IMAGES[name](sizes, np.random.default_rng(0))
    assert images.shape == (len(classes), 32, 32, 3)
    assert images.min() >= -1
    assert images.max() <= 1
    assert set(classes) == set(range(sizes.classes))


def test_topics_are_as_many_as_classes_and_words_as_the_vocabulary():
    sizes = program("rnntc").TINY
    words, topics = program("datasets").topic_labels(sizes, np.random.default_rng(0))
    assert words.shape == (len(topics), sizes.length)
    assert words.max() < sizes.vocabulary
    assert set(topics) == set(range(sizes.classes))


def test_what_was_written_is_what_comes_before_each_word():
    pytest.importorskip("django")
    sizes = program("nmt").TINY
    (source, written), following, counts = program("datasets").messages(sizes, None)
    assert len(source) == len(following) > 500
    np.testing.assert_array_equal(written[:, 1:], following[:, :-1])
    assert (counts == (following != 0)).all()


def test_a_missing_catalogue_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install django"):
        program("datasets").messages(program("nmt").TINY, None)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("rnnlm", {"time_chunk": 3}, "time_chunk=3 does not divide the 8 steps .* such as 2"),
        ("nmt", {"units": -1}, "units=-1 must be 1 or more"),
        ("dit", {"patch": 3}, "patch=3 does not divide image_size=8"),
        ("dit", {"units": 36, "num_heads": 8}, "num_heads=8 does not divide units=36"),
        ("inception_v3", {"image_size": 60}, "image_size=60 leaves no pixels"),
        ("alexnet", {"data": "digits", "classes": 4}, "has 10 classes, not 4"),
        ("alexnet", {"data": "photos", "classes": 2, "image_size": 512}, "no crops of 512×512"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(name, changes, reason):
    with pytest.raises(ValueError, match=reason):
        train(name, **changes)


def test_a_bad_flag_ends_the_program_with_the_reason():
    program = [sys.executable, str(EXAMPLES / "rnnlm.py"), "--units=-1"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--units=-1" in done.stderr
