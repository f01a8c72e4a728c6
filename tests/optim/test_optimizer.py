import pytest
import torch
from torch import nn

from pretune.config import validate
from pretune.errors import PretuneError, UsageError
from pretune.optim import adamw, muon
from pretune.optim.optimizer import build_optimizer, find_optimizer, gradient_norm, update
from pretune.optim.orthogonal import orthogonal
from pretune.train.checkpoint.state import optimizer_tensors
from pretune.train.recipe import Recipe


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.LayerNorm(8))


def test_only_matrices_and_embeddings_decay():
    model = make()
    groups = build_optimizer(model, adamw.Config(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[1].weight)}
    assert sum(len(group["params"]) for group in groups) == 5


def test_frozen_parameters_are_left_out():
    model = make()
    model[0].requires_grad_(False)
    groups = build_optimizer(model, adamw.Config()).param_groups
    assert sum(len(group["params"]) for group in groups) == 4


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e9])
def test_the_update_is_clipped_adamw(clip):
    ours, theirs = make(), make()
    config = adamw.Config(weight_decay=0.1, lr=1e-2)
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
        plain.step()
        update(own, 1.0, norm, clip)
        for model in (ours, theirs):
            model.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_nan_anywhere_makes_the_norm_nan():
    model = make()
    optimizer = build_optimizer(model, adamw.Config())
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
    own = build_optimizer(ours, muon.Config(name="muon", weight_decay=0.1, lr=0.02), precision)
    layers = [theirs.stack[0].weight, theirs.stack[2].weight]
    torchs = torch.optim.Muon(layers, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in theirs.parameters() if not any(p is w for w in layers)]
    rest_adamw = torch.optim.AdamW(
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
        update(own, 0.5, norm, clip)
        for optimizer in (torchs, rest_adamw):
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            optimizer.step()
        for model in (ours, theirs):
            model.zero_grad()
    for start, a, b in zip(Layered().parameters(), ours.parameters(), theirs.parameters(), strict=True):
        assert float((a - b).detach().norm()) <= 0.05 * float((b - start).detach().norm())


def test_muons_state_is_in_the_checkpoint(tmp_path):
    model = Layered()
    optimizer = build_optimizer(model, muon.Config(name="muon"))
    model(torch.arange(5)).square().sum().backward()
    update(optimizer, 1.0, 1.0, 0.0)
    kept = optimizer_tensors(model, optimizer)
    assert {"stack.0.weight/momentum_buffer", "word.weight/exp_avg", "stack.3.bias/exp_avg"} <= set(kept)
    assert "stack.0.weight/exp_avg" not in kept


@pytest.mark.parametrize("products", [torch.bfloat16, torch.float32])
def test_steps_are_nearly_orthogonal_whatever_the_shape(products):
    torch.manual_seed(0)
    given = [torch.randn(8, 8), torch.randn(8, 32), torch.randn(32, 8), 1e-3 * torch.randn(8, 8)]
    for matrix, actual in zip(given, orthogonal(given, products), strict=True):
        assert actual.dtype == products
        assert actual.shape == matrix.shape
        values = torch.linalg.svdvals(actual.float())
        assert values.min() > 0.5
        assert values.max() < 1.4
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert float((actual.float() * (u @ v)).sum() / actual.float().norm() / (u @ v).norm()) > 0.95


def test_the_schedule_multiplies_each_groups_own_rate():
    model = make()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[1:].parameters()}], 0.1)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    for factor in (0.5, 0.25, 1.0):
        model(torch.arange(5)).sum().backward()
        update(optimizer, factor, 1.0, 0.0)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 * factor, 0.1 * factor])


def test_an_optimizer_without_fused_kernels_is_clipped_too():
    ours, theirs = make(), make()
    own, plain = (torch.optim.SGD(model.parameters(), lr=0.1) for model in (ours, theirs))
    own.param_groups[0]["initial_lr"] = 0.1
    for model in (ours, theirs):
        model(torch.arange(5)).square().sum().backward()
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
    plain.step()
    update(own, 1.0, float(gradient_norm(own)), 0.01)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "adamv"}, "optim: no variant 'adamv'; did you mean 'adamw'?"),
        ({"momentum": 0.9}, "unknown field 'optimizer.momentum'"),
        ({"name": "muon", "momentun": 0.9}, "unknown field 'optimizer.momentun'; did you mean 'momentum'?"),
        ({"name": "muon", "momentum": 1.5}, "field 'optimizer.momentum' = 1.5"),
        ({"name": 5}, "field 'optimizer.name' (--optimizer) = 5: expected text"),
        ({"name": "gone.py"}, "gone.py: no such file"),
    ],
)
def test_a_recipe_names_an_optimizer_and_its_own_fields(tree, message):
    with pytest.raises(PretuneError) as error:
        validate(Recipe, {"objective": "mlm", "optimizer": tree}, "recipe")
    assert message in str(error.value)


def test_a_file_without_config_or_build_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="must define Config"):
        find_optimizer(str(tmp_path / "empty.py"))


def test_a_parameter_that_no_group_has_is_refused(tmp_path):
    (tmp_path / "half.py").write_text(
        "import torch\nfrom pretune.optim.optimizer import OptimizerConfig as Config\n"
        "def build(parameters, config, dtype):\n"
        "    return torch.optim.SGD(list(parameters.values())[:1], lr=config.lr)\n"
    )
    with pytest.raises(UsageError, match=r"'1.weight' and 3 more parameters are in none of its groups"):
        build_optimizer(make(), find_optimizer(str(tmp_path / "half.py")).Config(name=str(tmp_path / "half.py")))
