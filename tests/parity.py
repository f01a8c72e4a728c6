"""One assertion for every family: our logits against those of `transformers`, ragged against padded with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from pretune.batch import ragged
from pretune.models.model import LanguageModel
from pretune.nn.heads import DetectionHead, RowHead, VocabularyHead

transformers.logging.set_verbosity_error()
LENGTHS = (1, 17, 17, 30, 2)


def sequences(vocabulary: int, lengths: Sequence[int] = LENGTHS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, vocabulary, n) for n in lengths]  # 0 and 1 may be padding


@torch.no_grad()
def ours(model: LanguageModel, rows: list[np.ndarray], segments: bool) -> dict[str, Tensor]:
    """Outputs by role."""
    model.eval()
    kinds = [np.arange(len(r)) * 2 // len(r) for r in rows] if segments else None
    batch = ragged(rows, kinds)
    hidden = model(batch).last_hidden_state
    out = {"hidden": hidden}
    for role, head in model.heads.items():
        if isinstance(head, VocabularyHead | DetectionHead | RowHead):
            out[role] = head(hidden)
        elif role == "pooler":
            out[role] = head(hidden[batch.layout.first])
        else:
            out[role] = head(hidden, batch.layout)
    return out


@torch.no_grad()
def theirs(model: Any, rows: list[np.ndarray], segments: bool) -> dict[str, Tensor]:
    """The same from a padded batch; `pad_token_id` must be set for GPT-2's classifier."""
    model.eval()
    max_length = max(map(len, rows))
    tokens, mask, kinds = torch.zeros(3, len(rows), max_length, dtype=torch.long)
    tokens += model.config.pad_token_id or 0
    for n, row in enumerate(rows):
        tokens[n, : len(row)] = torch.from_numpy(row)
        mask[n, : len(row)] = 1
        kinds[n, : len(row)] = torch.arange(len(row)) * 2 // len(row)
    inputs = {"input_ids": tokens, "attention_mask": mask} | ({"token_type_ids": kinds} if segments else {})
    if type(model).__name__.endswith("ForMultipleChoice"):  # all sequences are choices of one example
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    got = model(**inputs, output_hidden_states=True)
    real = mask.bool()
    layers = getattr(got, "decoder_hidden_states", None) or got.hidden_states
    hidden = got.last_hidden_state if hasattr(got, "last_hidden_state") else layers[-1]
    out = {"hidden": hidden[real]}
    kind = type(model).__name__
    if kind.endswith("ForMaskedLM"):
        out["mlm"] = got.logits[real]
    elif kind == "ElectraForPreTraining":
        out["rtd"] = got.logits[real]
    elif kind.endswith("ForPreTraining"):
        pair = {"nsp": got.seq_relationship_logits} if kind.startswith("Bert") else {"sop": got.sop_logits}
        out |= {"mlm": got.prediction_logits[real], **pair}
    elif kind == "BertForNextSentencePrediction":
        out["nsp"] = got.logits
    elif kind.endswith(("LMHeadModel", "ForCausalLM")):
        out["clm"] = got.logits[real]
    elif kind.endswith("ForSequenceClassification"):
        out["classification"] = got.logits
    elif kind.endswith("ForTokenClassification"):
        out["token_classification"] = got.logits[real]
    elif "ForQuestionAnswering" in kind:
        out["question_answering"] = torch.stack([got.start_logits, got.end_logits], dim=-1)[real]
    elif kind.endswith("ForMultipleChoice"):
        out["multiple_choice"] = got.logits[0]
    elif getattr(got, "pooler_output", None) is not None:
        out["pooler"] = got.pooler_output
    return out


def assert_parity(
    model: LanguageModel, other: Any, segments: bool = False, rows: list[np.ndarray] | None = None
) -> None:
    """max |difference| <= 1e-5 * max(1, max |value|), for the hidden run and every head, and the same heads."""
    rows = sequences(model.vocab_size) if rows is None else rows
    own, want = ours(model, rows, segments), theirs(other, rows, segments)
    assert own.keys() == want.keys()
    for name, tensor in want.items():
        limit = 1e-5 * max(1.0, float(tensor.abs().max()))
        assert float((own[name] - tensor).abs().max()) <= limit, name
        assert float(tensor.std()) > 1e-3, f"{name} is constant: the comparison says nothing"


def reload(kind: Any, folder: Path) -> Any:
    """`from_pretrained`, which must miss nothing and find nothing too much."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def randomise(model: torch.nn.Module) -> None:
    """Weights large enough that every part matters, norms and biases included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name.lower() or ".ln_" in name else 0.0, 0.15)
