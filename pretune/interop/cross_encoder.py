"""Reads and writes the files by which `sentence-transformers` knows a cross-encoder: one score for a pair of texts.

modules.json has the model alone, config_sentence_transformers.json the activation of its score. Versions before 6 say
the activation in config.json, which `description` reads.
"""

from __future__ import annotations

from pathlib import Path

from pretune.errors import DataError
from pretune.field_table import check_fields, shown_value
from pretune.interop.safety import read_json
from pretune.interop.transformer_settings import SETTINGS, read_transformer
from pretune.interop.vector_fields import MODEL_FIELDS, PAIR_FIELDS, PAIR_SETTINGS, SCORES_TRANSFORMER
from pretune.interop.weights import write_json
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import Fields
from pretune.nn.heads import ScoreOutput, SequenceHead
from pretune.text.tokenizer.folder import MODULES

MODEL = "config_sentence_transformers.json"
_OUTPUTS: dict[str, ScoreOutput] = {
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "value",
}
_TASK = "reranking"


def pair_head(model: LanguageModel) -> SequenceHead | None:
    """The head whose one score is that of a pair of texts; None of a model that is no cross-encoder."""
    head = dict(model.heads.items()).get("classification")
    if not isinstance(head, SequenceHead) or len(head.labels) != 1:
        return None
    task = model.metadata.task
    return head if head.scores_pairs or (task is not None and task.name == _TASK) else None


def encoder_class(model: LanguageModel) -> str:
    """The class of sentence-transformers that a model's files are for."""
    if pair_head(model) is not None:
        return "CrossEncoder"
    is_sparse = model.vectors is not None and model.vectors.sparse_pool is not None
    return "SparseEncoder" if is_sparse else "SentenceTransformer"


def read_cross_encoder(folder: Path, model: LanguageModel, notes: list[str]) -> None:
    """Tells a model's head what the files of a cross-encoder say of its scores; nothing where there are none.

    Args:
        notes: gets a sentence for each field that is not known.

    Raises:
        DataError: a damaged file, an activation that is not known, or a prompt that would be put before pairs.
    """
    path = folder / MODEL
    fields = read_json(path) if path.is_file() and (folder / MODULES).is_file() else {}
    if fields.get("model_type") != "CrossEncoder":
        return
    notes += check_fields(path, fields, MODEL_FIELDS)
    read_transformer(folder, notes, PAIR_FIELDS)
    prompt = fields.get("default_prompt_name")
    if prompt is not None:
        raise DataError(
            f"{path}: field 'default_prompt_name' = {shown_value(prompt)}: no prompt is put before pairs here; set "
            "it to null and put the prompt before the texts, or read this folder with sentence-transformers itself"
        )
    head = dict(model.heads.items()).get("classification")
    if not isinstance(head, SequenceHead) or len(head.labels) != 1:
        return  # classes of pairs are told apart by their probabilities, as everywhere
    head.scores_pairs = True
    activation = fields.get("activation_fn")
    if activation is None:
        return
    if activation not in _OUTPUTS:
        raise DataError(
            f"{path}: field 'activation_fn' = {shown_value(activation)}: expected {' or '.join(_OUTPUTS)}; correct the "
            "field, or read this folder with sentence-transformers itself"
        )
    head.output = _OUTPUTS[activation]
    head.problem_type = "regression" if head.output == "value" else "single_label_classification"


def write_cross_encoder(folder: Path, head: SequenceHead, length: int) -> None:
    """Writes what makes a cross-encoder of the folder of a model.

    Args:
        head: that scores pairs.
        length: tokens that a pair may have, special ones included.
    """
    names = {output: name for name, output in _OUTPUTS.items()}
    write_json(folder / MODULES, [{"idx": 0, "name": "0", "path": "", "type": SCORES_TRANSFORMER}])
    write_json(folder / SETTINGS, {"max_seq_length": length, "do_lower_case": False, **PAIR_SETTINGS})
    fields: Fields = {
        "model_type": "CrossEncoder",
        "activation_fn": names["value" if head.output == "value" else "sigmoid"],
        "prompts": {},
        "default_prompt_name": None,
    }
    write_json(folder / MODEL, fields)
