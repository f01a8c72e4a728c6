"""Makes malformed files of every kind that pretune reads: valid ones, changed at random, each a function of its seed.

The changes are generic: bytes flipped, cut, repeated, put in; values of JSON replaced by others. No file is made for a
weakness of anybody, and none is kept.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece

from pretune.cli import main
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEXTS = [
    "the quick brown fox jumps over the lazy dog, and the dog sleeps on; it's 3.14 or 2,718!",
    "a model of language learns from text, and text is what people write.",
    "深度学习模型从文本中学习语言。你好，世界！",
    "über den wolken muß die freiheit wohl grenzenlos sein: déjà vu, naïve café.",
] * 8
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**20, 2**31, 2**63, 10**30, 0.5, -1e300, "", "a", "0", "x" * 3000, "\u0000", "é" * 50,
    [], {}, [None], [[]], {"": None}, [1, 2, 3], {"type": "Sequence"},
)  # fmt: skip
RECIPE = """
objective = "mlm"
seed = 1
[model]
family = "bert"
size = "tiny"
[data]
stores = ["store"]
length = 32
batch = 4
[optimizer]
name = "adamw"
lr = 1e-3
betas = [0.9, 0.98]
[budget]
steps = 3
[checkpoint]
every = 2
"""


@dataclass(frozen=True)
class Target:
    """A file to be changed, and the verb that reads it.

    Attributes:
        file: below the folder of the case.
        arguments: of the command line, run in that folder.
    """

    file: str
    arguments: tuple[str, ...]


def _prepare(tokenizer: str, text: str = "text.txt") -> tuple[str, ...]:
    return ("prepare", text, "--tokenizer", tokenizer, "--output", "out", "--processes", "1")


_EMBED = ("embed", "model", "the quick brown fox")
TARGETS = (
    *(
        Target(f"{kind}/{name}", _prepare(kind))
        for kind in ("wordpiece", "bpe", "unigram")
        for name in ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    ),
    Target("wordpiece/added_tokens.json", _prepare("wordpiece")),
    Target("lines/vocab.txt", _prepare("lines")),
    Target("pairs/vocab.json", _prepare("pairs")),
    Target("pairs/merges.txt", _prepare("pairs")),
    *(Target(f"{name}/spiece.model", _prepare(name)) for name in ("pieces", "small", "small", "t5")),
    *(Target("merged/tokenizer.model", _prepare("merged")),) * 2,
    Target("model.gguf", ("score", "model.gguf", "the quick brown fox")),
    Target("model.gguf", _prepare("model.gguf")),
    *(
        Target(f"model/{name}", _EMBED)
        for name in (
            "config.json",
            "model-00002-of-00004.safetensors",
            "model.safetensors.index.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        )
    ),
    Target("recipe.toml", ("show", "recipe.toml")),
    Target("texts.jsonl", _prepare("wordpiece", "texts.jsonl")),
    Target("texts.parquet", _prepare("wordpiece", "texts.parquet")),
)


def write_valid(folder: Path) -> None:
    """Writes a valid file for each target."""
    text = "\n\n".join(TEXTS) + "\n"
    (folder / "text.txt").write_text(text)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": each, "label": "a"}) + "\n" for each in TEXTS))
    pq.write_table(pa.table({"text": TEXTS, "label": ["a"] * len(TEXTS)}), folder / "texts.parquet")
    (folder / "recipe.toml").write_text(RECIPE)
    for kind in ("wordpiece", "bpe", "unigram"):
        tokenizer = train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=600 if kind == "bpe" else 250))
        tokenizer.save(folder / kind)
    (folder / "wordpiece" / "added_tokens.json").write_text("{}")
    _vocabulary_files(folder)
    _sentencepiece_files(folder)
    _model_files(folder)
    store = ["--tokenizer", str(folder / "wordpiece"), "--output", str(folder / "store"), "--processes", "1"]
    assert main(["prepare", str(folder / "text.txt"), *store, "--quiet"]) == 0


def _vocabulary_files(folder: Path) -> None:
    layout = json.loads((folder / "wordpiece" / "tokenizer.json").read_text())
    (folder / "lines").mkdir()
    (folder / "lines" / "vocab.txt").write_text("\n".join(layout["model"]["vocab"]) + "\n")
    layout = json.loads((folder / "bpe" / "tokenizer.json").read_text())
    (folder / "pairs").mkdir()
    (folder / "pairs" / "vocab.json").write_text(json.dumps(layout["model"]["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in layout["model"]["merges"])]
    (folder / "pairs" / "merges.txt").write_text("\n".join(lines) + "\n")


def _sentencepiece_files(folder: Path) -> None:
    for name, file, kind in (
        ("pieces", "spiece.model", "unigram"),
        ("small", "spiece.model", "unigram"),
        ("t5", "spiece.model", "unigram"),
        ("merged", "tokenizer.model", "bpe"),
    ):
        (folder / name).mkdir()
        with (folder / name / file).open("wb") as out:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(TEXTS),
                model_writer=out,
                vocab_size=300,
                model_type=kind,
                pad_id=3 if name == "t5" else -1,
                normalization_rule_name="nmt_nfkc" if name == "pieces" else "identity",
                hard_vocab_limit=False,
                minloglevel=2,
            )
    (folder / "t5" / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 4}')
    (folder / "merged" / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


def _model_files(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder / "wordpiece")
    model = build("bert", "tiny", ["mlm"], {**SIZES, "vocab_size": tokenizer.vocabulary.size})
    save_model(model, folder / "model", tokenizer, max_shard_bytes=30_000)
    (folder / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    _gguf_file(folder)


def _gguf_file(folder: Path) -> None:
    """A Llama of one layer."""
    layout = json.loads((folder / "bpe" / "tokenizer.json").read_text())
    tokens = list(layout["model"]["vocab"])
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in layout["model"]["merges"]])
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (48, 32), "blk.0.ffn_up": (48, 32), "blk.0.ffn_down": (32, 48)}
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Bytes changed in one to three ways."""
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        begin = rng.randrange(len(data)) if data else 0
        end = min(len(data), begin + int(2 ** rng.uniform(0, 8)))
        match rng.randrange(7):
            case 0:
                data[begin:end] = b""
            case 1:
                data[begin:begin] = data[begin:end] * rng.choice([1, 2, 50])
            case 2:
                data[begin:begin] = rng.randbytes(rng.choice([1, 8, 100]))
            case 3:
                data[begin:end] = bytes([rng.choice([0, 255, 48, 123])]) * (end - begin)
            case 4:
                del data[begin:]
            case 5:
                data[begin : begin + 8] = rng.choice([2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 0]).to_bytes(8, "little")
            case _:
                for _ in range(rng.choice([1, 1, 4, 16])):
                    if data:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def mutate_values(raw: bytes, rng: random.Random) -> bytes:
    """JSON with some of its values replaced, its names changed or its parts repeated."""
    tree = json.loads(raw)
    for _ in range(rng.choice([1, 1, 2])):
        holder: Any = {"": tree}
        key: Any = ""
        for _ in range(rng.choice([1, 2, 3, 4, 8])):
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner:
                break
            holder, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        match rng.randrange(5):
            case 0 if isinstance(holder, dict):
                holder[rng.choice(["", "type", "a" * 2000, "content"])] = holder.pop(key)
            case 1:
                holder[key] = [copy.deepcopy(holder[key])] * rng.choice([1, 3, 300])
            case 2:
                for _ in range(rng.choice([1, 30, 200])):
                    holder[key] = {"type": "Sequence", "normalizers": [holder[key]]}
            case _:
                holder[key] = rng.choice(VALUES)
        tree = holder[""] if "" in holder and isinstance(holder, dict) and len(holder) == 1 else tree
    return json.dumps(tree).encode()


def copy_valid(valid: Path, folder: Path, target: Target) -> None:
    """What the verb of one target reads."""
    folder.mkdir(parents=True)
    for name in {"text.txt", "store", Path(target.file).parts[0], *target.arguments}:
        if (valid / name).is_dir():
            shutil.copytree(valid / name, folder / name)
        elif (valid / name).is_file():
            shutil.copy(valid / name, folder / name)


def write_malformed(valid: Path, folder: Path, target: Target, seed: int) -> None:
    """A folder as `write_valid` wrote it, with the file of one target changed."""
    copy_valid(valid, folder, target)
    rng, file = random.Random(seed), folder / target.file
    raw = file.read_bytes()
    change = mutate_values if file.suffix == ".json" and rng.random() < 0.6 else mutate
    file.write_bytes(change(raw, rng))
