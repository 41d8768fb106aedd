"""What processes that were forked from one know of each other: who waits for whom, and who has more connections."""

import os

from ops.http.siblings import CELLS, MORE, Siblings


def test_before_any_reload_nobody_is_replaced() -> None:
    siblings = Siblings()
    assert not any(siblings.is_retired(age) for age in (1, 2, 500))


def test_at_a_reload_those_so_far_are_replaced_and_the_new_ones_are_not() -> None:
    siblings = Siblings()
    siblings.retire(2)
    assert [siblings.is_retired(age) for age in (1, 2, 3)] == [True, True, False]


def test_once_all_are_to_leave_nobody_is_replaced() -> None:
    siblings = Siblings()
    siblings.retire(2)
    siblings.stop()
    assert siblings.are_stopping
    assert not siblings.is_retired(1)


def test_the_old_are_relieved_once_enough_of_the_new_are_ready() -> None:
    siblings = Siblings()
    for age in (1, 2):
        siblings.report(age, 0)
    siblings.retire(2)
    assert not siblings.is_relieved(1)
    siblings.report(3, 0)
    assert not siblings.is_relieved(2)
    siblings.report(3, 5)
    assert not siblings.is_relieved(2)
    siblings.report(4, 0)
    assert siblings.is_relieved(2)
    siblings.forget(4)  # it has died meanwhile
    assert not siblings.is_relieved(2)


def test_it_goes_on_beyond_the_number_of_cells() -> None:
    siblings = Siblings()
    for first in range(1, 3 * CELLS, 2):
        siblings.retire(first - 1)
        siblings.report(first, 0)
        assert not siblings.is_relieved(2)
        siblings.report(first + 1, 0)
        assert siblings.is_relieved(2)
        siblings.forget(first - 2)  # so late that its cell may be another's
        assert siblings.is_relieved(2)


def test_a_process_has_more_when_another_one_that_accepts_has_clearly_fewer() -> None:
    siblings = Siblings()
    assert not siblings.has_more(1, 100)
    siblings.report(2, 10)
    assert [siblings.has_more(1, count) for count in (0, 10, 10 + MORE - 1, 10 + MORE)] == [False, False, False, True]
    siblings.report(3, 0)
    assert siblings.has_more(1, MORE)
    for age in (2, 3):
        siblings.forget(age)
    assert not siblings.has_more(1, 100)


def test_nobody_is_compared_with_himself() -> None:
    siblings = Siblings()
    siblings.report(1, 0)
    assert not siblings.has_more(1, 100)


def test_what_one_process_reports_another_sees() -> None:
    siblings = Siblings()
    siblings.retire(1)
    if not (child := os.fork()):
        siblings.report(2, 7)
        os._exit(0)
    os.waitpid(child, 0)
    assert siblings.is_relieved(1)
    assert siblings.has_more(3, 7 + MORE)
