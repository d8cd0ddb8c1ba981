"""What must be equal on all clients before anything is captured."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


def facts() -> dict[str, Any]:
    """By name, what clients compare when they start."""
    return {
        "Python": platform.python_version(),
        "TensorFlow": tf.__version__,
        "Keras": keras.__version__,
        "keras_soap": _code(),
        "keras.config.floatx()": keras.config.floatx(),
        "the image data format": keras.config.image_data_format(),
    }


def _code() -> str:
    """A hash of the source of this package: clients that differ trace different steps."""
    folder = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode())
        digest.update(file.read_bytes())
    return f"code {digest.hexdigest()[:12]}"
