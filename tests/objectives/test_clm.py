import numpy as np
import torch
import torch.nn.functional as F
from fakes import FakeModel, MemorySplit, make_decoder_vocabulary

from pretune.draw import Draw
from pretune.objectives.clm import CausalLanguageModelling
from pretune.text.samples.rows import Row
from pretune.text.samples.views.document import DocumentView
from pretune.text.samples.views.stream import StreamView

DRAW = Draw(1)


def make(weight: float = 1.0) -> CausalLanguageModelling:
    return CausalLanguageModelling(CausalLanguageModelling.Config(weight=weight), make_decoder_vocabulary(2000))


def test_targets_are_the_following_tokens() -> None:
    rows = [Row((0, 0, 1), np.array([5, 6, 7, 8])), Row((0, 0, 0), np.array([9, 4]))]
    objective = make()
    batch = objective.corrupt(objective.prepare(rows, DRAW), DRAW)
    index, label = batch.targets["clm"]
    assert batch.tokens.tolist() == [5, 6, 7, 9]
    assert label.tolist() == [6, 7, 8, 4]
    assert index.tolist() == [0, 1, 2, 3]
    assert batch.layout.lengths == (3, 1)
    assert batch.samples.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert objective.counts(batch) == {"clm": 4}
    assert objective.counts(objective.prepare([], DRAW)) == {"clm": 0}


def test_an_epoch_predicts_every_token_of_a_stream_once_but_the_first() -> None:
    split = MemorySplit([[5, 8], [1], [20, 3, 3]])
    for width in (1, 4, 7, 100):
        view = StreamView(split, width, make().lookahead)
        batch = make().prepare(view.read(np.arange(len(view)), 0, 0, DRAW), DRAW)
        assert batch.targets["clm"][1].tolist() == split.tokens[1:].tolist()
        assert batch.tokens.tolist() == split.tokens[:-1].tolist()
        assert batch.layout.lengths == tuple(view.lengths(np.arange(len(view))).tolist())


def test_documents_predict_their_end_but_not_the_next_document() -> None:
    split = MemorySplit([[5], [2]])
    view = DocumentView(split, 3, make().lookahead)
    batch = make().prepare(view.read(np.arange(len(view)), 0, 0, DRAW), DRAW)
    assert batch.layout.lengths == (3, 2, 2)
    assert batch.targets["clm"][1].tolist() == [*split.tokens[1:6].tolist(), *split.tokens[7:9].tolist()]


def test_the_loss_is_summed_over_every_position() -> None:
    model = FakeModel(2000)
    rows = [Row((0, 0, 0), np.array([5, 6, 7, 8])), Row((0, 0, 1), np.array([9, 4]))]
    objective = make(3.0)
    batch = objective.prepare(rows, DRAW)
    (term,) = objective(model, batch)
    logits = model.heads["clm"].linear(model.embedding(batch.tokens))
    torch.testing.assert_close(term.sum, F.cross_entropy(logits, batch.targets["clm"][1], reduction="sum"))
    assert (term.name, term.count, term.weight) == ("clm", 4, 3.0)
