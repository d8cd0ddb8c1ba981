"""Who the clients are, from the variables of DTensor, TensorFlow and Slurm."""

import json

import pytest

from keras_soap.errors import ClusterError
from keras_soap.runtime.cluster_spec import DEFAULT_PORT, ClusterSpec, from_environment

DTENSOR = {"DTENSOR_JOBS": "a:1,b:2", "DTENSOR_CLIENT_ID": "1", "DTENSOR_NUM_CLIENTS": "2"}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "gpu[07-08],cpu1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),2",
    "SLURM_PROCID": "3",
}


def tf_config(cluster, kind, index):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_without_variables_there_is_no_cluster():
    assert from_environment({}) is None
    assert from_environment({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    assert from_environment({"TF_CONFIG": "{}"}) is None


def test_dtensors_variables_name_the_clients():
    assert from_environment(DTENSOR) == ClusterSpec(("a:1", "b:2"), 1, "DTENSOR_JOBS")


def test_dtensors_variables_count_before_others():
    assert from_environment(SLURM | DTENSOR).addresses == ("a:1", "b:2")


def test_in_tf_config_the_chief_comes_before_the_workers():
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    assert from_environment(tf_config(jobs, "worker", 1)).client == 2
    assert from_environment(tf_config(jobs, "chief", 0)).client == 0
    assert from_environment(tf_config(jobs, "chief", 0)).addresses == ("a:1", "b:1", "c:1")


def test_slurm_has_one_client_per_task_on_ports_of_their_own():
    spec = from_environment(SLURM)
    assert spec.addresses == tuple(
        f"{host}:{DEFAULT_PORT + local}" for host in ("gpu07", "gpu08", "cpu1") for local in (0, 1)
    )
    assert spec.client == 3
    assert from_environment(SLURM | {"KERAS_SOAP_PORT": "99"}).addresses[1] == "gpu07:100"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (DTENSOR | {"DTENSOR_NUM_CLIENTS": "3"}, "DTENSOR_NUM_CLIENTS=3, but DTENSOR_JOBS names 2"),
        (DTENSOR | {"DTENSOR_CLIENT_ID": "2"}, "client 2, but there are 2 clients, 0 to 1"),
        (DTENSOR | {"DTENSOR_CLIENT_ID": "x"}, "DTENSOR_CLIENT_ID='x' is no number"),
        ({"DTENSOR_JOBS": "a:1,b:2"}, "DTENSOR_CLIENT_ID is not set"),
        ({"DTENSOR_NUM_CLIENTS": "2"}, "DTENSOR_JOBS is not set"),
        (DTENSOR | {"DTENSOR_JOBS": "a:1,a:1"}, "names a:1 2 times"),
        (DTENSOR | {"DTENSOR_JOBS": "a:1,b"}, "'b'. Write host:port"),
        (DTENSOR | {"DTENSOR_JOBS": "a:1,b:70000"}, "a port from 1 to 65535"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG cannot be read"),
        (
            tf_config({"worker": ["a:1"], "ps": ["b:1"]}, "ps", 0),
            "all clients are of the job worker",
        ),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is not set"),
    ],
)
def test_variables_that_contradict_themselves_are_refused(environment, says):
    with pytest.raises(ClusterError, match="(?s).*" + says.replace(".", r"\.").replace("(", r"\(")):
        from_environment(environment)
