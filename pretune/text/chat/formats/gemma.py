"""Gemma: `<start_of_turn>role`, a line break, the message, `<end_of_turn>`; the assistant is called model.

There is no place for a system message, which is refused.

Source: Gemma Team 2024, "Gemma" (arXiv 2403.08295), section 5.
"""

MARKS = ("<start_of_turn>", "<end_of_turn>")
TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- raise_exception('there is no place for a system message') }}
{%- endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}
"""
