import pytest
import torch
from torch import nn

from pretune.optim.base import OptimizerConfig, build_optimizer, gradient_norm, update
from pretune.optim.muon import orthogonal
from pretune.train.checkpoint.state import optimizer_tensors


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.LayerNorm(8))


def test_only_matrices_and_embeddings_decay():
    model = make()
    groups = build_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[1].weight)}
    assert sum(len(group["params"]) for group in groups) == 5


def test_frozen_parameters_are_left_out():
    model = make()
    model[0].requires_grad_(False)
    groups = build_optimizer(model, OptimizerConfig()).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e9])
def test_the_update_is_clipped_adamw(clip):
    ours, theirs = make(), make()
    config = OptimizerConfig(weight_decay=0.1)
    own, plain = build_optimizer(ours, config), build_optimizer(theirs, config)
    for group in plain.param_groups:
        group["fused"] = False
    for seed in range(3):
        for model in (ours, theirs):
            torch.manual_seed(seed)
            model(torch.randint(0, 11, (5,))).square().sum().backward()
        norm = float(gradient_norm(own))
        if clip:
            assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), clip)), rel=1e-6)
        for group in plain.param_groups:
            group["lr"] = 1e-2
        plain.step()
        update(own, 1e-2, norm, clip)
        for model in (ours, theirs):
            model.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_nan_anywhere_makes_the_norm_nan():
    model = make()
    optimizer = build_optimizer(model, OptimizerConfig())
    model(torch.arange(5)).sum().backward()
    assert gradient_norm(optimizer).isfinite()
    model[1].bias.grad[3] = float("nan")
    assert not gradient_norm(optimizer).isfinite()


class Layered(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.word = nn.Embedding(80, 32)
        self.stack = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.LayerNorm(32))

    def forward(self, ids):
        return self.stack(self.word(ids))


@pytest.mark.parametrize(("clip", "precision"), [(0.0, "bf16"), (0.01, "bf16"), (0.01, "fp32")])
def test_muon_is_torchs_for_the_layers_and_adamw_for_the_rest(clip, precision):
    ours, theirs = Layered(), Layered()
    own = build_optimizer(ours, OptimizerConfig(name="muon", weight_decay=0.1, lr=0.02), precision)
    layers = [theirs.stack[0].weight, theirs.stack[2].weight]
    muon = torch.optim.Muon(layers, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in theirs.parameters() if not any(p is w for w in layers)]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.02,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    for seed in range(3):
        for model in (ours, theirs):
            torch.manual_seed(seed)
            model(torch.randint(0, 80, (256,))).square().sum().backward()  # full rank: nothing to amplify noise in
        norm = float(gradient_norm(own))
        if clip:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        update(own, 0.01, norm, clip)
        for optimizer in (muon, adamw):
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
        for model in (ours, theirs):
            model.zero_grad()
    for start, a, b in zip(Layered().parameters(), ours.parameters(), theirs.parameters(), strict=True):
        assert float((a - b).detach().norm()) <= 0.05 * float((b - start).detach().norm())


def test_muons_state_is_in_the_checkpoint(tmp_path):
    model = Layered()
    optimizer = build_optimizer(model, OptimizerConfig(name="muon"))
    model(torch.arange(5)).square().sum().backward()
    update(optimizer, 0.01, 1.0, 0.0)
    kept = optimizer_tensors(model, optimizer)
    assert {"stack.0.weight/momentum_buffer", "word.weight/exp_avg", "stack.3.bias/exp_avg"} <= set(kept)
    assert "stack.0.weight/exp_avg" not in kept


@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_steps_are_nearly_orthogonal_whatever_the_shape(products):
    torch.manual_seed(0)
    given = [torch.randn(8, 8), torch.randn(8, 32), torch.randn(32, 8), 1e-3 * torch.randn(8, 8)]
    for matrix, found in zip(given, orthogonal(given, products), strict=True):
        assert found.dtype == products
        assert found.shape == matrix.shape
        values = torch.linalg.svdvals(found.float())
        assert values.min() > 0.5
        assert values.max() < 1.4
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert float((found.float() * (u @ v)).sum() / found.float().norm() / (u @ v).norm()) > 0.95
