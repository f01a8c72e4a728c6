"""XLNet against `transformers`: plain, in two streams, with a memory; nothing leaks against the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import parity
import pytest
import torch
import transformers as hf

from pretune.batch import Batch, Layout, OutputRows, ragged
from pretune.errors import UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.flops import count_parameters
from pretune.models.xlnet import SegmentMemory

SMALL = {"vocab_size": 97, "d_model": 48, "n_layer": 3, "n_head": 4, "d_head": 12, "d_inner": 80, "pad_token_id": 0}
KINDS = {hf.XLNetLMHeadModel: ["plm"], hf.XLNetForSequenceClassification: ["classification"], hf.XLNetModel: []}


def close(mine: torch.Tensor, want: torch.Tensor) -> None:
    assert mine.shape == want.shape
    assert float((mine - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))
    assert float(want.std()) > 1e-3


def pair(kind=hf.XLNetLMHeadModel, folder=None):
    theirs = kind(hf.XLNetConfig(**SMALL, num_labels=5)).eval()
    parity.randomise(theirs)
    theirs.save_pretrained(folder)
    model = load_model(folder).eval()
    assert list(model.heads) == KINDS[kind]
    assert not model.loaded.initialised
    assert not model.loaded.unexpected
    return model, theirs


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@torch.no_grad()
def test_both_ways(kind, tmp_path):
    model, theirs = pair(kind, tmp_path / "theirs")
    save_model(model, tmp_path / "ours")
    again = parity.reload(kind, tmp_path / "ours").eval()
    for n, row in enumerate(parity.sequences(97)):
        kinds = np.arange(len(row)) * 2 // len(row)
        batch = ragged([row, row[::-1].copy(), row], [kinds, kinds * 0, kinds])
        hidden = model(batch).last_hidden_state
        tokens = batch.tokens.view(3, -1)
        segments = batch.segments.view_as(tokens)
        for other in (theirs, again):
            got = other(input_ids=tokens, token_type_ids=segments, use_mems=False)
            if kind is hf.XLNetModel:
                close(hidden, got.last_hidden_state.flatten(0, 1))
            elif kind is hf.XLNetLMHeadModel:
                close(model.heads["plm"](hidden), got.logits.flatten(0, 1))
            elif n:
                close(model.heads["classification"](hidden, batch.layout), got.logits)


def permuted(lengths, seed=0) -> tuple[Batch, list[np.ndarray]]:
    random = np.random.default_rng(seed)
    batch = ragged([random.integers(5, 97, n) for n in lengths])
    order = []
    for n in lengths:
        rank = np.full(n, -1)
        chosen = random.permutation(n)[: max(1, n // 3)]
        rank[chosen] = np.arange(len(chosen))
        order.append(rank)
    flat = np.concatenate(order)
    index = np.flatnonzero(flat >= 0)
    return replace(batch, order=torch.from_numpy(flat), output_rows=OutputRows.of(index, batch.layout)), order


@torch.no_grad()
def test_two_streams_are_theirs(tmp_path):
    model, theirs = pair(folder=tmp_path)
    batch, order = permuted([9, 17, 9, 2, 30])
    got = model(batch)
    ours = model.heads["plm"](got.at(batch.output_rows.index))
    want = []
    for n, rank in enumerate(order):
        a, b = batch.layout.bounds[n : n + 2]
        length, chosen = b - a, np.flatnonzero(rank >= 0)
        hidden = np.zeros((length, length))
        for i in range(length):
            for j in range(length):
                hidden[i, j] = rank[j] >= 0 and rank[j] >= rank[i]
        mapping = torch.zeros(1, len(chosen), length)
        mapping[0, torch.arange(len(chosen)), torch.from_numpy(chosen)] = 1
        mask = torch.from_numpy(hidden)[None].float()
        tokens = batch.tokens[None, a:b]
        want.append(theirs(input_ids=tokens, perm_mask=mask, target_mapping=mapping, use_mems=False).logits[0])
    close(ours, torch.cat(want))


@torch.no_grad()
def test_memory_is_theirs_and_reads_longer_texts(tmp_path):
    model, theirs = pair(folder=tmp_path)
    theirs.config.mem_len = theirs.transformer.mem_len = 11
    rows = [np.random.default_rng(n).integers(5, 97, 21) for n in range(2)]
    memory, mems = SegmentMemory(11), None
    for start, stop in ((0, 6), (6, 13), (13, 21)):
        batch = ragged([row[start:stop] for row in rows])
        ours = model.heads["plm"](model(batch, memory=memory).last_hidden_state)
        tokens = torch.from_numpy(np.stack([row[start:stop] for row in rows]))
        got = theirs(input_ids=tokens, mems=mems, use_mems=True)
        mems = got.mems
        close(ours, got.logits.flatten(0, 1))
    assert memory.layout.lengths == (11, 11)


def test_nothing_is_seen_before_its_turn():
    model = build("xlnet", "tiny", ["plm"], SMALL).eval()
    parity.randomise(model)
    batch, order = permuted([12, 7], seed=3)
    index = batch.output_rows.index
    flat = np.concatenate(order)
    owner = np.repeat([0, 1], [12, 7])
    with torch.no_grad():
        before = model(batch).last_hidden_state
        seen = set()
        for changed in range(19):
            tokens = batch.tokens.clone()
            tokens[changed] = (tokens[changed] + 1) % 97
            after = model(replace(batch, tokens=tokens)).last_hidden_state
            moved = (after - before).abs().amax(dim=1) > 1e-6
            for row, place in enumerate(index.tolist()):
                may = owner[place] == owner[changed] and flat[changed] < flat[place]
                assert bool(moved[row]) == may, (changed, place)
                seen.add(may)
        assert seen == {True, False}
        leaky = replace(batch, order=torch.full_like(batch.order, -1))
        tokens = batch.tokens.clone()
        place = int(index[0])
        tokens[place] = (tokens[place] + 1) % 97
        moved = model(replace(leaky, tokens=tokens)).last_hidden_state - model(leaky).last_hidden_state
        assert float(moved[0].abs().max()) > 1e-6  # where all may see all, it shows


def test_a_cache_of_keys_is_refused():
    model = build("xlnet", "tiny", ["plm"], SMALL)
    with pytest.raises(UsageError, match="memory"):
        model(Batch(torch.ones(3, dtype=torch.long), Layout.of([3])), cache=model.new_cache(1))


def test_sizes_are_those_of_its_files():
    """Its paper prints no counts; the files of its authors have these shapes, whose heads share the vocabulary."""
    shapes = {"base": {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}, "large": {}}
    for size, shape in shapes.items():
        with torch.device("meta"):
            theirs = hf.XLNetLMHeadModel(hf.XLNetConfig(**shape))
        count = sum(p.numel() for p in theirs.parameters())
        assert count_parameters(build("xlnet", size, ["plm"], allocate=False)) == count
    assert count == pytest.approx(361e6, abs=1e6)
