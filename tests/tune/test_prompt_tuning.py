"""Prompt tuning of every family: vectors in front of each sequence, and answers for the text alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pretune.batch import Batch, Layout, OutputRows, RowKeys, ragged
from pretune.errors import DataError, UsageError
from pretune.models.adapters import SharedModels
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.prompt import LearnedPrompt
from pretune.tune import prompt
from pretune.tune.method import find_method
from tests.tune.test_prefix_tuning import CAUSAL, FAMILIES, batch_of, make, one_by_one

WORDS = [9, 8, 7]


def tuned(model: LanguageModel, **settings: Any) -> LanguageModel:
    return find_method("prompt", {"length": 3, **settings}).apply(model, 3)


def prompt_of(model: LanguageModel) -> LearnedPrompt:
    (brick,) = (module for module in model.modules() if isinstance(module, LearnedPrompt))
    return brick


@torch.no_grad()
def speaking(family: str, **fields: Any) -> LanguageModel:
    """A model whose prompt is the vectors of three words."""
    model = tuned(make(family, **fields))
    embedding = model.encoder.embedding if model.has_encoder else model.embedding  # type: ignore[union-attr]
    prompt_of(model).vectors.copy_(embedding.word.lookup(torch.tensor(WORDS)) * embedding.scale)  # type: ignore[union-attr,operator]
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_of_words_is_the_words_in_front(family: str) -> None:
    """Whatever the family adds to its words, of whichever side: the same as if the text began with them."""
    plain, model, batch = make(family), speaking(family), batch_of(make(family))
    got = model(batch).last_hidden_state
    assert got.shape == (batch.layout.total, model.width)
    torch.testing.assert_close(got, one_by_one(model, batch), atol=1e-5, rtol=1e-5)
    run = batch if batch.source is None else batch.source
    texts = [run.tokens[a:b].tolist() for a, b in zip(run.layout.bounds, run.layout.bounds[1:], strict=False)]
    longer = ragged([[*WORDS, *text] for text in texts])
    if batch.source is not None:
        torch.testing.assert_close(got, plain(replace(batch, source=longer)).last_hidden_state, atol=2e-5, rtol=1e-5)
    else:
        want = plain(longer).last_hidden_state
        kept = torch.cat(
            [torch.arange(a + 3, b) for a, b in zip(longer.layout.bounds, longer.layout.bounds[1:], strict=False)]
        )
        torch.testing.assert_close(got, want[kept], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_alone_trains(family: str) -> None:
    model = make(family)
    body = {name for name, _ in model.named_parameters() if not name.startswith("heads.")}
    model = tuned(model)
    hidden = model(batch_of(model)).last_hidden_state
    (hidden * torch.randn_like(hidden)).sum().backward()
    brick = prompt_of(model)
    assert brick.vectors.grad is not None
    assert brick.vectors.grad.any(dim=1).all()
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if name in body)
    prompt.after_step(model, 1.0)
    assert prompt.idle(model) == []
    (line,) = prompt.acted(model)
    assert "3 vectors, largest gradient" in line
    brick.largest_gradient.zero_()
    assert prompt.idle(model)[0].endswith("embedding.prompt: had no gradient")


@torch.no_grad()
@pytest.mark.parametrize("family", [*CAUSAL, "gpt3", "t5", "bart"])
def test_step_by_step_behind_a_prompt(family: str) -> None:
    """The prompt is in the cache once: positions go on behind it."""
    model = speaking(family, **({"max_position_embeddings": 16} if family == "llama" else {}))
    batch = batch_of(model, (5, 7, 5, 6))
    want = model(batch).last_hidden_state
    cache = model.new_cache(4, 3)
    starts = batch.layout.bounds[:-1]
    first = torch.cat([batch.tokens[start : start + 2] for start in starts])
    hidden = model(Batch(first, cache.layout([2] * 4), source=batch.source), cache=cache).last_hidden_state
    torch.testing.assert_close(hidden, torch.cat([want[s : s + 2] for s in starts]), atol=2e-5, rtol=1e-5)
    assert cache.lengths == ((2,) * 4 if model.has_encoder else (5,) * 4)
    cache.reorder([2, 0, 1, 3, 0])
    order = [starts[n] for n in (2, 0, 1, 3, 0)]
    for step in range(2, 5):
        at = torch.tensor([start + step for start in order])
        hidden = model(Batch(batch.tokens[at], cache.layout([1] * 5)), cache=cache).last_hidden_state
        torch.testing.assert_close(hidden, want[at], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_segments_and_some_rows() -> None:
    model = speaking("bert")
    batch = replace(batch_of(model), segments=torch.tensor([0, 0, 1, 1, 1, 1, 0, *[1] * 9, 0, 0, 0, 1, 1, 1]))
    want = model(batch).last_hidden_state
    rows = OutputRows.of(np.array([0, 3, 6, 20]), batch.layout)
    some = model(replace(batch, output_rows=rows))
    torch.testing.assert_close(some.at(torch.tensor([3, 20])), want[[3, 20]], atol=1e-5, rtol=1e-5)
    layers = model(batch, layers=True).layers
    assert {run.shape for run in layers} == {(batch.layout.total, model.width)}
    torch.testing.assert_close(layers[-1], want)
    torch.testing.assert_close(fuse(model)(batch).last_hidden_state, want, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_permutations_see_the_prompt() -> None:
    model, plain = speaking("xlnet"), make("xlnet")
    batch = ragged([[5, 6, 7, 8], [9, 10]])
    order = torch.tensor([2, -1, 0, 1, -1, 0])
    rows = OutputRows.of(np.array([0, 2, 5]), batch.layout)
    got = model(replace(batch, order=order, output_rows=rows)).last_hidden_state
    longer = ragged([[*WORDS, 5, 6, 7, 8], [*WORDS, 9, 10]])
    order = torch.tensor([-1, -1, -1, 2, -1, 0, 1, -1, -1, -1, -1, 0])
    rows = OutputRows.of(np.array([3, 5, 11]), longer.layout)
    want = plain(replace(longer, order=order, output_rows=rows)).last_hidden_state
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_first_row_may_be_answered_by_the_prompt() -> None:
    model, batch = speaking("bert"), batch_of(make("bert"))
    leading = tuned(make("bert"), first_row="prompt")
    leading.load_state_dict(model.state_dict())
    text, lead = model(batch).last_hidden_state, leading(batch).last_hidden_state
    first = batch.layout.first
    others = [n for n in range(batch.layout.total) if n not in first.tolist()]
    assert torch.equal(text[others], lead[others])
    longer = ragged([[*WORDS, *batch.tokens[:6].tolist()]])
    torch.testing.assert_close(lead[0], make("bert")(longer).last_hidden_state[0], atol=1e-5, rtol=1e-5)


def test_what_is_dropped_does_not_depend_on_the_batch() -> None:
    """Each row of the longer run has a key of its own, the same in any batch; rows of the text keep theirs."""
    brick = LearnedPrompt(torch.randn(3, 4))
    words = torch.arange(16, dtype=torch.int32).view(8, 2)
    both = replace(Layout.of([5, 3]), keys=RowKeys(words))
    one = replace(Layout.of([3]), keys=RowKeys(words[5:]))
    longer, alone = brick.place(both).layout, brick.place(one).layout
    assert longer.keys is not None
    assert alone.keys is not None
    assert torch.equal(longer.keys.words[8:], alone.keys.words)
    assert torch.equal(longer.keys.words[3:8], words[:5])
    assert len(set(map(tuple, longer.keys.words.tolist()))) == 14
    assert longer.keys.calls is both.keys.calls  # type: ignore[union-attr]


def test_empty_sequences_have_no_prompt() -> None:
    brick = LearnedPrompt(torch.randn(2, 4))
    longer = brick.place(Layout.of([0, 3, 0]))
    assert longer.layout.lengths == (0, 5, 0)
    run = torch.randn(3, 4)
    assert torch.equal(longer.cut(brick.extend(run, longer)), run)
    assert brick.place(Layout.of([0, 0])).layout.lengths == (0, 0)


def test_a_text_that_no_longer_fits_behind_a_prompt() -> None:
    model = tuned(make("bert", max_position_embeddings=12))
    assert model.max_length == 9
    model(ragged([[2] * 9]))
    with pytest.raises(DataError, match="of 10 tokens is longer than the model's 9 positions"):
        model(ragged([[2] * 10]))
    with pytest.raises(UsageError, match="'length' = 12: the model has 12 positions"):
        tuned(make("bert", max_position_embeddings=12), length=12)
    with pytest.raises(UsageError, match="has a prompt already"):
        tuned(tuned(make("bert")))


@torch.no_grad()
def test_beside_other_adapters_it_reads_its_sequences_apart() -> None:
    base, form = make("bert"), speaking("bert")
    models = SharedModels.of(base, [form])
    assert models.apart == {0: "embedding has a prompt, which makes its sequences longer"}
    batch = batch_of(base)
    assert torch.equal(models.form(0)(batch).last_hidden_state, speaking("bert")(batch).last_hidden_state)
