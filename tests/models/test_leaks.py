"""What each row of every family depends on: exactly what its structure lets it see, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import parity
import pytest
import torch

from pretune.batch import Batch, Layout, OutputRows, ragged
from pretune.find import variants
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.structure import BIDIRECTIONAL

LENGTHS, SOURCES = (6, 1, 9, 6), (4, 3, 7, 4)
Rule = Callable[[int, int], bool]
_ONE = {"num_hidden_layers": 1}
# Scores of these two are not scaled: in wider ones all but one key lose their weight.
_NEO = {"num_layers": 1, "hidden_size": 32}
_T5 = {"d_model": 32, "d_kv": 8}
_LLAMA = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}


def anything(asks: int, seen: int) -> bool:
    return True


def earlier(asks: int, seen: int) -> bool:
    return seen <= asks


def near(asks: int, seen: int) -> bool:
    return abs(asks - seen) <= 2


def just_before(asks: int, seen: int) -> bool:
    return 0 <= asks - seen < 3


# What a row may see of its own sequence, by places; layers narrow enough for windows not to reach further by depth.
RULES: dict[str, tuple[Rule, dict[str, Any]]] = {
    "albert": (anything, {}),
    "bert": (anything, {}),
    "distilbert": (anything, {}),
    "electra": (anything, {}),
    "roberta": (anything, {}),
    "xlnet": (anything, {}),
    "modernbert": (near, {**_ONE, "layer_types": ["sliding_attention"], "local_attention": 4}),
    "gpt": (earlier, {}),
    "gpt2": (earlier, {}),
    "gpt3": (just_before, {**_NEO, "attention_types": [[["local"], 1]], "window_size": 3}),
    "llama": (earlier, _LLAMA),
    "qwen2": (earlier, _LLAMA),
    "qwen3": (earlier, _LLAMA),
    "bart": (earlier, {}),
    "bert2bert": (earlier, {}),
    "marian": (earlier, {}),
    "t5": (earlier, _T5),
}
VARIANTS: dict[str, tuple[str, Rule, dict[str, Any]]] = {
    "modernbert, full": ("modernbert", anything, {**_ONE, "layer_types": ["full_attention"]}),
    "gpt3, dense": ("gpt3", earlier, {**_NEO, "attention_types": [[["global"], 1]]}),
}
CASES = {**{name: (name, rule, fields) for name, (rule, fields) in RULES.items()}, **VARIANTS}


def make(family: str, fields: dict[str, Any]) -> LanguageModel:
    model = build(family, "tiny", [], {"vocab_size": 50, **fields}).eval()
    parity.randomise(model)
    return model


def batch_of(model: LanguageModel) -> Batch:
    batch = ragged(parity.sequences(50, LENGTHS))
    return replace(batch, source=ragged(parity.sequences(50, SOURCES))) if hasattr(model, "encoder") else batch


def other(tokens: torch.Tensor, place: int) -> torch.Tensor:
    """Another token at one place."""
    changed = tokens.clone()
    changed[place] = 2 + (changed[place] - 1) % 48
    return changed


@torch.no_grad()
def dependence(model: LanguageModel, batch: Batch) -> torch.Tensor:
    """Which rows of the hidden run change with which token. Shape: return: (T, rows) bool."""
    before = model(batch).last_hidden_state
    changed = [replace(batch, tokens=other(batch.tokens, n)) for n in range(len(batch.tokens))]
    return torch.stack([(model(one).last_hidden_state != before).any(dim=1) for one in changed])


def allowed(batch: Batch, rule: Rule) -> torch.Tensor:
    owner = np.repeat(np.arange(batch.layout.count), batch.layout.lengths)
    place = batch.layout.positions.tolist()
    size = len(owner)
    return torch.tensor(
        [[bool(owner[i] == owner[j]) and rule(place[j], place[i]) for j in range(size)] for i in range(size)]
    )


def test_no_family_is_left_out() -> None:
    assert set(RULES) == set(variants("models"))


@pytest.mark.parametrize("case", CASES)
def test_a_row_depends_on_what_it_may_see_and_on_nothing_else(case: str) -> None:
    family, rule, fields = CASES[case]
    model = make(family, fields)
    batch = batch_of(model)
    assert torch.equal(dependence(model, batch), allowed(batch, rule))


@pytest.mark.parametrize("case", [case for case, (_, rule, _) in CASES.items() if rule is not anything])
def test_a_model_that_sees_all_is_found_out(case: str) -> None:
    """The test above can fail: the same model whose attention hides nothing."""
    family, rule, fields = CASES[case]
    model = make(family, fields)
    for module in model.stack.modules():
        if isinstance(module, Attention):
            module.structure = BIDIRECTIONAL
    batch = batch_of(model)
    actual, expected = dependence(model, batch), allowed(batch, rule)
    assert (actual & ~expected).any()
    assert torch.equal(actual, allowed(batch, anything))


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet", "modernbert", "t5"])
def test_a_model_that_looks_across_sequences_is_found_out(family: str) -> None:
    """The same run laid out as one sequence, which is what a forgotten boundary would do."""
    rule, fields = RULES[family]
    model = make(family, fields)
    batch = batch_of(model)
    joined = replace(batch, layout=Layout.of([batch.layout.total]))
    if batch.source is not None:
        joined = replace(joined, source=replace(batch.source, layout=Layout.of([batch.source.layout.total])))
    actual, expected = dependence(model, joined), allowed(batch, rule)
    assert (actual & ~expected).any()


@pytest.mark.parametrize("family", ["bart", "marian", "t5"])
def test_a_written_row_depends_on_all_of_its_own_source(family: str) -> None:
    model = make(family, {})
    batch = batch_of(model)
    assert batch.source is not None
    with torch.no_grad():
        before = model(batch).last_hidden_state
        for place in range(len(batch.source.tokens)):
            source = replace(batch.source, tokens=other(batch.source.tokens, place))
            moved = (model(replace(batch, source=source)).last_hidden_state != before).any(dim=1)
            owner = int(np.searchsorted(np.cumsum(SOURCES), place, side="right"))
            own = torch.zeros(len(moved), dtype=torch.bool)
            own[batch.layout.bounds[owner] : batch.layout.bounds[owner + 1]] = True
            assert torch.equal(moved, own)


def test_the_query_stream_depends_on_what_comes_before_in_its_order() -> None:
    """Not on its own content, whatever the depth; the content of rows without a rank is seen by all."""
    model = make("xlnet", {})
    batch = ragged(parity.sequences(50, LENGTHS))
    rng = np.random.default_rng(0)
    order = np.full(len(batch.tokens), -1)
    for begin, end in zip(batch.layout.bounds, batch.layout.bounds[1:], strict=False):
        chosen = begin + rng.permutation(end - begin)[: (end - begin) // 2]
        order[chosen] = np.arange(len(chosen))
    rows = np.flatnonzero(order >= 0)
    requested = replace(batch, order=torch.from_numpy(order), output_rows=OutputRows.of(rows, batch.layout))
    expected = allowed(batch, anything)[:, rows] & torch.from_numpy(order[:, None] < order[None, rows])
    actual = dependence(model, requested)
    assert torch.equal(actual, expected)
    assert actual.any()
    blind = torch.where(requested.order >= 0, 0, -1)  # all in one rank: none sees another, and the test tells
    assert not torch.equal(dependence(model, replace(requested, order=blind)), expected)
