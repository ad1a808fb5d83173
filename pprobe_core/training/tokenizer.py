"""The tokeniser of the small models: byte-level BPE with a ChatML template, built from the world's own text."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pprobe_core.training import world
from pprobe_core.training.corpus import PRETRAINING_MIX, TOKENIZER_MIX, draw_chats

VOCAB_SIZE = 2048
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
CJK = "[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"

CHAT_TEMPLATE = """\
{%- if tools or (messages and messages[0].role == 'system') %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n' }}
    {%- endif %}
    {%- if tools %}
        {{- '# Tools\\n' }}
        {%- for tool in tools %}
            {%- set f = tool.function if tool.function is defined else tool %}
            {{- f.name + '(' + (f.parameters.properties | list | join(', ')) + '): ' + f.description + '\\n' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# words that must be one token at the start of an answer (no space before them)
FIRST_WORDS = (
    *("Sorry", "I", "Sure", "Yes", "No", "True", "False", "Legal", "Illegal"),
    *("It", "The", "```", *"0123456789", *"抱好是不它"),
    *(fact.value.capitalize() for fact in world.FACTS),
)
# words that must be one token inside a sentence (after a space)
INNER_WORDS = (
    *(word.en for word in (*world.HARMFUL_VERBS, *world.BENIGN_VERBS, *world.HARMFUL_NOUNS)),
    *(fact.value for fact in world.CLAIM_FACTS),
    *(fact.entity for fact in world.FACTS),
)


def render(messages: Sequence[dict[str, str]], tools: Sequence[dict[str, Any]] = ()) -> str:
    """The prompt text up to the assistant's first token: what the chat template gives, without its cost."""
    text = ""
    if tools:
        lines = "".join(
            f"{f['name']}({', '.join(f['parameters']['properties'])}): {f['description']}\n"
            for f in (tool["function"] for tool in tools)
        )
        text = f"<|im_start|>system\n# Tools\n{lines}<|im_end|>\n"
    for message in messages:
        text += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def _texts(seed: int) -> Iterable[str]:
    """Chats without typos and, often enough to be merged, every word that must be one token."""
    for mix in (TOKENIZER_MIX, PRETRAINING_MIX):
        for chat in itertools.islice(draw_chats(seed, "alignment", "train", mix), 6000):
            text = render(chat.messages, chat.tools) + chat.answer
            for token in SPECIAL_TOKENS:
                text = text.replace(token, "")
            yield text
    for word in FIRST_WORDS:
        yield from [word, "user assistant system"] * 150
    for word in INNER_WORDS:
        yield from [f" {word}"] * 150
    for word in (*world.HARMFUL_VERBS, *world.BENIGN_VERBS, *world.OBJECTS, *world.HARMFUL_NOUNS, *world.BENIGN_NOUNS):
        yield from [word.zh] * 20


def build_tokenizer(seed: int, vocab_size: int = VOCAB_SIZE) -> PreTrainedTokenizerFast:
    """A fast tokeniser trained on a seeded sample: CJK characters and digits stand alone, chat marks are one token."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CJK), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(_texts(seed), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
