"""Rank agreement against scipy, against counting by hand, and against the review's own tables."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dvae_lib.experiments import REVIEW, rank_agreement, summarise, with_review


def named(values):
    return {f"m{i}": float(value) for i, value in enumerate(values)}


def by_hand(a, b):
    """Correlations and p-value from all orders, by their definitions."""

    def ranks(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    def pearson(p, q):
        p, q = np.array(p) - np.mean(p), np.array(q) - np.mean(q)
        return (p @ q) / math.sqrt((p @ p) * (q @ q))

    spearman = pearson(ranks(a), ranks(b))
    pairs = list(itertools.combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    concordance = sum(x * y for x, y in signs)
    kendall = concordance / math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    orders = list(itertools.permutations(a))
    p_value = sum(pearson(ranks(order), ranks(b)) > spearman - 1e-9 for order in orders) / len(orders)
    swapped = [(f"m{i}", f"m{j}") for (i, j), (x, y) in zip(pairs, signs, strict=True) if x * y < 0]
    return spearman, kendall, p_value, tuple(swapped)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([1, 2, 3], [10, 30, 20]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([1, 2, 3, 4], [4, 3, 2, 1]),
        ([3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]),  # ties on both sides
        ([0.1, 0.1, 0.2, 0.2], [5, 6, 7, 8]),
        ([2.5, -1, 0, 7, 3], [1, 1, 1, 1, 2]),
        ([6, 2, 5, 1, 4, 3], [3, 1, 6, 2, 5, 4]),
    ],
)
def test_against_counting_by_hand_and_scipy(ours, theirs):
    found = rank_agreement(named(ours), named(theirs))
    spearman, kendall, p_value, swapped = by_hand(ours, theirs)
    assert found.spearman == pytest.approx(spearman, abs=1e-12)
    assert found.spearman == pytest.approx(stats.spearmanr(ours, theirs).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(kendall, abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(ours, theirs).statistic, abs=1e-12)
    assert found.p_value == pytest.approx(p_value, abs=1e-12)
    assert found.swapped == swapped
    assert found.names == tuple(named(theirs))


def test_the_p_value_of_the_same_order_is_one_in_all_orders():
    for count in (3, 4, 5, 8):
        found = rank_agreement(named(range(count)), named(np.arange(count) ** 3))
        assert (found.spearman, found.kendall, found.swapped) == (pytest.approx(1), pytest.approx(1), ())
        assert found.p_value == pytest.approx(1 / math.factorial(count), rel=1e-12)
    assert rank_agreement(named(range(5)), named(range(5, 0, -1))).p_value == 1


def test_of_many_models_orders_are_drawn():
    rng = np.random.default_rng(5)
    ours = rng.normal(size=10)
    theirs = ours + rng.normal(size=10)
    found = rank_agreement(named(ours), named(theirs))
    assert found == rank_agreement(named(ours), named(theirs))
    ranks = stats.rankdata(theirs)
    drawn = [np.corrcoef(rng.permutation(10), ranks)[0, 1] for _ in range(2000)]
    assert 0 < found.p_value < 0.5
    assert found.p_value == pytest.approx(np.mean(np.array(drawn) >= found.spearman - 1e-9), abs=0.03)
    perfect = rank_agreement(named(range(12)), named(range(12)))
    assert perfect.p_value == pytest.approx(1e-5)  # the observed order is one of the 100,000: never 0
    assert rank_agreement(named(range(10)), named(range(9, -1, -1))).p_value == 1


def test_only_models_that_both_have_are_compared_in_the_order_of_theirs():
    found = rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0, "x": 0.0}, {"c": 3.0, "y": 9.0, "a": 1.0, "b": 2.0})
    assert found.names == ("c", "a", "b")
    assert found.spearman == pytest.approx(1)


def test_two_models_have_no_order_worth_comparing():
    with pytest.raises(ValueError, match=r"Orders of 2 model\(s\) cannot be compared; three at least"):
        rank_agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 2.0, "d": 4.0})
    with pytest.raises(ValueError, match=r"Orders of 0 model\(s\)"):
        rank_agreement({}, {})


@pytest.mark.parametrize("count", [4, 11])
def test_equal_scores_have_no_order(count):
    """As when no latent dimension of any model has collapsed: nothing agrees, and nothing is significant."""
    for ours, theirs in (([16] * count, range(count)), (range(count), [0.9] * count), ([1] * count, [2] * count)):
        found = rank_agreement(named(ours), named(theirs))
        assert all(map(math.isnan, found[:3]))
        assert found.swapped == ()


# --- with the review's tables ---


def lines(record, experiment, scores, measure):
    records = [record(name, tests={"TF": {measure: score}}, experiment=experiment) for name, score in scores.items()]
    return summarise(records)


def test_the_reviews_own_table_agrees_with_itself(record):
    names = {"VAE": "vae", "DKF": "dkf", "STORN": "storn", "VRNN": "vrnn", "SRNN": "srnn", "DSAE": "dsae"}
    for experiment, measures in (("speech", ("si_sdr", "pesq", "estoi")), ("motion", ("mpjpe",))):
        for measure in measures:
            scores = {model: REVIEW[experiment][name][measure] for name, model in names.items()}
            found = with_review(lines(record, experiment, scores, measure), measure)
            assert found.spearman == pytest.approx(1)
            assert found.names == tuple(names)


def test_columns_are_compared_by_what_is_better_not_by_what_is_larger(record):
    """A higher bound and a smaller error are both better."""
    motion = REVIEW["motion"]
    records = [
        record(model, experiment="motion", tests={"TF": {"vlb": -motion[name]["mpjpe"], "mpjpe": 5.0}})
        for name, model in (("VAE", "vae"), ("DKF", "dkf"), ("SRNN", "srnn"), ("DSAE", "dsae"))
    ]
    found = with_review(summarise(records), "vlb", "mpjpe")
    assert found.spearman == pytest.approx(1)
    reverse = [{**r, "test": [{**r["test"][0], "vlb": -r["test"][0]["vlb"]}]} for r in records]
    assert with_review(summarise(reverse), "vlb", "mpjpe").spearman == pytest.approx(-1)


def test_lines_without_the_column_and_models_the_review_lacks_are_left_out(record):
    records = [record(name, tests={"TF": {"si_sdr": i}}) for i, name in enumerate(("vae", "dkf", "srnn"))]
    records += [record("dsae", status="diverged"), record("storn", scheduled=True, tests={"GM": {"si_sdr": 9}})]
    found = with_review(summarise(records), "si_sdr")
    assert found.names == ("VAE", "DKF", "SRNN")
    assert found.spearman == pytest.approx(1)


def test_unknown_columns_and_too_few_models_are_refused(record):
    of_two = summarise([record("vae"), record("dkf")])
    with pytest.raises(ValueError, match="Orders of 2"):
        with_review(of_two, "si_sdr")
    for columns in (("loudness", None), ("vlb", "loudness")):
        with pytest.raises(ValueError, match="no column loudness; there are si_sdr, pesq"):
            with_review(of_two, *columns)
    with pytest.raises(ValueError, match="Orders of 0"):
        with_review(of_two, "vlb")  # the review has no bounds
