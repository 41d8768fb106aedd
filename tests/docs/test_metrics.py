"""Every metric stands in the reference with its kind and its labels."""

import re
from collections.abc import Collection
from typing import Any

import pytest

from observe import metrics
from observe.metrics import ScrapedGauge
from tests.docs.pages import REFERENCE, by_name, codes, rows

SCRAPED = [each for each in vars(metrics).values() if isinstance(each, ScrapedGauge)]


def _kept() -> dict[str, tuple[str, list[str]]]:
    collectors: list[Any] = list(metrics.registry._collector_to_names)
    return {
        each._name + ("_total" if each._type == "counter" else ""): (each._type, list(each._labelnames))
        for each in collectors
    }


def test_every_metric_stands_with_its_kind_and_labels() -> None:
    told = by_name(rows((REFERENCE / "metrics.md").read_text()), "metric")
    existing = _kept() | {each.name: ("gauge", list(each.labels)) for each in SCRAPED}
    assert {name: (row["kind"], codes(row["labels"])) for name, row in told.items()} == existing


def test_a_metric_is_read_from_the_servers_or_counted_by_processes_as_the_reference_says() -> None:
    told = by_name(rows((REFERENCE / "metrics.md").read_text()), "metric")
    # What runs here is said by each process, though it is said when it is asked for.
    of_service = {each.name for each in SCRAPED} - {metrics.build_info.name}
    assert {name for name, row in told.items() if row["of"] == "service"} == of_service


@pytest.mark.parametrize(
    ("label", "values"),
    [("limit", metrics.throttled), ("where", metrics.shed), ("task", metrics.background_faults)],
    ids=["limit", "where", "task"],
)
def test_every_value_of_a_label_is_explained(label: str, values: Collection[str]) -> None:
    (told,) = re.findall(
        rf"^\* `{label}` is (.*?)(?=^\*|^#|\Z)", (REFERENCE / "metrics.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert sorted(codes(told)) == sorted(values)
