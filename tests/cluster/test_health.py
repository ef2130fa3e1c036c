"""Who answers at the head's address; tests/cli/test_submit.py starts a real head anew."""

from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import AuthenticationError, RpcError

from corm_batch.cluster.health import cluster_answers
from corm_batch.errors import ClusterError


@pytest.fixture
def answer(monkeypatch):
    """Call to have the head raise an error, or to have no connection to it at all."""

    def set_(error):
        def internal_kv_exists(key, namespace, timeout):
            raise error

        client = error and SimpleNamespace(internal_kv_exists=internal_kv_exists)
        monkeypatch.setattr(ray._private.worker.global_worker, "gcs_client", client, raising=False)

    return set_


@pytest.mark.ray
def test_a_head_that_is_there(ray_cluster):
    assert cluster_answers()


def test_a_head_that_is_away_may_come_back(answer):
    answer(RpcError("Timed out while waiting for GCS to become available."))
    assert not cluster_answers()


def test_another_head_never_knows_of_this_cluster(answer):
    answer(AuthenticationError("RPC error: WrongClusterID"))
    with pytest.raises(ClusterError, match=r"its head was started anew.*run the job again"):
        cluster_answers()


def test_behind_a_client_server_nobody_is_asked(answer):
    answer(None)
    assert cluster_answers()
