"""LoRA in every family: the same at the start, merged as unmerged, places, heads; its numbers are those of peft."""

from __future__ import annotations

import pytest
import torch
from familykit import FAMILIES, answers, batch_of, loss, tiny
from torch import Tensor, nn

from pretune.errors import UsageError
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.nn.low_rank import DecomposedVocabulary, LowRankProjection, LowRankVocabulary
from pretune.nn.projection import Projection, named_projections
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick
from pretune.tune.method import TuningMethod, find_method

BERT = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 64}


def tuned(model: LanguageModel, **settings: object) -> TuningMethod:
    method = find_method("lora", settings)
    method.apply(model, 7)
    return method


def randomise(model: nn.Module) -> None:
    """Products as large as the matrices beside them: larger ones leave more than the rounding of a merged model."""
    for name, parameter in model.named_parameters():
        if name.endswith((".b", ".magnitude")):
            nn.init.normal_(parameter, mean=float(name.endswith("e")), std=0.12)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_at_the_start_and_after_merging(family: str, decomposed: bool) -> None:
    model = tiny(family)
    before, names = answers(model), list(dict(model.named_parameters()))
    method = tuned(model, places=["layers", "vocabulary", "head"], rank=2, weight_decomposed=decomposed)
    assert torch.equal(answers(model), before)
    idle = method.idle(model)
    assert "embedding.word: b is still 0" in idle
    assert all(line.endswith("b is still 0") for line in idle)
    randomise(model)
    changed = answers(model)
    assert (changed - before).abs().max() > 1e-2
    assert not method.idle(model)
    loss(model).backward()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    factors = (".a", ".b", ".magnitude")
    assert all(name.startswith("heads.") or name.endswith(factors) for name in learned)
    unused = [name for name, p in learned.items() if p.grad is None or not p.grad.any()]
    assert not [name for name in unused if not name.endswith("attention.key.magnitude")], "every part gets a gradient"
    assert len(method.acted(model) or []) == len(idle)
    method.merge(model)
    torch.testing.assert_close(answers(model), changed, atol=1e-5, rtol=1e-5)
    assert list(dict(model.named_parameters())) == names
    assert all(type(brick) is Projection for _, brick in named_projections(model))


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    ("family", "head", "tied"), [("gpt2", "clm", True), ("bert", "mlm", True), ("llama", "clm", False)]
)
def test_a_vocabulary_and_its_head(family: str, head: str, tied: bool, decomposed: bool) -> None:
    model = tiny(family, (head,), tie_word_embeddings=tied)
    batch, vocabulary = batch_of(model), model.heads[head]
    assert isinstance(vocabulary, VocabularyHead)
    labels, uniform = torch.arange(16), torch.rand(16, dtype=torch.float64)

    def run() -> list[Tensor]:
        rows = model(batch).last_hidden_state
        loss, correct = vocabulary.loss(rows, labels)
        sampled, _, tokens = vocabulary.sampled_loss(rows, labels, uniform)
        return [rows, vocabulary(rows), loss, correct, sampled, tokens]

    with torch.no_grad():
        before = run()
        method = tuned(model, places=["vocabulary"], rank=3, weight_decomposed=decomposed)
        assert all(map(torch.equal, run(), before)), "bit for bit"
    bricks = [m for m in model.modules() if isinstance(m, LowRankVocabulary)]
    assert len(bricks) == 1 + (not tied)
    assert bricks[-1] is vocabulary.vocabulary
    randomise(model)
    changed = run()
    learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad and ("word" in n or "replacement" in n)]
    assert {n[-2:] for n, _ in learned} >= {".a", ".b"}
    grads = torch.autograd.grad(changed[2], [p for _, p in learned])
    assert all(grad.any() for grad in grads)
    method.merge(model)
    assert vocabulary.is_tied(model.embedding.word) == tied
    for merged, want in zip(run(), changed, strict=True):
        torch.testing.assert_close(merged, want.detach(), atol=1e-5, rtol=1e-4, check_dtype=False)


def test_vocabulary_bricks_answer_alike() -> None:
    for kind in (LowRankVocabulary, DecomposedVocabulary):
        brick = kind(Vocabulary(50, 8), rank=3, scale=2.0)
        assert isinstance(brick, VocabularyBrick)
        assert (brick.size, brick.width, brick.rank) == (50, 8, 3)
        randomise(brick)
        rows, bias, ids = torch.randn(5, 8), torch.randn(50), torch.tensor([[3, 4], [0, 49]])
        plain = Vocabulary.of(nn.Parameter(brick.dense().detach()))
        torch.testing.assert_close(brick.row(ids), plain.row(ids))
        torch.testing.assert_close(brick.lookup(ids[0]), plain.lookup(ids[0]))
        torch.testing.assert_close(brick.scores(rows, bias), plain.scores(rows, bias))
        torch.testing.assert_close(brick.product(bias)(rows), plain.scores(rows, bias))
        assert brick.flops(10) == 10 * 2 * (50 * 8 + 3 * 58)
        wanted = plain.loss(rows, torch.arange(5), bias)
        torch.testing.assert_close(brick.loss(rows, torch.arange(5), bias), wanted)


def test_heads_train_in_full_unless_named() -> None:
    model = build("bert", "tiny", ["mlm"], BERT)
    tuned(model)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    inner = {f"stack.blocks.{n}.attention.{role}.{p}" for n in (0, 1) for role in ("query", "value") for p in "ab"}
    heads = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    assert learned == inner | heads
    model = build("bert", "tiny", ["mlm"], BERT)
    tuned(model, places=["head"])
    assert "heads.mlm.transform.dense.base.weight" not in {n for n, p in model.named_parameters() if p.requires_grad}


def test_scales() -> None:
    assert find_method("lora", {"rank": 4, "alpha": 8}).config.scale == 2  # type: ignore[attr-defined]
    config = find_method("lora", {"rank": 4, "alpha": 8, "rank_stabilized": True}).config
    assert config.scale == 4  # type: ignore[attr-defined]


def test_a_rank_above_the_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rank 33 is above the 32 rows or columns of stack.blocks.0.attention.query"):
        tuned(build("bert", "tiny", ["mlm"], BERT), rank=33)


def test_what_it_draws_is_a_function_of_the_seed() -> None:
    one, two = (build("bert", "tiny", ["mlm"], BERT) for _ in range(2))
    tuned(one)
    torch.rand(3)
    tuned(two)
    a, b = (m.get_submodule("stack.blocks.0.attention.query") for m in (one, two))
    assert isinstance(a, LowRankProjection)
    assert isinstance(b, LowRankProjection)
    assert torch.equal(a.a, b.a)


@pytest.mark.parametrize("place", ["attention.query", "vocabulary"])
def test_rows_and_columns_of_zeros_have_a_direction_too(place: str) -> None:
    """Pruned ones have no length to divide by, and NaN there would be NaN in every answer."""
    model = tiny("bert", ("mlm",))
    with torch.no_grad():
        model.stack.blocks[0].attention.query.weight[3] = 0  # type: ignore[union-attr,index]
        model.embedding.word.weight[:, 3] = 0  # type: ignore[union-attr,index]
        batch = batch_of(model)
        before = model(batch).last_hidden_state
        method = tuned(model, places=[place], rank=2, weight_decomposed=True)
        assert torch.equal(model(batch).last_hidden_state, before)
    rows = model(batch).last_hidden_state
    rows.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    method.merge(model)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).last_hidden_state, before, atol=1e-5, rtol=1e-5)
