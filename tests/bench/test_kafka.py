"""Every kind of measure over Kafka once, as short as it gets: it finds what it is to find, and loses nothing."""

from collections.abc import Iterator

import pytest

from bench import measures
from bench.backlog import Spread
from bench.figures import Measure, Plan
from bench.kafka import faults
from bench.kafka.drain import KafkaDrain
from bench.kafka.faults import ConsumerKilled, OneOfThreeKilled, TopicsDeleted
from bench.kafka.steady import KafkaSteady
from bench.site import Site
from tests.kafka_broker import need_java

# Servers are started once, by one of the processes that test.
pytestmark = [pytest.mark.xdist_group("bench"), pytest.mark.long]

SHORTEST = Plan(rounds=1, jobs=600, steady_s=1)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    need_java()
    # A machine that is busy with other tests is no reason to turn anybody away.
    patient = {"API_QUEUE": "512", "LOCK_TIMEOUT_MS": "30000", "STATEMENT_TIMEOUT_MS": "60000"}
    with Site(patient) as made:
        yield made


@pytest.mark.parametrize(
    "measure",
    [
        KafkaDrain(Spread.UNIFORM),
        KafkaSteady(20, p50_at_most_ms=25.0),
        ConsumerKilled(at_most_s=8.0),
        OneOfThreeKilled(at_most_s=5.0),
        TopicsDeleted(at_most_s=15.0),
    ],
    ids=lambda measure: measure.name,
)
def test_what_is_to_be_reported_is_found(site: Site, monkeypatch: pytest.MonkeyPatch, measure: Measure) -> None:
    monkeypatch.setattr(faults, "LOAD_S", 9)
    found = measure.take(site, SHORTEST)
    assert {figure.key for figure in measure.figures} <= set(found)
    assert measures.needs_kafka(measure)
