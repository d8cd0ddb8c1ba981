"""Cost profiles to and from `protos/cost_profile.proto`.

A profile without entries is a `Roofline`, for any model of device; one with entries, or for one
model of device only, is a `CostTable`.
"""

import os

from keras_soap.costs.cost_profile import CostSource
from keras_soap.costs.cost_table import CostTable, PartTime
from keras_soap.costs.roofline import Roofline
from keras_soap.errors import CostError
from keras_soap.proto import cost_profile_pb2 as pb
from keras_soap.proto import files


def load(path: str | os.PathLike[str]) -> Roofline | CostTable:
    """The profile in a file: text, or binary if its name ends in `.pb`.

    Raises:
        CostError: Where the file cannot be read or contradicts itself.
    """
    message = files.read(path, pb.CostProfile, CostError)
    try:
        return from_proto(message)
    except CostError as error:
        raise CostError(f"{path}: {error}") from error


def save(path: str | os.PathLike[str], profile: Roofline | CostTable) -> None:
    """Writes a profile to a file: text, or binary if its name ends in `.pb`."""
    files.write(path, to_proto(profile))


def to_proto(profile: Roofline | CostTable) -> pb.CostProfile:
    """The message that says the same as `profile`."""
    if isinstance(profile, Roofline):
        profile = CostTable("", {}, profile, CostSource.ANALYTIC)
    return pb.CostProfile(
        schema_version=files.SCHEMA_VERSION,
        device_model=profile.device_model,
        source=profile.source.name,
        created=profile.created,
        versions=dict(profile.versions),
        entries=[
            pb.CostProfile.Entry(
                key=key,
                forward_ns=time.forward_ns,
                backward_ns=time.backward_ns,
                relative_spread=time.relative_spread,
                num_runs=time.num_runs,
                weight_gradient_ns=time.weight_gradient_ns,
            )
            for key, time in sorted(profile.entries.items())
        ],
        peak_fraction=profile.roofline.peak_fraction,
        bandwidth_fraction=profile.roofline.bandwidth_fraction,
    )


def from_proto(message: pb.CostProfile) -> Roofline | CostTable:
    """The profile that `message` says.

    Raises:
        CostError: Where a fraction or a time is out of range, or a key is there twice.
    """
    for name in ("peak_fraction", "bandwidth_fraction"):
        if not 0 < getattr(message, name) <= 1:
            raise CostError(f"{name} is {getattr(message, name)}. It must be in (0, 1].")
    if not message.source:
        raise CostError("The profile has no source. Say ANALYTIC or MEASURED.")
    entries: dict[str, PartTime] = {}
    for entry in message.entries:
        if entry.key in entries:
            raise CostError(f"Two entries have the key {entry.key}. Give each part one entry.")
        if min(entry.forward_ns, entry.backward_ns, entry.weight_gradient_ns) < 0:
            raise CostError(f"The times of entry {entry.key} are negative.")
        entries[entry.key] = PartTime(
            entry.forward_ns,
            entry.backward_ns,
            entry.relative_spread,
            entry.num_runs,
            entry.weight_gradient_ns,
        )
    roofline = Roofline(message.peak_fraction, message.bandwidth_fraction)
    source = CostSource[pb.CostSource.Name(message.source)]
    if not message.device_model:
        if entries or source != CostSource.ANALYTIC:
            raise CostError("Measured times need the device_model that they hold for.")
        return roofline
    return CostTable(
        message.device_model, entries, roofline, source, message.created, dict(message.versions)
    )
