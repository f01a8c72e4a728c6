"""Computes what does not learn once a sample: what is below the first layer that learns, or below the heads.

1. A sequence is known by what the model reads of it: tokens, segments, source, order, by which adapter, and the rows
   that are wanted.
2. If all sequences of a batch are known, their rows come from the files, and the model goes on above them.
3. Else the batch is computed as without this, and what was new is kept: see `feature_store`.

So a run computes the same, bit for bit, with it and without; and what changes each time, such as masked tokens, is
never mistaken for what it was before. Training and evaluation are kept apart, as their batches have other shapes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch
from pretune.interop.fingerprint import fingerprint
from pretune.models.boundary import Boundary, FixedStates, compute_above, compute_below, find_boundary
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput
from pretune.train.feature_store import FeatureStore
from pretune.wording import counted

FOLDER = "features"


class FeatureCache:
    """Gives what the heads read of a batch, with what does not learn from the disk where it is there.

    Args:
        folder: of the files, in the run directory.
        facts: what results depend on besides the model, such as precision and device.
        rank: this process; the files of all are read.
        training, evaluation: of which of the two batches are kept.

    Attributes:
        reused, computed: number of sequences that were read, and that were not there.
    """

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        rank: int = 0,
        *,
        training: bool = True,
        evaluation: bool = True,
    ) -> None:
        self.folder, self.rank = folder, rank
        self.reused = self.computed = 0
        self._facts = dict(facts)
        self._modes = {True: training, False: evaluation}
        self._parameters: list[torch.nn.Parameter] = []
        self._learns: list[bool] = []
        self._boundary: Boundary | None = None
        self._store: FeatureStore | None = None
        self._gives_rows: dict[tuple[bool, ...], bool] = {}
        self._warned = False

    def run(self, model: LanguageModel, batch: Batch) -> ModelOutput:
        """Does as `model(batch)`."""
        mode = model.training
        boundary = self._current_boundary(model) if self._modes[mode] else None
        if boundary is not None and boundary.place == "body":
            return self._whole(model, batch, mode=mode)
        if boundary is None or batch.order is not None:
            return model(batch)  # type: ignore[no-any-return]
        keys, sizes = sequence_keys(batch, mode=mode), _sizes(batch, boundary)
        known_rows = self._find(keys)
        if known_rows is None:
            states = compute_below(model, batch, boundary)
            parts = [states.hidden] if states.encoder is None else [states.hidden, states.encoder]
            self._keep(keys, [_split(part, counts) for part, (_, counts) in zip(parts, sizes, strict=False)])
        else:
            parts = [_joined(known_rows, n, sizes[n][0], model.device) for n in range(len(known_rows[0]))]
            states = FixedStates(*parts)
        return compute_above(model, batch, boundary, states)

    def publish(self) -> None:
        """Lets other ranks find what this one has kept; call it before they speak with each other in a step."""
        if self._store is not None:
            self._store.publish()

    def refresh(self) -> None:
        """Learns what the others have kept; call it after they have spoken, and before they do again."""
        if self._store is not None:
            self._store.refresh()

    def warning(self) -> str | None:
        """What went wrong, once: the disk is full."""
        failure = None if self._store is None else self._store.failure
        if failure is None or self._warned:
            return None
        self._warned = True
        reason = failure.strerror or failure
        return (
            f"warning: {self.folder}: features cannot be kept any more ({reason}); what is not there is computed each "
            "time, and nothing else changes"
        )

    def describe(self) -> str:
        """How much was computed, and how much was not; empty where there was nothing."""
        if not self.reused:
            return ""
        return (
            f"layers that do not learn ran for {counted(self.computed, 'sequence')}, and {self.reused:,} times what "
            "they give was read"
        )

    def close(self) -> None:
        """Gives the files back; they stay for a run that goes on."""
        if self._store is not None:
            self._store.close()
            self._store = None
            self._learns = []

    def drop(self) -> None:
        """Removes the files, at the end of a run."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _current_boundary(self, model: LanguageModel) -> Boundary | None:
        """The boundary, with its files open; both change where a method lets more layers learn."""
        self._parameters = self._parameters or list(model.parameters())
        learns = [parameter.requires_grad for parameter in self._parameters]
        if learns != self._learns:
            self.close()
            self._learns, self._boundary = learns, find_boundary(model)
            if self._boundary is not None:
                self._store = FeatureStore(self.folder, self._digest(model, self._boundary), self.rank)
        return self._boundary

    def _digest(self, model: LanguageModel, boundary: Boundary) -> str:
        fixed: list[tuple[str, Tensor]] = [
            (name, weight) for name, weight in model.named_parameters() if not weight.requires_grad
        ]
        for name, value in model.named_buffers():
            owner = model.get_submodule(name.rpartition(".")[0])
            if not name.startswith("heads.") and not any(own.requires_grad for own in owner.parameters()):
                fixed.append((name, value))
        facts = {
            **self._facts,
            "weights": fingerprint(fixed),
            "family": model.family,
            "config": model.config.model_dump(mode="json"),
            "boundary": [boundary.place, boundary.layer],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def _find(self, keys: Sequence[bytes]) -> list[list[Tensor]] | None:
        """The rows of all sequences, or None where those of one are not there."""
        assert self._store is not None
        known_rows: list[list[Tensor]] = []
        for key in keys:
            parts = self._store.find(key)
            if parts is None:
                return None
            known_rows.append(parts)
        self.reused += len(keys)
        return known_rows if known_rows else None

    def _keep(self, keys: Sequence[bytes], parts: Sequence[Sequence[Tensor]]) -> None:
        """Keeps the rows of sequences; `parts` has, for each part, the rows of each sequence."""
        assert self._store is not None
        self.computed += len(keys)
        for key, *rows in zip(keys, *parts, strict=False):
            self._store.put(key, [each.detach().cpu() for each in rows])

    def _whole(self, model: LanguageModel, batch: Batch, *, mode: bool) -> ModelOutput:
        """What the heads read, where only they learn.

        Whether the model gives all rows or only those that are wanted is seen when it first runs.
        """
        sort = (mode, batch.output_rows is not None, batch.order is not None, batch.source is not None)
        gives_rows = self._gives_rows.get(sort)
        if gives_rows is not None:
            wanted = WantedRows.of(batch) if gives_rows else None
            known_rows = self._find(sequence_keys(batch, wanted, mode=mode))
            if known_rows is not None:
                return _restored(batch, wanted, known_rows, model.device)
        with torch.no_grad():
            output: ModelOutput = model(batch)
        wanted = None if output.rows is None else WantedRows.of(batch)
        self._gives_rows[sort] = wanted is not None
        layout = batch.layout if wanted is None or batch.output_rows is None else batch.output_rows.layout
        if output.layout.lengths != layout.lengths or len(output.last_hidden_state) != layout.total:
            self._modes = {True: False, False: False}  # it reads more than the batch says
            return output
        hidden, counts = output.last_hidden_state, _real_lengths(batch)
        if wanted is not None:
            hidden, counts = hidden[torch.from_numpy(wanted.index).to(hidden.device)], wanted.counts
        self._keep(sequence_keys(batch, wanted, mode=mode), [_split(hidden, counts)])
        return output


class CachedModel:
    """A model as objectives call it, which computes what does not learn once a sample."""

    def __init__(self, model: LanguageModel, cache: FeatureCache) -> None:
        self._model, self._cache = model, cache

    def __call__(self, batch: Batch, **options: Any) -> ModelOutput:
        """What the model gives; with more than a batch, computed anew."""
        if any(option not in (None, False) for option in options.values()):
            return self._model(batch, **options)  # type: ignore[no-any-return]
        return self._cache.run(self._model, batch)

    def __getattr__(self, name: str) -> Any:
        """The model's own attributes, such as its heads."""
        return getattr(self._model, name)


@dataclass(frozen=True)
class WantedRows:
    """Those of a batch's output rows that somebody reads.

    Attributes:
        index: (K,) int64, places among the output rows.
        positions: (K,) int64, of each in its sequence.
        counts: of each sequence.
    """

    index: NDArray[np.int64]
    positions: NDArray[np.int64]
    counts: list[int]

    @classmethod
    def of(cls, batch: Batch) -> WantedRows | None:
        """Those of a batch; None where all rows are wanted."""
        rows = batch.output_rows
        if rows is None:
            return None
        bounds = np.array(rows.layout.bounds)
        read = np.ones(bounds[-1], np.bool_) if rows.fillers is None else ~rows.fillers
        index = np.flatnonzero(read)
        counts = np.diff(index.searchsorted(bounds))[: batch.layout.count - batch.dummies]
        index = index[: int(counts.sum())]
        return cls(index, rows.layout.positions.cpu().numpy()[index], counts.tolist())


def sequence_keys(batch: Batch, wanted: WantedRows | None = None, *, mode: bool) -> list[bytes]:
    """A key for each sequence, of all that the model reads of it; none for dummies.

    Args:
        wanted: the rows that are kept of it; None for all.
        mode: whether the model trains.
    """
    runs: list[tuple[memoryview, Sequence[int]]] = []
    present = []
    for side in (batch, batch.source):
        for part in () if side is None else (side.tokens, side.segments, side.order):
            present.append(part is not None)
            if side is not None and part is not None:
                runs.append((_bytes(part), side.layout.bounds))
    if wanted is not None:
        runs.append((wanted.positions.data.cast("B"), [0, *np.cumsum(wanted.counts).tolist()]))
    start = hashlib.blake2b(repr((mode, present, wanted is not None)).encode(), digest_size=16)
    keys = []
    for n in range(batch.layout.count - batch.dummies):
        digest = start.copy()
        adapter = None if batch.layout.group is None else batch.layout.group[n]
        digest.update(repr((adapter, [bounds[n + 1] - bounds[n] for _, bounds in runs])).encode())
        for run, bounds in runs:
            digest.update(run[bounds[n] * 8 : bounds[n + 1] * 8])
        keys.append(digest.digest())
    return keys


def _bytes(run: Tensor) -> memoryview:
    """The memory of a run of int64."""
    return run.cpu().contiguous().numpy().data.cast("B")


def _real_lengths(batch: Batch) -> list[int]:
    """Tokens of each sequence that is not a dummy."""
    return list(batch.layout.lengths[: batch.layout.count - batch.dummies])


def _sizes(batch: Batch, boundary: Boundary) -> list[tuple[int, list[int]]]:
    """For each part of the states, how many rows it has in all, and of each sequence."""
    source = batch if batch.source is None else batch.source
    own, other = ((side.layout.total, _real_lengths(side)) for side in (batch, source))
    if boundary.place == "encoder":
        return [other]
    return [own, other]


def _split(rows: Tensor, counts: Sequence[int]) -> Sequence[Tensor]:
    """The rows of each sequence; those of dummies last, which nobody keeps. Shape: rows: (T, width)"""
    return torch.split(rows, [*counts, len(rows) - sum(counts)])


def _joined(known_rows: Sequence[Sequence[Tensor]], part: int, total: int, device: torch.device) -> Tensor:
    """One part of the rows of all sequences, zeros for dummies behind them. Shape: return: (total, width)"""
    runs = [parts[part] for parts in known_rows]
    missing = total - sum(map(len, runs))
    if missing:
        runs.append(runs[0].new_zeros(missing, runs[0].shape[1]))
    return torch.cat(runs).to(device, non_blocking=True)


def _restored(
    batch: Batch, wanted: WantedRows | None, known_rows: Sequence[Sequence[Tensor]], device: torch.device
) -> ModelOutput:
    """The output of the model from the rows of all sequences."""
    rows = batch.output_rows
    if wanted is None or rows is None:
        return ModelOutput(_joined(known_rows, 0, batch.layout.total, device), batch.layout)
    kept = _joined(known_rows, 0, len(wanted.index), device)
    if len(kept) == rows.layout.total:
        return ModelOutput(kept, rows.layout, rows.index)
    hidden = kept.new_zeros(rows.layout.total, kept.shape[1])
    hidden[torch.from_numpy(wanted.index).to(device)] = kept
    return ModelOutput(hidden, rows.layout, rows.index)
