"""Makes folders of tokenizer files with fields set at random, as others publish them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on. It's 3.14 or 2,718!",
    "Attention is all you need; models of language learn from text, and text is what people write.",
    "深度学习模型从文本中学习语言。你好，世界！我们在学习。",
    "Über den Wolken muß die Freiheit wohl grenzenlos sein: déjà vu, naïve café.",
    "Модель языка учится на тексте; текст пишут люди.",
    "नमस्ते दुनिया, हिन्दी में लिखा गया पाठ।",
] * 8
LINES = [
    *dict.fromkeys(TEXTS),
    "Hello World 我好",
    "HELLO the dog<drug>aspirin in aspirins ASPIRIN <drug> x",
    "  two  spaces\tand a tab\n and lines  ",
    "[CLS] the [MASK] dog [SEP] <mask> </s> <s> <pad> <unk> <|endoftext|> the",
    "``quoted'' text — with “signs”… 1,000 and 25, x",
    "full-width ＡＢＣ１２３ ﬁ ² é é か゛",
    "emoji 😀 and 🏳️‍🌈 ก ข ค \u200b\u00a0x",
    "<extra_id_0> the <extra_id_1> dog <e1> x </e1> Hello<e1>world",
    "▁ a ▁the",
    "",
    " ",
    "the",
    " the dog",
    "don't can't we'll THEY'RE I'd",
]
WORDS = ("aspirin", "<drug>", "<e1>", "</e1>", "Übermut", "北京", "dog", "Heart Attack", "the")
MODEL_TYPES = {
    "wordpiece": ("bert", "distilbert", "electra", "gpt2", "llama", None),
    "bytes": ("gpt2", "roberta", "bart", "gpt_neo", "qwen2", "qwen3", "llama", "gpt_neox", "modernbert", None),
    "openai": ("openai-gpt", None),
    "unigram": ("t5", "mt5", "albert", "xlnet", "xlm-roberta", "llama", "umt5", None),
    "pieces": ("llama", "mistral", None),
}
CLASSES = {
    "wordpiece": ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast"),
    "bytes": ("GPT2Tokenizer", "RobertaTokenizerFast", "BartTokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizerFast"),
    "openai": ("OpenAIGPTTokenizer",),
    "unigram": ("T5Tokenizer", "T5TokenizerFast", "AlbertTokenizer", "XLNetTokenizer", "XLMRobertaTokenizer"),
    "pieces": ("LlamaTokenizer", "LlamaTokenizerFast"),
}
SPM_NAMES = {
    "unigram": ("spiece.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    "pieces": ("tokenizer.model", "tokenizer.model", "tokenizer.model", "spiece.model"),
}


@dataclass
class Vocabularies:
    """Vocabularies of each kind, trained on a few lines."""

    folder: Path
    words: list[str] = field(default_factory=list)
    bpe: dict[str, tuple[dict[str, int], list[tuple[str, str]]]] = field(default_factory=dict)

    @classmethod
    def train(cls, folder: Path) -> Vocabularies:
        out = cls(folder)
        draft = tokenizers.Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
        draft.normalizer, draft.pre_tokenizer = (
            normalizers.BertNormalizer(lowercase=False),
            pre_tokenizers.BertPreTokenizer(),
        )
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        draft.train_from_iterator(
            TEXTS, trainers.WordPieceTrainer(vocab_size=380, special_tokens=special, show_progress=False)
        )
        lower = {word.lower(): None for word in sorted(draft.get_vocab(), key=draft.get_vocab().__getitem__)[5:]}
        out.words = [*special, *sorted(draft.get_vocab(), key=draft.get_vocab().__getitem__)[5:]]
        out.words = list(dict.fromkeys((*out.words, *lower, "<S>", "<T>", "wolken", "uber", "naive")))
        out.bpe["bytes"] = _bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"], byte_level=True)
        out.bpe["openai"] = _bpe(["<unk>"], byte_level=False)
        text = folder / "text.txt"
        text.write_text("\n".join(TEXTS), encoding="utf-8")
        shared = {"input": str(text), "hard_vocab_limit": False, "minloglevel": 2, "num_threads": 1}
        t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        albert = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}
        user = {"user_defined_symbols": ["<e1>", "1"]}
        for number, options in enumerate(({}, t5, albert, t5 | user, {"byte_fallback": True, "vocab_size": 500})):
            _spm(folder / f"unigram{number}.model", {"model_type": "unigram", "vocab_size": 240, **shared, **options})
        llama = {"byte_fallback": True, "vocab_size": 560, "remove_extra_whitespaces": False}
        identity = {"normalization_rule_name": "identity"}
        for number, options in enumerate(({}, llama | identity, llama | identity, llama | identity | user)):
            _spm(folder / f"pieces{number}.model", {"model_type": "bpe", "vocab_size": 300, **shared, **options})
        return out


def _bpe(special: list[str], byte_level: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    backend = tokenizers.Tokenizer(models.BPE())
    options: dict[str, Any] = {"special_tokens": special, "show_progress": False}
    if byte_level:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options |= {"vocab_size": 420, "initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}
    else:
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        options |= {"vocab_size": 380, "end_of_word_suffix": "</w>"}
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(**options))
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _spm(path: Path, options: dict[str, Any]) -> None:
    sentencepiece.SentencePieceTrainer.train(model_prefix=str(path.with_suffix("")), **options)


class Folder:
    """One folder, its files drawn from a seed."""

    def __init__(self, path: Path, vocabularies: Vocabularies, seed: int) -> None:
        self.path, self.known, self.random = path, vocabularies, random.Random(seed)
        path.mkdir(parents=True)
        self.kind = self.random.choice([*MODEL_TYPES, "wordpiece", "bytes"])
        self.settings: dict[str, Any] = {}
        self._vocabulary()
        self._class()
        self._fields()
        self._tokens()
        if self.settings or self._chance(0.5):
            self._write("tokenizer_config.json", self.settings)

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _write(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    def _vocabulary(self) -> None:
        """Vocabulary files, or tokenizer.json, or both."""
        as_json = self._chance(0.5)
        spm = (
            self.random.choice(sorted(self.known.folder.glob(f"{self.kind}*.model")))
            if self.kind in SPM_NAMES
            else None
        )
        if self.kind == "wordpiece":
            words = self.known.words
            if self._chance(0.15):
                words = [word for word in words if word not in ("[MASK]", "[PAD]")]
            self.size = len(words)
            backend = tokenizers.Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
            if not as_json or self._chance(0.2):
                (self.path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        elif self.kind in self.known.bpe:
            vocab, merges = self.known.bpe[self.kind]
            self.size = len(vocab)
            options = {"end_of_word_suffix": "</w>", "unk_token": "<unk>"} if self.kind == "openai" else {}
            backend = tokenizers.Tokenizer(models.BPE(vocab, merges, **options))
            if not as_json or self._chance(0.2):
                self._write("vocab.json", vocab)
                lines = "".join(f"{left} {right}\n" for left, right in merges)
                (self.path / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
        else:
            assert spm is not None
            backend = self._pieces(spm)
            self.size = backend.get_vocab_size()
            if not as_json:
                name = self.random.choice(SPM_NAMES[self.kind])
                (self.path / name).write_bytes(spm.read_bytes())
        if as_json:
            self._pipeline(backend)
            self._special(backend)
            backend.save(str(self.path / "tokenizer.json"))

    def _pieces(self, spm: Path) -> tokenizers.Tokenizer:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
        ids = range(processor.vocab_size())
        if self.kind == "unigram":
            scores = [(processor.id_to_piece(n), processor.get_score(n)) for n in ids]
            return tokenizers.Tokenizer(models.Unigram(scores, unk_id=processor.unk_id()))
        vocab = {processor.id_to_piece(n): n for n in ids}
        merges = [
            (piece[:cut], piece[cut:])
            for piece in vocab
            for cut in range(1, len(piece))
            if {piece[:cut], piece[cut:]} <= vocab.keys()
        ]
        model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        return tokenizers.Tokenizer(model)

    def _pipeline(self, backend: tokenizers.Tokenizer) -> None:
        pick = self.random.choice
        if self.kind in ("wordpiece", "openai"):
            accents = pick([None, True, False])
            backend.normalizer = normalizers.BertNormalizer(
                lowercase=self._chance(0.6), strip_accents=accents, handle_chinese_chars=self._chance(0.8)
            )
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            backend.decoder = decoders.WordPiece() if self.kind == "wordpiece" else decoders.BPEDecoder()
        elif self.kind == "bytes":
            if self._chance(0.3):
                backend.normalizer = normalizers.NFC()
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self._chance(0.3))
            backend.decoder = decoders.ByteLevel()
            if self._chance(0.2):
                backend.model.dropout = 0.2
        else:
            scheme = pick(["always", "first", "never"])
            if self._chance(0.5):
                backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=self._chance(0.7))
            backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
        if self._chance(0.3):
            backend.enable_truncation(8)

    def _special(self, backend: tokenizers.Tokenizer) -> None:
        """Special and added tokens of tokenizer.json, and what stands around a text."""
        vocab = backend.get_vocab()
        usual = [
            t
            for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<unk>", "<pad>", "<mask>")
            if t in vocab
        ]
        if self._chance(0.8):
            backend.add_special_tokens(usual)
        if self._chance(0.4):
            backend.add_tokens([self._added(word) for word in self.random.sample(WORDS, 2)])
        names = [t for t in ("[CLS]", "[SEP]", "<s>", "</s>") if t in vocab][:2]
        if len(names) == 2 and self._chance(0.6):
            first, last = names
            backend.post_processor = processors.TemplateProcessing(
                single=f"{first} $A {last}",
                pair=f"{first} $A {last} $B:1 {last}:1",
                special_tokens=[(n, vocab[n]) for n in names],
            )
        elif self.kind == "bytes" and self._chance(0.5):
            backend.post_processor = processors.ByteLevel(trim_offsets=True)
        self.size = backend.get_vocab_size()

    def _added(self, word: str) -> tokenizers.AddedToken:
        flags = {name: self._chance(0.2) for name in ("lstrip", "rstrip", "single_word")}
        return tokenizers.AddedToken(word, normalized=self._chance(0.5), special=self._chance(0.3), **flags)

    def _class(self) -> None:
        own = CLASSES[self.kind]
        model_type = self.random.choice(MODEL_TYPES[self.kind])
        if self._chance(0.8):
            config = {} if model_type is None else {"model_type": model_type}
            if self._chance(0.1):
                config["tokenizer_class"] = self.random.choice(own)
            self._write("config.json", config)
        if self._chance(0.6):
            others = [
                "PreTrainedTokenizerFast",
                "CamembertTokenizer",
                "MyOwnTokenizer",
                "GPT2Tokenizer",
                "BertTokenizer",
            ]
            self.settings["tokenizer_class"] = self.random.choice(own if self._chance(0.7) else others)
        if self._chance(0.05):
            self.settings["auto_map"] = {"AutoTokenizer": [None, "as_written.TokenizersBackend"]}

    def _fields(self) -> None:
        for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents", "legacy"):
            if self._chance(0.25):
                self.settings[name] = self._chance(0.5)
        for name in ("add_prefix_space", "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces"):
            if self._chance(0.15):
                self.settings[name] = self._chance(0.5)
        if self._chance(0.1):
            self.settings["extra_ids"] = self.random.choice([0, 3, 100])
        for name in ("bos_token", "eos_token", "pad_token", "cls_token", "sep_token", "mask_token", "unk_token"):
            if self._chance(0.12):
                self.settings[name] = self._role(name)

    def _role(self, name: str) -> Any:
        usual = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]", "cls_token": "[CLS]"}
        token = self.random.choice([usual.get(name, "<mask>"), "<|endoftext|>", f"<{name}>", None])
        if token is None or self._chance(0.5):
            return token
        flags = {"lstrip": self._chance(0.5), "rstrip": False, "single_word": False, "normalized": self._chance(0.5)}
        return {"__type": "AddedToken", "content": token, **flags}

    def _tokens(self) -> None:
        """Added tokens in one or more of their forms; now and then with an id that is taken or leaves a gap."""
        words = self.random.sample(WORDS, 3)
        first = self.size + self.random.choice([0, 0, 0, 0, 0, 7, -3])
        if self._chance(0.25):
            self._write("added_tokens.json", {word: first + n for n, word in enumerate(words[:2])})
        if self._chance(0.2):
            flags = {"lstrip": self._chance(0.3), "rstrip": False, "single_word": self._chance(0.3)}
            self.settings["added_tokens_decoder"] = {
                str(first + n): {
                    "content": word,
                    "normalized": self._chance(0.5),
                    "special": self._chance(0.5),
                    **flags,
                }
                for n, word in enumerate(words[1:])
            }
        if self._chance(0.2):
            name = self.random.choice(["additional_special_tokens", "extra_special_tokens"])
            self.settings[name] = words[:2]
        if self._chance(0.05):
            self.settings["extra_special_tokens"] = {"image_token": "<image>"}
        if self._chance(0.2):
            names = self.random.sample(["bos_token", "eos_token", "pad_token", "mask_token", "cls_token"], 2)
            content: dict[str, Any] = {name: self._role(name) or "<x>" for name in names}
            content = {
                k: {n: x for n, x in v.items() if n != "__type"} if isinstance(v, dict) else v
                for k, v in content.items()
            }
            if self._chance(0.3):
                content["additional_special_tokens"] = words[1:]
            self._write("special_tokens_map.json", content)


SAVED = {  # class: kind of vocabulary, model type
    "BertTokenizer": ("wordpiece", "bert"),
    "DistilBertTokenizer": ("wordpiece", "distilbert"),
    "GPT2Tokenizer": ("bytes", "gpt2"),
    "RobertaTokenizer": ("bytes", "roberta"),
    "Qwen2Tokenizer": ("bytes", "qwen2"),
    "GPTNeoXTokenizer": ("bytes", "gpt_neox"),
    "OpenAIGPTTokenizer": ("openai", "openai-gpt"),
    "T5Tokenizer": ("unigram", "t5"),
    "AlbertTokenizer": ("unigram", "albert"),
    "XLNetTokenizer": ("unigram", "xlnet"),
    "XLMRobertaTokenizer": ("unigram", "xlm-roberta"),
    "LlamaTokenizer": ("pieces", "llama"),
}


def saved(path: Path, vocabularies: Vocabularies, seed: int) -> Path | None:
    """A tokenizer with settings and tokens at random, as `transformers` saves it; None where it cannot make it."""
    draw = random.Random(seed)
    name = draw.choice(list(SAVED))
    try:
        tokenizer = _made(path, vocabularies, name, draw)
    except (TypeError, ValueError):  # a class that this vocabulary is not for
        return None
    if draw.random() < 0.4:
        flags = {flag: draw.random() < 0.3 for flag in ("lstrip", "rstrip", "single_word", "normalized")}
        tokenizer.add_tokens([tokenizers.AddedToken(word, **flags) for word in draw.sample(WORDS, 2)])
    if draw.random() < 0.3:
        tokenizer.add_special_tokens({"additional_special_tokens": draw.sample(WORDS, 2)})
    if draw.random() < 0.2:
        tokenizer.add_special_tokens({draw.choice(["pad_token", "eos_token", "sep_token"]): "<new>"})
    tokenizer.save_pretrained(path / "saved")
    model_type = SAVED[name][1] if draw.random() < 0.85 else draw.choice(["gpt2", "llama", "bert", "modernbert"])
    if draw.random() < 0.9:
        (path / "saved" / "config.json").write_text(json.dumps({"model_type": model_type}))
    return path / "saved"


def _made(path: Path, vocabularies: Vocabularies, name: str, draw: random.Random) -> Any:
    kind, cls = SAVED[name][0], getattr(transformers, name)
    names = (
        "do_lower_case",
        "strip_accents",
        "add_prefix_space",
        "add_bos_token",
        "add_eos_token",
        "keep_accents",
        "legacy",
    )
    settings: dict[str, Any] = {field: draw.random() < 0.5 for field in names if draw.random() < 0.2}
    for role in ("pad_token", "bos_token", "eos_token", "mask_token"):
        if draw.random() < 0.15:
            settings[role] = draw.choice(
                ["<x>", "<s>", "[PAD]", tokenizers.AddedToken("<y>", lstrip=True, normalized=False)]
            )
    if draw.random() < 0.2:
        settings["extra_special_tokens"] = draw.sample(WORDS, 2)
    if draw.random() < 0.2:
        settings["clean_up_tokenization_spaces"] = draw.random() < 0.5
    if kind == "wordpiece":
        return cls(vocab={word: n for n, word in enumerate(vocabularies.words)}, **settings)
    if kind in vocabularies.bpe:
        vocab, merges = vocabularies.bpe[kind]
        return cls(vocab=vocab, merges=merges, **settings)
    source = path / "source"
    source.mkdir(parents=True)
    files = {"LlamaTokenizer": "tokenizer.model", "XLMRobertaTokenizer": "sentencepiece.bpe.model"}
    model = draw.choice(sorted(vocabularies.folder.glob(f"{kind}*.model")))
    (source / files.get(name, "spiece.model")).write_bytes(model.read_bytes())
    return cls.from_pretrained(source, **settings)
