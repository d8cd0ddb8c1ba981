"""Whether a profile fits what it is used for. What does not fit is said, never passed over."""

import json
from collections.abc import Mapping

from keras_soap.costs.cost_profile import CostProfile, CostSource
from keras_soap.costs.cost_table import CostTable, part_keys
from keras_soap.costs.environment import differences
from keras_soap.graph.operator_graph import OperatorGraph
from keras_soap.graph.region import whole
from keras_soap.operators import registry

NUM_NAMED = 3
"""Operators that a reason names; of more it gives the number."""


def misfits(profile: CostProfile, graph: OperatorGraph, here: Mapping[str, str]) -> list[str]:
    """Reasons to doubt a profile; each goes on from its name.

    Args:
        profile: Only tables of measured times can misfit.
        graph: Of the model to plan for.
        here: Of the machine that is planned for, as far as it is known; as in `costs.environment`.
    """
    if not isinstance(profile, CostTable) or profile.source != CostSource.MEASURED:
        return []
    reasons = []
    different = differences(profile.versions, here)
    if different:
        reasons.append(
            f"was made elsewhere: {'; '.join(different)}. Its times may not hold; run keras-soap "
            "profile here for times that do."
        )
    measured, wanted = _dtypes_of(profile), _dtypes(graph)
    if measured and not wanted <= measured:
        reasons.append(
            f"was made of a model in {_listed(measured)}, but this one computes in "
            f"{_listed(wanted)}. What it lacks is estimated by the roofline; profile this model."
        )
    unknown = [
        operator.name
        for operator in graph.operators
        if not registry.find(operator.kind).free
        and part_keys(operator, whole(1, operator.output.shape))[0] not in profile.entries
    ]
    if unknown:
        named = ", ".join(unknown[:NUM_NAMED]) + (", …" if len(unknown) > NUM_NAMED else "")
        reasons.append(
            f"has no times of {len(unknown)} of {len(graph.operators)} operators ({named}), which "
            "are estimated by the roofline. Profile this model with this batch size."
        )
    return reasons


def _dtypes(graph: OperatorGraph) -> set[str]:
    """Floating dtypes that operators make."""
    return {
        spec.dtype
        for operator in graph.operators
        if not registry.find(operator.kind).free
        for spec in operator.output_specs
        if spec.is_floating
    }


def _dtypes_of(table: CostTable) -> set[str]:
    """The same, as the keys of parts say."""
    keys = [json.loads(key) for key in table.entries]
    return {dtype for key in keys if key[0] != "update" for dtype in key[4][1] if "float" in dtype}


def _listed(dtypes: set[str]) -> str:
    return " and ".join(sorted(dtypes))
