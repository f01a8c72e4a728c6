"""The curve of losses, against a plain loop and against what it has always been: a refactor must not move it."""

import pytest
import torch
from trainkit import clm_recipe, lines, recipe

from pretune.draw import Draw
from pretune.text.samples.sampler import partition
from pretune.train.assemble import assemble
from pretune.train.run import pretrain

OVER = {
    "model": {"dropout": 0.0},
    "optimizer": {"lr": 5e-3, "weight_decay": 0.1, "clip": 0.5},
    "evaluation": {"samples": 0},
    "track": {"every": 1},
    "data": {"accumulate": 2},
}
KNOWN = {
    recipe: [4.8273, 4.8864, 4.8555, 4.8499, 4.8096],
    clm_recipe: [4.1806, 4.0834, 4.0138, 3.9391, 3.8861],
}


def plain_loop(run_recipe):
    """Whole batches, means of terms, AdamW and clipping from torch, the schedule by hand."""
    components = assemble(run_recipe)
    model, objective = components.model.train(), components.objective
    (sampler,) = components.samplers(run_recipe)
    draw, cursor, losses = Draw(run_recipe.seed), sampler.start, []
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, foreach=False)
    for step in range(10):
        rows, cursor = sampler.next_batch(cursor)
        (rows,) = partition(rows, 1)
        batch = objective.corrupt(objective.prepare(rows, draw), draw)
        terms = objective(model, batch)
        loss = sum(term.weight * term.sum / term.count for term in terms)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        done = (step + 0.5) / 10
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (done / 0.06 if done < 0.06 else (1 - done) / 0.94)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make", [recipe, clm_recipe])
def test_the_loop_is_the_plain_loop(tmp_path, store, make):
    pretrain(make(tmp_path / "run", store, **OVER))
    actual = [line["loss"] for line in lines(tmp_path / "run")]
    assert actual == pytest.approx(plain_loop(make(tmp_path / "plain", store, **OVER)), rel=2e-5)
    assert actual[:5] == pytest.approx(KNOWN[make], abs=2e-3)
