"""Forming groups at will: what is called is held back until all are there, and goes as one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from models.ledger.groups import Groups
from observe import metrics_files
from ops.local.processes import wait_for
from tests.patience import PATIENCE_S
from tests.samples import Samples

_Answer = TypeVar("_Answer")


def together(
    groups: Groups[Any], calls: Sequence[Callable[[], _Answer]], *, start: Callable[[], object] = bool
) -> list[Future[_Answer]]:
    """Have calls that join these groups go as one group, in this order. The first of them leads, after the start."""
    with groups._lock:
        assert groups._free == 1
        groups._free = 0  # as if a group were running
    pool = ThreadPoolExecutor(len(calls))
    answers = []
    for number, call in enumerate(calls, 1):
        answers.append(pool.submit(call))
        assert wait_for(lambda number=number: len(groups._waiting) == number, PATIENCE_S)  # type: ignore[misc]
    start()
    groups._pass_on()
    pool.shutdown(wait=False)
    return answers


def groups_of_several() -> float:
    """How many groups this process has formed that were more than one order."""
    samples = Samples.of(metrics_files.exposition())
    return samples.value("wallet_group_size_count") - samples.value("wallet_group_size_bucket", le="1.0")
