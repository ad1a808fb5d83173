"""What one reply shows, in a sentence or two built from its numbers. Pure."""

from collections.abc import Mapping

from pprobe_core.interventions.types import N_DRAWS
from pprobe_core.playground.types import Reply, Written
from pprobe_core.wording import plural


def headline(reply: Reply, titles: Mapping[str, str]) -> str:
    """The class of the answer before and after, and under the random change. `titles`: class name -> what it reads."""
    before, after, random = reply.unedited, reply.edited, reply.random
    if after is None or random is None:
        return f"As it is: {_title(before, titles)}." if before.class_name else "The model as it is."
    if before.class_name is None or after.class_name is None:
        return "The answer changes." if before.text != after.text else "The answer stays the same, word for word."
    was, now, beside = (_title(answer, titles) for answer in (before, after, random))
    if before.class_name == after.class_name:
        if random.class_name != before.class_name:
            return f"Still: {was}. The random change of the same size makes it: {beside}."
        return f"Still: {was}{', word for word' if before.text == after.text else ', in other words'}."
    if random.class_name == before.class_name:
        return f"{was} → {now}. A random change of the same size leaves it: {beside}."
    if random.class_name == after.class_name:
        return f"{was} → {now}, but a random change of the same size does so, too."
    return f"{was} → {now}. A random change of the same size makes it: {beside}."


def logit_sentence(reply: Reply) -> str:
    """How far F moves, beside the random draws; "" where it has no F."""
    before = reply.unedited.logit_diff
    if before is None:
        return ""
    if reply.edited is None:
        return f"F = {_number(before)} logits."
    after = reply.edited.logit_diff
    if after is None:
        return f"F was {_number(before)} logits; changed like this the model's output is no number any more."
    drawn = [value - before for value in reply.random_logit_diffs if value is not None]
    moved = f"F moves from {_number(before)} to {_number(after)} logits ({_number(after - before)})"
    if not drawn:
        return f"{moved}; the random changes break the model."
    low, high = _number(min(drawn)), _number(max(drawn))
    by = low if low == high else f"{low} to {high}"
    broken = f"; {N_DRAWS - len(drawn)} more break the model" if len(drawn) < N_DRAWS else ""
    further = abs(after - before) > max(map(abs, drawn))
    verdict = "further than" if further else "no further than"
    return f"{moved}, {verdict} {plural(len(drawn), 'random change')} of the same size ({by}){broken}."


def _title(answer: Written, titles: Mapping[str, str]) -> str:
    return titles.get(str(answer.class_name), str(answer.class_name))


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")  # + 0.0: no minus before a zero
