import subprocess
import sys

import pytest

import keras_soap


def test_the_public_names_are_these():
    assert keras_soap.__all__ == [
        "SoapStrategy",
        "find_strategy",
        "join_cluster",
        "simulate",
        "use_logical_cpus",
    ]
    for name in keras_soap.__all__:
        assert getattr(keras_soap, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'soap_strategy'"):
        keras_soap.soap_strategy  # noqa: B018


def test_importing_the_package_imports_neither_tensorflow_nor_numba():
    code = (
        "import sys, keras_soap; "
        "print([name for name in ('tensorflow', 'keras', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
