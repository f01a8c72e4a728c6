"""Plans a run before anything is computed: modules, memory, and the numbers of steps, epochs and tokens.

The components are the real ones, and the memory of activations is measured on the real first micro-batch: a plan is
what the loop will find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretune.batch import Batch, with_parts
from pretune.draw import Draw
from pretune.language import translate
from pretune.language.wrap import fill, pad
from pretune.models.flops import Flops, count_parameters
from pretune.models.frozen import FrozenModel
from pretune.nn.rounded import rounded_bytes
from pretune.objectives.objective import Objective
from pretune.runtime.device import choose
from pretune.runtime.precision import Precision, choose_precision
from pretune.text.samples.sampler import Sampler, partition
from pretune.train.assemble import assemble
from pretune.train.automatic import resolve_automatic
from pretune.train.components import TrainComponents
from pretune.train.named_paths import check_named_paths
from pretune.train.preflight import preflight
from pretune.train.recipe import Recipe
from pretune.train.step import TrainModule
from pretune.wording import counted

_WIDTH = 110  # characters of a line
_SAMPLED_STEPS = 8  # steps from which the sequences of a step are estimated, where tokens bound it
_UTILIZATION = 0.4  # of the measured GEMM limit, for the estimate of time


@dataclass(frozen=True)
class ModuleRow:
    """One line of the module tree.

    Attributes:
        depth: in the tree.
        name: of the module, with how often it stands there.
        description: its class, and the shapes of the weights that it holds itself.
        weights: parameters in it, each counted where it first appears.
    """

    depth: int
    name: str
    description: str
    weights: int


@dataclass(frozen=True)
class RunPlan:
    """What a recipe would do.

    Attributes:
        modules: the tree.
        parameters, trained: weights in all, and those that learn.
        memory: bytes by purpose.
        data: of each part of the objective: what it is and what there is of it.
        steps: optimizer steps; None where the budget is a time.
        facts: what else is worth knowing, in words.
    """

    modules: list[ModuleRow]
    parameters: int
    trained: int
    memory: dict[str, int]
    data: list[str]
    steps: int | None
    facts: list[str]

    def render(self) -> str:
        """The plan as text."""
        width = max(2 * row.depth + len(row.name) for row in self.modules) + 2
        column = max(len(row.description) for row in self.modules) + 2
        tree = [
            f"{'  ' * row.depth + row.name:<{width}}{row.description:<{column}}{row.weights:>12,}"
            for row in self.modules
        ]
        total = sum(self.memory.values())
        purposes = [(translate(name), size) for name, size in [*self.memory.items(), ("together", total)]]
        memory = [f"  {pad(name, 34)}{_bytes(size):>12}" for name, size in purposes]
        trained = "" if self.trained == self.parameters else f", {self.trained:,} of them trained"
        return "\n".join(
            [
                *tree,
                translate(f"\n{self.parameters:,} parameters{trained}"),
                translate("\nmemory of a rank, beside that of Python and torch themselves"),
                *memory,
                translate("\ndata and budget"),
                *(fill(translate(line), _WIDTH, "  ", "    ") for line in [*self.data, *self.facts]),
            ]
        )


def make_plan(recipe: Recipe) -> RunPlan:
    """Assemble a run's components, look at its first steps, train nothing.

    Raises:
        PretuneError: whatever the run itself would raise at its beginning.
    """
    check_named_paths(recipe)
    device = choose(recipe.device)
    precision = choose_precision(recipe.precision, device, with_peak=True)
    automatic = resolve_automatic(recipe)
    recipe = automatic.recipe
    components = assemble(recipe, verify=False)
    components.notes += automatic.notes
    components.facts |= automatic.facts
    samplers = components.samplers(recipe)
    draw = Draw(recipe.seed)
    parts, batches, sizes, data = components.objective.alternatives, [], [], []
    for part, sampler in zip(parts, samplers, strict=True):
        cursor, size = sampler.start, 0
        for step in range(_SAMPLED_STEPS):
            rows, cursor = sampler.next_batch(cursor)
            size += len(rows)
            if step == 0:
                batches.append(part.build_batch(partition(rows, min(recipe.data.accumulate, len(rows)))[0], draw))
        name = f"{part.view} of {part.name}" if len(components.tasks) > 1 and part in components.tasks else part.view
        data.append(f"{name}: {_samples(sampler):,} samples of at most {recipe.data.length} tokens")
        sizes.append(size / _SAMPLED_STEPS)
    batches = [with_parts(batches)] if components.objective.trains_all else batches
    samples, tokens, epoch = _step(components.objective, samplers, sizes)
    steps = recipe.budget.steps_of(epoch, tokens)
    work = (
        sum(map(Flops(components.model, components.objective.passes), batches)) / len(batches) * recipe.data.accumulate
    )
    trained = sum(p.numel() for p in components.model.parameters() if p.requires_grad)
    return RunPlan(
        list(_tree(components.model)),
        count_parameters(components.model),
        trained,
        _memory(components, batches, device, precision),
        data,
        steps,
        [
            *_arithmetic(recipe, samples, tokens, epoch, steps),
            str(precision),
            *_time(precision, work, steps),
            *components.notes,
            *(f"warning: {finding}" for finding in preflight(recipe, components, device)),
        ],
    )


def activation_bytes(root: nn.Module, batch: Batch, device: torch.device, precision: Precision) -> int:
    """Bytes that a forward over a batch keeps for its backward, weights left out.

    Source: `torch.autograd.graph.saved_tensors_hooks`; tensors that share memory count once.
    """
    own = {p.untyped_storage().data_ptr() for p in root.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    root.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), precision.autocast(device):
        root(batch.to(device))
    return sum(kept.values())


def _memory(
    components: TrainComponents, batches: list[Batch], device: torch.device, precision: Precision
) -> dict[str, int]:
    root = TrainModule(components.model, components.objective).to(device)
    weights = sum(p.numel() * p.element_size() for p in root.parameters()) + rounded_bytes(root)
    trained = sum(p.numel() * p.element_size() for p in root.parameters() if p.requires_grad)
    frozen = [module.model for module in root.modules() if isinstance(module, FrozenModel)]
    frozen_weights = sum(p.numel() * p.element_size() for model in frozen for p in model.parameters())
    activations = max(activation_bytes(root, batch, device, precision) for batch in batches)
    return {
        "weights": weights,
        **({"weights of frozen models": frozen_weights} if frozen_weights else {}),
        "gradients": trained,
        "optimizer (two moments per weight)": 2 * trained,
        f"activations of a micro-batch, {precision.name}": activations,
    }


def _arithmetic(recipe: Recipe, samples: float, tokens: float, epoch: float, steps: int | None) -> Iterator[str]:
    parts = recipe.data.accumulate
    split = f" in {parts} micro-batches" if parts > 1 else ""
    yield f"a step: {counted(round(samples), 'sequence')}, {counted(round(tokens), 'token')}{split}"
    yield f"an epoch: {epoch:,.1f} steps, {epoch * tokens:,.0f} tokens"
    budget = recipe.budget
    if steps is None:
        yield f"the run: {budget}, as many steps as that allows"
        return
    yield f"the run ({budget}): {counted(steps, 'step')} = {steps / epoch:,.2f} epochs = {steps * tokens:,.0f} tokens"
    data = recipe.data
    if data.length_at(0) < data.length:
        long = f"{data.length} after {counted(round(data.length_warmup * steps), 'step')}"
        yield f"sequences: at most {data.start_length} tokens at first, {long}"
    warm = counted(round(recipe.schedule.warmup * steps), "step")
    yield f"learning rate: {recipe.optimizer.lr:g} after {warm} of warm-up, then {recipe.schedule.kind}"


def _time(precision: Precision, work: float, steps: int | None) -> Iterator[str]:
    if not precision.peak or not work:
        return
    limit = f"{precision.peak / 1e9:,.0f} GFLOP/s in {precision.name}"
    yield f"{work / 1e9:,.0f} GFLOP a step; this device multiplies {limit}"
    if steps is not None:
        minutes = work * steps / precision.peak / _UTILIZATION / 60
        yield f"time: about {minutes:,.1f} minutes at {_UTILIZATION:.0%} of that, evaluation not counted"


def _step(objective: Objective, samplers: Sequence[Sampler], sizes: Sequence[float]) -> tuple[float, float, float]:
    """The samples and tokens of a step, and the steps of an epoch.

    Args:
        sizes: samples of a step of each part of the objective.
    """
    totals = [*map(_samples, samplers)]
    tokens = [_tokens(sampler, part) for sampler, part in zip(samplers, objective.alternatives, strict=True)]
    if objective.trains_all:
        of_parts = [*zip(sizes, totals, tokens, strict=True)]
        return (
            sum(sizes),
            sum(size * count / total for size, total, count in of_parts),
            max(total / size for size, total, _ in of_parts),
        )
    samples = sum(sizes) / len(sizes)
    return samples, samples * sum(tokens) / sum(totals), sum(totals) / samples


def _samples(sampler: Sampler) -> int:
    return sum(len(view) for view in sampler.views)


def _tokens(sampler: Sampler, part: Objective) -> int:
    """Tokens of all samples, special ones included."""
    return sum(view.data_stats()["used"] + part.overhead * len(view) for view in sampler.views)


def _tree(model: nn.Module) -> Iterator[ModuleRow]:
    """The modules that have weights; equal neighbours are shown once."""
    seen: set[int] = set()
    yield ModuleRow(0, "model", type(model).__name__, count_parameters(model))
    yield from _children(model, 1, seen)


def _children(module: nn.Module, depth: int, seen: set[int]) -> Iterator[ModuleRow]:
    for name, weight in module.named_parameters(recurse=False):
        yield ModuleRow(depth, name, _shape(weight, seen), _count([weight], seen))
        seen.add(id(weight))
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    while children:
        name, child = children[0]
        same = _count_equal(children)
        weights = [p for _, each in children[:same] for p in each.parameters()]
        label = name if same == 1 else f"{name}..{children[same - 1][0]} ({same} equal)"
        if any(True for _ in child.children()):
            yield ModuleRow(depth, label, type(child).__name__, _count(weights, seen))
            yield from _children(child, depth + 1, seen)
        else:
            shapes = ", ".join(_shape(weight, seen) for weight in child.parameters())
            yield ModuleRow(depth, label, f"{type(child).__name__} {shapes}", _count(weights, seen))
        seen |= {id(weight) for weight in weights}
        children = children[same:]


def _shape(weight: Tensor, seen: set[int]) -> str:
    shape = " x ".join(str(n) for n in weight.shape)
    return f"({shape}, shared)" if id(weight) in seen else f"({shape})"


def _count(weights: Sequence[Tensor], seen: set[int]) -> int:
    return sum(w.numel() for w in {id(w): w for w in weights}.values() if id(w) not in seen)


def _count_equal(children: list[tuple[str, nn.Module]]) -> int:
    """How many of the first children have the same modules and shapes."""
    wanted = _signature(children[0][1])
    count = 1
    while count < len(children) and children[count][0].isdigit() and _signature(children[count][1]) == wanted:
        count += 1
    return count


def _signature(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(weight.shape)) for name, weight in module.named_parameters())


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.2f} GB"
