"""Random tokenizer.json files: parts that the `tokenizers` library has, with fields at random, each of its seed.

Run as a script with two seeds, it reads all between them, encodes and decodes texts, and prints what is not an answer
or a `PretuneError`: most layouts make no sense, and a message is the right answer to them. A panic is one too many: the
checks before the library should have refused such a file.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretune.errors import PretuneError, is_panic
from pretune.text.tokenizer import library
from pretune.text.tokenizer.tokenizer import Tokenizer

Part = dict[str, Any]
STRINGS = ["", "a", " ", "▁", "##", "</w>", "é", "😀", "ab", "[UNK]", "<unk>", "b", "Ġ", "\u0301"]
EXPRESSIONS = [
    "a",
    " ",
    r"\s+",
    r"\p{L}+",
    "(?i:a|b)",
    "[^a]+",
    "",
    "a*",
    "(?=a)",
    "(?!a)",
    "^",
    "$",
    r"\b",
    "a{0,3}",
    ".",
]
PATTERNS: list[Part] = [
    *({"String": each} for each in ("", "a", " ", "▁", "ab", "é")),
    *({"Regex": each} for each in EXPRESSIONS),
]
BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
TEXTS = ["", "a", "ab aab b", "the Ａ é😀 e\u0301\u0301 <t0> [UNK]   \n\t x<t1>a", "\u0000\u200b", "ﷺ" * 5, "a" * 2000,
         " " * 2000, "a b" * 300]  # fmt: skip
FLAG, STRING, PATTERN, CUT = (lambda rng: rng.random() < 0.5), STRINGS, PATTERNS, [0, 0, 1, 2, 100]
SCHEME = ["always", "never", "first"]
_METASPACE = {"replacement": STRING, "prepend_scheme": SCHEME, "split": FLAG}
_BYTES = {"add_prefix_space": FLAG, "trim_offsets": FLAG, "use_regex": FLAG}
_REPLACE = {"pattern": PATTERN, "content": STRING}
Fields = dict[str, Any]
NORMALIZERS: dict[str, Fields] = {
    "BertNormalizer": dict.fromkeys(("clean_text", "handle_chinese_chars", "lowercase"), FLAG)
    | {"strip_accents": [None, True, False]},
    "Strip": {"strip_left": FLAG, "strip_right": FLAG},
    "Replace": _REPLACE,
    "Prepend": {"prepend": STRING},
    "Precompiled": {"precompiled_charsmap": [None, "", base64.b64encode(b"\4\0\0\0\0\0\0\0").decode()]},
    **dict.fromkeys(("StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "ByteLevel"), Fields()),
}
PRE_TOKENIZERS: dict[str, Fields] = {
    "ByteLevel": _BYTES,
    "CharDelimiterSplit": {"delimiter": STRING},
    "Metaspace": _METASPACE,
    "Split": {"pattern": PATTERN, "behavior": BEHAVIORS, "invert": FLAG},
    "Punctuation": {"behavior": BEHAVIORS},
    "Digits": {"individual_digits": FLAG},
    "FixedLength": {"length": [0, 1, 2, 5, 10**6]},
    **dict.fromkeys(("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"), Fields()),
}
DECODERS: dict[str, Fields] = {
    "BPEDecoder": {"suffix": STRING},
    "ByteLevel": _BYTES,
    "WordPiece": {"prefix": STRING, "cleanup": FLAG},
    "Metaspace": _METASPACE,
    "CTC": {"pad_token": STRING, "word_delimiter_token": STRING, "cleanup": FLAG},
    "Replace": _REPLACE,
    "Strip": {"content": STRING, "start": CUT, "stop": CUT},
    **dict.fromkeys(("Fuse", "ByteFallback"), Fields()),
}


def _template(rng: random.Random) -> list[Part]:
    texts = [
        {"Sequence": {"id": name, "type_id": rng.choice([0, 1, 2**20])}} for name in rng.choice(["A", "A", "AB", "B"])
    ]
    return [*texts, *({"SpecialToken": {"id": rng.choice(STRINGS), "type_id": 0}} for _ in range(rng.randrange(3)))]


def _special(rng: random.Random) -> Part:
    names = rng.sample(STRINGS, 8)
    return {name: {"id": name, "ids": [rng.randrange(9)] * rng.randrange(3), "tokens": ["a"]} for name in names}


def _pair(rng: random.Random) -> list[Any]:
    return [rng.choice(STRINGS), rng.choice([0, 1, 5, 2**30])]


PROCESSORS: dict[str, Fields] = {
    "BertProcessing": {"sep": _pair, "cls": _pair},
    "RobertaProcessing": {"sep": _pair, "cls": _pair, "trim_offsets": FLAG, "add_prefix_space": FLAG},
    "ByteLevel": _BYTES,
    "TemplateProcessing": {"single": _template, "pair": _template, "special_tokens": _special},
}


def _value(rng: random.Random, choice: list[Any] | Callable[[random.Random], Any]) -> Any:
    return rng.choice(choice) if isinstance(choice, list) else choice(rng)


def _part(rng: random.Random, table: dict[str, Fields], plural: str, depth: int = 0) -> Part | None:
    if depth == 0 and rng.random() < 0.3:
        return None
    if depth < 3 and rng.random() < 0.2:
        steps = [_part(rng, table, plural, depth + 1) for _ in range(rng.randrange(4))]
        return {"type": "Sequence", plural: [step for step in steps if step is not None]}
    name = rng.choice(list(table))
    return {"type": name, **{field: _value(rng, choice) for field, choice in table[name].items()}}


def _model(rng: random.Random) -> Part:
    words = list(dict.fromkeys([*rng.sample(STRINGS, 8), "a", "b", "c", "##a", "ab", "ba", "<0x61>", "aa"]))
    rng.shuffle(words)
    vocab = {word: n for n, word in enumerate(words)}
    if rng.random() < 0.1:
        vocab[words[0]] = rng.randrange(100)
    some = [None, "", rng.choice(STRINGS)]
    match rng.choice(["BPE", "WordPiece", "WordLevel", "Unigram"]):
        case "WordPiece":
            own = {
                "continuing_subword_prefix": rng.choice(STRINGS),
                "max_input_chars_per_word": rng.choice([0, 1, 100]),
            }
            return {"type": "WordPiece", "unk_token": rng.choice(words), "vocab": vocab, **own}
        case "WordLevel":
            return {"type": "WordLevel", "unk_token": rng.choice(words), "vocab": vocab}
        case "Unigram":
            scores = [[word, rng.choice([0.0, -1.0, -5e29, 3.0])] for word in words]
            own = {"unk_id": rng.choice([None, 0, 3, 500]), "byte_fallback": FLAG(rng)}
            return {"type": "Unigram", "vocab": scores, **own}
    merges = [[rng.choice("abc"), rng.choice("abc")] for _ in range(rng.randrange(3))]
    flags = {name: FLAG(rng) for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    affixes = {name: rng.choice(some) for name in ("continuing_subword_prefix", "end_of_word_suffix")}
    affixes["unk_token"] = rng.choice([None, "[UNK]"])
    return {"type": "BPE", "dropout": rng.choice([None, 0.5]), "vocab": vocab, "merges": merges, **flags, **affixes}


def _added(rng: random.Random) -> list[Part]:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        {"id": rng.choice([n + 16, n, 30]), "content": rng.choice([*STRINGS[1:], f"<t{n}>"])}
        | {name: FLAG(rng) for name in flags}
        for n in range(rng.choice([0, 0, 1, 3]))
    ]


def layout(seed: int) -> Part:
    """A tokenizer.json."""
    rng = random.Random(seed)
    return {
        "version": "1.0",
        "truncation": rng.choice(
            [None, {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 9}]
        ),
        "padding": None,
        "added_tokens": _added(rng),
        "normalizer": _part(rng, NORMALIZERS, "normalizers"),
        "pre_tokenizer": _part(rng, PRE_TOKENIZERS, "pretokenizers"),
        "post_processor": _part(rng, PROCESSORS, "processors"),
        "decoder": _part(rng, DECODERS, "decoders"),
        "model": _model(rng),
    }


def use(folder: Path) -> bool:
    """Reads, encodes, decodes and writes; whether it was read."""
    try:
        tokenizer = Tokenizer.load(folder)
    except PretuneError:
        return False
    for text in TEXTS:
        try:
            tokenizer.decode(tokenizer.encode(text))
            tokenizer.encode_offsets(text[:200])
            tokenizer.encode(text, allow_special=True)
        except PretuneError:
            continue
    tokenizer.save(folder / "written")
    Tokenizer.load(folder / "written")
    return True


def run(first: int, last: int) -> tuple[int, list[str]]:
    """How many layouts were read, and what is wrong."""
    panics: list[str] = []

    def spy(error: BaseException) -> bool:
        if is_panic(error):
            panics.append(str(error)[:200])
        return is_panic(error)

    usual, library.is_panic = library.is_panic, spy  # type: ignore[attr-defined]
    wrong: list[str] = []
    count = 0
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first, last):
            begin = time.thread_time()
            (folder := Path(scratch) / str(seed)).mkdir()
            (folder / "tokenizer.json").write_text(json.dumps(layout(seed)))
            try:
                count += use(folder)
            except Exception as error:
                wrong.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
            wrong += [f"seed {seed}: panic: {panic}" for panic in panics]
            panics.clear()
            if (seconds := time.thread_time() - begin) > 2:
                wrong.append(f"seed {seed}: {seconds:.1f} s")
    library.is_panic = usual  # type: ignore[attr-defined]
    return count, wrong


if __name__ == "__main__":
    read, faults = run(int(sys.argv[1]), int(sys.argv[2]))
    print("\n".join([*faults, f"{read} read"]))
