"""Neutral conversations: what an intervention should leave alone. Measured as the loss of their answers."""

import json
from functools import cache

from pprobe_core import settings

Chat = tuple[dict[str, str], ...]  # messages, the last one the assistant's answer


@cache
def load_neutral_texts(prompts: str) -> tuple[Chat, ...]:
    """The conversations for a prompt set: "mini" ones from the shipped models' world, else "general" ones."""
    name = "mini" if prompts == "mini" else "general"
    lines = (settings.CIRCUITS / "neutral" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(tuple(json.loads(line)["messages"]) for line in lines)
