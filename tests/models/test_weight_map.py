"""Transforms between a file's tensors and ours: each is undone by itself, and what does not fit is an error."""

import pytest
import torch
from torch import nn

from pretune.config import Config
from pretune.errors import DataError
from pretune.models.weight_map import (
    Interleave,
    Slice,
    SplitHeads,
    Squeeze,
    Transpose,
    Weight,
    expand,
    join,
    weight_and_bias,
)


class Sizes(Config):
    heads: int = 2


CONFIG = Sizes()


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


CHAINS = {
    "as it is": ((), (6, 4)),
    "transposed": ((Transpose(),), (4, 6)),
    "transposed, then sliced": ((Transpose(), Slice(1, 3)), (4, 18)),
    "leading ones": ((Squeeze(2),), (1, 1, 6, 4)),
    "heads apart, then transposed": ((SplitHeads("heads"), Transpose()), (4, 2, 3)),
    "per-head interleaved": ((Interleave("heads", 3), Slice(2, 3)), (18, 4)),
    "sliced twice": ((Slice(1, 2), Slice(0, 2)), (24, 4)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_read_is_written_back(name):
    transforms, shape = CHAINS[name]
    theirs = numbered(*shape)
    chains = [()]
    for transform in transforms:
        steps = [transform]
        if isinstance(transform, Slice):
            steps = [Slice(n, transform.count) for n in range(transform.count)]
        chains = [(*chain, step) for chain in chains for step in steps]
    weights = [Weight("ours", "theirs", chain) for chain in chains]
    parameters = [(weight, weight.read(theirs, CONFIG).contiguous()) for weight in weights]
    assert torch.equal(join("theirs", parameters[::-1], CONFIG), theirs)
    weight = Weight("ours", "theirs", transforms)
    assert weight.read(theirs, CONFIG).shape == (6, 4)
    assert weight.file_shape(torch.empty(6, 4), CONFIG) == shape


def test_interleaved_rows_go_head_by_head():
    """GPT-NeoX: a head's query, its key, its value, then those of the next head."""
    order = ("q0", "k0", "v0", "q1", "k1", "v1")
    rows = dict(zip(order, numbered(6, 2).split(1), strict=True))
    for part, names in enumerate((("q0", "q1"), ("k0", "k1"), ("v0", "v1"))):
        weight = Weight("ours", "theirs", (Interleave("heads", 3), Slice(part, 3)))
        assert torch.equal(weight.read(numbered(6, 2), CONFIG), torch.cat([rows[name] for name in names]))


def test_a_bias_goes_the_way_of_its_weight():
    weight, bias = weight_and_bias("ours", "theirs", Transpose(), Slice(1, 3))
    assert (weight.ours, bias.theirs) == ("ours.weight", "theirs.bias")
    assert torch.equal(bias.read(numbered(6), CONFIG), numbered(6)[2:4])


def test_a_lost_part_or_a_name_used_twice_is_an_error():
    weights = [Weight(f"part{n}", "theirs", (Slice(n, 3),)) for n in (0, 2)]
    with pytest.raises(DataError, match=r"'theirs' has 3 parts, and the model lacks \[1\]"):
        join("theirs", [(weight, numbered(2, 2)) for weight in weights], CONFIG)
    with pytest.raises(DataError, match="2 parameters have this name"):
        join("theirs", [(Weight("one", "theirs"), numbered(2)), (Weight("two", "theirs"), numbered(2))], CONFIG)


def test_a_layers_number_is_filled_in():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    names = [(ours, theirs) for ours, theirs, _ in expand([Weight("blocks.{}.weight", "h.{}.w")], model)]
    assert names == [("blocks.0.weight", "h.0.w"), ("blocks.1.weight", "h.1.w")]
