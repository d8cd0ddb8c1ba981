"""Finds rules by kind, and kinds by layer. A new rule is a new file in this package."""

import functools
import importlib
import pkgutil

import keras_soap.operators as package
from keras_soap.errors import CaptureError
from keras_soap.operators.rule import Rule


@functools.cache
def rules() -> dict[str, Rule]:
    """All rules by kind."""
    for module in pkgutil.iter_modules(package.__path__):
        if module.name == "computation":  # imports Keras; holds no rules
            continue
        importlib.import_module(f"{package.__name__}.{module.name}")
    found: dict[str, Rule] = {}
    pending = list(Rule.__subclasses__())
    while pending:
        rule = pending.pop()
        pending += rule.__subclasses__()
        if "kind" not in rule.__dict__:
            continue
        assert rule.kind not in found, f"two rules of kind {rule.kind}"
        found[rule.kind] = rule()
    return found


@functools.cache
def find(kind: str) -> Rule:
    """The rule of a kind of operator."""
    from keras_soap.operators.handed_weights import BLOCK, HANDED, HandedWeights
    from keras_soap.operators.weights import OF_WEIGHTS, OfWeights

    wrappers = {BLOCK: HandedWeights, HANDED: HandedWeights, OF_WEIGHTS: OfWeights}
    try:
        for suffix, wrapper in wrappers.items():
            if kind.endswith(suffix):
                return wrapper(rules()[kind.removesuffix(suffix)])
        return rules()[kind]
    except KeyError:
        raise CaptureError(
            f"No rule for operators of kind {kind!r}. Known kinds: {', '.join(sorted(rules()))}. "
            "Was the graph made by a newer version?"
        ) from None


@functools.cache
def _kinds_by_layer() -> dict[str, str]:
    return {layer: kind for kind, rule in rules().items() for layer in rule.layers}


def kind_of_layer(class_name: str) -> str | None:
    """Kind of the rule that covers a Keras layer or operation, if there is one."""
    return _kinds_by_layer().get(class_name)
