"""The review's claims: who is compared, by which rule, against the definitions, scipy, the specs and the tables."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from dvae_lib import MODELS
from dvae_lib.experiments import LABELS, REVIEW, read_records, summarise
from dvae_lib.experiments.claims import (
    AUTOREGRESSIVE,
    CLAIMS,
    GAPLESS,
    MEASURES,
    OTHERS,
    Claim,
    Comparison,
    compare,
    compare_paired,
    in_review,
    in_words,
    judge,
    merit,
    merits,
    none_collapsed,
    over_measures,
    typical_spread,
)
from dvae_lib.graphs.links import links
from dvae_lib.resources import resource_path

SPECS = {LABELS[name]: MODELS[name].cls(x_dim=4, z_dim=2, **MODELS[name].options).spec for name in LABELS}


def table(record, scores, column="si_sdr", **options):
    """Lines with the scores of each seed."""
    return summarise(
        [
            record(name, seed=seed, tests={"TF": {column: value}}, **options)
            for name, values in scores.items()
            for seed, value in enumerate(values)
        ]
    )


def with_utterances(record, scores, column="si_sdr"):
    """Lines of one training each, with the scores of each utterance."""
    records = []
    for name, values in scores.items():
        made = record(name, tests={"TF": {column: statistics.fmean(v for v in values if v is not None)}})
        made["test"][0]["scores"] = {column: list(values)}
        records.append(made)
    return summarise(records)


# --- who is who ---


def test_the_groups_are_those_of_the_specs():
    found = {name: links(spec) for name, spec in SPECS.items()}
    lacks = {name: set().union(*(g.missing for g in spec.inference_gap().values())) for name, spec in SPECS.items()}
    assert set(AUTOREGRESSIVE) == {name for name in SPECS if found[name].predictive}
    assert set(OTHERS) == {name for name in SPECS if found[name].is_dvae and not found[name].predictive}
    assert set(GAPLESS) == {name for name in OTHERS if not lacks[name]}
    assert [name for name in AUTOREGRESSIVE if not lacks[name]] == ["SRNN"]


def test_claims_are_about_lines_of_the_reviews_tables():
    assert len({claim.number for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.pairs
        for table in REVIEW.values():
            assert {name for pair in claim.pairs for name in pair} <= set(table)
        assert all(a != b for a, b in claim.pairs)


# --- one pair ---


def test_merits_count_errors_by_their_ratio_and_bounds_as_they_are(record):
    assert merit(4.0, "mpjpe") - merit(8.0, "mpjpe") == pytest.approx(20 * math.log10(2))
    assert merit(-3.0, "vlb") == -3.0
    (line,) = table(record, {"vae": [5.0, 6.0]})
    assert merits(line, "si_sdr") == {0: 5.0, 1: 6.0}
    assert merits(line, "vlb") == {0: -3.0, 1: -3.0}
    assert merits(line, "estoi") == {}
    with pytest.raises(ValueError, match="no column loudness"):
        merit(1.0, "loudness")


def test_a_score_that_is_not_defined_is_none(record):
    made = record("vae")
    made["test"][0]["measures"]["si_sdr"]["mean"] = None
    (line,) = summarise([made])
    assert merits(line, "si_sdr") == {}


def test_trainings_are_compared_by_the_larger_of_two_spreads(record):
    """By hand: the pooled deviation of the table is larger than SRNN's own, smaller than the VAE's."""
    scores = {"vae": [4.0, 6.0, 8.0], "srnn": [9.0, 9.1], "dkf": [3.0]}
    lines = table(record, scores)
    pooled = math.sqrt((statistics.variance(scores["vae"]) * 2 + statistics.variance(scores["srnn"])) / 3)
    assert typical_spread(lines, "TF", "si_sdr") == pytest.approx(pooled)
    found = compare(lines, "SRNN", "VAE", "si_sdr")
    error = math.sqrt(pooled**2 / 2 + 2.0**2 / 3)
    assert found == Comparison(pytest.approx(3.05), pytest.approx(error), 0)
    assert compare(lines, "DKF", "SRNN", "si_sdr") == Comparison(
        pytest.approx(-6.05), pytest.approx(math.hypot(pooled, pooled / math.sqrt(2))), -1
    )
    assert compare(lines, "SRNN", "DKF", "si_sdr").verdict == 1
    assert compare(lines, "SRNN", "DSAE", "si_sdr") is None
    assert compare(lines, "SRNN", "VAE", "estoi") is None


def test_without_two_trainings_of_anything_nothing_is_decided(record):
    lines = table(record, {"vae": [1.0], "srnn": [99.0]})
    found = compare(lines, "SRNN", "VAE", "si_sdr")
    assert found.difference == 98
    assert math.isnan(found.error)
    assert found.verdict == 0


def test_what_is_equal_in_every_training_is_not_better(record):
    lines = table(record, {"vae": [16, 16], "srnn": [16, 16]})
    assert compare(lines, "SRNN", "VAE", "si_sdr") == Comparison(0.0, 0.0, -1)


def test_utterances_are_compared_in_pairs_as_by_students_test(record):
    rng = np.random.default_rng(0)
    hard = 3 * rng.standard_normal(25)
    a, b = hard + 0.6 + 0.3 * rng.standard_normal(25), hard + 0.3 * rng.standard_normal(25)
    lines = with_utterances(record, {"srnn": a.tolist(), "vae": b.tolist()})
    found = compare_paired(lines, "SRNN", "VAE", "si_sdr")
    assert found.difference / found.error == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert found.verdict == 1
    assert compare_paired(lines, "VAE", "SRNN", "si_sdr").verdict == -1
    # Unpaired, the utterances' own differences hide it; and so does a spread between trainings.
    assert abs(stats.ttest_ind(a, b).statistic) < 2
    wide = compare_paired(lines, "SRNN", "VAE", "si_sdr", spread=1.0)
    assert wide == Comparison(found.difference, pytest.approx(math.sqrt(found.error**2 + 2)), 0)


def test_utterances_without_a_score_are_left_out_on_both_sides(record):
    lines = with_utterances(record, {"srnn": [9.0, None, 3.0, 5.0], "vae": [2.0, 2.0, None, 1.0]})
    assert compare_paired(lines, "SRNN", "VAE", "si_sdr").difference == pytest.approx(5.5)


def test_what_no_utterance_has_cannot_be_said_of_one_training(record):
    lines = with_utterances(record, {"srnn": [9.0, 8.0], "vae": [2.0, 2.0]})
    found = compare_paired(lines, "SRNN", "VAE", "vlb")
    assert (found.difference, found.verdict) == (0.0, 0)
    assert math.isnan(found.error)
    assert compare_paired(lines, "SRNN", "DKF", "si_sdr") is None
    (without,) = table(record, {"dkf": [4.0]})
    assert compare_paired([*lines, without], "SRNN", "DKF", "si_sdr")[::2] == (4.5, 0)


# --- sentences ---


def fixed(verdicts):
    return lambda lines, a, b, column: None if verdicts[a, b] is None else Comparison(0.0, 1.0, verdicts[a, b])


@pytest.mark.parametrize(
    ("verdicts", "every", "some"),
    [
        ((1, 1), 1, 1),
        ((1, 0), 0, 1),
        ((1, -1), -1, 1),
        ((0, -1), -1, 0),
        ((-1, -1), -1, -1),
        ((1, None), None, 1),  # a missing model decides nothing, and where it decides nothing it is not missed
        ((-1, None), -1, None),
        ((0, None), None, None),
    ],
)
def test_sentences_about_many_pairs_follow_kleene(record, verdicts, every, some):
    pairs = (("SRNN", "VAE"), ("DKF", "VAE"))
    lines = table(record, {"vae": [1.0]})
    rule = fixed(dict(zip(pairs, verdicts, strict=True)))
    claim = Claim("0", "", "", pairs)
    assert judge(claim, lines, "si_sdr", rule) == every
    assert judge(claim._replace(one_suffices=True), lines, "si_sdr", rule) == some
    assert judge(claim._replace(experiment="motion"), lines, "si_sdr", rule) is None
    assert judge(claim, [], "si_sdr", rule) is None


def test_the_review_says_what_its_tables_say():
    claims = {claim.number: claim for claim in CLAIMS}
    said = {
        (number, experiment): over_measures(claim, experiment, lambda c, m, kind=experiment: in_review(c, kind, m))
        for number, claim in claims.items()
        for experiment in MEASURES
    }
    for number in ("1", "2a", "2b", "3a", "5a", "5b", "5c", "5d"):
        assert said[number, "speech"] == (1, 1, 1)
        assert said[number, "motion"] == (1,)
    assert said["3b", "speech"] == (1, -1, 0)  # 9.3 to 9.2 dB, 3.53 to 3.55, 0.91 to 0.91
    assert said["3b", "motion"] == said["3c", "motion"] == (-1,)
    assert said["3c", "speech"] == (-1, -1, -1)
    assert said["4", "speech"] == (-1, 1, 1)  # 8.9 to 9.0 dB
    assert said["6", "motion"] == said["7b", "motion"] == (1,)
    assert said["6", "speech"] == said["7b", "speech"] == (None, None, None)
    assert said["8a", "speech"] == (None,)  # its counts are in the text, without the line that they were drawn at


def test_one_verdict_is_made_of_those_by_several_measures():
    for verdicts, words in (
        ((1, 1, 1), "holds"),
        ((-1, -1, None), "does not hold"),
        ((0, 0), "cannot be said"),
        ((1, 0, 1), "cannot be said"),
        ((1, 0, -1), "depends on the measure"),
        ((None,), "–"),
    ):
        assert in_words(verdicts) == words


def test_a_dimension_counts_as_lost_where_every_training_has_lost_one(record):
    alive, dead = (1.0, 0.5), (1.0, 0.001)
    for kinds, expected in (((alive, alive), 1), ((alive, dead), 0), ((dead, dead), -1)):
        runs = [record("dkf", seed=i, tests={"TF": {"kl_per_dim": kl, "si_sdr": 1}}) for i, kl in enumerate(kinds)]
        lines = summarise([*runs, record("storn", tests={"TF": {"kl_per_dim": dead, "si_sdr": 1}})])
        assert none_collapsed(lines, ["DKF"]) == expected
        assert none_collapsed(lines) is none_collapsed(lines, ["DKF", "VRNN"]) is None  # not trained


def test_the_verdicts_of_the_kept_results():
    """Of the first block of Table 13.1 and of motion; a change of the rule or of the claims shows here."""
    words = {}
    for kind, name in (("speech", "benchmark-librispeech.json"), ("motion", "benchmark-mocap.json")):
        lines = summarise(read_records(resource_path("results", name)))
        for claim in CLAIMS:
            words[claim.number, kind] = in_words(over_measures(claim, kind, lambda c, m, l=lines: judge(c, l, m)))
    holds, fails, open_ = "holds", "does not hold", "cannot be said"
    assert [words["1", kind] for kind in MEASURES] == [fails, open_]
    assert {words[n, kind] for n in ("2a", "3a") for kind in MEASURES} == {open_}
    assert {words[n, kind] for n in ("3b", "3c") for kind in MEASURES} == {fails}
    assert [words["4", kind] for kind in MEASURES] == [holds, open_]
    assert [words["5a", kind] for kind in MEASURES] == [holds, holds]
    assert [words["5b", kind] for kind in MEASURES] == [open_, holds]
    assert [words["5d", kind] for kind in MEASURES] == [fails, open_]
    assert [words["6", "motion"], words["7a", "speech"], words["7b", "motion"]] == [holds, fails, open_]
