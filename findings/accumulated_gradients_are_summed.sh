#!/usr/bin/env bash
# With 4 parts a step the Trainer's gradient, and the loss that it logs, are four times too large for most classes of models.
#
# Guess, written first: 8 rows of one length in one batch, or in 4 batches of 2 with `gradient_accumulation_steps=4`, give one
# gradient and one loss, whatever the head: parts of a step are there to save memory.
# Seen with transformers 5.23.0, accelerate 1.15.0, torch 2.13.0 (CPU): so it is for GPT-2's and Llama's language modelling,
# ModernBERT's masked one and BERT's question answering. BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and ModernBERT as
# classifiers, BERT's tags, choices and masked language modelling, BART and T5, and GPT-2 and Llama as classifiers get four
# times the gradient, and four times the loss stands in the log. The Trainer does not divide where a model's `forward` takes
# `**kwargs`, as it takes that for a model that divides by `num_items_in_batch`; these take it and compute a plain mean.
# No warning. Gradients are clipped at 1.0 as they are, so that runs on another number of devices are clipped at another
# place. With `label_smoothing_factor` the same classifiers are right, as the Trainer computes the loss itself.
# For pretune: a loss is a sum and a count, and the counts of a whole step are known before it; a test holds 1 x 8 to 4 x 2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>log <<'PY' || { cat log; exit 1; }
import contextlib
import io
from typing import Any

import accelerate
import torch
import transformers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
COMMON = {"vocab_size": 64, "max_position_embeddings": 64}
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 2}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, **IDS}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0, "decoder_start_token_id": 0}
BART = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in
        (("layers", 2), ("ffn_dim", 48), ("attention_heads", 2))} | {"d_model": 32, "dropout": 0.0, "decoder_start_token_id": 2, **IDS}
PLAIN = {**COMMON, **SIZES}
CASES = [  # class, configuration, what is learned, times too large
    ("GPT2LMHeadModel", "GPT2", GPT2, "tokens", 1), ("LlamaForCausalLM", "Llama", PLAIN, "tokens", 1),
    ("ModernBertForMaskedLM", "ModernBert", PLAIN | IDS | {"cls_token_id": 1, "sep_token_id": 2}, "tokens", 1),
    ("BertForQuestionAnswering", "Bert", PLAIN, "span", 1),
    ("BertForSequenceClassification", "Bert", PLAIN, "label", 4), ("BertForTokenClassification", "Bert", PLAIN, "tags", 4),
    ("BertForMultipleChoice", "Bert", PLAIN, "choice", 4), ("BertForMaskedLM", "Bert", PLAIN, "tokens", 4),
    ("RobertaForSequenceClassification", "Roberta", PLAIN, "label", 4),
    ("DistilBertForSequenceClassification", "DistilBert", {**COMMON, **DISTIL}, "label", 4),
    ("ElectraForSequenceClassification", "Electra", PLAIN | {"embedding_size": 32}, "label", 4),
    ("AlbertForSequenceClassification", "Albert", PLAIN | {"embedding_size": 16}, "label", 4),
    ("ModernBertForSequenceClassification", "ModernBert", PLAIN | IDS | {"cls_token_id": 1, "sep_token_id": 2}, "label", 4),
    ("GPT2ForSequenceClassification", "GPT2", GPT2, "label", 4),
    ("LlamaForSequenceClassification", "Llama", PLAIN | {"pad_token_id": 0}, "label", 4),
    ("T5ForConditionalGeneration", "T5", T5, "tokens", 4),
    ("BartForConditionalGeneration", "Bart", COMMON | BART, "tokens", 4),
]  # fmt: skip
DRAWN = torch.randint(3, 64, (8, 12), generator=torch.Generator().manual_seed(0)).tolist()


def row(n: int, kind: str) -> dict[str, Any]:
    ids = DRAWN[n]
    out = {"input_ids": ids, "attention_mask": [1] * len(ids)}
    if kind == "choice":
        out = {"input_ids": [ids, ids[::-1]], "attention_mask": [[1] * len(ids)] * 2}
    wanted = {"tokens": ids, "tags": [i % 2 for i in ids]}.get(kind, n % 2)
    return out | ({"start_positions": n % 5, "end_positions": 5 + n % 5} if kind == "span" else {"labels": wanted})


class Keep(transformers.TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):  # noqa: ANN
        self.gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def step(model: str, config: str, fields: dict[str, Any], kind: str, parts: int, smoothing: float = 0.0) -> tuple[torch.Tensor, float]:
    torch.manual_seed(0)
    network = getattr(transformers, model)(getattr(transformers, f"{config}Config")(**fields))
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for name in ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob"):
        if hasattr(network.config, name):
            setattr(network.config, name, 0.0)
    arguments = transformers.TrainingArguments(
        "out", per_device_train_batch_size=8 // parts, gradient_accumulation_steps=parts, max_steps=1, learning_rate=0.0,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=0.0,
        label_smoothing_factor=smoothing,
    )  # fmt: skip
    keep, rows = Keep(), [row(n, kind) for n in range(8)]
    trainer = transformers.Trainer(
        network, arguments, train_dataset=rows, data_collator=transformers.default_data_collator, callbacks=[keep]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    return keep.gradient, next(line["loss"] for line in trainer.state.log_history if "loss" in line)


print(f"transformers {transformers.__version__}, accelerate {accelerate.__version__}, torch {torch.__version__}")
smoothed = [(*case[:4], 1, 0.1) for case in CASES if case[0] == "BertForSequenceClassification"]
for model, config, fields, kind, times, *smoothing in [*CASES, *smoothed]:
    (whole, loss), (parts, summed) = (step(model, config, fields, kind, parts, *smoothing) for parts in (1, 4))
    ratio, alike = float(parts.norm() / whole.norm()), float(torch.cosine_similarity(parts, whole, 0))
    note = f" (label smoothing {smoothing[0]})" if smoothing else ""
    print(f"{model}{note}: 4 batches of 2 give {ratio:.2f} times the gradient of 8 rows; loss {loss:.3f}, {summed:.3f}")
    assert abs(ratio - times) < 0.01 and alike > 0.999, (model, ratio, alike)
    assert abs(summed / loss - times) < 0.01, (model, loss, summed)
PY
