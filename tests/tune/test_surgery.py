"""Sites by role and layer; surgery on vocabularies, tied and not; merging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pretune.batch import ragged
from pretune.errors import UsageError
from pretune.models import build
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import Projection
from pretune.nn.vocabulary import Vocabulary
from pretune.tune.surgery import find_sites, merge_bricks, vocabulary_sites

SHAPE = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}


class Shifted(nn.Module):
    """A vocabulary whose vectors are those of another, and a constant."""

    def __init__(self, base: Vocabulary, shift: float) -> None:
        super().__init__()
        self.base = base
        self.shift = nn.Parameter(torch.full((base.width,), shift))

    size = property(lambda self: self.base.size)
    width = property(lambda self: self.base.width)

    def dense(self) -> Tensor:
        return self.base.dense() + self.shift

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.dense()[tokens]

    row = lookup

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(rows, self.dense(), bias)

    def loss(self, rows: Tensor, labels: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores = self.scores(rows[: len(labels)], bias)
        return nn.functional.cross_entropy(scores, labels, reduction="sum"), (scores.argmax(1) == labels).sum()

    def sampled_loss(self, *args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def product(self, bias: Tensor | None = None) -> object:
        return lambda rows: self.scores(rows, bias)

    def flops(self, rows: float) -> float:
        return self.base.flops(rows)

    def reset_parameters(self, std: float) -> None:
        self.base.reset_parameters(std)


def head_of(model: nn.Module, role: str = "mlm") -> VocabularyHead:
    head = model.heads[role]
    assert isinstance(head, VocabularyHead)
    return head


def test_sites_by_role_and_layer() -> None:
    model = build("bert", "mini", ["mlm"], {**SHAPE, "num_hidden_layers": 4})

    def paths(*patterns: str) -> list[str]:
        return [site.path for site in find_sites(model, patterns)]

    assert paths("layers[-2:].attention.query") == [f"stack.blocks.{n}.attention.query" for n in (2, 3)]
    assert paths("layers[1:2].feedforward") == [f"stack.blocks.1.feedforward.{n}" for n in ("up", "down")]
    assert len(paths("attention")) == 16
    assert paths("vocabulary") == ["embedding.word"]
    assert paths("heads") == ["heads.mlm.transform.dense"]
    assert paths("attention.query", "query") == [f"stack.blocks.{n}.attention.query" for n in range(4)]
    with pytest.raises(UsageError, match=r"places: .*names no place; write one such as heads, layers\[0:2\] or"):
        paths("layers[x].query")


def test_a_tied_vocabulary_is_replaced_in_both_places() -> None:
    model = build("bert", "tiny", ["mlm"], SHAPE).eval()
    names = [name for name, _ in model.named_parameters()]
    (site,) = vocabulary_sites(model)
    plain = site.brick
    site.replace(Shifted(plain, 0.1))
    head = head_of(model)
    assert model.embedding.word is head.vocabulary
    assert head.weight is None
    batch = ragged([[2, 7, 8, 3]])
    hidden = model(batch).last_hidden_state
    loss, _ = head.loss(hidden, torch.tensor([7, 8, 9, 4]))
    (grad,) = torch.autograd.grad(loss, [model.embedding.word.shift])
    assert grad.any(), "the loss of the head goes through the brick"
    want = head(hidden)
    merge_bricks(model)
    assert [name for name, _ in model.named_parameters()] == names
    assert head.weight is model.embedding.word.weight
    torch.testing.assert_close(head_of(model)(model(batch).last_hidden_state), want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.embedding.word.weight, plain.weight + 0.1)


def test_an_untied_head_has_a_vocabulary_of_its_own() -> None:
    model = build("bert", "tiny", ["mlm"], {**SHAPE, "tie_word_embeddings": False}).eval()
    words, own = vocabulary_sites(model)
    assert (words.path, own.path) == ("embedding.word", "heads.mlm")
    before = head_of(model).vocabulary.dense()
    own.replace(Shifted(own.brick, 0.5))
    assert isinstance(model.embedding.word, Vocabulary)
    torch.testing.assert_close(head_of(model).vocabulary.dense(), before + 0.5)
    merge_bricks(model)
    assert "heads.mlm.weight" in dict(model.named_parameters())
    torch.testing.assert_close(head_of(model).weight, before + 0.5)


def test_both_sides_of_an_encoder_decoder_share_one_vocabulary() -> None:
    shape = {"num_layers": 1, "d_model": 32, "num_heads": 2, "d_kv": 16, "d_ff": 64, "vocab_size": 64}
    model = build("t5", "small", ["clm"], shape)
    first = vocabulary_sites(model)[0]
    first.replace(Shifted(first.brick, 0.1))
    assert model.embedding.word is model.encoder.embedding.word
    paths = [site.path for site in find_sites(model, ["layers[:1].cross.query"])]
    assert paths == ["stack.blocks.0.cross.query"]


def test_merging_keeps_what_is_plain() -> None:
    model = build("bert", "tiny", ["mlm"], SHAPE)
    before = dict(model.named_modules())
    merge_bricks(model)
    assert all(module is before[name] for name, module in model.named_modules())


def test_a_projection_of_values() -> None:
    weight, bias = torch.randn(3, 2), torch.randn(3)
    projection = Projection.of(weight, bias)
    x = torch.randn(5, 2)
    torch.testing.assert_close(projection(x), x @ weight.T + bias)
    assert Projection.of(weight, None).bias is None
