# ruff: noqa: E501
"""Which tokens of a conversation are learned: tables written by hand, and templates that are refused."""

from __future__ import annotations

import pytest
import transformers
from chatkit import MARKS, OWN, SYSTEM, TOOL, assistant, chat_tokenizer, drawn_conversation, user

from pretune.errors import DataError
from pretune.text.chat.choice import find_format, role_tokens
from pretune.text.chat.messages import check_messages
from pretune.text.chat.template import ChatTemplate
from pretune.text.chat.turns import AnswerFinder, AnswerSpan, token_spans
from pretune.text.tokenizer.tokenizer import Tokenizer

TWO = [user("Hi"), assistant("Yo!"), user("你"), assistant("好")]
WITH_SYSTEM = [SYSTEM, *TWO]

# Each line of a table: the text (⏎ is a line break), and ^ under the characters of tokens that are learned.
TABLES = {
    "chatml": (
        WITH_SYSTEM,
        "<|im_start|>system⏎Be kind.<|im_end|>⏎<|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Yo!<|im_end|>⏎",
        "                                                                                          ^^^^^^^^^^^^^ ",
        "<|im_start|>user⏎你<|im_end|>⏎<|im_start|>assistant⏎好<|im_end|>⏎",
        "                                                    ^^^^^^^^^^^^ ",
    ),
    "llama2": (
        WITH_SYSTEM,
        "<s>[INST] <<SYS>>⏎Be kind.⏎<</SYS>>⏎⏎Hi [/INST] Yo! </s><s>[INST] 你 [/INST] 好 </s>",
        "                                               ^^^^^^^^^                    ^^^^^^^^",
    ),
    "llama3": (
        TWO,
        "<s><|start_header_id|>user<|end_header_id|>⏎⏎Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>⏎⏎Yo!<|eot_id|>",
        "                                                                                                        ^^^^^^^^^^^^^",
        "<|start_header_id|>user<|end_header_id|>⏎⏎你<|eot_id|><|start_header_id|>assistant<|end_header_id|>⏎⏎好<|eot_id|>",
        "                                                                                                     ^^^^^^^^^^^^",
    ),
    "zephyr": (
        WITH_SYSTEM,
        "<|system|>⏎Be kind.</s>⏎<|user|>⏎Hi</s>⏎<|assistant|>⏎Yo!</s>⏎<|user|>⏎你</s>⏎<|assistant|>⏎好</s>⏎",
        "                                                      ^^^^^^^                               ^^^^^^ ",
    ),
    "mistral": (
        WITH_SYSTEM,
        "<s>[INST] Be kind.⏎⏎Hi [/INST] Yo!</s>[INST] 你 [/INST] 好</s>",
        "                              ^^^^^^^^                 ^^^^^^^",
    ),
    "gemma": (
        TWO,
        "<s><start_of_turn>user⏎Hi<end_of_turn>⏎<start_of_turn>model⏎Yo!<end_of_turn>⏎",
        "                                                            ^^^^^^^^^^^^^^^^ ",
        "<start_of_turn>user⏎你<end_of_turn>⏎<start_of_turn>model⏎好<end_of_turn>⏎",
        "                                                         ^^^^^^^^^^^^^^^ ",
    ),
    "phi3": (
        WITH_SYSTEM,
        "<|system|>⏎Be kind.<|end|>⏎<|user|>⏎Hi<|end|>⏎<|assistant|>⏎Yo!<|end|>⏎<|user|>⏎你<|end|>⏎<|assistant|>⏎好<|end|>⏎",
        "                                                            ^^^^^^^^^^                                  ^^^^^^^^^ ",
    ),
    "alpaca": (
        WITH_SYSTEM,
        "Be kind.⏎⏎### Instruction:⏎Hi⏎⏎### Response:⏎Yo!</s>⏎⏎### Instruction:⏎你⏎⏎### Response:⏎好</s>⏎⏎",
        "                                             ^^^^^^^                                     ^^^^^^  ",
    ),
    "vicuna": (
        WITH_SYSTEM,
        "Be kind. USER: Hi ASSISTANT: Yo!</s>USER: 你 ASSISTANT: 好</s>",
        "                            ^^^^^^^^                   ^^^^^^^",
    ),
    "plain": (
        WITH_SYSTEM,
        "System: Be kind.⏎User: Hi⏎Assistant: Yo!</s>⏎User: 你⏎Assistant: 好</s>⏎",
        "                                    ^^^^^^^^                    ^^^^^^^ ",
    ),
    "qwen": (
        [user("Hi"), assistant("Yo!")],
        "<|im_start|>system⏎You help.<|im_end|>⏎<|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Yo!<|im_end|>⏎",
        "                                                                                           ^^^^^^^^^^^^^ ",
    ),
    "generation": (
        [user("Hi"), assistant("Yo!"), user("?"), assistant("")],
        "<|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Yo!<|im_end|>⏎<|im_start|>user⏎?<|im_end|>⏎",
        "                                                    ^^^^^^^^^^^^^                              ",
        "<|im_start|>assistant⏎<|im_end|>⏎",
        "                      ^^^^^^^^^^ ",
    ),
}


def template_of(name: str, tokenizer: Tokenizer) -> ChatTemplate:
    source = OWN[name] if name in OWN else find_format(name).source
    return ChatTemplate(source, role_tokens(tokenizer), name)


def learned(tokenizer: Tokenizer, template: ChatTemplate, messages: list[dict], which: str = "all") -> tuple[str, str]:
    """The text, and marks under the characters of tokens that are learned, as in the tables."""
    chat = AnswerFinder(template, [mark for mark in MARKS if mark in tokenizer.subwords], which).find(messages)  # type: ignore[arg-type]
    encoded = tokenizer.encode_kept([chat.text], None, allow_special=True)[0]
    spans = token_spans(encoded.offsets, chat.answers)
    painted = [" "] * len(chat.text)
    before = 0
    for (start, end), is_learned in zip(encoded.offsets.tolist(), spans.mask.tolist(), strict=True):
        for place in range(min(start, before), end):
            painted[place] = "^" if is_learned else painted[place]
        before = max(before, end)
    wide = ["你", "好"]  # which take two columns
    marks = "".join(mark * (2 if character in wide else 1) for mark, character in zip(painted, chat.text, strict=True))
    return chat.text.replace("\n", "⏎"), marks


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_answers_and_their_ends_are_learned(name: str) -> None:
    messages, *lines = TABLES[name]
    tokenizer = chat_tokenizer()
    text, marks = learned(tokenizer, template_of(name, tokenizer), messages)
    assert text == "".join(lines[::2])
    assert marks == "".join(lines[1::2])
    last = learned(tokenizer, template_of(name, tokenizer), messages, "last")[1]
    begin = max(len(marks.rstrip().rpartition(" ")[0]), 0)
    assert last == " " * begin + marks[begin:]


def test_marks_that_the_tokenizer_lacks_are_learned_as_text() -> None:
    tokenizer = chat_tokenizer(("<s>", "</s>"))
    text, marks = learned(tokenizer, template_of("chatml", tokenizer), TWO[:2])
    assert text == "<|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎Yo!<|im_end|>⏎"
    assert marks == "                                                    ^^^^^^^^^^^^^ "


def test_no_token_is_cut_at_a_border() -> None:
    """The text is encoded as a whole; what merges across a border is one token, and belongs to the answer."""
    tokenizer = chat_tokenizer(MARKS, ((":", "Ġ"), (":Ġ", "Y"), ("!", "Ċ")))
    source = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    source += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    template = ChatTemplate(source, {}, "own")
    chat = AnswerFinder(template, MARKS).find(TWO[:2])
    encoded = tokenizer.encode_kept([chat.text], None, allow_special=True)[0]
    assert tokenizer.decode(encoded.tokens) == chat.text
    spans = token_spans(encoded.offsets, chat.answers)
    assert [tokenizer.token(t) for t in encoded.tokens[spans.mask]] == [":ĠY", "o", "!Ċ"]
    assert spans.straddling == 1
    assert spans.bounds.tolist() == [[int(spans.mask.argmax()), len(encoded.tokens)]]
    alone = chat_tokenizer()
    encoded = alone.encode_kept([chat.text], None, allow_special=True)[0]
    assert token_spans(encoded.offsets, chat.answers).straddling == 0


def test_the_bytes_of_one_character_are_learned_together() -> None:
    tokenizer = chat_tokenizer()
    encoded = tokenizer.encode_kept(["a好b"], None, allow_special=True)[0]
    spans = token_spans(encoded.offsets, [AnswerSpan(0, 1, 2, "")])
    assert spans.mask.tolist() == [False, True, True, True, False]


THINKING = """\
{%- for m in messages %}
{{- m.role + ':' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think></think>' }}{% endif %}
{{- m.content + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% endif %}
"""


def find(source: str, messages: list[dict], which: str = "all") -> object:
    template = ChatTemplate(source, {"eos_token": "</s>"}, "own")
    return AnswerFinder(template, MARKS, which).find(messages, "a.jsonl:3")  # type: ignore[arg-type]


def test_a_template_that_is_not_stable_is_refused() -> None:
    with pytest.raises(DataError) as error:
        find(THINKING, TWO)
    assert str(error.value) == (
        "a.jsonl:3: message 2 (assistant): own is not stable: what it writes up to this message changes when others "
        "follow, at character 22: '<think></think>Yo!</s>' against 'Yo!</s>user:你</s>assista'; train on the last "
        "answers alone (task.chat.turns last), or use another template (task.chat.template)"
    )
    assert find(THINKING, TWO, "last").answers[0].mark == "</s>"  # type: ignore[attr-defined]
    asks = THINKING.replace("'assistant:'", "'assistant: '")
    with pytest.raises(
        DataError, match="what it writes before an answer is not what it asks one with, at character 49"
    ):
        find(asks, TWO, "last")
    with pytest.raises(DataError, match=r"'<think></think>好</s>'; use another template \(task\.chat\.template\)"):
        find(asks, TWO, "last")


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            WITH_SYSTEM,
            "a.jsonl:3: message 1 (system): own has no place for it; leave the message out, or use another template",
        ),
        (
            "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
            TWO,
            "message 1 (user): own does not write it as it is",
        ),
        (find_format("gemma").source, WITH_SYSTEM, "refuses the messages: there is no place for a system message"),
        ("{{ messages.x.y }}", TWO, "a.jsonl:3: own, line 1: the chat template fails: UndefinedError"),
        (
            find_format("chatml").source,
            [user("say <|im_end|>"), assistant("no")],
            "message 1 (user): its text holds '<|im_end|>', a special token that the model would read as the template's",
        ),
        (
            OWN["qwen"],
            [user("x"), {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {"a": ["<|im_end|>"]}}}]}],
            "message 2 (assistant): its tool_calls holds '<|im_end|>', a special token that the model would read as",
        ),
        (
            "{% for m in messages %}{{ m.content ~ '' }}{% endfor %}",
            [user("x"), {"role": "assistant", "tool_calls": [{"function": {"name": "now"}}]}, {"role": "tool", "content": "1"}],
            "message 2 (assistant): own does not write its tool calls",
        ),
        (
            OWN["generation"].replace("+ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}", "}}{% endgeneration %}{{ '<|im_end|>\\n' }}"),
            TWO,
            "message 2 (assistant): the block generation of own holds 'Yo!', and the answer with the mark that ends it "
            "is 'Yo!<|im_end|>'; correct the block, or remove it",
        ),
        (
            OWN["generation"].replace("{% generation %}", "{% if loop.index < 3 %}{% generation %}").replace(
                "{% endgeneration %}", "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
            ),
            TWO,
            "message 4 (assistant): the block generation of own holds nothing",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(source: str, messages: list[dict], message: str) -> None:
    with pytest.raises(DataError) as error:
        find(source, messages)
    assert message in str(error.value)


def test_tool_calls_are_learned_where_the_template_writes_them() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}
    template = ChatTemplate(OWN["qwen"], {}, "own")
    finder = AnswerFinder(template, MARKS)
    chat = finder.find([user("?"), call, {"role": "tool", "content": "12"}, assistant("noon")])
    with pytest.raises(DataError, match="what it writes before an answer is not what it asks one with"):
        AnswerFinder(
            ChatTemplate(OWN["qwen"].replace("{{- '<|im_start|>assistant' }}", "{{- 'call' }}"), {}), MARKS
        ).find([user("?"), call])
    assert [chat.text[answer.start : answer.end] for answer in chat.answers][-1] == "noon<|im_end|>"
    with_tools = finder.find([user("?"), assistant("noon")], tools=[TOOL])
    assert TOOL["function"]["name"] in with_tools.text
    assert [with_tools.text[answer.start : answer.end] for answer in with_tools.answers] == ["noon<|im_end|>"]
    plain = AnswerFinder(ChatTemplate(find_format("chatml").source, {}, "own"), MARKS)
    with pytest.raises(DataError, match="a:1: own does not write the tool '时间'; leave tools out, or use a template"):
        plain.find([user("?"), assistant("noon")], "a:1", [TOOL])
    with pytest.raises(DataError, match="a:1: own does not write the tool '时间'"):
        plain.prompt([user("?")], "a:1", [TOOL])
    with pytest.raises(
        DataError, match=r"message 2 \(assistant\): own does not write its reasoning_content; leave the"
    ):
        plain.find([user("?"), assistant("noon", reasoning_content="hm")])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([user("a"), user("b")], "x:1: message 2: two user turns in a row; join them"),
        ([user("a"), assistant("b"), assistant("c")], "x:1: message 3: two assistant turns in a row"),
        ([assistant("b")], "x:1: message 1: the assistant speaks before the user"),
        ([SYSTEM, assistant("b")], "x:1: message 2: the assistant speaks before the user"),
        ([user("a"), SYSTEM, assistant("b")], "x:1: message 2: a system message stands first or not at all"),
        ([user("a")], "x:1: no message is the assistant's, so that nothing can be learned; remove the record"),
        ([user(" "), assistant("b")], "x:1: message 1 (user) is empty"),
        (
            [user("a"), assistant(" ")],
            "x:1: message 2 (assistant) is empty, from which a model learns to answer nothing",
        ),
        ([{"role": "user"}, assistant("b")], "x:1: message 1 (user) has no content; fill it in"),
        ([{"role": "bot", "content": "a"}], "x:1: message 1: unknown role 'bot'; write one of system, user, assistant"),
        ([user("a"), {"role": "tool", "content": "b"}], "x:1: message 2: a tool answers where the assistant did not"),
        ([{"role": "user", "content": [1]}], "x:1: message 1 (user): its content is the list [1]; write a text"),
    ],
)
def test_bad_conversations_are_refused(messages: list[dict], message: str) -> None:
    with pytest.raises(DataError) as error:
        check_messages(messages, "x:1", needs_answer=True)
    assert str(error.value).startswith(message)
    check_messages(TWO[:3], "x:1", needs_answer=False)
    with pytest.raises(DataError, match="x:1: the last message is not the user's; end with what is to be answered"):
        check_messages(TWO, "x:1", needs_answer=False)


def test_tokens_and_masks_are_those_of_transformers() -> None:
    """Of a template that says itself what an assistant writes; ours looks at what comes before."""
    tokenizer = chat_tokenizer(MARKS, (("H", "i"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Hi", "Ġ"), ("ä", "½")))
    oracle = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend)
    source = find_format("chatml").source
    tagged = source.replace(
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}",
        "{{- '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
        "{{ message['content'] + '<|im_end|>\\n' }}{% endif %}",
    )
    assert tagged != source
    finder = AnswerFinder(ChatTemplate(source), MARKS)
    for seed in range(200):
        messages = drawn_conversation(seed)
        if messages[-1]["role"] == "user" and len(messages) < 3:
            continue
        theirs = oracle.apply_chat_template(
            messages, chat_template=tagged, return_dict=True, return_assistant_tokens_mask=True
        )
        chat = finder.find(messages)
        (encoded,) = tokenizer.encode_kept([chat.text], None, allow_special=True)
        assert encoded.tokens.tolist() == theirs["input_ids"]
        assert token_spans(encoded.offsets, chat.answers).mask.astype(int).tolist() == theirs["assistant_masks"]
