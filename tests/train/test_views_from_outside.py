"""An objective of one's own with a view of its own, both in one file outside the tree, through a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from trainkit import lines, make_store, recipe, replaced

from pretune.text.store.store import TokenStore
from pretune.train.run import pretrain

FILE = '''
"""Masked words of nothing but the beginnings of documents."""

import numpy as np

from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.text.samples.views.view import StoreView


class Beginnings(StoreView):
    """The first tokens of every document."""

    def __init__(self, split, width, lookahead=0, words=False):
        super().__init__(split, width, lookahead, words)
        offsets = np.asarray(split.document_offsets)
        self.start, self.stop = offsets[:-1], np.minimum(offsets[:-1] + width, offsets[1:] - 1)

    def __len__(self):
        return len(self.start)

    def lengths(self, index):
        return self.stop[index] - self.start[index]

    def read(self, index, store, epoch, draw):
        return self.windows(index, store, epoch, self.start[index], self.stop[index])

    def data_stats(self):
        used = int((self.stop - self.start).sum())
        return {"samples": len(self), "tokens": self.split.token_count, "used": used}


class MaskedBeginnings(MaskedLanguageModelling):
    """Masked language modelling of beginnings."""

    name = "beginnings"
    view = __file__
    compatible_views = ()
'''


def test_a_run_reads_what_the_user_s_view_says(tmp_path: Path) -> None:
    file, store = tmp_path / "beginnings.py", make_store(tmp_path / "store", documents=64)
    file.write_text(FILE)
    over = {"data": {"length": 12}, "budget": {"steps": None, "epochs": 1}, "track": {"every": 1}}
    pretrain(replaced(recipe(tmp_path / "run", store, **over), objective={str(file): 1.0}))
    offsets = np.asarray(TokenStore.open(store).split("train").document_offsets)
    expected = int(np.minimum(np.diff(offsets) - 1, 10).sum()) + 2 * (len(offsets) - 1)
    assert [line for line in lines(tmp_path / "run") if "loss/beginnings" in line][-1]["tokens"] == expected
