"""The cache: what it gives equals reading everything at once, through growth, reordering and cutting."""

import pytest
import torch

from pretune.batch import Batch, Layout, ragged
from pretune.models import build
from pretune.nn.cache import Cache


@pytest.fixture(scope="module")
def model():
    return build("gpt2", "tiny", ["clm"], {"vocab_size": 60, "n_positions": 64}).eval()


def at_once(model, sequences):
    batch = ragged(sequences)
    return model(batch).last_hidden_state[batch.layout.last]


def feed(model, cache, pieces):
    layout = cache.layout([len(piece) for piece in pieces])
    tokens = torch.tensor([token for piece in pieces for token in piece])
    return model(Batch(tokens, layout), cache=cache).last_hidden_state[layout.last]


@torch.no_grad()
@pytest.mark.parametrize("capacity", [2, 64])
@pytest.mark.parametrize(
    "steps",
    [[[[1, 2, 3], [4]], [[5], [6]], [[7], [8]], [[9], [10]]], [[[1], [2]], [[3, 4, 5], [6]], [[7], [8, 9, 10]]]],
)
def test_pieces_equal_the_whole(model, capacity, steps):
    cache = model.new_cache(2, capacity)
    read = [[], []]
    for pieces in steps:
        got = feed(model, cache, pieces)
        read = [old + new for old, new in zip(read, pieces, strict=True)]
        torch.testing.assert_close(got, at_once(model, read), atol=2e-6, rtol=1e-5)
    assert cache.lengths == tuple(map(len, read))


@torch.no_grad()
def test_reorder_repeats_drops_and_adds(model):
    cache = model.new_cache(3)
    feed(model, cache, [[1, 2, 3], [4, 5], [6]])
    cache.reorder(torch.tensor([2, 0, 0, 1]))
    got = feed(model, cache, [[7], [8], [9], [10]])
    torch.testing.assert_close(
        got, at_once(model, [[6, 7], [1, 2, 3, 8], [1, 2, 3, 9], [4, 5, 10]]), atol=2e-6, rtol=1e-5
    )
    cache.reorder([3])
    got = feed(model, cache, [[11, 12]])
    torch.testing.assert_close(got, at_once(model, [[4, 5, 10, 11, 12]]), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_truncated_tokens_are_forgotten(model):
    cache = model.new_cache(2, 4)
    feed(model, cache, [[1, 2, 3], [4, 5]])
    feed(model, cache, [[6, 7, 8], [9]])
    cache.truncate([4, 2])
    got = feed(model, cache, [[10], [11, 12]])
    torch.testing.assert_close(got, at_once(model, [[1, 2, 3, 6, 10], [4, 5, 11, 12]]), atol=2e-6, rtol=1e-5)
    for lengths in ([6, 4], [5], [5, -1]):
        with pytest.raises(ValueError, match="cannot be cut"):
            cache.truncate(lengths)


def test_keys_and_values_of_bf16_matmuls_are_held_in_fp32_on_the_cpu():
    cache = Cache(layers=1, sequences=2, capacity=8)
    for length in (3, 1):
        layout = cache.layout([length, length])
        (layer,) = cache.begin(layout)
        run = torch.randn(2 * length, 2, 4).bfloat16()
        keys, values, _ = layer.append(run, run, layout)
    assert keys.dtype == values.dtype == torch.float32
    assert torch.equal(keys.view(2, 8, 2, 4)[:, 3], run.float())
    layer.store_cross_kv(run, run, Layout.of([1, 1]))
    key, value, _ = layer.get_cross_kv()
    assert key.dtype == value.dtype == torch.float32


def test_limits():
    cache = Cache(layers=1, sequences=1, limit=4)
    with pytest.raises(ValueError, match="longer than the model's 4"):
        cache.begin(Layout.of([5]))
    with pytest.raises(ValueError, match="holds 1 sequences"):
        cache.begin(Layout.of([1, 1]))
    assert cache.lengths == (0,)
