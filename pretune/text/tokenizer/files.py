"""The files in which tokenizers live: what others wrote, read; what `transformers` loads, written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from pretune.errors import DataError, MissingInputError, no_such_folder
from pretune.text.tokenizer import sentencepiece
from pretune.text.tokenizer.folder import transformer_folder
from pretune.text.tokenizer.gguf import read_gguf_tokenizer
from pretune.text.tokenizer.marian import SOURCE, read_marian
from pretune.text.tokenizer.vocabulary import ROLES

Settings = dict[str, Any]
MAX_IDS = 1 << 24
_GUESSES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("<s>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


AS_WRITTEN = "PreTrainedTokenizerFast"
"""The class of `transformers` that uses a tokenizer.json as it is; the others put their own pipeline in its place."""
KEEP_AS_WRITTEN = {"AutoTokenizer": [None, "as_written.TokenizersBackend"]}
"""A value of `auto_map` that names no file. `transformers` has model types for which it overrules the class that is
written, except where `auto_map` names a class of the folder's own: that is not trusted, and the class written is."""
_REBUILDING = ("add_bos_token", "add_eos_token")  # with these, `transformers` makes the template anew


def read_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, Settings]:
    """A backend and the settings beside it, from a folder or any of the known files.

    Raises:
        MissingInputError: no such path, or a folder without a known file.
        DataError: a file that cannot be read as what it claims to be.
    """
    if not path.exists():
        raise no_such_folder(path, "tokenizer")
    if path.suffix == ".gguf":
        return read_gguf_tokenizer(path)
    path = transformer_folder(path) if path.is_dir() else path
    folder = path if path.is_dir() else path.parent
    names = ("tokenizer.json", "vocab.txt", "vocab.json", *sentencepiece.FILE_NAMES) if path.is_dir() else (path.name,)
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise MissingInputError(
            f"{path}: no tokenizer.json, vocab.txt, vocab.json + merges.txt (or source.spm) or spiece.model here"
        )
    settings = _settings(folder)
    if file.name == "vocab.json" and (folder / SOURCE).is_file():
        return read_marian(folder, _parse(file), settings), settings
    if file.suffix == ".model":
        return sentencepiece.read_sentencepiece(file, settings), settings
    if file.suffix == ".txt":
        return _from_bert(file, settings), settings
    if (folder / "merges.txt").is_file() and file.name == "vocab.json":
        return _from_gpt2(file, settings), settings
    return _from_json(file), settings


def write_tokenizer(
    directory: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any], roles: Mapping[str, str]
) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    directory.mkdir(parents=True, exist_ok=True)
    special = {f"{role}_token": token for role, token in roles.items()}
    segments = {"cls", "sep"} <= roles.keys() and any(backend.encode("a", "b").type_ids)
    defaults = {
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    }
    kept = {name: value for name, value in settings.items() if name not in _REBUILDING}
    if kept.get("auto_map") != KEEP_AS_WRITTEN:  # code of a folder that this one is not
        kept.pop("auto_map", None)
    files = {
        "tokenizer_config.json": {**defaults, **kept, **special, "tokenizer_class": AS_WRITTEN},
        "special_tokens_map.json": special,
    }
    (directory / "tokenizer.json").write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def roles_of(layout: Mapping[str, Any], settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> dict[str, int]:
    """The id of each special role: as the settings say, else by the usual names; the unknown one as the model says."""
    special = {token["content"] for token in layout["added_tokens"] if token["special"]}
    role_ids: dict[str, int] = {}
    for role in ROLES:
        if role == "unk":
            continue
        stated = settings.get(f"{role}_token")
        names = [stated["content"] if isinstance(stated, Mapping) else stated] if stated else []
        names = names or [name for name in _GUESSES[role] if name in special and f"{role}_token" not in settings]
        ids = [i for name in names if (i := backend.token_to_id(name)) is not None]
        if ids:
            role_ids[role] = ids[0]
    unknown = _unknown(layout["model"], backend)
    return role_ids if unknown is None else role_ids | {"unk": unknown}


def _unknown(model: Mapping[str, Any], backend: tokenizers.Tokenizer) -> int | None:
    if model["type"] == "Unigram":
        return model.get("unk_id")
    name = model.get("unk_token")
    token_id: int | None = None if name is None else backend.token_to_id(name)
    return token_id


def _settings(folder: Path) -> Settings:
    out: Settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file():
            content = _parse(file)
            if not isinstance(content, dict):
                raise DataError(f"{file}: expected a JSON object, found {type(content).__name__}")
            out |= content
    return out


def _parse(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not valid JSON: {error}") from None


def _from_json(file: Path) -> tokenizers.Tokenizer:
    content = _parse(file)
    if not isinstance(content, dict) or "model" not in content:
        raise DataError(f"{file}: not a tokenizer.json: no field 'model'")
    largest = _largest_id(content)
    if largest >= MAX_IDS:
        raise DataError(f"{file}: the largest id is {largest}; no vocabulary has more than {MAX_IDS} tokens")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        raise DataError(f"{file}: not a tokenizer that the tokenizers library reads: {error}") from None


def _largest_id(content: dict[str, Any]) -> int:
    """The library walks over every id up to the largest, whether it is used or not."""
    model = content["model"]
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = content.get("added_tokens") or []
    ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(t.get("id") for t in added if isinstance(t, dict))]
    return max((i for i in ids if isinstance(i, int)), default=0)


def _from_bert(file: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; a vocab.txt has one token a line") from None
    if lines[-1] == "":
        lines.pop()
    vocab = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    if "[UNK]" not in vocab:
        raise DataError(f"{file}: no line '[UNK]'; a BERT vocab.txt has one token a line and holds [UNK]")
    cased = any(c.isupper() for token in vocab if not token.startswith("[") for c in token)
    lowercase = bool(settings.get("do_lower_case", not cased))
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    bert_pipeline(backend, lowercase, settings.get("strip_accents"), bool(settings.get("tokenize_chinese_chars", True)))
    backend.add_special_tokens([token for token in BERT_SPECIAL if token in vocab])
    return backend


def _from_gpt2(file: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    try:
        model = models.BPE.from_file(str(file), str(file.with_name("merges.txt")))
    except Exception as error:
        raise DataError(f"{file}: not a vocab.json with its merges.txt: {error}") from None
    backend = tokenizers.Tokenizer(model)
    gpt2_pipeline(backend, bool(settings.get("add_prefix_space", False)))
    known = backend.get_vocab()
    stated = [settings.get(f"{role}_token") for role in ROLES]
    names = [s["content"] if isinstance(s, Mapping) else s for s in stated if s] + ["<|endoftext|>"]
    backend.add_special_tokens([name for name in dict.fromkeys(names) if name in known])
    return backend


def bert_pipeline(
    backend: tokenizers.Tokenizer, lowercase: bool, strip_accents: bool | None, split_chinese: bool
) -> None:
    """Set BERT's normalizer, pre-tokenizer, decoder and template. Source: google-research/bert, tokenization.py."""
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
    if cls is not None and sep is not None:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
        )


def gpt2_pipeline(backend: tokenizers.Tokenizer, prefix_space: bool = False) -> None:
    """Set GPT-2's byte-level pre-tokenizer and decoder. Source: openai/gpt-2, encoder.py."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
