"""The figure with sliders holds what the smoother says, and loads nothing."""

import json
import re

import torch

from dvae_lib.statespace import kalman_filter, kalman_smoother, local_level, noise_explorer

X = torch.tensor([0.3, 1.2, torch.nan, 0.8, 2.5])
PROCESS, OBSERVATION = [0.1, 1.0], [0.5, 2.0, 8.0]


def test_its_numbers_are_those_of_the_library():
    html = noise_explorer(X, PROCESS, OBSERVATION).data
    data = json.loads(re.search(r"data = (\{.*\});", html).group(1))
    assert data["x"][2] is None
    assert len(data["cases"]) == 6
    for i, q in enumerate(PROCESS):
        for j, r in enumerate(OBSERVATION):
            ssm = local_level(q, r, variance=100.0)
            filtered, smoothed = (f(ssm, X.double().unsqueeze(-1)) for f in (kalman_filter, kalman_smoother))
            case = data["cases"][3 * i + j]
            torch.testing.assert_close(torch.tensor(case["filter"]), filtered.mean[:, 0].float(), atol=6e-4, rtol=0)
            torch.testing.assert_close(torch.tensor(case["smoother"]), smoothed.mean[:, 0].float(), atol=6e-4, rtol=0)
            P = filtered.predicted_covariance[:, 0, 0]
            assert case["gain"][2] is None
            assert abs(case["gain"][4] - float(P[4] / (P[4] + r))) < 6e-4
            assert abs(case["logLikelihood"] - float(filtered.log_likelihood)) < 6e-3


def test_it_loads_nothing_and_leaves_no_placeholder():
    html = noise_explorer(X, PROCESS, OBSERVATION).data
    assert "http" not in html.replace("http://www.w3.org", "")
    assert not re.search(r"__[A-Z]+__", html)
    other = noise_explorer(X, PROCESS, OBSERVATION).data
    identifier = re.search(r'id="(explorer-\w+)"', html).group(1)
    assert identifier not in other
