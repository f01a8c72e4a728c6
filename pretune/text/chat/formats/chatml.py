"""ChatML: `<|im_start|>role`, a line break, the message, `<|im_end|>`. Any role, a system message anywhere.

Source: the chat markup of OpenAI, as Qwen2.5 and SmolLM2 write it.
"""

MARKS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
