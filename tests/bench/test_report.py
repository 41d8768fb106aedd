import pytest

from bench.figures import Figure, Ratio
from bench.measures import MEASURES, chosen, figures_of
from bench.report import Summary, as_json, spell, sum_up, table
from bench.steady import percentile

OURS = Figure(key="ours", label="drain", unit="/s", ratios=(Ratio("other", 2.0), Ratio("absent", 9.0)))
OTHER = Figure(key="other", label="yardstick", unit="/s", is_yardstick=True)
WAIT = Figure(key="wait", label="wait", unit="ms", at_most=10.0)
# A machine that is half as fast in the last round; ratios of the rounds: 3, 2, 1.5.
ROUNDS = [
    {"ours": 30.0, "other": 10.0, "wait": 9.0},
    {"ours": 40.0, "other": 20.0, "wait": 12.0},
    {"ours": 15.0, "other": 10.0, "wait": 11.0},
]


def test_a_median_is_told_with_its_span() -> None:
    assert Summary.of([30.0, 40.0, 15.0]) == Summary(median=30.0, least=15.0, most=40.0)


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_the_medians() -> None:
    line = sum_up([OURS, OTHER], ROUNDS)[0]
    assert [each.summary for each in line.ratios] == [Summary(median=2.0, least=1.5, most=3.0)]
    assert line.summary.median / Summary.of([10.0, 20.0, 10.0]).median == 3.0


def test_a_ratio_to_what_was_not_measured_is_left_out() -> None:
    assert sum_up([OURS], ROUNDS)[0].ratios == ()


def test_what_was_measured_in_some_rounds_only_is_compared_in_those() -> None:
    rounds = [{"ours": 30.0, "other": 10.0}, {"ours": 40.0}]
    ours, other = sum_up([OURS, OTHER, WAIT], rounds)
    assert (ours.summary.most, ours.ratios[0].summary.median, other.summary.median) == (40.0, 3.0, 10.0)


@pytest.mark.parametrize(("at_least", "is_met"), [(2.0, True), (2.01, False)])
def test_a_ratio_is_met_from_its_goal_on(at_least: float, is_met: bool) -> None:
    figure = Figure(key="ours", label="drain", unit="/s", ratios=(Ratio("other", at_least),))
    assert sum_up([figure, OTHER], ROUNDS)[0].ratios[0].is_met is is_met


@pytest.mark.parametrize(("at_most", "is_met"), [(2.0, True), (1.99, False), (None, None)])
def test_a_ratio_is_met_up_to_its_goal_where_less_is_better(at_most: float | None, is_met: bool | None) -> None:
    figure = Figure(key="ours", label="call", unit="µs", ratios=(Ratio("other", at_most=at_most),))
    assert sum_up([figure, OTHER], ROUNDS)[0].ratios[0].is_met is is_met


def test_the_table_tells_a_ratio_without_a_goal_and_what_a_ratio_may_be_at_most() -> None:
    free = Figure(key="ours", label="free", unit="/s", ratios=(Ratio("other"),))
    bound = Figure(key="ours", label="bound", unit="µs", ratios=(Ratio("other", at_most=1.5),))
    assert table(sum_up([free, OTHER], ROUNDS)).splitlines()[2].endswith("2.00 x other (1.50..3.00)")
    assert table(sum_up([bound, OTHER], ROUNDS)).splitlines()[2].endswith("<= 1.5: MISSED")


@pytest.mark.parametrize(("at_most", "is_met"), [(11.0, True), (10.9, False), (None, None)])
def test_a_time_is_met_up_to_its_goal(at_most: float | None, is_met: bool | None) -> None:
    figure = Figure(key="wait", label="wait", unit="ms", at_most=at_most)
    assert sum_up([figure], ROUNDS)[0].is_met is is_met


def test_the_table_tells_goals_met_and_missed() -> None:
    text = table(sum_up([OURS, OTHER, WAIT], ROUNDS))
    _, _, ours, other, wait = text.splitlines()
    assert ours.split() == [
        "drain",
        "30.00",
        "/s",
        "15.00..40.00",
        "2.00",
        "x",
        "other",
        "(1.50..3.00)",
        ">=",
        "2:",
        "met",
    ]
    assert other.split() == ["yardstick", "10.00", "/s", "10.00..20.00"]
    assert wait.endswith("<= 10 ms: MISSED")


def test_the_json_has_the_same_numbers() -> None:
    ours, *_ = as_json(sum_up([OURS, OTHER], ROUNDS))
    assert (ours["key"], ours["median"], ours["least"], ours["most"]) == ("ours", 30.0, 15.0, 40.0)
    assert ours["ratios"] == [
        {"to": "other", "at_least": 2.0, "at_most": None, "median": 2.0, "least": 1.5, "most": 3.0, "is_met": True}
    ]


@pytest.mark.parametrize(("value", "spelt"), [(12_345.6, "12,346"), (345.6, "346"), (3.456, "3.46")])
def test_numbers_are_spelt_with_the_digits_that_mean_something(value: float, spelt: str) -> None:
    assert spell(value) == spelt


@pytest.mark.parametrize(("share", "found"), [(0.0, 1), (0.5, 50), (0.501, 51), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_seen(share: float, found: int) -> None:
    assert percentile(range(1, 101), share) == found


def test_a_measure_is_found_by_its_name_and_by_what_it_reports() -> None:
    assert {each.name for each in chosen(["steady_20"])} == {"steady_20", "steady_20_v1", "kafka_steady_20"}
    assert [each.name for each in chosen(["memory", "parts"])] == ["edge", "grpc"]
    assert chosen(["nothing of the kind"]) == ()


def test_every_ratio_is_to_something_that_is_measured() -> None:
    figures = figures_of(MEASURES)
    keys = [figure.key for figure in figures]
    assert len(set(keys)) == len(keys)
    assert {ratio.to for figure in figures for ratio in figure.ratios} <= set(keys)
