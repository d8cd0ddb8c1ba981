"""Which clients there are, and which of them this process is, from environment variables.

Looked for in this order, the first that is there counts:

1. DTensor's: `DTENSOR_JOBS`, `DTENSOR_CLIENT_ID` and, perhaps, `DTENSOR_NUM_CLIENTS`;
2. TensorFlow's: `TF_CONFIG`, with workers and, perhaps, a chief, who comes first;
3. Slurm's, of a step that `srun` started: one client per task. Its clients listen on
   `KERAS_SOAP_PORT` and, of several on one host, the ports after it.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from keras_soap.errors import ClusterError

DEFAULT_PORT = 12331
"""Where clients listen that Slurm starts, unless `KERAS_SOAP_PORT` says another."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """The clients of a cluster.

    Attributes:
        addresses: `host:port` of each client.
        client: The number of this one.
        source: Which variables said so.
    """

    addresses: tuple[str, ...]
    client: int
    source: str

    def __post_init__(self) -> None:
        for address in self.addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ClusterError(
                    f"{self.source} has the address {address!r}. Write host:port, with a port from "
                    "1 to 65535."
                )
        for address, count in Counter(self.addresses).items():
            if count > 1:
                raise ClusterError(
                    f"{self.source} names {address} {count} times. Give each client an address of "
                    "its own."
                )
        if not 0 <= self.client < len(self.addresses):
            raise ClusterError(
                f"{self.source} says that this is client {self.client}, but there are "
                f"{len(self.addresses)} clients, 0 to {len(self.addresses) - 1}."
            )

    @property
    def num_clients(self) -> int:
        """How many processes train together."""
        return len(self.addresses)

    def name(self, client: int) -> str:
        """A client as errors name it."""
        return f"client {client} ({self.addresses[client]})"


def from_environment(environment: Mapping[str, str]) -> ClusterSpec | None:
    """The cluster that the variables describe, or None where they describe none."""
    if environment.get("DTENSOR_JOBS"):
        return _from_dtensor(environment)
    if environment.get("TF_CONFIG"):
        return _from_tf_config(environment["TF_CONFIG"])
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return _from_slurm(environment)
    if int(environment.get("DTENSOR_NUM_CLIENTS") or 1) > 1:
        raise ClusterError(
            f"DTENSOR_NUM_CLIENTS={environment['DTENSOR_NUM_CLIENTS']}, but DTENSOR_JOBS is not "
            "set. Set it to the host:port of every client, separated by commas."
        )
    return None


def _from_dtensor(environment: Mapping[str, str]) -> ClusterSpec:
    addresses = tuple(part.strip() for part in environment["DTENSOR_JOBS"].split(","))
    if "DTENSOR_CLIENT_ID" not in environment:
        raise ClusterError(
            f"DTENSOR_JOBS names {len(addresses)} clients, but DTENSOR_CLIENT_ID is not set. Set "
            "it to the number of this one, from 0."
        )
    client = _number(environment, "DTENSOR_CLIENT_ID")
    told = _number(environment, "DTENSOR_NUM_CLIENTS", len(addresses))
    if told != len(addresses):
        raise ClusterError(
            f"DTENSOR_NUM_CLIENTS={told}, but DTENSOR_JOBS names {len(addresses)}: "
            f"{', '.join(addresses)}. Make them agree."
        )
    return ClusterSpec(addresses, client, "DTENSOR_JOBS")


def _from_tf_config(text: str) -> ClusterSpec | None:
    try:
        config = json.loads(text)
        jobs = {name: list(addresses) for name, addresses in config.get("cluster", {}).items()}
        task = config.get("task", {})
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"TF_CONFIG cannot be read: {error}. Write, for example, "
            '{"cluster": {"worker": ["a:12331", "b:12331"]}, '
            '"task": {"type": "worker", "index": 0}}.'
        ) from error
    if not jobs:
        return None
    others = sorted(set(jobs) - {"chief", "worker"})
    if others or kind not in jobs:
        raise ClusterError(
            f"TF_CONFIG has jobs {', '.join(jobs)} and says that this is a {kind}. Here all "
            "clients are of the job worker, of whom one may be called chief."
        )
    chiefs = jobs.get("chief", [])
    addresses = (*chiefs, *jobs.get("worker", []))
    client = index + (len(chiefs) if kind == "worker" else 0)
    return ClusterSpec(addresses, client, "TF_CONFIG")


def _from_slurm(environment: Mapping[str, str]) -> ClusterSpec:
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm

    try:
        hosts = slurm.expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = slurm.expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        client = int(environment["SLURM_PROCID"])
    except KeyError as error:
        raise ClusterError(
            f"SLURM_STEP_NUM_TASKS says that there are several tasks, but {error.args[0]} is not "
            "set. Start the program with srun."
        ) from error
    port = _number(environment, "KERAS_SOAP_PORT", DEFAULT_PORT)
    addresses = tuple(
        f"{host}:{port + local}"
        for host, count in zip(hosts, tasks, strict=True)
        for local in range(count)
    )
    return ClusterSpec(addresses, client, "SLURM_STEP_NODELIST")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name)
    if value is None and default is not None:
        return default
    try:
        return int(value or "")
    except ValueError:
        raise ClusterError(f"{name}={value!r} is no number.") from None
