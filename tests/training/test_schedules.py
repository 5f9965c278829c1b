import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvae_lib.training.schedules import Schedule


def test_warm_up_of_the_review():
    """13.2.3: from 0 to 1, linearly after each epoch, during the first 50 epochs."""
    beta = Schedule.linear(0, 1, epochs=50)
    assert [beta(epoch) for epoch in range(60)] == [min(1.0, epoch / 50) for epoch in range(60)]
    assert (beta.final, beta.settled) == (1.0, 50)


def test_scheduled_sampling_of_the_review():
    """13.3.3: 20 % for 50 epochs, 40 % for the next 50, and so on to 100 %, which stays for 300 epochs."""
    feedback = Schedule.steps([0.2, 0.4, 0.6, 0.8, 1.0], every=50)
    wanted = [0.2] * 50 + [0.4] * 50 + [0.6] * 50 + [0.8] * 50 + [1.0] * 300
    assert [feedback(epoch) for epoch in range(500)] == wanted
    assert feedback.settled == 200


def test_steps_of_one_epoch():
    assert [Schedule.steps([3, 2, 1], every=1)(epoch) for epoch in range(5)] == [3, 2, 1, 1, 1]


@given(
    st.dictionaries(st.integers(0, 40), st.floats(-5, 5), min_size=1).map(lambda d: sorted(d.items())),
)
def test_laws(points):
    schedule = Schedule(tuple(points))
    assert Schedule.of(json.loads(json.dumps(schedule.to_json())))(7) == schedule(7)
    for epoch, value in points:
        assert schedule(epoch) == value
    assert all(schedule(epoch) == schedule.final for epoch in range(schedule.settled, 60))
    if schedule.settled:
        assert schedule(schedule.settled - 1) != schedule.final or schedule.settled > points[0][0] + 1
    low, high = min(v for _, v in points), max(v for _, v in points)
    assert all(low - 1e-9 <= schedule(epoch) <= high + 1e-9 for epoch in range(60))


def test_constant():
    schedule = Schedule.of(0.5)
    assert (schedule(0), schedule(99), schedule.settled, schedule.to_json()) == (0.5, 0.5, 0, 0.5)
    assert Schedule.of(schedule) is schedule
    assert Schedule.of([[0, 1], [3, 1]]).settled == 0


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "points",
    [(), ((0, 1), (0, 2)), ((5, 1), (2, 1)), ((-1, 0),), ((0, float("nan")),), ((0.5, 1),), ((0, "x"),), (3,)],
)
def test_refused(points):
    with pytest.raises(ValueError, match="schedule"):
        Schedule(points)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("value", [None, True, "linear"])
def test_of_refuses(value):
    with pytest.raises(ValueError, match="Expected a number"):
        Schedule.of(value)


def test_steps_refuse():
    with pytest.raises(ValueError, match="positive number of epochs"):
        Schedule.steps([1.0], every=0)
