"""Who waits for whom at a reload, told between processes that were forked from one."""

import os

from ops.http.succession import CELLS, Succession


def test_before_any_reload_nobody_is_replaced() -> None:
    succession = Succession()
    assert not any(succession.is_retired(age) for age in (1, 2, 500))


def test_at_a_reload_those_so_far_are_replaced_and_the_new_ones_are_not() -> None:
    succession = Succession()
    succession.retire(2)
    assert [succession.is_retired(age) for age in (1, 2, 3)] == [True, True, False]


def test_the_old_are_relieved_once_enough_of_the_new_are_ready() -> None:
    succession = Succession()
    for age in (1, 2):
        succession.report_ready(age)
    succession.retire(2)
    assert not succession.is_relieved(1)
    succession.report_ready(3)
    assert not succession.is_relieved(2)
    succession.report_ready(3)
    assert not succession.is_relieved(2)
    succession.report_ready(4)
    assert succession.is_relieved(2)


def test_it_goes_on_beyond_the_number_of_cells() -> None:
    succession = Succession()
    for first in range(1, 3 * CELLS, 2):
        succession.retire(first - 1)
        succession.report_ready(first)
        assert not succession.is_relieved(2)
        succession.report_ready(first + 1)
        assert succession.is_relieved(2)


def test_what_one_process_reports_another_sees() -> None:
    succession = Succession()
    succession.retire(1)
    if not (child := os.fork()):
        succession.report_ready(2)
        os._exit(0)
    os.waitpid(child, 0)
    assert succession.is_relieved(1)
