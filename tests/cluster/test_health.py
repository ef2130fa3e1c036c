"""Who answers at the head's address; tests/cli/test_submit.py starts a real head anew."""

from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import AuthenticationError, RpcError

from corm_batch.cluster.health import cluster_answers, cluster_resources
from corm_batch.errors import ClusterError


@pytest.fixture
def answer(monkeypatch):
    """Call to have the head raise an error, or to have no connection to it at all."""

    def set_(error):
        def fails(*_, timeout):
            raise error

        client = error and SimpleNamespace(internal_kv_exists=fails, get_all_resource_usage=fails)
        monkeypatch.setattr(ray._private.worker.global_worker, "gcs_client", client, raising=False)

    return set_


@pytest.mark.ray
def test_a_head_that_is_there(ray_cluster):
    assert cluster_answers()
    there, free = cluster_resources()
    assert there == ray.cluster_resources()
    assert 0 <= free.get("CPU", 0) <= there["CPU"]


def test_a_head_that_is_away_may_come_back(answer):
    answer(RpcError("Timed out while waiting for GCS to become available."))
    assert not cluster_answers()
    assert cluster_resources() is None


def test_another_head_never_knows_of_this_cluster(answer):
    answer(AuthenticationError("RPC error: WrongClusterID"))
    for question in (cluster_answers, cluster_resources):
        with pytest.raises(ClusterError, match=r"its head was started anew.*run the job again"):
            question()


@pytest.mark.ray
def test_behind_a_client_server_ray_is_asked(answer, ray_cluster):
    there = ray.cluster_resources()
    answer(None)
    assert cluster_answers()
    assert cluster_resources()[0] == there
