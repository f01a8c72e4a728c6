#!/usr/bin/env bash
# Confident learning misses a fifth of planted label errors of a classifier that gives each of them 0.92 for the truth.
#
# Guess, written first: where out-of-fold probabilities of the true label are 0.92 for every row and those of all others
# below 0.006, all wrong labels are listed; if any are missed, those are of a classifier that is unsure.
# Seen with cleanlab 2.9.0: of ten wrong labels among 1,000, ten times, 79 of 100 are listed by `prune_by_noise_rate`
# (the default) and by `confident_learning`, without a word. A row counts as one of another label where its probability
# of that label is at least the mean of the rows that have it; where all are equal but for the third decimal, about half
# of all rows are below that mean, wrong ones too. What decides is that decimal and not how unlikely the given label is.
# Listing where the most probable label is not the given one (`predicted_neq_given`) finds all here, and in real sets
# lists several right labels for each wrong one.
# For pretune: `labels/errors.py` had the same rule; it fits the share of wrong labels to the data now, and weighs by it
# how unlikely a given label is (benchmarks/LOG.md has both on public sets).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cleanlab==2.9.0 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from cleanlab.filter import find_label_issues

LABELS, ROWS, SURE = 20, 50, 0.97
truth = np.repeat(np.arange(LABELS), ROWS)
given, planted = truth.copy(), np.arange(10) * ROWS
given[planted] = (truth[planted] + 5) % LABELS
found = {"prune_by_noise_rate": 0, "confident_learning": 0, "predicted_neq_given": 0}
print(f"cleanlab {version('cleanlab')}")
for draw in range(10):
    probabilities = np.full((len(truth), LABELS), (1 - SURE) / (LABELS - 1))
    probabilities[np.arange(len(truth)), truth] = SURE
    probabilities += np.random.default_rng(draw).uniform(0, 0.005, probabilities.shape)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert probabilities[planted, truth[planted]].min() > 0.91
    assert probabilities[planted, given[planted]].max() < 0.01
    for rule in found:
        listed = np.flatnonzero(find_label_issues(given, probabilities, filter_by=rule, n_jobs=1))
        assert set(listed.tolist()) <= set(planted.tolist())
        found[rule] += len(listed)
for rule, count in found.items():
    print(f"{rule}: {count} of 100 found")
assert found == {"prune_by_noise_rate": 79, "confident_learning": 79, "predicted_neq_given": 100}
PY
