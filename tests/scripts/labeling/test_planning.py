"""How the time is shared out, and what the held-out labels say."""

import numpy as np
import pytest

from common.errors import UserError
from common.records import estimates
from scripts.labeling import evidence, pages, planning
from scripts.labeling.planning import Costs, Plan

ALL = ("erm", "fixmatch", "flexmatch")
COSTS = Costs({"erm": 0.5, "fixmatch": 1.5, "flexmatch": 2.0}, run=10, end=60)  # a round: 30 + 4 s a step


def seconds(plan: Plan) -> float:
    costs = COSTS.of(len(plan.methods))
    return plan.rounds * costs.trials(plan.steps) + costs.final(plan.steps)


@pytest.mark.parametrize(
    ("minutes", "labels", "expected"),
    [
        (20, 40, Plan(1, 160, ALL)),  # (1080 - 30 - 70) / 6 = 163
        (50, 40, Plan(2, 256, ALL)),  # (2700 - 60 - 70) / 10 = 257; with a third round 186 are too few
        (100, 40, Plan(4, 288, ALL)),  # (5400 - 120 - 70) / 18 = 289
        (100, 400, Plan(1, 880, ALL)),  # with so many labels one part says enough
        (20, 3, Plan(0, 2000, ("erm",))),  # too few to hold out: (1080 - 70) / 0.5 = 2020
        (10_000, 40, Plan(4, 2000, ALL)),
        (6, 40, Plan(1, 64, ("erm", "fixmatch"))),  # (324 - 100) / 6 = 37 are too few; (324 - 90) / 3.5 = 66
        (3, 40, Plan(1, 80, ("erm",))),  # (162 - 90) / 3.5 = 20 are too few; (162 - 80) / 1 = 82
        (2, 40, Plan(0, 76, ("erm",))),  # (108 - 80) / 1 = 28 are too few; (108 - 70) / 0.5 = 76, not compared
    ],
)
def test_plans_by_hand(minutes, labels, expected):
    found = planning.plan(60 * minutes, 30.0, COSTS, labels)
    assert found == expected
    assert seconds(found) <= 0.9 * 60 * minutes


def test_too_little_time_says_how_much_is_needed():
    """One training of 12 steps takes 10 + 6 + 60 seconds: 1.4 minutes with a margin, and 1 that was used; half more."""
    with pytest.raises(UserError, match=r"^2 minutes are too short for 12 steps of erm on this .* give 5 or more"):
        planning.plan(60, 60, COSTS, 40)
    assert planning.plan(60 * 4, 60, COSTS, 40).steps >= planning.MIN_STEPS


def test_the_last_training_takes_what_time_is_left_from_half_a_trial_to_two():
    assert planning.final_steps(10_000, COSTS, "fixmatch", 200) == 400
    assert planning.final_steps(10_000, COSTS, "fixmatch", 1200) == 2000
    assert planning.final_steps(600, COSTS, "fixmatch", 200) == 312  # (540 - 70) / 1.5
    assert planning.final_steps(300, COSTS, "fixmatch", 200) == 132  # (270 - 70) / 1.5
    assert planning.final_steps(-50, COSTS, "fixmatch", 200) == 100


def test_the_ranking_by_hand():
    right = {
        "a": dict(enumerate([True] * 6 + [False] * 4)),
        "b": dict(enumerate([True] * 8 + [False] * 2)),
        "c": dict(enumerate([False] * 2 + [True] * 8)),
    }
    first, second, third = evidence.ranking(right)
    assert [(x.method, x.accuracy) for x in (first, second, third)] == [("b", 80.0), ("c", 80.0), ("a", 60.0)]
    assert first.below == (0, 0)
    assert third.below.mean == pytest.approx(20)
    assert second.below.half_width > third.below.half_width > 0  # `a` and `b` differ on two images, `c` and `b` on four
    assert not second.below.is_clear


def test_the_estimate_is_the_mean_of_the_methods_that_may_be_the_best():
    """`a` leads `b` by one image, which says nothing, and `c` by eight of ten, which does."""
    right = {
        "b": dict(enumerate([False, False, True] + 6 * [True] + [False])),
        "a": dict(enumerate([True, True, False] + 6 * [True] + [False])),
        "c": dict(enumerate(10 * [False])),
    }
    assert evidence.mean_of_near(right) == {0: 0.5, 1: 0.5, 2: 0.5, **dict.fromkeys(range(3, 9), 1.0), 9: 0.0}
    assert evidence.mean_of_near({"a": right["a"]}) == right["a"]


def test_the_chosen_methods_luck_is_no_part_of_the_estimate():
    """Three methods that are right for half of all photos, each photo on its own: 500 draws of 20 labels."""
    rng = np.random.default_rng(0)
    winners, found, held = [], [], []
    for _ in range(500):
        right = {name: dict(enumerate((rng.random(20) < 0.5).tolist())) for name in "abc"}
        winners.append(evidence.ranking(right)[0].accuracy)
        said = estimates.estimate(sum(evidence.mean_of_near(right).values()), 20)
        found.append(said.accuracy)
        held.append(said.low <= 50 <= said.high)
    assert np.mean(winners) > 58
    assert np.mean(found) == pytest.approx(50, abs=2)
    assert np.mean(held) > 0.95


def test_the_estimate_where_all_classes_are_equally_frequent():
    """Four labels of class 0, three of them recognised, and one of class 1, which is not.

    By hand: weights of 1 / 4 and 1, so 0.75 of 2 are right; and 2^2 / (4 / 16 + 1) = 3.2 labels.
    """
    right = [True, True, False, True, False]
    found = evidence.balanced(right, [0, 0, 0, 0, 1])
    assert found.accuracy == pytest.approx(37.5)
    assert (found.low, found.high) == pytest.approx((7.9, 80.7), abs=0.1)
    assert evidence.balanced(right[:4], [0, 0, 1, 1]) == pytest.approx(estimates.estimate(3, 4))


def test_the_second_estimate_is_reported_where_it_differs():
    right, labels = {"erm": dict(enumerate([True] * 8 + [False] * 2))}, np.repeat([0, 1], [8, 2])
    assert pages._quality(right, labels, []).endswith(
        "by 10 held-out labels; 50 % (19 to 81) if all classes are equally frequent"
    )
    assert pages._quality(right, labels, []).startswith(
        "probably 80 % of photos like the labeled ones are right (95 % interval: 49 to 94), by 10 held-out labels"
    )
    even = {"erm": {0: True, 8: False}}
    assert pages._quality(even, labels, []).endswith("by 2 held-out labels")
