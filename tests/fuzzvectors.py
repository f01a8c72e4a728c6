"""Random folders as `sentence-transformers` saves them, odd ones among them, and one judge of reading and writing.

Each case is a function of its seed: a small random model, a tokenizer, modules, prompts and limits, and what was done
to the files afterwards. The judge reads the folder with both, writes it, and reads that with both: all vectors are
equal, or the folder is refused by the name of what is not done here, and only where there is something of the kind.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import tokenizers
import torch
import transformers as hf
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer import modules as st
from tinymodels import TEXTS as WORDS
from tinymodels import byte_tokenizer, word_tokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from pretune import api
from pretune.errors import PretuneError
from pretune.interop.huggingface import save_model
from pretune.text.tokenizer.tokenizer import Tokenizer

hf.logging.set_verbosity_error()
hf.logging.disable_progress_bar()
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
FLAGS = tuple(
    f"pooling_mode_{name}"
    for name in ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
)
INPUTS = ["input_ids", "attention_mask"]
SETTINGS = "sentence_bert_config.json"
TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    " a hat ",
    "Don't YOU think? 模型 learns 语言",
    "кошка и собака, τέλος Σ",
    "the cat ate a hat and the dog " * 6,
    "",
)
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_WIDE: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertModel": ("BertConfig", SIZES),
    "BertForMaskedLM": ("BertConfig", SIZES),
    "RobertaModel": ("RobertaConfig", SIZES),
    "DistilBertModel": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37}),
    "AlbertModel": ("AlbertConfig", {**SIZES, "embedding_size": 12}),
    "ElectraModel": ("ElectraConfig", {**SIZES, "embedding_size": 12}),
    "ModernBertModel": ("ModernBertConfig", {**SIZES, "local_attention": 8}),
    "GPT2Model": ("GPT2Config", _GPT),
    "GPT2LMHeadModel": ("GPT2Config", _GPT),
    "LlamaForCausalLM": ("LlamaConfig", {**SIZES, "num_key_value_heads": 2}),
    "Qwen3Model": ("Qwen3Config", {**SIZES, "num_key_value_heads": 2, "head_dim": 8}),
    "T5EncoderModel": ("T5Config", {"d_model": 32, "d_ff": 37, "num_layers": 2, "num_heads": 4, "d_kv": 8}),
    "BartModel": ("BartConfig", {**_WIDE, "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37}),
}
ACTIVATIONS = (nn.Tanh, nn.Identity, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Mish)


@dataclass
class Case:
    """A folder.

    Attributes:
        seed: of all that is random in it.
        model: class of its transformer.
        tokenizer: its sort.
        modules: after it, in words.
        options: of the call that makes the model of `sentence-transformers`.
        change: what was done to the files afterwards.
        odd: what is not done here, if anything.
        call: options of `encode` and `embed`.
    """

    seed: int
    model: str
    tokenizer: str = ""
    modules: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    change: str = ""
    odd: str = ""
    call: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What came of a case: `equal`, `refused` or `fault`, and why."""

    result: str
    reason: str = ""


def judge(seed: int, folder: Path) -> tuple[Case, Verdict]:
    """Makes a folder, and compares what both read of it, and of what we write of it."""
    target, again = folder / f"{seed}", folder / f"{seed}-again"
    case = make(seed, target)
    try:
        verdict = _compare(case, target, again)
    except Exception as error:
        verdict = Verdict("fault", f"defect: {type(error).__name__}: {str(error)[:300]}")
    for path in (target, again):
        shutil.rmtree(path, ignore_errors=True)
    return case, verdict


def _compare(case: Case, target: Path, again: Path) -> Verdict:
    texts = [text for text in TEXTS if text or case.tokenizer != "bytes"]  # without a template it has no tokens
    expected: np.ndarray | None = None
    try:
        theirs = _theirs(target)
        expected = theirs.encode(texts, **case.call)
    except Exception as error:
        if not case.odd:
            return Verdict("fault", f"they cannot read it: {type(error).__name__}: {str(error)[:200]}")
    try:
        model = api.load(target, "cpu", "fp32")
        vectors = model.embed(texts, **case.call)
    except PretuneError as error:
        text = str(error).replace(str(target), "")
        if not case.odd:
            return Verdict("fault", f"refused without a reason: {text}")
        return Verdict("refused" if case.odd in text else "fault", text)
    if expected is None:
        return Verdict("fault", "they refuse it and we do not")
    if difference := _difference(vectors, expected):
        return Verdict("fault", f"read: {difference}")
    save_model(model.network, again, model.tokenizer)
    for name, other in (
        ("written, read there", _theirs(again).encode(texts, **case.call)),
        ("written, read here", api.load(again, "cpu", "fp32").embed(texts, **case.call)),
    ):
        if difference := _difference(other, expected):
            return Verdict("fault", f"{name}: {difference}")
    return Verdict("equal")


def _theirs(folder: Path) -> sentence_transformers.SentenceTransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def _difference(vectors: np.ndarray, expected: np.ndarray) -> str:
    if vectors.shape != expected.shape:
        return f"shape {vectors.shape} for {expected.shape}"
    off = np.abs(vectors - expected).max(axis=1)
    limit = 1e-5 * max(1.0, float(np.abs(expected).max()))
    return "" if (off <= limit).all() else f"texts differ by {np.round(off, 6).tolist()}"


def make(seed: int, folder: Path) -> Case:
    """Saves a random folder."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    case = Case(seed, rng.choice(list(MODELS)))
    base = folder.with_name(f"{folder.name}-base")
    _save_transformer(case, base, rng)
    length = rng.choice([None, None, 7, 16, 40])
    if case.model == "RobertaModel":  # they count its positions from the padding token's
        length = length or 40
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = st.Transformer(str(base), max_seq_length=length)
        modules = _modules(case, rng)
        case.options = _options(rng)
        model = sentence_transformers.SentenceTransformer(modules=[transformer, *modules], device="cpu", **case.options)
        with torch.no_grad():
            for module in modules:
                for parameter in module.parameters():
                    parameter.normal_(0.1, 0.4)
        model.save(str(folder), create_model_card=False)
    shutil.rmtree(base)
    prompts = sorted(case.options.get("prompts", {}))
    case.call = rng.choice([{}, {}, {"prompt": "hat: "}, *({"prompt_name": name} for name in prompts)])
    change = rng.choice([*CHANGES, *[""] * len(CHANGES)])
    if change:
        case.change = change
        case.odd = case.odd or CHANGES[change](folder, rng)
        case.call = {} if change in ("no config", "no modules") else case.call
    return case


def _save_transformer(case: Case, folder: Path, rng: random.Random) -> None:
    name, fields = MODELS[case.model]
    case.tokenizer, tokenizer = rng.choice([("words", word_tokenizer()), ("words", word_tokenizer()), *_others()])
    size, pad = tokenizer.vocabulary.size, tokenizer.vocabulary.pad or 0
    roles = {"pad_token_id": pad, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    positions = {"max_position_embeddings": 65 + pad if name == "RobertaConfig" else 64}
    config = getattr(hf, name)(**{**positions, **roles, **fields}, vocab_size=size)
    model = getattr(hf, case.model)(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            is_norm = "norm" in key.lower() or ".ln_" in key
            parameter.normal_(1.0 if is_norm and key.endswith("weight") else 0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    if case.model.startswith("GPT2"):  # which would take segments for words
        _in_json(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])


@cache
def _others() -> list[tuple[str, Tokenizer]]:
    """Bytes without any template, with an end after a text, and subwords with their spaces and an end."""
    out = []
    for end in (False, True):
        backend = tokenizers.Tokenizer.from_str(byte_tokenizer().backend.to_str())
        backend.add_special_tokens(["<pad>"])
        if end:
            backend.post_processor = _ending("<|endoftext|>", 0)
        settings = {"eos_token": "<|endoftext|>", "pad_token": "<pad>", "model_input_names": INPUTS}
        out.append(("bytes", Tokenizer(backend, settings)))
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([*WORDS * 3, *TEXTS], trainer)
    backend.post_processor = _ending("</s>", 1)
    settings = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "model_input_names": INPUTS}
    return [*out, ("subwords", Tokenizer(backend, settings))]


def _ending(token: str, number: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"$A {token}", pair=f"$A {token} $B {token}", special_tokens=[(token, number)]
    )


def _modules(case: Case, rng: random.Random) -> list[Any]:
    """Those after the transformer, some of them not done here."""
    width, out = 32, list[Any]()
    if rng.random() < 0.15:
        out.append(st.Dense(width, 12, module_input_name="token_embeddings"))
        width = 12
    if rng.random() < 0.1:
        out.append(st.Normalize("token_embeddings"))
    if rng.random() < 0.12:
        case.odd = rng.choice(["WordWeights", "CNN", "LSTM", "WeightedLayerPooling"])
        weights = {"the": 0.5, "cat": 2.0}
        out.append(
            {
                "WordWeights": lambda: st.WordWeights([str(n) for n in range(200)], weights),
                "CNN": lambda: st.CNN(width, width, [1]),
                "LSTM": lambda: st.LSTM(width, width // 2),
                "WeightedLayerPooling": lambda: st.WeightedLayerPooling(width, 2, 0),
            }[case.odd]()
        )
    modes = rng.sample(MODES, rng.choice([1, 1, 1, 2, 3]))
    out.append(st.Pooling(width, modes[0] if len(modes) == 1 else tuple(modes), rng.random() < 0.7))
    width *= len(modes)
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        after = rng.choice([st.Dense, st.Dense, st.Normalize, st.LayerNorm, st.Dropout])
        if after is st.Dense:
            outer, activation = rng.choice([width, 9, 40]), rng.choice(ACTIVATIONS)()
            out.append(st.Dense(width, outer, rng.random() < 0.7, activation, use_residual=rng.random() < 0.3))
            width = outer
        else:
            out.append(after(width) if after is st.LayerNorm else after())
    case.modules = [type(module).__name__ for module in out]
    return out


def _options(rng: random.Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if rng.random() < 0.5:
        out["prompts"] = {"query": "the cat: ", "passage": rng.choice(["a hat. ", "", "模型"])}
        out["default_prompt_name"] = rng.choice([None, "query", "passage", "document"])
    if rng.random() < 0.2:
        out["truncate_dim"] = rng.choice([3, 8, 500])
    out["similarity_fn_name"] = rng.choice([None, "dot", "euclidean"])
    return out


def _in_json(path: Path, **fields: Any) -> None:
    tree = json.loads(path.read_text()) if path.is_file() else {}
    tree = {name: value for name, value in {**tree, **fields}.items() if value != "DROP"}
    path.write_text(json.dumps(tree))


def _subfolder(folder: Path, rng: random.Random) -> str:
    """The layout of older versions."""
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(folder / "0_Transformer" / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    return ""


def _older_names(folder: Path, rng: random.Random) -> str:
    """Dotted names of classes, and flags of poolings, as version 2 writes them."""
    entries = json.loads((folder / "modules.json").read_text())
    for entry in entries:
        entry["type"] = f"sentence_transformers.models.{entry['type'].rpartition('.')[2]}"
        if entry["type"].endswith("Pooling") and not entry["type"].endswith("LayerPooling"):
            path = folder / entry["path"] / "config.json"
            modes = rng.sample(MODES, 1) if json.loads(path.read_text())["pooling_mode"] in MODES else None
            if modes is not None:
                named = {flag: mode == modes[0] for flag, mode in zip(FLAGS, MODES, strict=True)}
                width = json.loads(path.read_text())["embedding_dimension"]
                _in_json(path, pooling_mode="DROP", embedding_dimension="DROP", word_embedding_dimension=width, **named)
    (folder / "modules.json").write_text(json.dumps(entries))
    return ""


def _renamed(folder: Path, rng: random.Random) -> str:
    """Folders of modules under other names, and numbers that do not rise."""
    entries = json.loads((folder / "modules.json").read_text())
    for entry in entries[1:]:
        (folder / entry["path"]).rename(folder / f"part{entry['idx']}")
        entry["path"], entry["idx"] = f"part{entry['idx']}", 9 - entry["idx"]
    (folder / "modules.json").write_text(json.dumps(entries))
    return ""


def _settings(**fields: Any) -> Callable[[Path, random.Random], str]:
    """A change of sentence_bert_config.json."""

    def change(folder: Path, rng: random.Random) -> str:
        _in_json(folder / "sentence_bert_config.json", **fields)
        return ""

    return change


def _odd(name: str, path: str, **fields: Any) -> Callable[[Path, random.Random], str]:
    """A change that is not done here."""

    def change(folder: Path, rng: random.Random) -> str:
        _in_json(folder / path, **fields)
        return name

    return change


def _no_modules(folder: Path, rng: random.Random) -> str:
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    return ""


def _no_config(folder: Path, rng: random.Random) -> str:
    (folder / "config_sentence_transformers.json").unlink()
    return ""


def _older_settings(folder: Path, rng: random.Random) -> str:
    """The file of version 2, under the name of a family."""
    (folder / SETTINGS).unlink()
    _in_json(folder / "sentence_roberta_config.json", max_seq_length=9, do_lower_case=True)
    return ""


def _bins(folder: Path, rng: random.Random) -> str:
    """Weights of modules as pickles of tensors."""
    for path in folder.glob("*/model.safetensors"):
        torch.save(load_file(path), path.with_name("pytorch_model.bin"))
        path.unlink()
    return ""


def _code(folder: Path, rng: random.Random) -> str:
    entries = json.loads((folder / "modules.json").read_text())
    entries[-1]["type"] = "custom_module.Pooling"
    (folder / "modules.json").write_text(json.dumps(entries))
    return "custom_module"


CHANGES: dict[str, Callable[[Path, random.Random], str]] = {
    "0_Transformer": _subfolder,
    "older names": _older_names,
    "renamed": _renamed,
    "max_seq_length": _settings(max_seq_length=11),
    "older settings": _older_settings,
    "lower case": _settings(do_lower_case=True),
    "limit of calls": _settings(processing_kwargs={"text": {"max_length": 8}}),
    "limit of the tokenizer": _settings(tokenizer_args={"model_max_length": 10}, max_seq_length=5),
    "no modules": _no_modules,
    "no config": _no_config,
    "bins": _bins,
    "unknown fields": _settings(query_length=9, unpad_inputs=False),
    "code": _code,
    "task": _odd("transformer_task", SETTINGS, transformer_task="fill-mask"),
    "left padding": _odd("tokenizer_args", SETTINGS, tokenizer_args={"padding_side": "left"}),
    "no special tokens": _odd("processing_kwargs", SETTINGS, processing_kwargs={"text": {"add_special_tokens": False}}),
    "prompt": _odd("default_prompt_name", "config_sentence_transformers.json", default_prompt_name="nobody's"),
}


def run(seeds: Sequence[int], folder: Path) -> list[tuple[Case, Verdict]]:
    """Judges cases by their numbers."""
    return [judge(seed, folder) for seed in seeds]
