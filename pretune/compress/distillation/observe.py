"""Observes a forward from outside: what heads score while a loss is computed, and the calls of attentions.

A loss says nothing of the scores that it is made of. Here they are seen at the heads, whatever task or objective asks
them, a user's own included; and queries, keys and values are seen where a backend would be asked to attend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pretune.nn.attention import Attention
from pretune.nn.call import AttentionCall
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import TrainableModel
from pretune.nn.stack import Stack


@dataclass
class HeadScores:
    """What a head gave in the first call of a forward.

    Attributes:
        head: that was called.
        scores: as it gave them; None for a vocabulary, whose scores are never all there.
        rows: of hidden states, that a vocabulary was to score.

    Shape:
        scores: (K, classes) or (K,); rows: (K, width)
    """

    head: nn.Module
    scores: Tensor | None = None
    rows: Tensor | None = None


@contextmanager
def observed_heads(model: TrainableModel, *, skips_loss: bool = False) -> Iterator[dict[str, HeadScores]]:
    """Notes the first call of each head of a model, by role.

    Args:
        skips_loss: vocabularies compute no loss, which nobody reads.
    """
    seen: dict[str, HeadScores] = {}
    with ExitStack() as stack:
        for role, head in model.heads.items():
            stack.enter_context(_observed_head(role, head, seen))
            if isinstance(head, VocabularyHead):
                stack.enter_context(_observed_vocabulary(role, head, seen, skips_loss))
        yield seen


@contextmanager
def _observed_head(role: str, head: nn.Module, seen: dict[str, HeadScores]) -> Iterator[None]:
    def note(module: nn.Module, arguments: Any, scores: Any) -> None:
        if isinstance(scores, Tensor):
            seen.setdefault(role, HeadScores(head, scores=scores))

    handle = head.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _observed_vocabulary(
    role: str, head: VocabularyHead, seen: dict[str, HeadScores], skips_loss: bool
) -> Iterator[None]:
    compute = head.loss

    def loss(rows: Tensor, labels: Tensor, smoothing: float = 0.0, **more: Any) -> tuple[Tensor, Tensor]:
        seen.setdefault(role, HeadScores(head, rows=rows[: len(labels)]))
        if skips_loss:
            return rows.new_zeros((), dtype=torch.float32), labels.new_zeros(())
        return compute(rows, labels, smoothing, **more)

    head.__dict__["loss"] = loss
    try:
        yield
    finally:
        del head.__dict__["loss"]


@dataclass
class CallRecorder:
    """Stands where an attention looks for a backend, notes its calls, and leaves them to the others.

    Attributes:
        wanted: which of the calls are kept, counted from 0.
        calls: by their numbers.
    """

    wanted: frozenset[int]
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    PRIORITY: int = 0
    _number: int = 0

    def refuse(self, call: AttentionCall) -> str | None:
        """Notes the call, and refuses it."""
        if self._number in self.wanted:
            self.calls[self._number] = call
        self._number += 1
        return "it only looks"

    def attend(self, call: AttentionCall) -> Tensor:
        """Is never called.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a recorder computes nothing")


@contextmanager
def observed_attention(stack: Stack, layers: Sequence[int]) -> Iterator[dict[int, AttentionCall]]:
    """Notes the calls of some layers' attentions in one forward, by the number of the layer, from 0.

    Args:
        stack: all of whose attentions are `Attention`s.
    """
    recorder = CallRecorder(frozenset(layers))
    attentions = list({id(block.attention): block.attention for block in stack.in_order}.values())
    before = [(attention, attention.preferred) for attention in attentions if isinstance(attention, Attention)]
    try:
        for attention, preferred in before:
            attention.preferred = (recorder, *preferred)
        yield recorder.calls
    finally:
        for attention, preferred in before:
            attention.preferred = preferred
