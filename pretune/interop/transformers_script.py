"""What `transformers` and `sentence-transformers` make of a model folder, in a process that imports no pretune.

`python transformers_script.py FOLDER REQUEST ANSWER`: REQUEST and the answers are JSON, arrays go beside it as .npz.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

HEADS = {  # outputs of a model by the role of the head that gives them; of several, the one that it has
    "mlm": ("prediction_logits", "logits"),
    "nsp": ("seq_relationship_logits", "logits"),
    "sop": ("sop_logits",),
    "pooler": ("pooler_output",),
}


def main(folder: str, request: str, answer: str) -> None:
    """Reads a folder and answers a request.

    `status` of the answer: "read"; "failed", where the folder cannot be read; "unavailable", where this version of
    `transformers` does not run or has no such model, with the `reason`.
    """
    answers: dict[str, Any] = {}
    try:
        import transformers
    except Exception as error:
        _write(answer, {"status": "unavailable", "reason": f"transformers cannot be imported: {error}"})
        return
    wanted = json.loads(Path(request).read_text(encoding="utf-8"))
    answers["version"] = transformers.__version__
    if int(transformers.__version__.partition(".")[0]) < 5:
        reason = f"transformers {transformers.__version__} is installed, and version 5 is needed"
        _write(answer, {**answers, "status": "unavailable", "reason": reason})
        return
    model_class = getattr(transformers, wanted["architecture"] or "AutoModel", None)
    if model_class is None or wanted["model_type"] not in transformers.CONFIG_MAPPING:
        names = f"{wanted['architecture']} of model type {wanted['model_type']}"
        reason = f"transformers {transformers.__version__} has no {names}"
        _write(answer, {**answers, "status": "unavailable", "reason": reason})
        return
    transformers.logging.set_verbosity_error()
    try:
        _answer(transformers, model_class, folder, wanted, answers, answer)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        _write(answer, {**answers, "status": "failed", "reason": reason})
        return
    _write(answer, {**answers, "status": "read"})


def _answer(
    transformers: Any, model_class: Any, folder: str, wanted: dict[str, Any], answers: dict[str, Any], answer: str
) -> None:
    tokenizer = None
    if wanted["has_tokenizer"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        answers["tokenizer_class"] = type(tokenizer).__name__
        answers["lines"] = [tokenizer(line)["input_ids"] for line in wanted["lines"]]
        answers["pairs"] = [_pair(tokenizer(*pair)) for pair in wanted["pairs"]]
    import torch

    model, info = model_class.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    model.eval()
    answers["missing"] = sorted(map(str, info.get("missing_keys", ())))
    arrays = _outputs(model, wanted)
    answers["written"] = [_write_on(model, tokenizer, prompt, wanted["new_tokens"]) for prompt in wanted["prompts"]]
    if wanted["embedded"]:
        _embed(folder, wanted["embedded"], wanted["encoder"], answers, arrays)
    import numpy as np

    np.savez(Path(answer).with_suffix(".npz"), **arrays)


def _embed(folder: str, texts: list[str], encoder: str, answers: dict[str, Any], arrays: dict[str, Any]) -> None:
    """What sentence-transformers' class gives: vectors of texts, or scores of each text with the next one."""
    answers |= {"embedder": "", "embedder_reason": ""}
    try:
        import sentence_transformers
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError)
        answers["embedder_reason"] = f"sentence-transformers {'is not installed' if missing else error}"
        return
    answers["embedder"] = f"sentence-transformers {sentence_transformers.__version__}"
    model = getattr(sentence_transformers, encoder)(
        folder, device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
    )
    if encoder == "CrossEncoder":
        pairs = list(pairwise(texts))
        arrays["vectors"] = model.predict(pairs, convert_to_numpy=True, show_progress_bar=False)
    elif encoder == "SparseEncoder":
        sparse = model.encode(texts, convert_to_sparse_tensor=False, show_progress_bar=False)
        arrays["vectors"] = sparse.float().numpy()
    else:
        arrays["vectors"] = model.encode(texts, convert_to_numpy=True, show_progress_bar=False)


def _pair(encoded: Any) -> dict[str, Any]:
    return {"input_ids": encoded["input_ids"], "token_type_ids": encoded.get("token_type_ids")}


def _outputs(model: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The hidden states of each row, and what each head makes of them, as arrays `hidden.0`, `mlm.0` ..."""
    import torch

    arrays: dict[str, Any] = {}
    for n, row in enumerate(wanted["rows"]):
        tokens = torch.tensor([row])
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}  # ModernBERT's mean needs a mask
        if wanted["start"] is not None:
            inputs["decoder_input_ids"] = torch.tensor([[wanted["start"], *row[:-1]]])
        if model.__class__.__name__.endswith("ForMultipleChoice"):  # a text is the only choice
            inputs = {name: tensor[None] for name, tensor in inputs.items()}
        with torch.no_grad():
            outputs = model(**inputs, output_hidden_states=True)
        layers = getattr(outputs, "decoder_hidden_states", None) or outputs.hidden_states
        hidden = getattr(outputs, "last_hidden_state", None)
        arrays[f"hidden.{n}"] = (layers[-1] if hidden is None else hidden)[0].numpy()
        for role in wanted["roles"]:
            tensor = _of_role(outputs, role)
            if tensor is not None:
                arrays[f"{role}.{n}"] = tensor.numpy()
    return arrays


def _of_role(outputs: Any, role: str) -> Any:
    import torch

    if role == "question_answering":
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)[0]
    names = HEADS.get(role, ("logits",))
    return next((getattr(outputs, name)[0] for name in names if getattr(outputs, name, None) is not None), None)


def _write_on(model: Any, tokenizer: Any, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Greedy text after a prompt: its tokens, and how far the best was from the second at each."""
    import torch

    inputs = torch.tensor([prompt])
    result = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        tokenizer=tokenizer,
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        output_scores=True,
        return_dict_in_generate=True,
    )
    first = 1 if model.config.is_encoder_decoder else inputs.shape[1]
    gaps = [float(best[0] - best[1]) for best in (scores[0].topk(2).values for scores in result.scores)]
    return {"tokens": result.sequences[0, first:].tolist(), "gaps": gaps}


def _write(answer: str, content: dict[str, Any]) -> None:
    Path(answer).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
