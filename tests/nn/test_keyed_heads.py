"""What a low-rank change drops in a head is a function of the row's key, whatever rows are beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import Layout, RowKeys
from pretune.nn.embedding import Embedding
from pretune.nn.heads import DetectionHead, Pooler, SequenceHead, TokenClassificationHead, Transform, VocabularyHead
from pretune.nn.low_rank import LowRankProjection
from pretune.nn.pair_head import PairHead
from pretune.nn.projection import Projection
from pretune.nn.token_pairs import TokenPairHead
from pretune.nn.vector_head import VectorHead
from pretune.nn.vocabulary import Vocabulary
from pretune.tune.surgery import projection_sites

WIDTH, ROWS = 16, 6


def transform() -> Transform:
    return Transform(WIDTH, torch.tanh, nn.LayerNorm(WIDTH))


def answers(name: str, head: nn.Module, rows: Tensor, keys: RowKeys) -> Tensor:
    layout = replace(Layout.of([1] * len(rows)), keys=keys)
    if name in ("sequence", "vector"):
        return head(rows, layout)
    if name == "pair":
        return head(rows, rows.flip(1), keys)
    if name == "token_pairs":
        return torch.stack(head(rows, layout))
    if name == "vocabulary":
        return head.states(rows, keys)
    if name == "embedding":
        return head(torch.arange(len(rows)) % 5, layout)
    return head(rows, keys)


HEADS = {
    "vocabulary": lambda: VocabularyHead(Vocabulary(20, WIDTH), transform(), predicts="masked"),
    "detection": lambda: DetectionHead(WIDTH, torch.tanh),
    "tokens": lambda: TokenClassificationHead(WIDTH, ["a", "b"], transform=transform(), dropout=0.3),
    "sequence": lambda: SequenceHead(WIDTH, ["a", "b"], "first", pooler=Pooler(WIDTH, dropout=0.3)),
    "vector": lambda: VectorHead(WIDTH, ["a", "b"], "first"),
    "pair": lambda: PairHead(WIDTH, ["a", "b"]),
    "token_pairs": lambda: TokenPairHead(WIDTH, ["a", "b"], size=4),
    "embedding": lambda: Embedding(5, WIDTH, project=Projection(WIDTH, WIDTH)),
}


def tuned(name: str) -> nn.Module:
    torch.manual_seed(0)
    head = HEADS[name]()
    for number, site in enumerate(projection_sites(head)):
        brick = LowRankProjection(site.brick, 4, 1.0, dropout=0.5)
        nn.init.normal_(brick.b)
        brick.dropout.site = number + 1
        site.replace(brick)
    return head.train()


@pytest.mark.parametrize("name", HEADS)
def test_a_rows_key_decides_alone(name: str) -> None:
    head = tuned(name)
    rows = torch.randn(ROWS, WIDTH)
    words = torch.randint(-(2**31), 2**31, (ROWS, 2), dtype=torch.int32)
    torch.manual_seed(1)
    together = answers(name, head, rows, RowKeys(words))
    torch.manual_seed(2)
    again = answers(name, head, rows, RowKeys(words))
    assert torch.equal(together, again)
    some = [0, 1] if name == "embedding" else [4, 1]
    alone = answers(name, head, rows[some], RowKeys(words[some]))
    torch.testing.assert_close(alone, together[some], atol=1e-5, rtol=1e-5)
    others = answers(name, head, rows, RowKeys(words.flip(0)))
    assert not torch.allclose(others, together, atol=1e-3), "positive control: other keys drop other values"
