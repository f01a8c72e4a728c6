"""An objective of one's own with a view of its own, both in one file outside the tree, through a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes import BEGINNINGS
from trainkit import lines, make_store, recipe, replaced

from pretune.text.store.store import TokenStore
from pretune.train.run import pretrain

FILE = (
    BEGINNINGS
    + '''

from pretune.objectives.mlm import MaskedLanguageModelling


class MaskedBeginnings(MaskedLanguageModelling):
    """Masked language modelling of beginnings."""

    name = "beginnings"
    view = __file__
    compatible_views = ()
'''
)


def test_a_run_reads_what_the_user_s_view_says(tmp_path: Path) -> None:
    file, store = tmp_path / "beginnings.py", make_store(tmp_path / "store", documents=64)
    file.write_text(FILE)
    over = {"data": {"length": 12}, "budget": {"steps": None, "epochs": 1}, "track": {"every": 1}}
    pretrain(replaced(recipe(tmp_path / "run", store, **over), objective={str(file): 1.0}))
    offsets = np.asarray(TokenStore.open(store).split("train").document_offsets)
    expected = int(np.minimum(np.diff(offsets) - 1, 10).sum()) + 2 * (len(offsets) - 1)
    assert [line for line in lines(tmp_path / "run") if "loss/beginnings" in line][-1]["tokens"] == expected
