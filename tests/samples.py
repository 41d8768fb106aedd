"""Reading what /metrics answers, as strictly as Prometheus does, and what its own tool says of it."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families

# Series of these may only grow.
CUMULATIVE = ("_total", "_count", "_sum", "_bucket")


class Series(NamedTuple):
    """A name and its labels."""

    name: str
    labels: frozenset[tuple[str, str]]


class Samples(dict[Series, float]):
    """Every series with its value."""

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Parse an exposition, in which every series stands once and every name is explained once."""
        lines = text.decode().splitlines()
        explained = Counter(line.split()[2] for line in lines if line.startswith("# HELP "))
        typed = Counter(line.split()[2] for line in lines if line.startswith("# TYPE "))
        assert explained == typed
        assert set(explained.values()) == {1}
        families = list(text_string_to_metric_families(text.decode()))
        assert all(family.documentation for family in families)
        samples = [sample for family in families for sample in family.samples]
        found = cls({Series(each.name, frozenset(each.labels.items())): each.value for each in samples})
        assert len(found) == len(samples)
        return found

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the one series with these labels."""
        return self[Series(name, frozenset(labels.items()))]

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum over all series with these labels, and any others."""
        return sum(value for series, value in self.items() if series.name == name and labels.items() <= series.labels)

    def has(self, name: str) -> bool:
        """Whether there is any series of this name."""
        return any(series.name == name for series in self)

    def fallen_since(self, before: Self) -> Iterator[Series]:
        """Return what must not fall and has, or has gone."""
        for series, value in before.items():
            if series.name.endswith(CUMULATIVE) and self.get(series, -1.0) < value:
                yield series


def check_with_promtool(text: bytes) -> None:
    """Let Prometheus's own tool look for what it frowns upon."""
    tool = shutil.which("promtool")
    if tool is None and os.environ.get("REQUIRE_MONITORING_TOOLS") != "1":
        pytest.skip("promtool is not installed")
    assert tool is not None
    said = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
