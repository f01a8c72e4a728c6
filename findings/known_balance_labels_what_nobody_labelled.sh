#!/usr/bin/env bash
# With `class_balance`, snorkel's label model labels the texts that no labeling function says anything of.
#
# Guess, written first: a row of abstentions (-1) gets no label; `predict(..., tie_break_policy="abstain")` gives -1 for
# it, as MajorityLabelVoter does and LabelModel itself where the balance of classes is not given.
# Seen with snorkel 0.10.0: such a row has the balance for its probabilities, so that with [0.7, 0.3] each gets class 0;
# nothing is tied, and the policy has nothing to do. `score` counts coverage 1.0 where 0.94 of the texts have a vote, and
# accuracy over all. Without `class_balance` all classes are equal, which is a tie, and -1. Telling the model one fact
# more turns what no rule matched into examples of the largest class. No warning; `filter_unlabeled_dataframe` is there
# for whoever knows.
# For pretune: it makes no labels of rules; labels that another model made come with the texts that it did label.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 snorkel==0.10.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
from importlib.metadata import version

import numpy as np
from snorkel.labeling.model import LabelModel, MajorityLabelVoter

draw = np.random.default_rng(0)
truth = draw.choice(2, p=[0.7, 0.3], size=400)
votes = np.stack([np.where(draw.random(400) < 0.5, -1, np.where(draw.random(400) < 0.85, truth, 1 - truth)) for _ in range(4)], 1)
nothing = (votes == -1).all(axis=1)
print("snorkel", version("snorkel"), "-", int(nothing.sum()), "of 400 texts without a vote")
assert nothing.sum() > 10


def labels(class_balance: list[float] | None) -> tuple[np.ndarray, float]:
    model = LabelModel(cardinality=2, verbose=False)
    model.fit(votes, n_epochs=200, seed=1, progress_bar=False, class_balance=class_balance)
    given = model.predict(votes, tie_break_policy="abstain")
    coverage = float(model.score(votes, truth, metrics=["coverage"], tie_break_policy="abstain")["coverage"])
    print(f"class_balance {class_balance}: labels of those {sorted(set(given[nothing].tolist()))}, coverage {coverage:.2f}")
    return given[nothing], coverage


majority = MajorityLabelVoter(2).predict(votes, tie_break_policy="abstain")
assert set(majority[nothing]) == {-1}
plain, plain_coverage = labels(None)
assert set(plain) == {-1} and plain_coverage < 0.96
known, known_coverage = labels([0.7, 0.3])
assert set(known) == {0} and known_coverage == 1.0
PY
