import json

import pytest

from edge_demo.errors import UserError
from tfvit import cluster, exit_codes, launch

TWO = ("10.0.0.1:2222", "10.0.0.2:2222")
NOTHING = (None,) * 5  # of --workers, --worker-index, --tpu, --tpu-zone, --tpu-project


@pytest.fixture
def tf_config(monkeypatch):
    """tf_config(value): the environment variable, as JSON or as text."""
    monkeypatch.delenv("TF_CONFIG", raising=False)

    def put(value):
        monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))

    return put


def test_options_name_the_workers(tf_config):
    found = cluster.devices("auto", ",".join(TWO), 1, None, None, None).cluster
    assert (found.addresses, found.index, found.count, found.is_chief) == (TWO, 1, 2, False)


def test_tf_config_names_the_workers(tf_config):
    tf_config({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 1}})
    assert cluster.devices("multiworker", *NOTHING).cluster == cluster.Cluster(TWO, 1)
    tf_config(
        {"cluster": {"chief": TWO[:1], "worker": TWO[1:]}, "task": {"type": "worker", "index": 0}}
    )
    assert cluster.devices("auto", *NOTHING).cluster == cluster.Cluster(TWO, 1)
    tf_config({"cluster": {}, "task": {}})
    assert cluster.devices("auto", *NOTHING).cluster.count == 1


def test_a_cluster_tells_tensorflow_what_it_was_told(tf_config):
    told = cluster.Cluster(TWO, 1)
    tf_config(told.environment()["TF_CONFIG"])
    assert cluster.devices("auto", *NOTHING).cluster == told


@pytest.mark.parametrize(
    "strategy, workers, index, tpu, message",
    [
        ("auto", "a:1,b:2", None, None, "--workers needs --worker-index"),
        ("auto", None, 0, None, "--worker-index needs --workers"),
        ("auto", "a:1,b:2", 2, None, "worker index 2 is not one of 0-1"),
        ("auto", "a:1,b", 0, None, "worker 'b' is not HOST:PORT"),
        ("auto", "a:1,a:1", 0, None, "the same worker twice"),
        ("multiworker", None, None, None, "needs --workers and --worker-index, or TF_CONFIG"),
        ("mirrored", "a:1,b:2", 0, None, "--strategy mirrored is for one process"),
        ("one", None, None, "pod", "--strategy one does not use --tpu pod"),
    ],
)
def test_options_that_do_not_fit(tf_config, strategy, workers, index, tpu, message):
    with pytest.raises(UserError, match=message):
        cluster.devices(strategy, workers, index, tpu, None, None)


@pytest.mark.parametrize(
    "value",
    [
        "no json",
        "[]",
        {"cluster": {"worker": TWO}},
        {"cluster": {"worker": TWO}, "task": {"type": "worker", "index": 5}},
        {"cluster": {"worker": TWO, "ps": TWO}, "task": {"type": "ps", "index": 0}},
    ],
)
def test_a_bad_tf_config_is_one_line(tf_config, value):
    tf_config(value)
    with pytest.raises(UserError) as error:
        cluster.devices("auto", *NOTHING)
    assert "\n" not in str(error.value)


def test_every_exit_code_has_one_meaning():
    raised = (exit_codes.Diverged, exit_codes.LostWorker)
    assert {error("").exit_code for error in raised} <= exit_codes.MEANINGS.keys()
    assert len(set(exit_codes.MEANINGS.values())) == len(exit_codes.MEANINGS)


@pytest.mark.parametrize(
    "codes, code",
    [
        ((0, 0), 0),
        ((0, -9), exit_codes.LOST_WORKER),
        ((exit_codes.LOST_WORKER, -9), exit_codes.LOST_WORKER),
        ((exit_codes.LOST_WORKER, 2), 2),
        ((-9, exit_codes.PREEMPTED), exit_codes.PREEMPTED),
        ((exit_codes.DIVERGED, exit_codes.DIVERGED), exit_codes.DIVERGED),
    ],
)
def test_only_what_a_restart_mends_is_started_again(codes, code):
    assert launch.verdict(codes) == code
