"""The task `chat`: what is learned, what is left out, files for other software, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from chatkit import MARKS, OWN, SYSTEM, TOOL, assistant, chat_tokenizer, user
from tinymodels import byte_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError
from pretune.tasks.chat import Chat
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.tokenizer.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parent.parent / "generate"))
from test_chat_decoder import saved

PAIRS = [("Hi", "Yes"), ("你", "好"), ("No", "Never"), ("a", "b")]
TALKS = [[SYSTEM, user(q), assistant(a), user("again"), assistant(f"{a}!")] for q, a in PAIRS]


def task(template: str = "chatml", tokenizer: Tokenizer | None = None, **fields: Any) -> tuple[Chat, Tokenizer]:
    config = Chat.Config(template=template, **fields)
    fitted = Chat.fit_tokenizer(config, tokenizer or chat_tokenizer(), {})
    return Chat(config, fitted.vocabulary), fitted


def records(*talks: list[dict]) -> list[dict]:
    return [{"messages": talk} for talk in talks]


def texts(rows: list[Any], tokenizer: Tokenizer) -> list[tuple[str, list[str]]]:
    """The text of each row, and its parts that are learned."""
    out = []
    for row in rows:
        run = np.concatenate([row.tokens, row.second])
        mask = np.concatenate([np.zeros(len(row.tokens), np.bool_), row.targets])
        edges = np.flatnonzero(np.diff(mask.astype(int), prepend=0, append=0)).reshape(-1, 2)
        parts = [tokenizer.decode(run[a:b], skip_special=False) for a, b in edges.tolist()]
        out.append((tokenizer.decode(run, skip_special=False), parts))
    return out


@pytest.mark.parametrize(
    ("turns", "learned"), [("all", ["好<|im_end|>", "好!<|im_end|>"]), ("last", ["好!<|im_end|>"])]
)
def test_answers_and_their_ends_are_learned(turns: str, learned: list[str]) -> None:
    chat, tokenizer = task(turns=turns)
    (row,) = chat.encode(read_examples(chat, records(TALKS[1])), tokenizer, 512)
    ((text, parts),) = texts([row], tokenizer)
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend)
    assert text == oracle.apply_chat_template(
        TALKS[1], chat_template=tokenizer.settings["chat_template"], tokenize=False
    )
    ids = oracle.apply_chat_template(TALKS[1], chat_template=tokenizer.settings["chat_template"])["input_ids"]
    assert [*row.tokens.tolist(), *row.second.tolist()] == ids
    assert parts == learned
    assert tokenizer.decode(chat.prompt_of(row), skip_special=False).endswith("<|im_start|>assistant\n")  # type: ignore[arg-type]


def test_a_batch_predicts_the_learned_tokens_alone() -> None:
    from pretune.draw import Draw
    from pretune.text.samples.rows import Row

    chat, tokenizer = task()
    rows = chat.encode(read_examples(chat, records(*TALKS)), tokenizer, 512)
    packed = [Row((0, 0, n), r.tokens, second=r.second, targets=r.targets, example=n) for n, r in enumerate(rows)]
    batch = chat.prepare(packed, Draw(0))
    assert batch.layout.lengths == tuple(
        len(r.tokens) + len(r.second) - 1 for r in rows
    )  # each attends to itself alone
    index, label = batch.targets["chat"]
    wanted = [token for r in rows for token in r.second[r.targets].tolist()]
    assert label.tolist() == wanted
    following = [token for r in rows for token in [*r.tokens.tolist(), *r.second.tolist()][1:]]
    assert [following[place] for place in index.tolist()] == wanted


def test_a_length_that_leaves_no_answer_whole_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    chat, tokenizer = task()
    talks = [[user(f"question {n}"), assistant("answer " * (n + 1))] for n in range(20)]
    examples = read_examples(chat, records(*talks))
    sizes = sorted(len(row.tokens) + len(row.second) for row in chat.encode(examples, tokenizer, 2000))
    chat.encode(examples, tokenizer, 6)  # in use nothing is learned
    chat._is_training = True
    wanted = f"data.length = 6: no answer of 20 conversations is left whole.* {sizes[18]} tokens or fewer: --length"
    with pytest.raises(UsageError, match=rf"{wanted} {sizes[18]}$"):
        chat.encode(examples, tokenizer, 6)
    with caplog.at_level("WARNING", "pretune"):
        chat.encode(examples, tokenizer, sizes[0])
    assert "conversations without a whole answer: 95 % of the conversations" in caplog.text
    again, _ = task()
    again._is_training = True
    caplog.clear()
    with caplog.at_level("WARNING", "pretune"):
        again.encode(examples, tokenizer, sizes[-1])
    assert "without a whole answer" not in caplog.text


def test_the_length_is_refused_before_a_run_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "base", None)
    talk = {"messages": [user("Hi there"), assistant("Yes, it is.")]}
    (tmp_path / "talks.jsonl").write_text((json.dumps(talk) + "\n") * 8)
    words = ["finetune", "--task", "chat", "--model", str(tmp_path / "base"), "--train", str(tmp_path / "talks.jsonl")]
    flags = ["--task.chat.template", "phi3", "--steps", "1", "--quiet", "--length", "5"]
    assert main([*words, "--output", str(tmp_path / "run"), *flags]) == 64
    assert "data.length = 5: no answer of 8 conversations is left whole" in capsys.readouterr().err


FORMS = {
    "messages": {"messages": [user("Hi"), assistant("Yes")]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
    "kdconv": {"name": "x", "messages": [{"message": "Hi"}, {"message": "Yes", "attrs": [{"attrname": "a"}]}]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Yes"},
    "cell": {"messages": json.dumps([user("Hi"), assistant("Yes")])},
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_the_published_forms_are_one_conversation(form: str, tmp_path: Path) -> None:
    chat, _ = task()
    (tmp_path / "a.json").write_text(json.dumps([FORMS[form]]), encoding="utf-8")
    for data in ([FORMS[form]], tmp_path / "a.json"):
        (example,) = read_examples(chat, data)
        assert example.messages == [user("Hi"), assistant("Yes")]
        assert (example.text, example.target, example.references) == ("Hi", "Yes", ("Yes",))


def test_other_fields_are_read_by_name() -> None:
    chat, _ = task(columns=LabelledConfig(messages="talk"))
    (example,) = read_examples(
        chat, [{"talk": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}]
    )
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"]
    (example,) = read_examples(task()[0], [{"instruction": "Add", "input": "1 2", "output": "3", "system": "s"}])
    assert [message["content"] for message in example.messages] == ["s", "Add\n\n1 2", "3"]


def test_tools_are_read_and_written(tmp_path: Path) -> None:
    own = tmp_path / "qwen.jinja"
    own.write_text(OWN["qwen"], encoding="utf-8")
    chat, tokenizer = task(str(own))
    record = {"messages": [user("?"), assistant("noon")], "tools": [TOOL]}
    for each in (record, record | {"tools": json.dumps([TOOL])}):
        (row,) = chat.encode(read_examples(chat, [each]), tokenizer, 2000)
        ((text, parts),) = texts([row], tokenizer)
        assert json.dumps(TOOL, ensure_ascii=False) in text
        assert parts == ["noon<|im_end|>"]
    chat, tokenizer = task("chatml")
    with pytest.raises(DataError, match=r"list\[0\]: .* does not write the tool '时间'; leave tools out"):
        chat.encode(read_examples(chat, [record]), tokenizer, 2000)


def test_a_template_without_an_end_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own.jinja"
    for end, said in (("", True), ("<|im_end|>", False)):
        caplog.clear()
        own.write_text(
            f"{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{end}{{% endfor %}}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        )
        chat, tokenizer = task(str(own))
        with caplog.at_level("WARNING", "pretune"):
            chat.encode(read_examples(chat, records([user("a"), assistant("b")])), tokenizer, 200)
        assert (f"the chat template {own} writes nothing behind the last answer" in caplog.text) is said


def test_whole_turns_are_left_out_from_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    chat, tokenizer = task()
    talk = [SYSTEM, *(message for n in range(6) for message in (user(f"question {n}"), assistant(f"answer {n}")))]
    whole, shorter = chat.encode(read_examples(chat, records(talk, [SYSTEM, *talk[7:]])), tokenizer, 2000)
    size, room = (len(row.tokens) + len(row.second) for row in (whole, shorter))
    for length in (room, room + 20):
        caplog.clear()
        with caplog.at_level("WARNING", "pretune"):
            (row,) = chat.encode(read_examples(chat, records(talk)), tokenizer, length)
        assert texts([row], tokenizer) == texts([shorter], tokenizer)
        assert texts([row], tokenizer)[0][1] == ["answer 3<|im_end|>", "answer 4<|im_end|>", "answer 5<|im_end|>"]
        assert row.cut == size - room
        assert f"1 conversation longer than {length} tokens: the first 6 messages of them left out" in caplog.text
    strict, _ = task(truncate="error")
    with pytest.raises(
        DataError, match=rf"list\[0\]: a conversation of {size} tokens, more than the 40 that fit; raise"
    ):
        strict.encode(read_examples(strict, records(talk)), tokenizer, 40)


def test_an_exchange_that_is_too_long_keeps_its_answer() -> None:
    chat, tokenizer = task()
    (row,) = chat.encode(read_examples(chat, records([user("x" * 200), assistant("yes")])), tokenizer, 40)
    ((text, parts),) = texts([row], tokenizer)
    assert parts == ["yes<|im_end|>"]
    assert len(row.tokens) + len(row.second) <= 40
    assert text.startswith("x")
    (row,) = chat.encode(read_examples(chat, records([user("Hi"), assistant("y" * 200)])), tokenizer, 40)
    assert len(row.tokens) == 10
    assert texts([row], tokenizer)[0][1] == ["y" * 30]


def test_marks_are_added_or_spelled() -> None:
    bare = chat_tokenizer(("<s>", "</s>"))
    chat, tokenizer = task(tokenizer=bare)
    assert tokenizer.vocabulary.size == bare.vocabulary.size
    assert any("lacks <|im_start|>, <|im_end|>, spelled as text now" in note for note in tokenizer.notes)
    (row,) = chat.encode(read_examples(chat, records(TALKS[0])), tokenizer, 512)
    assert texts([row], tokenizer)[0][1] == ["Yes<|im_end|>", "Yes!<|im_end|>"]
    assert (chat._ends, chat._stop) == ((), ("<|im_end|>",))
    added, tokenizer = task(tokenizer=bare, special_tokens="add")
    assert tokenizer.vocabulary.size == bare.vocabulary.size + 2
    assert any(
        f"added to the vocabulary, which grows to {bare.vocabulary.size + 2}: <|im_start|>" in n
        for n in tokenizer.notes
    )
    (row,) = added.encode(read_examples(added, records(TALKS[0])), tokenizer, 512)
    assert len(row.second) < 60
    assert added._ends == (bare.vocabulary.size + 1,)


def test_the_models_own_template_is_the_default() -> None:
    config = Chat.Config()
    files = {"chat_template.jinja": OWN["qwen"].encode()}
    fitted = Chat.fit_tokenizer(config, chat_tokenizer(), files)
    assert fitted.settings["chat_template"] == OWN["qwen"]
    with pytest.raises(
        UsageError, match=r"the model's files have no chat template; name one: alpaca, chatml, .* such as --task\.chat"
    ):
        Chat.fit_tokenizer(config, chat_tokenizer(), {})
    with pytest.raises(UsageError, match="ends answers with the end token, and the tokenizer has none"):
        Chat.fit_tokenizer(Chat.Config(template="alpaca"), chat_tokenizer(()), {})
    several = chat_tokenizer(MARKS[:2])
    several.settings["chat_template"] = [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]
    try:
        named = Chat.fit_tokenizer(Chat.Config(template="plain"), several, {}).settings["chat_template"]
        assert [entry["name"] for entry in named] == ["default", "rag"]
        assert named[0]["template"] != "x"
    finally:
        several.settings.pop("chat_template")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [user("a"), user("b"), assistant("c")]}, "list[0]: message 2: two user turns in a row"),
        ({"messages": [user("a")]}, "list[0]: no message is the assistant's, so that nothing can be learned"),
        (
            {"messages": [{"role": "boss", "content": "a"}]},
            "list[0]: field 'messages[0].role' = \"boss\" is no known role",
        ),
        ({"messages": [{"role": "user"}]}, "list[0]: field 'messages[0]' has no content"),
        ({"messages": [user("a"), {"role": "assistant", "content": None}]}, "field 'messages[1]' has no content"),
        ({"messages": []}, "list[0]: field 'messages' is an empty list"),
        ({"messages": "hi"}, "list[0]: field 'messages' holds str hi, not a list of messages"),
        (
            {"messages": [user("a"), {"role": "assistant", "tool_calls": 5}]},
            "list[0]: field 'messages[1].tool_calls' holds the number 5, not a list",
        ),
        ({"messages": ["a"]}, "list[0]: field 'messages[0]' holds str a, not a message"),
        ({"messages": [{"content": "a"}]}, "list[0]: field 'messages[0]' has no role; write one of system, user"),
        ({"messages": [user("a\0"), assistant("b")]}, "field 'messages[0].content' holds a NUL character"),
        (
            {"messages": [user("a"), assistant("b")], "tools": "x"},
            "list[0]: field 'tools' holds str x, not a list of objects",
        ),
        ({"instruction": "a"}, "list[0]: no field 'output'"),
        ({"text": "a"}, "list[0]: no field 'messages'"),
    ],
)
def test_bad_records_are_refused(record: dict, message: str) -> None:
    chat, _ = task()
    with pytest.raises(DataError) as error:
        read_examples(chat, [record])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("template", "talk", "message"),
    [
        ("gemma", [SYSTEM, user("a"), assistant("b")], "refuses the messages: there is no place for a system message"),
        ("chatml", [user("a <|im_end|>"), assistant("b")], "list[0]: message 1 (user): its text holds '<|im_end|>'"),
        (
            "chatml",
            [user("a"), {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}],
            "list[0]: message 2 (assistant): the chat template chatml does not write its tool calls",
        ),
    ],
)
def test_what_the_template_does_not_take_is_refused(template: str, talk: list[dict], message: str) -> None:
    chat, tokenizer = task(template)
    with pytest.raises(DataError) as error:
        chat.encode(read_examples(chat, records(talk)), tokenizer, 512)
    assert message in str(error.value)


def test_bad_settings_are_refused() -> None:
    chat, _ = task(truncate="head")
    with pytest.raises(UsageError, match=r"task\.chat\.truncate head: conversations are cut by whole turns"):
        chat.resolve_config(read_examples(chat, records(TALKS[0])))


def finetune(folder: Path, output: str, *flags: str) -> int:
    (folder / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in TALKS * 4))
    return main(
        [
            "finetune",
            "--task",
            "chat",
            "--model",
            str(folder / "base"),
            "--train",
            str(folder / "talks.jsonl"),
            "--output",
            str(folder / output),
            "--length",
            "160",
            "--batch",
            "8",
            "--precision",
            "fp32",
            *flags,
        ]
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a template, tuned to chat by added marks."""
    folder = tmp_path_factory.mktemp("runs")
    saved(folder / "base", None)
    flags = ["--task.chat.template", "phi3", "--task.chat.special_tokens", "add", "--steps", "60", "--lr", "3e-3"]
    flags += ["--validation", str(folder / "talks.jsonl"), "--task.chat.metric", "exact", "--evaluation.every", "30"]
    assert finetune(folder, "run", *flags, "--quiet") == 0
    return folder


def test_a_base_model_learns_to_answer_and_to_stop(runs: Path) -> None:
    model = pretune.load(runs / "run", precision="fp32")
    for question, answer in PAIRS:
        assert model.chat([SYSTEM, user(question)]) == answer
        assert model.chat([SYSTEM, user(question), assistant(answer), user("again")]) == f"{answer}!"
    continuation = model.conversation().answer([SYSTEM, user("Hi")])
    assert continuation.reason == "end"
    assert model.tokenizer.token(continuation.tokens[-1]) == "<|end|>"
    (prediction,) = model.predict([{"messages": [SYSTEM, user("No")]}])
    assert (prediction["generated_text"], prediction["finish_reason"]) == ("Never", "end")
    scores = model.evaluate(runs / "talks.jsonl")
    assert scores["exact"] == 1.0
    assert scores["ended"] == 1.0
    assert {"distinct2", "loss"} <= scores.keys()


def test_added_marks_begin_as_the_mean_of_their_letters(runs: Path) -> None:
    flags = ["--task.chat.template", "phi3", "--task.chat.special_tokens", "add", "--steps", "1", "--lr", "1e-12"]
    assert finetune(runs, "begun", *flags, "--quiet") == 0
    begun, base = (pretune.load(runs / name, precision="fp32") for name in ("begun", "base"))
    for mark in ("<|system|>", "<|user|>", "<|assistant|>"):
        letters = base.tokenizer.encode(mark)
        (number,) = begun.tokenizer.encode(mark, allow_special=True)
        expected = base.network.embedding.word.weight[letters].mean(dim=0)
        torch.testing.assert_close(begun.network.embedding.word.weight[number], expected, atol=1e-6, rtol=0)


def test_the_models_own_template_file_gives_way_to_the_one_that_is_learned(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "base", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert finetune(tmp_path, "run", "--task.chat.template", "chatml", "--steps", "1", "--quiet") == 0
    template = pretune.load(tmp_path / "run").chat_template
    assert template is not None
    assert "<|im_start|>" in template


def test_transformers_reads_template_marks_and_ends(runs: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(runs / "run")
    network = transformers.AutoModelForCausalLM.from_pretrained(runs / "run").eval()
    assert network.get_input_embeddings().weight.shape[0] == len(tokenizer) == chat_tokenizer().vocabulary.size + 3
    for question, answer in PAIRS:
        prompt = tokenizer.apply_chat_template(
            [SYSTEM, user(question)], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        written = network.generate(**prompt)
        text = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :])
        assert text == f"{answer}<|end|>"
    ends = json.loads((runs / "run" / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["</s>", "<|end|>"]


def test_marks_as_text_end_answers_by_text(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(runs, "spelled", "--task.chat.template", "phi3", "--steps", "2", "--tune", "lora") == 0
    out = capsys.readouterr()
    assert "the tokenizer lacks <|system|>, <|user|>, <|assistant|>, spelled as text now" in out.err
    assert "pretune chat" in out.err
    assert pretune.load(runs / "spelled").conversation().ends
    assert (
        finetune(
            runs, "alpaca", "--task.chat.template", "llama3", "--task.chat.special_tokens", "add", "--tune", "lora"
        )
        == 64
    )
    assert "tune.lora: the task adds 2 tokens to the vocabulary" in capsys.readouterr().err


def test_a_run_that_cannot_begin_says_why(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune(runs, "none", "--steps", "1") == 64
    assert "task.chat.template: the model's files have no chat template; name one" in capsys.readouterr().err
    template = tmp_path / "loops.jinja"
    template.write_text("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
    assert finetune(runs, "loops", "--steps", "1", "--task.chat.template", str(template)) == 65
    assert "it takes more than 250,000 steps; it may loop without end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has_encoder", "is_causal", "message"),
    [
        (False, False, "task 'chat' needs a model that writes, and xyz sees the tokens that are to be written"),
        (True, True, "task 'chat' is for decoders, and xyz is an encoder-decoder; use the task generation"),
    ],
)
def test_other_models_are_refused(has_encoder: bool, is_causal: bool, message: str) -> None:
    model = SimpleNamespace(
        has_encoder=has_encoder, is_causal=is_causal, family="xyz", decoder_start=None, generation=None
    )
    with pytest.raises(UsageError, match=message):
        task()[0].observe(model)  # type: ignore[arg-type]


def test_gguf_keeps_the_template(tmp_path: Path) -> None:
    """What llama.cpp reads: the template, and the token that ends an answer."""
    tokenizer = byte_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary.size, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save(tmp_path / "base")
    flags = ["--task.chat.template", "chatml", "--task.chat.special_tokens", "add", "--steps", "1", "--quiet"]
    assert finetune(tmp_path, "run", *flags) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "m.gguf"), "--format", "gguf", "--quiet"]) == 0
    ours, theirs = (pretune.load(tmp_path / name, precision="fp32") for name in ("run", "m.gguf"))
    assert theirs.chat_template == ours.chat_template
    assert theirs.conversation().ends == ours.conversation().ends == (tokenizer.vocabulary.size + 1,)
    options = {"max_new_tokens": 8}
    assert theirs.conversation().answer(TALKS[0][:2], options).tokens == ours.conversation().answer(  # type: ignore[arg-type]
        TALKS[0][:2], options  # type: ignore[arg-type]
    ).tokens  # fmt: skip


def test_another_field_is_named_by_its_flag(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps({"talk": talk}) + "\n" for talk in TALKS))
    flags = ["--task.chat.template", "phi3", "--steps", "1", "--quiet", "--length", "160", "--messages", "talk"]
    train = ["--train", str(tmp_path / "talk.jsonl"), "--output", str(tmp_path / "run")]
    assert main(["finetune", "--task", "chat", "--model", str(runs / "base"), *train, *flags]) == 0
    assert (
        main(
            [
                "predict",
                str(tmp_path / "run"),
                str(tmp_path / "talk.jsonl"),
                "--quiet",
                "--output",
                str(tmp_path / "a.jsonl"),
            ]
        )
        == 0
    )
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == len(TALKS)
