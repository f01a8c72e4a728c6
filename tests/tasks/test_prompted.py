"""The task `prompted`: label words scored as `transformers` scores them, training on the same form, and bad input."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, save_t5, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.evaluate.channel import channel_scores
from pretune.generate.continuations import score_exactly
from pretune.nn.heads import VocabularyHead
from pretune.nn.vocabulary import Vocabulary
from pretune.prompts.prompt import Prompt, find_prompt
from pretune.tasks.prompted import Prompted
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.text.readers.records import Record
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

FORM = "{text} and the {label}"
ONE, SEVERAL = ["fox", "dog"], ["quick fox", "lazy dog", "cat ate a hat"]
ASKED = ["the quick brown fox", "a hat", "the cat ate the lazy dog"]
FIELDS: dict[str, Any] = {
    "steps": 40,
    "batch": 8,
    "length": 24,
    "lr": 5e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "evaluation": {"every": 40},
    "track": {"report": False, "progress": "quiet"},
}


def prompt_file(folder: Path, pattern: str = FORM, words: str = "") -> str:
    path = folder / "own.toml"
    path.write_text(f"pattern = {pattern!r}\n[words]\n{words}")
    return str(path)


def save_llama(folder: Path, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary.size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer.save(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("gpt2", "llama", "bert", "t5")}
    save_gpt2(folders["gpt2"], byte_tokenizer())
    save_llama(folders["llama"], byte_tokenizer())
    save_bert(folders["bert"], word_tokenizer())
    unigram = TokenizerConfig(kind="unigram", vocab_size=80, sentinels=3)
    save_t5(folders["t5"], train_tokenizer([*TEXTS, *ONE, *SEVERAL] * 9, unigram))
    return folders


def load(folder: Path) -> pretune.Model:
    return pretune.load(folder, device="cpu", precision="fp32")


def decoder_scores(folder: Path, prompt: str, words: Sequence[str]) -> list[float]:
    """By continuation after continuation."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for word in words:
        start = tokenizer(prompt)["input_ids"]
        tokens = tokenizer(f"{prompt} {word}")["input_ids"]
        assert tokens[: len(start)] == start
        with torch.no_grad():
            logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        out.append(sum(float(logs[n - 1, tokens[n]]) for n in range(len(start), len(tokens))))
    return out


def masked_scores(folder: Path, prompt: str, words: Sequence[str], rest: str) -> list[float]:
    """By as many masks as a word has tokens."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for word in words:
        tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
        text = " ".join([prompt, *["[MASK]"] * len(tokens), rest])
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logs = model(**inputs).logits[0].log_softmax(-1)
        places = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        out.append(sum(float(logs[place, token]) for place, token in zip(places, tokens, strict=True)))
    return out


def written_scores(folder: Path, prompt: str, words: Sequence[str]) -> list[float]:
    """By what the decoder of T5 writes behind the sentinel."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    vocabulary = tokenizer.vocabulary
    sentinel = vocabulary.sentinels[0]
    source = vocabulary.with_end([*tokenizer.encode(prompt).tolist(), sentinel])
    out = []
    for word in words:
        run = tokenizer.encode(f"{prompt} {word}")[len(tokenizer.encode(prompt)) :].tolist()
        begin = [model.config.decoder_start_token_id, *vocabulary.prefix, sentinel]
        written = [*begin, *run]
        with torch.no_grad():
            logits = model(torch.tensor([source]), decoder_input_ids=torch.tensor([written])).logits[0]
        logs = logits.log_softmax(-1)
        out.append(sum(float(logs[n, token]) for n, token in enumerate(run, len(begin) - 1)))
    return out


def softmax(scores: Sequence[float]) -> list[float]:
    return [float(p) for p in torch.tensor(scores, dtype=torch.float64).softmax(0)]


def test_words_behind_a_sentinel_are_divided_by_their_own_lengths(models: dict[str, Path], tmp_path: Path) -> None:
    """The sentinel, which all words have in front, is no part of any."""
    predictions = load(models["t5"]).predict(ASKED, labels=SEVERAL, prompt=prompt_file(tmp_path), normalize="bytes")
    for text, prediction in zip(ASKED, predictions, strict=True):
        scores = written_scores(models["t5"], f"{text} and the", SEVERAL)
        wanted = softmax([score / len(word.encode()) for score, word in zip(scores, SEVERAL, strict=True)])
        assert list(prediction.probabilities.values()) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("words", [ONE, SEVERAL], ids=["one token", "several tokens"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_labels_have_the_probabilities_of_transformers(
    family: str, words: list[str], models: dict[str, Path], tmp_path: Path
) -> None:
    folder = models[family]
    predictions = load(folder).predict(ASKED, labels=words, prompt=prompt_file(tmp_path))
    for text, prediction in zip(ASKED, predictions, strict=True):
        prompt = f"{text} and the"
        if family == "bert":
            wanted = masked_scores(folder, prompt, words, "")
        elif family == "t5":
            wanted = written_scores(folder, prompt, words)
        else:
            wanted = decoder_scores(folder, prompt, words)
        assert list(prediction.probabilities) == words
        assert list(prediction.probabilities.values()) == pytest.approx(softmax(wanted), rel=1e-4, abs=1e-7)


def test_what_stands_behind_the_label_is_read_by_a_masked_model(models: dict[str, Path], tmp_path: Path) -> None:
    prompt = prompt_file(tmp_path, "a {label} and {text}")
    prediction = load(models["bert"]).predict("the lazy dog", labels=ONE, prompt=prompt)
    wanted = masked_scores(models["bert"], "a", ONE, "and the lazy dog")
    assert list(prediction.probabilities.values()) == pytest.approx(softmax(wanted), rel=1e-4)


def test_solved_examples_are_read_once_and_change_nothing_else(models: dict[str, Path], tmp_path: Path) -> None:
    shots = [{"text": "a cat", "label": "dog"}, {"text": "a hat", "label": "fox"}]
    prompt = prompt_file(tmp_path)
    options: Any = {"shots": shots, "shot_count": 2, "choose": "balanced", "labels": ONE, "prompt": prompt}
    predictions = load(models["gpt2"]).predict(ASKED[:2], **options)
    begins = {f"a cat and the dog\n\na hat and the fox\n\n{ASKED[0]} and the": "in order"}
    begins |= {f"a hat and the fox\n\na cat and the dog\n\n{ASKED[0]} and the": "turned"}
    found = list(predictions[0].probabilities.values())
    wanted = [softmax(decoder_scores(models["gpt2"], prompt, ONE)) for prompt in begins]
    assert any(found == pytest.approx(each, rel=1e-4) for each in wanted)


def test_calibration_is_the_sum_by_hand(models: dict[str, Path], tmp_path: Path) -> None:
    prompt = prompt_file(tmp_path)
    model = load(models["gpt2"])
    own = [decoder_scores(models["gpt2"], f"{text} and the", ONE) for text in ASKED]
    plain = np.array([softmax(each) for each in own])
    free = [decoder_scores(models["gpt2"], f"{text} and the", ONE) for text in ("N/A", "[MASK]", "")]
    bias = np.array([softmax(each) for each in free]).mean(axis=0)
    question = np.array(decoder_scores(models["gpt2"], "and the", ONE))
    wanted = {
        "contextual": plain / bias,
        "pmi": np.exp(np.array(own) - question),
        "batch": plain / plain.mean(axis=0),
    }
    for name, weights in wanted.items():
        predictions = model.predict(ASKED, labels=ONE, prompt=prompt, calibrate=name)
        found = np.array([list(prediction.probabilities.values()) for prediction in predictions])
        assert np.allclose(found, weights / weights.sum(axis=1, keepdims=True), rtol=1e-4), name
    assert not np.allclose(wanted["contextual"], wanted["batch"])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_channel_joins_how_likely_the_text_is_behind_its_label(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """transformers scores the text behind each word; several words of a label are averaged."""
    path = tmp_path / "own.toml"
    path.write_text(f"pattern = {FORM!r}\nchannel = 'a {{label}} and {{text}}!'\n")
    labels = {"x": ["fox", "quick fox"], "y": "dog"}
    asked = [*ASKED, ASKED[0]]
    behind = [decoder_scores(models[family], "a fox and", [f"{text}!"]) for text in asked]
    quick = [decoder_scores(models[family], "a quick fox and", [f"{text}!"]) for text in asked]
    dog = [decoder_scores(models[family], "a dog and", [f"{text}!"]) for text in asked]
    channel = np.hstack([np.log((np.exp(behind) + np.exp(quick)) / 2), np.array(dog)])
    model = load(models[family])
    direct = np.array([list(p.probabilities.values()) for p in model.predict(asked, labels=labels, prompt=path)])
    for calibrate in (None, "batch"):
        predictions = model.predict(asked, labels=labels, prompt=path, channel=0.25, calibrate=calibrate)
        found = np.array([list(prediction.probabilities.values()) for prediction in predictions])
        wanted = direct * np.exp(channel / 4)
        wanted /= wanted.sum(axis=1, keepdims=True)
        if calibrate:
            wanted /= wanted.mean(axis=0)
            wanted /= wanted.sum(axis=1, keepdims=True)
        assert np.allclose(found, wanted, rtol=1e-4)
    assert not np.allclose(found, direct, rtol=0.01)


def test_the_channel_of_a_long_text_reads_its_beginning(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"pattern = {FORM!r}\nchannel = '{{label}} {{text}}'\n")
    model = load(models["gpt2"])
    text = "the quick brown fox jumps " * 30
    scores = channel_scores(model.network, model.tokenizer, find_prompt(str(path)), ONE, [PromptedExample(text)], 64)
    more = channel_scores(model.network, model.tokenizer, find_prompt(str(path)), ONE, [PromptedExample(text * 2)], 64)
    assert np.isfinite(scores).all()
    assert np.array_equal(scores, more)
    assert model.predict(text, labels=ONE, prompt=path, channel=0.2).label in ONE


def test_several_words_add_up_and_lengths_divide(models: dict[str, Path], tmp_path: Path) -> None:
    model, prompt = load(models["gpt2"]), prompt_file(tmp_path)
    fox, dog, hat = decoder_scores(models["gpt2"], f"{ASKED[0]} and the", ["fox", "dog", "cat ate a hat"])
    added = model.predict(ASKED[0], labels={"animal": ["fox", "dog"], "thing": "cat ate a hat"}, prompt=prompt)
    whole = math.exp(fox) + math.exp(dog) + math.exp(hat)
    assert added.probabilities["thing"] == pytest.approx(math.exp(hat) / whole, rel=1e-4)
    scaled = model.predict(ASKED[0], labels=["fox", "cat ate a hat"], prompt=prompt, normalize="bytes")
    wanted = softmax([fox / 3, hat / len("cat ate a hat")])
    assert list(scaled.probabilities.values()) == pytest.approx(wanted, rel=1e-4)


def rows(count: int = 16) -> list[dict[str, str]]:
    return [{"text": f"the {word} ate a hat", "label": label} for word, label in (("cat", "a"), ("dog", "b"))] * (
        count // 2
    )


@pytest.mark.parametrize(
    ("family", "loss", "words"),
    [
        ("gpt2", "vocabulary", {"a": "fox", "b": "dog"}),
        ("gpt2", "vocabulary", {"a": "quick fox", "b": "lazy dog"}),
        ("gpt2", "words", {"a": "quick", "b": "cat"}),
        ("bert", None, {"a": "fox", "b": "dog"}),
        ("bert", None, {"a": "fox", "b": "lazy dog"}),
        ("t5", None, {"a": "fox", "b": "dog"}),
    ],
)
def test_it_learns_and_needs_no_flag_afterwards(
    family: str, loss: str | None, words: dict[str, str], models: dict[str, Path], tmp_path: Path
) -> None:
    prompt = prompt_file(tmp_path, words="\n".join(f"{label} = {word!r}" for label, word in words.items()))
    task = {"prompted": {"prompt": prompt, **({"loss": loss} if loss else {})}}
    fields = {**FIELDS, "train": rows(), "validation": rows(4), "output": str(tmp_path / "run")}
    fields |= {"steps": 120, "evaluation": {"every": 120}} if family == "t5" else {}
    pretune.finetune(model=str(models[family]), task=task, **fields)
    Path(prompt).unlink()  # what it says is saved with the model
    model = load(tmp_path / "run")
    assert model.evaluate(rows(4))["accuracy"] == 1.0
    prediction = model.predict("the dog ate a hat")
    assert prediction.label == "b"
    scores = {"gpt2": decoder_scores, "t5": written_scores}.get(family)
    own = [words["a"], words["b"]]
    text = "the dog ate a hat and the"
    wanted = masked_scores(tmp_path / "run", text, own, "") if scores is None else scores(tmp_path / "run", text, own)
    assert list(prediction.probabilities.values()) == pytest.approx(softmax(wanted), rel=1e-3, abs=1e-6)


def test_a_long_prompt_leaves_the_least_similar_out_and_says_which(
    models: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shots = tmp_path / "shots.csv"
    shots.write_text(
        "text,label\na cat sat on mats,fox\nthe lazy dog ate the quick hat,dog\na brown hat of all hats,fox\n"
    )
    options: Any = {"labels": ONE, "prompt": prompt_file(tmp_path), "shots": shots, "shot_count": 3}
    with caplog.at_level("WARNING", "pretune"):
        load(models["gpt2"]).predict(["the lazy dog ate the brown hat"], **options)
    assert "solved examples were left out, the least similar first, each of so many of 1 text: " in caplog.text
    assert f"{shots}:2 (1)" in caplog.text
    assert f"{shots}:3" not in caplog.text  # the most similar one


def test_a_long_text_is_cut_to_what_fits(models: dict[str, Path], tmp_path: Path) -> None:
    text = "the quick brown fox jumps " * 30
    model, prompt = load(models["gpt2"]), prompt_file(tmp_path)
    assert model.predict(text, labels=ONE, prompt=prompt).label in ONE
    with pytest.raises(DataError, match=r"more than the .* tokens that fit"):
        model.predict(text, labels=ONE, prompt=prompt, truncate="error")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"labels": ["fox"]}, "at least two different labels, got fox"),
    ({"labels": ["fox", "fox"]}, "at least two different labels, got fox, fox"),
    ({"labels": {"a": "fox", "b": "fox"}}, "the word 'fox' stands for 'a' and for 'b'"),
    ({"labels": {"a": ["fox", "fox"], "b": "dog"}}, "the word 'fox' stands twice for 'a'"),
    ({"labels": ["the quick", "the quick dog"]}, "the word 'the quick' is the beginning of 'the quick dog'"),
    ({"labels": ONE, "prompt": "sentimant"}, "no prompt 'sentimant'; did you mean 'sentiment'"),
    ({"labels": ["0", "1"], "prompt": "sentiment"}, "no word for the label '0'; it has words for negative, positive"),
    ({"prompt": "plain"}, "prompt plain names no labels; give them"),
    ({"labels": ONE, "calibrate": "contextuel"}, "no variant 'contextuel'; did you mean 'contextual'"),
    ({"labels": ONE, "choose": "similarly", "shots": [{"text": "a", "label": "fox"}]}, "did you mean 'similar'"),
    ({"labels": ONE, "shots": [{"text": "a", "label": "fox"}], "shot_count": 0}, "shot_count 0: expected at least 1"),
    (
        {"labels": ONE, "shots": [{"text": "a", "label": "fox"}], "shot_draws": 0},
        "shot_draws 0: expected a whole number",
    ),
    (
        {"labels": ONE, "shots": [{"text": "a", "label": "fox"}], "shot_draws": 2},
        "shot_draws 2: similar chooses the same examples each time; leave it out",
    ),
    ({"labels": ONE, "normalize": "words"}, "normalize"),
    ({"labels": ONE, "channel": 0.2}, "prompt plain has no channel, in which a text stands behind its label"),
    ({"labels": ONE, "channel": -1.0}, "channel -1.0: expected a number of at least 0, such as 0.2"),
    ({"labels": ONE, "channel": "0.2"}, "channel .0.2.: expected a number of at least 0"),
    ({"labels": ONE, "channel": math.nan}, "channel nan: expected a number of at least 0"),
    ({"labels": ONE, "task": "classification"}, "leave the task out"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_cannot_be_asked_is_said(options: dict[str, Any], message: str, models: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        load(models["gpt2"]).predict("a hat", **options)


def test_bad_data_are_said(models: dict[str, Path], tmp_path: Path) -> None:
    model, shots = load(models["gpt2"]), tmp_path / "shots.csv"
    with pytest.raises(DataError, match="text:2: field 'text' = ' ' is empty"):
        model.predict(["a hat", " "], labels=ONE)
    shots.write_text("text,label\na hat,fox\na cat,bird\n")
    with pytest.raises(DataError, match=r"shots\.csv:3: label 'bird' .* known labels: fox, dog"):
        model.predict("a hat", labels=ONE, shots=shots)
    with pytest.raises(UsageError, match="give the second texts too"):
        model.predict(["a hat"], prompt="entailment")
    with pytest.raises(DataError, match="the prompt plain has no place for a second text"):
        model.predict(["a hat"], ["a cat"], labels=ONE)


def test_models_that_no_prompt_can_ask_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer(), transformers.BertForSequenceClassification, ["a", "b"])
    with pytest.raises(UsageError, match="no language modelling head, which says the words of labels"):
        load(tmp_path).predict("a hat", labels=ONE)
    with pytest.raises(UsageError, match="stands before a text, which this model has not read"):
        load(models["gpt2"]).predict("a hat", labels=ONE, prompt=prompt_file(tmp_path, "{label}: {text}"))
    with pytest.raises(UsageError, match="the tokenizer does not know the word 'Ω'"):
        load(models["bert"]).predict("a hat", labels=["Ω", "fox"])


def test_a_word_that_runs_into_its_neighbours_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"put a space or a line break around \{label\}"):
        load(models["bert"]).predict("a hat", labels=ONE, prompt=prompt_file(tmp_path, "{text} qu{label}"))


def test_words_of_several_tokens_have_no_loss_among_words(models: dict[str, Path], tmp_path: Path) -> None:
    words = {"a": "quick fox", "b": "lazy dog"}
    prompt = prompt_file(tmp_path, words="\n".join(f"{label} = {word!r}" for label, word in words.items()))
    fields = {**FIELDS, "train": rows(), "validation": rows(4), "output": str(tmp_path / "run")}
    with pytest.raises(UsageError, match="has several tokens, which this model compares in several passes"):
        pretune.finetune(model=str(models["gpt2"]), task={"prompted": {"prompt": prompt, "loss": "words"}}, **fields)
    with pytest.raises(UsageError, match="a masked language model learns by the words"):
        pretune.finetune(
            model=str(models["bert"]),
            task={"prompted": {"prompt": prompt, "loss": "vocabulary"}},
            **{**fields, "output": str(tmp_path / "other")},
        )


def test_the_form_is_a_setting_too() -> None:
    config = Prompted.Config(form=Prompt(pattern="{text}: {label}"), labels=("a", "b"))
    assert Prompted(config, byte_tokenizer().vocabulary).form.pattern == "{text}: {label}"


def test_the_command_line_asks_too(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpt2, texts = str(models["gpt2"]), tmp_path / "texts.csv"
    texts.write_text("title\n" + "\n".join(ASKED) + "\n")
    shots = tmp_path / "shots.csv"
    shots.write_text("title,gold\na cat,1\na hat,0\n")
    words = ["--labels", "1=fox|cat ate,0=dog", "--prompt", prompt_file(tmp_path)]
    few = ["--shots", str(shots), "--shot-label", "gold", "--choose", "balanced", "--shot-count", "2"]
    assert main(("predict", gpt2, str(texts), "--text", "title", *words, *few, "--calibrate", "batch")) == 0
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["title"] for line in lines] == ASKED
    assert {line["label"] for line in lines} <= {"0", "1"}
    assert f"asking {gpt2} by the prompt" in captured.err
    assert main(("predict", gpt2, "a hat", "--shots", str(shots))) == 64
    assert "--shots: for a model that is asked by a prompt; give labels" in capsys.readouterr().err
    assert main(("predict", gpt2, "a hat", "--labels", "1=fox,dog")) == 64
    assert "--labels dog: expected LABEL=WORD for each label once" in capsys.readouterr().err
    assert main(("predict", gpt2, "a hat", "--labels", "fox,dog", "--choose", "random")) == 64
    assert (
        "--choose random: there are no examples to choose; name a file of them with --shots" in capsys.readouterr().err
    )
    assert main(("predict", gpt2, "--pair", "a hat", "a cat", "--prompt", "entailment", "--json")) == 0
    assert set(json.loads(capsys.readouterr().out)["probabilities"]) == {"entailment", "contradiction", "neutral"}


def test_a_prompt_in_a_chat_template(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the model has no chat template; leave chat \(--chat\) out"):
        load(models["gpt2"]).predict("a hat", labels=ONE, chat=True)
    shutil.copytree(models["gpt2"], tmp_path / "chat")
    (tmp_path / "chat" / "pretune.xxh128").unlink()
    settings = tmp_path / "chat" / "tokenizer_config.json"
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{{ ' ' }}{% endif %}"
    )
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": template}))
    shots = [{"text": "a cat", "label": "dog"}]
    options: Any = {"labels": ONE, "prompt": prompt_file(tmp_path, "{text} and: {label}."), "chat": True}
    model = load(tmp_path / "chat")
    (prediction,) = model.predict(["a hat"], shots=shots, shot_count=1, **options)
    prompt = "[user] a cat and:<|endoftext|>[assistant] dog<|endoftext|>[user] a hat and:<|endoftext|>[assistant]"
    wanted = softmax(decoder_scores(tmp_path / "chat", prompt, ONE))
    assert list(prediction.probabilities.values()) == pytest.approx(wanted, rel=1e-4)
    assert model.prompted(shots=shots, shot_count=1, **options).render(["a hat"]) == [prompt + " "]
    assert model.predict("a hat", calibrate="pmi", **options).label in ONE
    asked = ["a hat", "a <|endoftext|> hat"]
    prompted = model.prompted(shots=[{"text": "a <|endoftext|> cat", "label": "dog"}], shot_count=1, **options)
    (examples,) = prompted._with_shots([prompted.task.read(Record.of({"text": text})) for text in asked])
    plain, named = prompted.task.encode(examples, model.tokenizer, 500)
    end = model.tokenizer.vocabulary.eos
    assert plain.tokens.tolist().count(end) == named.tokens.tolist().count(end) == 3, "those of the template alone"
    assert model.tokenizer.decode(named.tokens, skip_special=False) in prompted.render(asked)[1]


def test_scores_of_words_are_not_rounded_to_bf16() -> None:
    """Words that are nearly as probable were equal, as a score of 16 in bf16 is one of 15.94, 16 and 16.125."""
    torch.manual_seed(0)
    head = VocabularyHead(Vocabulary.of(torch.nn.Parameter((4 * torch.randn(50, 32)).bfloat16())), predicts="next")
    rows, tokens = torch.randn(5, 32).bfloat16(), torch.tensor([[3, 4, 40]]).expand(5, -1)
    vocabulary = head.vocabulary.row(torch.arange(50)).float()
    wanted = (rows.float() @ vocabulary.T)[:, [3, 4, 40]]
    assert (head(rows).float()[:, [3, 4, 40]] - wanted).abs().max() > 0.02
    assert torch.allclose(score_exactly(head, rows, tokens), wanted, atol=1e-4)
