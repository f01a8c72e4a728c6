"""Makes the folders that the library `adapters` saves, and what it computes with them, for `tests/interop`.

It needs another version of `transformers` than the tests do, so a JSON file keeps of each folder the configurations,
the names and shapes of its tensors, and the outputs. All weights are functions of their names, here and in the tests.

Usage, in tests/ and in an environment with adapters 1.3.0:

    python -m oracles.adapters_folders make oracles/adapters_folders.json
    python -m oracles.adapters_folders check oracles/adapters_folders.json FOLDER

FOLDER/CASE is what pretune wrote of each case; with `PRETUNE_ADAPTERS_WRITTEN=FOLDER`, the tests of
`interop/test_adapters_both_ways.py` leave it there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from oracles.adapters_oracle import TOKENS, WRITTEN, values

NAME = "pretune"
_SHAPE = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 12, "vocab_size": 23}
_NAMES: dict[str, Any] = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
_BERT = {**_SHAPE, "max_position_embeddings": 20, **_NAMES}
_GPT2 = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_inner": 12, "vocab_size": 23, "n_positions": 16}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "vocab_size": 23}
BASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "Bert", _BERT),
    "bert_tags": ("BertForTokenClassification", "Bert", _BERT),
    "bert_answers": ("BertForQuestionAnswering", "Bert", _BERT),
    "roberta": ("RobertaForSequenceClassification", "Roberta", {**_BERT, **_ENDS}),
    "electra": ("ElectraForSequenceClassification", "Electra", {**_BERT, "embedding_size": 8}),
    "gpt2": ("GPT2LMHeadModel", "GPT2", {**_GPT2, **_ENDS}),
    "gpt2_classes": ("GPT2ForSequenceClassification", "GPT2", {**_GPT2, **_ENDS, **_NAMES}),
    "llama": ("LlamaForCausalLM", "Llama", {**_SHAPE, "num_key_value_heads": 1, "max_position_embeddings": 16}),
    "t5": ("T5ForConditionalGeneration", "T5", {**_T5, "decoder_start_token_id": 0}),
    "t5_gated": ("T5ForConditionalGeneration", "T5", {**_T5, "num_layers": 1, "feed_forward_proj": "gated-gelu"}),
}


@dataclass(frozen=True)
class Case:
    """A folder to be saved.

    Attributes:
        base: of `BASES`.
        config: class of the configuration.
        fields: of it.
        head: of a head that is configured (`add_..._head`): its kind and its settings.
        outer: fields of `adapter_config.json` to change when it is saved; None removes one.
        rename: parts of the tensors' names to replace.
    """

    base: str
    config: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    head: tuple[str, Mapping[str, Any]] | None = None
    outer: Mapping[str, Any] = field(default_factory=dict)
    rename: tuple[str, str] | None = None


_SEQ, _DOUBLE, _PAR, _LORA, _IA3 = "SeqBnConfig", "DoubleSeqBnConfig", "ParBnConfig", "LoRAConfig", "IA3Config"
_ALL = {"r": 2, "alpha": 6, "attn_matrices": ["q", "k", "v"], "intermediate_lora": True, "output_lora": True}
_LABELS = {"num_labels": 2, "id2label": {0: "bad", 1: "good"}}
CASES: dict[str, Case] = {
    **{f"{base}_seq_bn": Case(base, _SEQ, {"reduction_factor": 4}) for base in ("bert", "roberta", "gpt2", "llama")},
    **{f"{base}_double_seq_bn": Case(base, _DOUBLE, {"reduction_factor": 4}) for base in ("bert", "gpt2", "llama")},
    **{f"{base}_par_bn": Case(base, _PAR, {"reduction_factor": 4}) for base in ("bert", "gpt2", "llama", "t5")},
    "electra_double_seq_bn": Case("electra", _DOUBLE, {"reduction_factor": 4, "non_linearity": "leakyrelu"}),
    "t5_seq_bn": Case("t5", _SEQ, {"reduction_factor": {"0": 4, "3": 2, "default": 8}, "leave_out": [1]}),
    "t5_double_seq_bn": Case("t5", _DOUBLE, {"reduction_factor": 3.0, "cross_adapter": True}),
    "bert_both": Case(
        "bert", _SEQ, {"reduction_factor": 4, "mh_adapter": True, "scaling": 2.5, "non_linearity": "gelu"}
    ),
    "gpt2_both": Case("gpt2", _SEQ, {"reduction_factor": 4, "mh_adapter": True, "leave_out": [0]}),
    "bert_attention": Case("bert", _DOUBLE, {"reduction_factor": 2, "output_adapter": False, "non_linearity": "tanh"}),
    **{f"{base}_lora": Case(base, _LORA, _ALL) for base in ("bert", "gpt2", "llama", "t5", "t5_gated")},
    "roberta_lora": Case("roberta", _LORA, {"r": 3, "alpha": 8, "leave_out": [0]}),
    "gpt2_lora_qv": Case("gpt2", _LORA, {"r": 2, "alpha": 8}),
    "bert_lora_inner": Case("bert", _LORA, {"r": 2, "selfattn_lora": False, "intermediate_lora": True}),
    **{f"{base}_ia3": Case(base, _IA3) for base in ("bert", "gpt2", "llama", "t5")},
    "bert_classes": Case("bert", _SEQ, {"reduction_factor": 4}, ("classification", _LABELS)),
    "bert_classes_pooled": Case(
        "bert", _SEQ, {"reduction_factor": 4}, ("classification", {**_LABELS, "layers": 1, "use_pooler": True})
    ),
    "bert_classes_several": Case("bert", _LORA, {"r": 2}, ("classification", {**_LABELS, "multilabel": True})),
    "bert_number": Case("bert", _LORA, {"r": 2}, ("classification", {"num_labels": 1})),
    "roberta_classes": Case("roberta", _LORA, {"r": 2}, ("classification", {"num_labels": 3})),
    "electra_classes": Case("electra", _LORA, {"r": 2}, ("classification", {**_LABELS, "activation_function": "gelu"})),
    "gpt2_classes": Case("gpt2_classes", _LORA, {"r": 2}),
    "bert_tags": Case("bert_tags", _LORA, {"r": 2}, ("tagging", _LABELS)),
    "bert_tags_static": Case("bert_tags", _LORA, {"r": 2}),
    "bert_answers": Case("bert_answers", _LORA, {"r": 2}, ("qa", {})),
    "bert_old_names": Case(
        "bert",
        _SEQ,
        {"reduction_factor": 4, "non_linearity": "gelu"},
        outer={"version": None, "type": "text_task"},
        rename=(".adapters.", ".layer_text_task_adapters."),
    ),
    "bert_old_lora": Case("bert", _LORA, {"r": 2, "alpha": 8}, outer={"version": "adapters.1.0.1"}),
}


def config_of(transformers: Any, base: str) -> Any:
    """The configuration of a base."""
    _, family, fields = BASES[base]
    return getattr(transformers, f"{family}Config")(**fields)


@torch.no_grad()
def save_base(transformers: Any, base: str, folder: Path) -> None:
    """Saves a base with the values of its weights' names."""
    model = getattr(transformers, BASES[base][0])(config_of(transformers, base))
    for name, weight in model.named_parameters():
        weight.copy_(values(name, tuple(weight.shape)))
    model.save_pretrained(folder)


def open_base(case: Case, folder: Path) -> Any:
    """A base in which `adapters` puts its modules."""
    import adapters
    import transformers

    if case.head is not None:
        return getattr(adapters, f"{BASES[case.base][1]}AdapterModel").from_pretrained(folder)
    model = getattr(transformers, BASES[case.base][0]).from_pretrained(folder)
    adapters.init(model)
    return model


@torch.no_grad()
def outputs(case: Case, model: Any) -> torch.Tensor:
    """Logits of the fixed text."""
    extra = {"decoder_input_ids": torch.tensor([WRITTEN])} if case.base.startswith("t5") else {}
    out = model.eval()(input_ids=torch.tensor([TOKENS]), **extra)
    if case.base == "bert_answers":
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1)
    return out.logits[0]


@torch.no_grad()
def save_adapter(case: Case, base: Path, folder: Path) -> None:
    """Lets `adapters` save the folder of a case, as it was saved at the time of the case."""
    import adapters
    from safetensors.torch import load_file, save_file

    model = open_base(case, base)
    model.add_adapter(NAME, config=getattr(adapters, case.config)(**case.fields))
    if case.head is not None:
        getattr(model, f"add_{case.head[0]}_head")(NAME, **case.head[1])
    for name, weight in model.named_parameters():
        if f".{NAME}." in name:
            weight.copy_(values(name, tuple(weight.shape)))
    model.save_adapter(folder, NAME, use_safetensors=True)
    fields = json.loads((folder / "adapter_config.json").read_text()) | dict(case.outer)
    fields = {name: value for name, value in fields.items() if name not in case.outer or value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    if case.rename is not None:
        tensors = load_file(folder / "adapter.safetensors")
        renamed = {name.replace(*case.rename): tensor for name, tensor in tensors.items()}
        save_file(renamed, folder / "adapter.safetensors")


def rounded(rows: torch.Tensor) -> list[Any]:
    """Numbers of the first and of the last row, with six decimals."""
    ends = rows if rows.dim() == 1 else rows[[0, -1]]
    return [round(number, 6) for number in ends.flatten().tolist()]


_TIED = ("transformer.wte.weight", "shared.weight")


def shapes_of(case: Case, tensors: Mapping[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Shapes by names; before that of a head that is tied to an embedding, the name by which it has its values."""
    out: dict[str, list[Any]] = {}
    for name, tensor in tensors.items():
        own = name if case.rename is None else name.replace(*reversed(case.rename))
        sources = [each for each in (own, *_TIED) if torch.equal(values(each, tuple(tensor.shape)), tensor)]
        assert sources, name
        out[name] = [*([] if sources[0] == name else sources[:1]), *tensor.shape]
    return out


def opened(case: Case, base: Path, folder: Path) -> torch.Tensor:
    """What `adapters` computes with a folder."""
    found: dict[str, list[str]] = {}
    model = open_base(case, base)
    name = model.load_adapter(str(folder), use_safetensors=True, set_active=True, loading_info=found)
    assert not any(f".{name}." in each for each in found["missing_keys"]), found
    assert not any(f".{name}." in each for each in found["unexpected_keys"]), found
    return outputs(case, model)


def main(mode: str, path: str, written: str = "") -> None:
    import transformers
    from safetensors.torch import load_file

    transformers.logging.set_verbosity_error()
    known = json.loads(Path(path).read_text()) if mode == "check" else {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            base, saved = Path(folder, "base"), Path(folder, "saved")
            save_base(transformers, case.base, base)
            if mode == "check":
                where = Path(written, name)
                head = (where / "head_config.json").is_file()
                as_written = Case(case.base, case.config, head=("", {}) if head else None)
                got = opened(as_written, base, where)
                distance = float((torch.tensor(rounded(got)) - torch.tensor(known[name]["outputs"])).abs().max())
                print(name, distance)
                assert distance < 1e-5, name
                continue
            save_adapter(case, base, saved)
            got = opened(case, base, saved)
            plain = outputs(case, open_base(case, base)) if case.head is None else torch.zeros(1)
            print(name, [round(float(x), 3) for x in got.flatten()[:3]], float((got - plain).abs().max()))
            assert float((got - plain).abs().max()) > 1e-2, name
            files = {each.stem: json.loads(each.read_text()) for each in saved.glob("*.json")}
            files = {stem: fields | {"model_name": "base"} for stem, fields in files.items()}
            shapes = {each.stem: shapes_of(case, load_file(each)) for each in saved.glob("*.safetensors")}
            known[name] = {"base": case.base, "files": files, "tensors": shapes, "outputs": rounded(got)}
    if mode == "make":
        Path(path).write_text(json.dumps(known, sort_keys=True, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
