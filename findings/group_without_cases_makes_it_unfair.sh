#!/usr/bin/env bash
# fairlearn calls a classifier without a single error as unfair as can be where one group has no positive case.
#
# Guess, written first: the true positive rate of a group without positives is not defined; it is left out or nan, so that
# a classifier that is right about everybody has an equalized odds difference of 0 and a ratio of 1, or none.
# Seen with fairlearn 0.15.0: the rate of such a group is 0.0. Equal to 1.0 of another group it is not, so that
# `equalized_odds_difference` and `equal_opportunity_difference` are 1.0 and `equalized_odds_ratio` 0.0, the worst there
# is, for predictions that equal the labels. The same predictions with one positive more in that group score 0.0 and 1.0.
# Small groups (a dialect, a name) often have no case of a rare label. No warning.
# For pretune: it measures no fairness of groups; whoever does it with its predictions looks at the number of cases first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fairlearn==0.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W error::UserWarning - <<'PY'
from importlib.metadata import version

from fairlearn.metrics import (
    MetricFrame,
    equal_opportunity_difference,
    equalized_odds_difference,
    equalized_odds_ratio,
    true_positive_rate,
)

GROUPS = list("aaaabbbb")
print("fairlearn", version("fairlearn"))


def perfect(labels: list[int]) -> tuple[float, float, float]:
    """Difference and ratio of equalized odds, and of equal opportunity, of predictions that equal the labels."""
    measures = (equalized_odds_difference, equalized_odds_ratio, equal_opportunity_difference)
    out = tuple(float(measure(labels, labels, sensitive_features=GROUPS)) for measure in measures)
    rates = MetricFrame(metrics=true_positive_rate, y_true=labels, y_pred=labels, sensitive_features=GROUPS).by_group
    print(f"labels and predictions {labels}: rates {rates.to_dict()}, difference {out[0]}, ratio {out[1]}, opportunity {out[2]}")
    return out


difference, _, opportunity = perfect([1, 1, 0, 0, 1, 0, 0, 0])
assert difference == 0.0 and opportunity == 0.0
assert perfect([1, 1, 0, 0, 0, 0, 0, 0]) == (1.0, 0.0, 1.0)
PY
