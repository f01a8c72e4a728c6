"""Several tuned forms of one model read one batch together, and each as if it were alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Batch, Layout, OutputRows, RowKeys, in_group, join_batches, ragged
from pretune.find import variants
from pretune.models import build
from pretune.models.adapters import SharedModels
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.fuse import FusedBlock, Products, fuse
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.dropout import Dropout
from pretune.nn.grouped import BASE, GroupedProjection
from pretune.nn.low_rank import DecomposedProjection, LowRankProjection
from pretune.nn.prefix import Behind, LearnedPrefix
from pretune.nn.projection import ProjectionBrick
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.tuned import TunedBrick, TunedProjection
from pretune.train.row_keys import name_sites
from pretune.tune.method import find_method
from pretune.tune.surgery import find_sites, projection_sites

LENGTHS = (5, 1, 8, 3, 8, 2)
GROUP = (0, 2, 1, 0, BASE, 2)


class LowRank(TunedProjection):
    """Adds a product of two thin matrices, of what is dropped in part while training."""

    def __init__(self, base: ProjectionBrick, rank: int, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * 0.1)
        self.b = nn.Parameter(torch.randn(base.out_features, rank) * 0.1)
        self.dropout = Dropout(dropout)

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        x = self.dropout(x, None if layout is None else layout.keys)
        return y + F.linear(F.linear(x, self.a), self.b)


class Scaled(TunedProjection):
    """Scales what the base reads."""

    def __init__(self, base: ProjectionBrick) -> None:
        super().__init__(base)
        self.factor = nn.Parameter(1 + torch.randn(base.in_features) * 0.1)

    def read(self, x: Tensor, layout: Layout | None) -> Tensor:
        return x * self.factor

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        return y


class Bottleneck(TunedBrick[nn.Module]):
    """A small network behind a feed-forward."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__(base)
        self.down, self.up = nn.Linear(width, 3), nn.Linear(3, width)

    def change(self, x: Tensor, y: Tensor, layout: Layout | None) -> Tensor:
        return y + self.up(torch.tanh(self.down(y)))


class Moved(nn.Module):
    """A vocabulary whose vectors are moved."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.shift = base, nn.Parameter(torch.randn(base.width))

    size = property(lambda self: self.base.size)
    width = property(lambda self: self.base.width)

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.base.lookup(tokens) + self.shift


def low_rank(model: LanguageModel) -> None:
    for number, site in enumerate(projection_sites(model)):
        site.replace(LowRank(site.brick, 1 + number % 3, 0.1))


def scaled_with_bottlenecks(model: LanguageModel) -> None:
    for site in find_sites(model, ["feedforward.down"]):
        site.replace(Scaled(site.brick))
    for block in model.stack.blocks:
        block.feedforward = Bottleneck(block.feedforward, model.width)


def with_prefixes(model: LanguageModel) -> None:
    for module in model.modules():
        if isinstance(module, Attention | RelativeAttention):
            module.prefix = LearnedPrefix(4, module.key_heads, module.head_width)
            module.prefix.reset_parameters(1.0)
            module.behind = Behind(4)
    model.embedding.behind = Behind(4)
    model.embedding.word = Moved(model.embedding.word)


def lora(model: LanguageModel, rank: int, *, decomposed: bool = False) -> None:
    brick = DecomposedProjection if decomposed else LowRankProjection
    for site in find_sites(model, ["attention", "feedforward"]):
        site.replace(brick(site.brick, rank, 2.0))
    for module in model.modules():
        if isinstance(module, LowRankProjection):
            nn.init.normal_(module.b, std=0.1)
        if isinstance(module, DecomposedProjection):
            module.magnitude.data += torch.rand_like(module.magnitude)


METHODS: list[Callable[[LanguageModel], None]] = [low_rank, scaled_with_bottlenecks, with_prefixes]


def shared(family: str, methods: list[Callable[[LanguageModel], None]] = METHODS) -> SharedModels:
    torch.manual_seed(0)
    base = build(family, "tiny", [], {"vocab_size": 97}).eval()
    forms = []
    for apply in methods:
        form = copy.deepcopy(base)
        apply(form)
        forms.append(form.eval())
    return SharedModels.of(base, forms)


def test_a_form_gives_up_its_copy_of_the_base_before_the_next_is_read() -> None:
    base = build("bert", "tiny", [], {"vocab_size": 97}).eval()
    seen: list[bool] = []

    def read() -> Iterator[LanguageModel]:
        for apply in METHODS:
            form = copy.deepcopy(base)
            apply(form)
            yield form
            seen.append({id(p) for p in base.parameters()} <= {id(p) for p in form.parameters()})

    assert len(SharedModels.of(base, read()).forms) == len(METHODS)
    assert seen == [True] * len(METHODS)


def batch_of(model: LanguageModel, group: tuple[int, ...] = GROUP, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    rng = np.random.default_rng(0)
    batch = ragged([rng.integers(5, 97, size) for size in lengths])
    if isinstance(model, EncoderDecoder):
        source = ragged([rng.integers(5, 97, size + 2) for size in lengths])
        batch = replace(batch, source=replace(source, layout=replace(source.layout, group=group)))
    return replace(batch, layout=replace(batch.layout, group=group))


def alone(batch: Batch, sequence: int) -> Batch:
    rows, layout = batch.layout.select([sequence])
    source = None if batch.source is None else alone(batch.source, sequence)
    return Batch(batch.tokens[rows], replace(layout, group=None), source=source)


def close(actual: Tensor, wanted: Tensor) -> bool:
    return bool((actual - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("family", [name for name in variants("models") if name != "gpt"])
def test_every_family_reads_each_sequence_by_its_own_adapter(family: str) -> None:
    methods = [*METHODS[:2], METHODS[0]] if family == "xlnet" else METHODS
    models = shared(family, methods)
    assert not models.apart
    batch = batch_of(models.base)
    with torch.no_grad():
        out = models.network(batch).last_hidden_state
        for n, number in enumerate(GROUP):
            rows, _ = batch.layout.select([n])
            assert close(out[rows], models.form(number)(alone(batch, n)).last_hidden_state), (family, n)
        plain = models.network(replace(batch, layout=replace(batch.layout, group=None)))  # no group: the base
        if not models.base.has_encoder:
            assert torch.equal(plain.last_hidden_state, models.base(batch).last_hidden_state)


def test_forms_share_the_memory_of_their_base() -> None:
    models = shared("bert")
    own = {id(weight) for weight in models.base.parameters()}
    for form in models.forms:
        names = [name for name, weight in form.named_parameters() if id(weight) not in own]
        assert names
        assert not any(name.endswith(("weight", "bias")) and "base" in name for name in names)
    assert sum(weight.numel() for weight in models.network.parameters()) == sum(
        weight.numel()
        for weight in {id(w): w for model in (models.base, *models.forms) for w in model.parameters()}.values()
    )


def test_one_matmul_of_the_base_for_all() -> None:
    models = shared("bert", [low_rank] * 3)
    brick = models.network.stack.blocks[0].attention.query
    assert isinstance(brick, GroupedProjection)
    calls: list[int] = []
    brick.base.register_forward_hook(lambda _module, given, _out: calls.append(len(given[0])))
    models.network(batch_of(models.base))
    assert calls == [sum(LENGTHS)]


def test_a_layer_that_was_trained_is_read_apart() -> None:
    def top(model: LanguageModel) -> None:
        with torch.no_grad():
            model.stack.blocks[-1].feedforward.up.weight.add_(1)

    models = shared("bert", [low_rank, top])
    assert models.apart == {1: "stack.blocks.1.feedforward.up.weight has other values"}
    assert isinstance(models.network.stack.blocks[0].attention.query, GroupedProjection)
    models = shared("xlnet", [with_prefixes])
    assert models.apart == {0: "stack.blocks.0.attention has a prefix, which counts in its positions"}


def test_each_adapter_learns_from_its_own_sequences_alone() -> None:
    models = shared("bert", [low_rank] * 2)
    for model in (*models.forms, models.network):
        model.train()
    for model in (models.base, *models.forms):
        name_sites(model)
    batch = batch_of(models.base, (0, 1, 1, 0, 1, 0))
    words = torch.randint(-(2**31), 2**31, (batch.layout.total, 2), dtype=torch.int32)
    batch = replace(batch, layout=replace(batch.layout, keys=RowKeys(words)))
    factor = torch.randn(batch.layout.total, models.base.width)
    (models.network(batch).last_hidden_state * factor).sum().backward()
    together = [{n: w.grad for n, w in form.named_parameters() if n.endswith((".a", ".b"))} for form in models.forms]
    for number, form in enumerate(models.forms):
        form.zero_grad()
        rows, layout = batch.layout.select([n for n, k in enumerate(batch.layout.group or ()) if k == number])
        own = Batch(batch.tokens[rows], replace(layout, keys=RowKeys(words[rows])))
        (form(own).last_hidden_state * factor[rows]).sum().backward()
        for name, weight in form.named_parameters():
            if name in together[number]:
                grad = together[number][name]
                assert weight.grad is not None
                assert grad is not None
                assert weight.grad.abs().max() > 0
                assert close(grad, weight.grad), name


def test_the_group_is_kept_by_all_that_derives_layouts() -> None:
    layout = Layout.of([2, 3, 1], group=(4, 5, 6))
    assert layout.to("cpu").group == (4, 5, 6)
    assert layout.select([2, 0])[1].group == (6, 4)
    assert OutputRows.of(np.array([0, 5]), layout).layout.group == (4, 5, 6)
    assert Layout.join([layout, layout]).group == (4, 5, 6, 4, 5, 6)
    batch = replace(ragged([[7, 8], [9]]), source=ragged([[1], [2, 3]]))
    joined = join_batches([in_group(batch, 0), in_group(batch, 1)])
    assert joined.layout.group == (0, 0, 1, 1)
    assert joined.layout.lengths == (2, 1, 2, 1)
    assert joined.source is not None
    assert joined.source.layout.group == (0, 0, 1, 1)
    cache = build("gpt2", "tiny", [], {"vocab_size": 97}).new_cache(3)
    cache.group = (4, 5, 6)
    cache.reorder([2, 2, 0])
    assert cache.layout([1, 1, 1]).group == (6, 6, 4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_with_a_cache_and_reordered_sequences(family: str) -> None:
    models = shared(family)
    batch = batch_of(models.base)
    rng = np.random.default_rng(1)
    order, more = [2, 0, 2, 4, 1], torch.from_numpy(rng.integers(5, 97, (2, 5)))
    with torch.no_grad():
        cache = models.network.new_cache(len(GROUP))
        cache.group = GROUP
        steps = [models.network(replace(batch, layout=cache.layout(LENGTHS)), cache=cache).last_hidden_state]
        cache.reorder(order)
        for tokens in more:
            out = models.network(Batch(tokens, cache.layout([1] * 5)), cache=cache)
            steps.append(out.last_hidden_state)
        for row, n in enumerate(order):
            own = alone(batch, n)
            own = replace(own, tokens=torch.cat([own.tokens, more[:, row]]))
            own = replace(own, layout=Layout.of([len(own.tokens)]))
            wanted = models.form(GROUP[n])(own).last_hidden_state
            for step in (1, 2):
                assert close(steps[step][row], wanted[LENGTHS[n] + step - 1]), (family, row, step)


def test_a_prefix_that_a_group_does_not_have_is_not_seen() -> None:
    models = shared("gpt2", [with_prefixes, low_rank])
    batch = batch_of(models.base, (1, 0, 1, 0, 0, 1))
    changed = copy.deepcopy(models.forms[0])
    for module in changed.modules():
        if isinstance(module, LearnedPrefix):
            module.reset_parameters(2.0)
    other = SharedModels.of(models.base, [changed, models.forms[1]])
    with torch.no_grad():
        one, two = (each.network(batch).last_hidden_state for each in (models, other))
    for n, number in enumerate(batch.layout.group or ()):
        rows, _ = batch.layout.select([n])
        assert torch.equal(one[rows], two[rows]) == (number == 1)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert", "roberta"])
@pytest.mark.parametrize("few", [0, 10_000])
def test_the_fused_form_of_all_together(family: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretune.nn.grouped._FEW_ROWS", few)
    models = shared(family, [*METHODS, partial(lora, rank=3), partial(lora, rank=2, decomposed=True)])
    products = Products(merges=False)
    network = fuse(models.network, products)
    assert all(type(block) is FusedBlock for block in network.stack.blocks)
    for group in [(0, 2, 1, 4, BASE, 3), (3, 3, BASE, 4, 4, 3), (3, BASE, 3, 3, 3, 3)]:
        batch = batch_of(models.base, group)
        with torch.inference_mode():
            out = network(batch).last_hidden_state
            assert torch.equal(out, network(batch).last_hidden_state)  # nothing that stays was written into
            for n, number in enumerate(group):
                rows, _ = batch.layout.select([n])
                assert close(out[rows], models.form(number)(alone(batch, n)).last_hidden_state), (family, n)
    before = len(products.kept)
    fused = fuse(models.form(3), products)  # its base is packed already
    assert len(products.kept) == before
    with torch.inference_mode():
        assert close(fused(alone(batch, 2)).last_hidden_state, out[batch.layout.select([2])[0]])


@pytest.mark.parametrize("method", [*METHODS, "lora", "dora"])
def test_the_fused_form_of_one(method: Callable[[LanguageModel], None] | str) -> None:
    apply = partial(lora, rank=4, decomposed=method == "dora") if isinstance(method, str) else method
    form = shared("gpt2", [apply]).forms[0]
    fused = fuse(form)
    assert all(type(block) is FusedBlock for block in fused.stack.blocks)
    batch = batch_of(form, (0,) * len(LENGTHS))
    with torch.inference_mode():
        assert close(fused(batch).last_hidden_state, form(batch).last_hidden_state)


REAL: dict[str, tuple[str, dict[str, object]]] = {
    "lora": ("lora", {"rank": 2, "places": ["attention", "feedforward", "vocabulary"]}),
    "dora": ("lora", {"rank": 2, "weight_decomposed": True}),
    "adalora": ("adalora", {"init_rank": 3, "target_rank": 2}),
    "ia3": ("ia3", {}),
    "houlsby": ("adapter", {"form": "houlsby"}),
    "pfeiffer": ("adapter", {"form": "pfeiffer"}),
    "parallel": ("adapter", {"form": "parallel"}),
    "prefix": ("prefix", {"length": 3}),
    "bitfit": ("bitfit", {}),
    "prompt": ("prompt", {"length": 3}),
    "top": ("top", {"layers": 1}),
}
APART = {"bitfit", "prompt", "top"}  # what they change is not beside the base's own modules


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_all_methods_together(family: str) -> None:
    torch.manual_seed(0)
    base = build(family, "tiny", [], {"vocab_size": 97}).eval()
    names = [name for name in REAL if (family, name) not in {("t5", "bitfit"), ("llama", "bitfit")}]  # without biases
    forms = []
    for name in names:
        form = find_method(*REAL[name]).apply(copy.deepcopy(base))
        with torch.no_grad():
            for weight in form.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.1)
        forms.append(form.eval())
    models = SharedModels.of(base, forms)
    assert {names[number] for number in models.apart} == APART & set(names)
    group = tuple(number for number in range(len(names)) if number not in models.apart)
    batch = batch_of(base, group, tuple(3 + number % 4 for number in group))
    for network in (models.network, fuse(models.network, Products(merges=False))):
        with torch.inference_mode():
            out = network(batch).last_hidden_state
            for n, number in enumerate(group):
                wanted = models.form(number)(alone(batch, n)).last_hidden_state
                assert close(out[batch.layout.select([n])[0]], wanted), (names[number], type(network))
