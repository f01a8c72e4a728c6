"""Runs programs of `pretune.native.program` in plain torch, row by row: slow, and what the kernels are held to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretune.native import program as step
from pretune.native.cache import PagedCache
from pretune.nn.activation import quick_gelu, relu_squared
from pretune.nn.formats.format import find_format

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "quick_gelu": quick_gelu,
    "relu_squared": relu_squared,
    "sigmoid": torch.sigmoid,
}


class Interpreter:
    """As an executor of `pretune.native`, in torch.

    Args:
        dtype: of all sums: fp64 for an oracle of kernels.
    """

    def __init__(self, program: step.Program, dtype: torch.dtype = torch.float32) -> None:
        self.program = program
        self.dtype = dtype
        self._dense = {id(o.matrix): dense(o.matrix).to(dtype) for o in program.operations if hasattr(o, "matrix")}

    @torch.no_grad()
    def run(
        self,
        cache: PagedCache,
        tokens: Sequence[int] | Tensor,
        slots: Sequence[int],
        *,
        wanted: Sequence[int],
        top: int = 1,
        log_sum: bool = True,
        cross: PagedCache | None = None,
    ) -> step.StepResult:
        """Reads rows, one after another; slots of rows stand in order."""
        hidden, every = [], []
        for row, (token, slot) in enumerate(zip([int(t) for t in tokens], slots, strict=True)):
            last = self._row(cache, cross, token, slot)
            if row in wanted:
                hidden.append(last[0])
                every.append(last[1])
        width = self.program.operations[-1].source.width
        all_scores = torch.stack(every).float() if every else torch.zeros(0, 1)
        values, ids = all_scores.sort(dim=1, descending=True, stable=True)
        ids[~all_scores.isfinite().all(dim=1)] = -1
        return step.StepResult(
            ids[:, :top],
            values[:, :top],
            all_scores.logsumexp(1),
            all_scores,
            torch.stack(hidden).float() if hidden else torch.zeros(0, width),
        )

    def _row(self, cache: PagedCache, cross: PagedCache | None, token: int, slot: int) -> tuple[Tensor, Tensor]:
        position = cache.lengths[slot]
        if self.program.max_length is not None and position >= self.program.max_length:
            raise ValueError(f"longer than the model's {self.program.max_length} positions")
        cache.reserve(slot, position + 1)
        self._buffers = [torch.full((width,), math.nan, dtype=self.dtype) for width in self.program.widths]
        out = None
        for operation in self.program.operations:
            if isinstance(operation, step.Attend):
                self._attend(operation, cache, slot, position)
            elif isinstance(operation, step.CrossAttend):
                assert cross is not None
                keys, values = cross.read(slot, operation.layer)
                self._mix(operation, keys, values, None)
            else:
                out = self._simple(operation, token, position)
        cache.lengths[slot] = position + 1
        assert out is not None
        return out

    def _of(self, columns: step.Columns) -> Tensor:
        assert columns.start + columns.width <= self.program.widths[columns.buffer]
        return self._buffers[columns.buffer][columns.start : columns.start + columns.width]

    def _simple(self, o: step.Operation, token: int, position: int) -> tuple[Tensor, Tensor] | None:
        match o:
            case step.Embed():
                self._of(o.target).copy_(dense(o.vocabulary)[token] * o.scale)
            case step.AddPosition():
                self._of(o.target).add_(o.table[position + o.offset])
            case step.AddVector():
                self._of(o.target).add_(o.vector)
            case step.LayerNorm():
                weight, bias = (None if v is None else v.to(self.dtype) for v in (o.weight, o.bias))
                self._of(o.target).copy_(F.layer_norm(self._of(o.source), (o.source.width,), weight, bias, o.eps))
            case step.RmsNorm():
                x = self._of(o.source).view(-1, o.group)
                normed = x * (x.square().mean(1, keepdim=True) + o.eps).rsqrt()
                self._of(o.target).copy_((normed if o.weight is None else normed * o.weight).flatten())
            case step.Multiply():
                y = self._product(o)
                target = self._of(o.target)
                target.copy_(target + y if o.add else ACTIVATIONS[o.activation](y))
            case step.Gate():
                self._of(o.target).copy_(ACTIVATIONS[o.activation](self._of(o.gate)) * self._of(o.value))
            case step.Activate():
                self._of(o.target).copy_(ACTIVATIONS[o.activation](self._of(o.source)))
            case step.Add():
                self._of(o.target).add_(self._of(o.source))
            case step.Copy():
                self._of(o.target).copy_(self._of(o.source) * o.factor)
            case step.Rotate():
                self._rotate(o, position)
            case step.Scores():
                return self._of(o.source).clone(), self._product(o)
            case _:
                raise NotImplementedError(type(o).__name__)
        return None

    def _product(self, o: step.Multiply | step.Scores) -> Tensor:
        x = self._of(o.source)
        if o.rounded and o.matrix.format == "bf16":
            x = x.bfloat16().to(self.dtype)
        elif o.rounded and o.matrix.format != "fp32":
            x = round_groups(x, 63 if o.seven_bits else 127)
        y = self._dense[id(o.matrix)] @ x
        return y if o.bias is None else y + o.bias

    def _rotate(self, o: step.Rotate, position: int) -> None:
        rotation = self.program.rotations[o.rotation]
        angle = (position + o.offset) * rotation.frequencies
        cosine, sine = angle.cos() * rotation.amplitude, angle.sin() * rotation.amplitude
        half = len(angle)
        heads = self._of(o.target).view(-1, o.head_width)
        part = heads[:, : 2 * half]
        a, b = (part[:, 0::2], part[:, 1::2]) if o.interleaved else (part[:, :half], part[:, half:])
        a, b = a * cosine - b * sine, b * cosine + a * sine
        part.copy_(torch.stack([a, b], -1).flatten(1) if o.interleaved else torch.cat([a, b], 1))

    def _attend(self, o: step.Attend, cache: PagedCache, slot: int, position: int) -> None:
        shape = (1, o.key_heads, o.head_width)
        cache.write(slot, o.layer, self._of(o.key).float().view(shape), self._of(o.value).float().view(shape), position)
        keys, values = cache.read(slot, o.layer, position + 1)
        first = 0 if o.before is None else max(0, position - o.before)
        bias = None
        if o.bias is not None:
            distance = torch.arange(position, first - 1, -1).clamp(max=o.bias.shape[1] - 1)
            bias = o.bias[:, distance]
        self._mix(o, keys[first:], values[first:], bias)

    def _mix(self, o: step.Attend | step.CrossAttend, keys: Tensor, values: Tensor, bias: Tensor | None) -> None:
        query = self._of(o.query).view(o.heads, o.head_width)
        times = o.heads // o.key_heads
        keys, values = (run.to(self.dtype).repeat_interleave(times, 1) for run in (keys, values))
        scores = o.scale * torch.einsum("hd,shd->hs", query, keys)
        weights = (scores if bias is None else scores + bias).softmax(1)
        self._of(o.target).copy_(torch.einsum("hs,shd->hd", weights, values).flatten())


def dense(matrix: step.Matrix) -> Tensor:
    """The values of a matrix. Shape: (out, in) fp32."""
    tensors = matrix.whole()
    weight = tensors.get("values")
    if matrix.format in ("fp32", "bf16"):
        assert weight is not None
        return weight.float()
    if matrix.format == "int8":
        assert weight is not None
        return weight.float() * tensors["scale"][:, None]
    return find_format(matrix.format).dense(dict(tensors))


def round_groups(x: Tensor, highest: int) -> Tensor:
    """Rounds values to whole numbers up to the highest, with a scale for each 32. Shape: (width,) -> same."""
    groups = F.pad(x, (0, -len(x) % step.GROUP)).view(-1, step.GROUP)
    scale = groups.abs().amax(1, keepdim=True) / highest
    rounded = (groups / torch.where(scale > 0, scale, torch.ones_like(scale))).round() * scale
    return rounded.flatten()[: len(x)]
