import re
from pathlib import Path

import pytest
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit import cluster, exit_codes, strategies
from tfvit.cluster import Devices

DOCS = Path(__file__).parents[2] / "docs/distributed.md"


@pytest.mark.parametrize("name", ["auto", "one", "mirrored"])
def test_strategies_of_one_process(name):
    with strategies.opened(Devices(name)) as strategy:
        found = strategy.run(lambda: tf.constant(2.0))
        assert float(strategy.reduce("SUM", found, None)) == 2 * strategy.num_replicas_in_sync
        assert strategies.everyones(strategy, 7).tolist() == [7]
        assert strategies.from_chief(strategy, "grün") == "grün"
        strategies.same(strategy, 7, "it")


def test_errors_within_one_process_pass_as_they_are():
    with pytest.raises(tf.errors.UnavailableError), strategies.opened(Devices("one")):
        raise tf.errors.UnavailableError(None, None, "of the data")


@pytest.mark.parametrize("tpu", ["local", "grpc://127.0.0.1:9"])
def test_no_tpu_is_one_line(tpu, monkeypatch):
    with (
        pytest.raises(UserError, match=f"--tpu {tpu}: no") as error,
        strategies.opened(Devices("tpu", tpu=tpu)),
    ):
        pass
    assert "\n" not in str(error.value)
    assert float(tf.reduce_sum(tf.ones([3]))) == 3


def test_the_page_names_every_strategy_and_exit_code():
    rows = re.findall(r"^\| `?(\w+)`? \|", DOCS.read_text("utf-8"), re.MULTILINE)
    assert cluster.NAMES.keys() <= set(rows)
    assert {str(code) for code in exit_codes.MEANINGS if code} <= set(rows)
