"""Plain words: `User: question`, a line break, `Assistant: answer` and the end token, where a model knows no marks."""

MARKS = ()
TEMPLATE = """\
{%- for message in messages %}
{{- message['role'] | capitalize + ': ' + message['content'] }}
{%- if message['role'] == 'assistant' %}
{{- eos_token }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant:' }}
{%- endif %}
"""
