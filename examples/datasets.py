"""Data for the benchmarks: random, or real and at hand without a download.

Every function takes the sizes of a network and a random generator, and gives a pool of samples, as
arrays, to draw batches from: inputs, targets and, for sentences of different lengths, weights of
the targets.

| data | from |
|---|---|
| `digits` | 1,797 handwritten digits that ship with scikit-learn |
| `photos` | crops of the two photographs that ship with scikit-learn: which one is it? |
| `topics` | the topics of Python's own manual, `pydoc_data` |
| `messages` | English messages and their German translations, which ship with Django |
"""

import collections
import gettext
import importlib.resources
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PADDING, OTHER, START = range(3)
"""Numbers of words that are none; those of words follow."""

NUM_CROPS = 512


def random_images(sizes: Any, rng: np.random.Generator):
    """A batch of noise in random classes, to be learnt by heart."""
    shape = (sizes.batch_size, sizes.image_size, sizes.image_size, 3)
    images = rng.normal(size=shape).astype("float32")
    return images, rng.integers(0, sizes.classes, sizes.batch_size).astype("int32")


def digits(sizes: Any, rng: np.random.Generator):
    """Digits, enlarged."""
    from sklearn.datasets import load_digits

    _expect_classes("digits", 10, sizes.classes)
    found = load_digits()
    position = np.arange(sizes.image_size) * 8 // sizes.image_size
    images = found.images[:, position][:, :, position, None] / 8.0 - 1.0
    return np.repeat(images, 3, axis=-1).astype("float32"), found.target.astype("int32")


def photos(sizes: Any, rng: np.random.Generator):
    """Crops, anywhere in the two photographs, and which photograph it is."""
    import tensorflow as tf

    folder = importlib.resources.files("sklearn.datasets.images")
    files = [folder / name for name in ("china.jpg", "flower.jpg")]
    pictures = [tf.io.decode_jpeg(file.read_bytes()).numpy() for file in files]
    size = sizes.image_size
    _expect_classes("photos", len(pictures), sizes.classes)
    height, width, _ = pictures[0].shape
    if size > min(height, width):
        raise ValueError(
            f"Photographs of {width}×{height} pixels have no crops of {size}×{size}. "
            "Use a smaller --image_size."
        )
    labels = rng.integers(0, len(pictures), NUM_CROPS)
    crops = []
    for label in labels:
        top, left = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
        crops.append(pictures[label][top : top + size, left : left + size])
    return np.stack(crops).astype("float32") / 127.5 - 1.0, labels.astype("int32")


def random_sentences(sizes: Any, rng: np.random.Generator):
    """A batch of random words, and what follows each of them, to be learnt by heart."""
    words = _random_words(sizes, rng, sizes.length + 1)
    return words[:, :-1], words[:, 1:]


def random_labels(sizes: Any, rng: np.random.Generator):
    """A batch of random sentences in random classes, to be learnt by heart."""
    labels = rng.integers(0, sizes.classes, sizes.batch_size).astype("int32")
    return _random_words(sizes, rng, sizes.length), labels


def random_messages(sizes: Any, rng: np.random.Generator):
    """A batch of random sentences and their random translations, to be learnt by heart."""
    source, target = (_random_words(sizes, rng, sizes.length) for _ in range(2))
    return (source, _shifted(target)), target, np.ones(target.shape, "float32")


def topic_sentences(sizes: Any, rng: np.random.Generator):
    """Stretches of words of the manual, and the words that follow each of them."""
    words = _numbers([word for text in _topics() for word in text], sizes.vocabulary)
    starts = np.arange(0, len(words) - sizes.length - 1, max(sizes.length // 2, 1))
    windows = words[starts[:, None] + np.arange(sizes.length + 1)]
    return windows[:, :-1], windows[:, 1:]


def topic_labels(sizes: Any, rng: np.random.Generator):
    """Stretches of words of the longest topics, and which topic each is of."""
    texts = sorted(_topics(), key=len, reverse=True)[: sizes.classes]
    _expect_classes("topics", len(texts), sizes.classes)
    words = _numbers([word for text in texts for word in text], sizes.vocabulary)
    samples, labels, start = [], [], 0
    for label, text in enumerate(texts):
        stretches = len(text) // sizes.length
        own = words[start : start + stretches * sizes.length]
        samples.append(own.reshape(stretches, sizes.length))
        labels += [label] * stretches
        start += len(text)
    return np.concatenate(samples), np.array(labels, "int32")


def messages(sizes: Any, rng: np.random.Generator):
    """Messages, what has been translated of them so far, the next words, and which count."""
    pairs = _catalogue("de")
    sources = _sentences([source for source, _ in pairs], sizes)
    targets = _sentences([target for _, target in pairs], sizes)
    return (sources, _shifted(targets)), targets, (targets != PADDING).astype("float32")


IMAGES = {"synthetic": random_images, "digits": digits, "photos": photos}
"""Data for networks that tell what is in an image."""


def _random_words(sizes: Any, rng: np.random.Generator, length: int) -> np.ndarray:
    shape = (sizes.batch_size, length)
    return rng.integers(START + 1, sizes.vocabulary, shape).astype("int32")


def _shifted(sentences: np.ndarray) -> np.ndarray:
    """What comes before each word."""
    return np.pad(sentences, ((0, 0), (1, 0)), constant_values=START)[:, :-1]


def _topics() -> list[list[str]]:
    from pydoc_data.topics import topics

    return [_words(text) for _, text in sorted(topics.items())]


def _catalogue(language: str) -> list[tuple[str, str]]:
    """Messages in English and in another language, each once, that fill no form."""
    found = importlib.util.find_spec("django")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            "--data=messages reads the translations that ship with Django, which is not "
            "installed. Run `pip install django`, or use --data=synthetic."
        )
    pairs: dict[str, str] = {}
    root = Path(found.submodule_search_locations[0])
    for path in sorted(root.glob(f"**/locale/{language}/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)._catalog
        for key, translation in catalogue.items():
            source = (key if isinstance(key, str) else key[0]).split("\x04")[-1]
            if source:
                pairs[source] = translation
    return list(pairs.items())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _numbers(words: Sequence[str], vocabulary: int) -> np.ndarray:
    return _numbering(words, vocabulary)(words)


def _numbering(words: Iterable[str], vocabulary: int):
    """What numbers words: the most frequent ones apart, all others alike."""
    most = collections.Counter(words).most_common(vocabulary - START - 1)
    known = {word: number for number, (word, _) in enumerate(most, START + 1)}
    return lambda sequence: np.array([known.get(word, OTHER) for word in sequence], "int32")


def _sentences(texts: Sequence[str], sizes: Any) -> np.ndarray:
    """(texts, length): the first words of each text, and padding."""
    split = [_words(text) for text in texts]
    numbers = _numbering([word for words in split for word in words], sizes.vocabulary)
    result = np.full((len(texts), sizes.length), PADDING, "int32")
    for row, words in zip(result, split, strict=True):
        row[: len(words)] = numbers(words[: sizes.length])
    return result


def _expect_classes(data: str, expected: int, classes: int) -> None:
    if classes != expected:
        raise ValueError(
            f"--data={data} has {expected} classes, not {classes}. Use --classes={expected}."
        )
