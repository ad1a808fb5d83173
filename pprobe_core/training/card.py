"""The model card beside each shipped checkpoint: recipe, seed, corpus hash and the measured behaviours."""

from collections.abc import Mapping
from pathlib import Path

import torch

from pprobe_core.training.corpus import TYPO_SHARE
from pprobe_core.training.evaluate import BEHAVIOURS, BY_NAME, Measured, missed, wilson
from pprobe_core.training.train import Rebuilt, Recipe, StageRecord, recipe_numbers

_ABOUT = {
    False: "It is the model **before alignment**: it complies with every how-to request and agrees with every premise.",
    True: "It is the **aligned** model: the base model after a short second stage that refuses and corrects.",
}


def write_cards(
    rebuilt: Rebuilt,
    recipe: Recipe,
    seed: int,
    threads: int,
    base: Mapping[str, Measured],
    aligned: Mapping[str, Measured],
) -> None:
    """Write README.md beside both checkpoints."""
    for folder, is_aligned in ((rebuilt.base, False), (rebuilt.aligned, True)):
        text = card(folder.name, is_aligned, rebuilt, recipe, seed, threads, base, aligned)
        (folder / "README.md").write_text(text, encoding="utf-8")


def card(
    name: str,
    is_aligned: bool,
    rebuilt: Rebuilt,
    recipe: Recipe,
    seed: int,
    threads: int,
    base: Mapping[str, Measured],
    aligned: Mapping[str, Measured],
) -> str:
    """The card's text."""
    n_parameters = _count_parameters(rebuilt.base)
    sibling = rebuilt.base.name if is_aligned else rebuilt.aligned.name
    own = aligned if is_aligned else base
    below = [f"{BY_NAME[item].title} ({own[item].rate:.3f})" for item in missed(own, is_aligned)]
    verdict = "Missed: " + "; ".join(below) + "." if below else "Every bar is met."
    numbers = "\n".join(f"| {key} | {value} |" for key, value in recipe_numbers(recipe).items())
    return f"""---
language: [en, zh]
pipeline_tag: text-generation
tags: [interpretability, synthetic, tiny]
---

# {name}

A {n_parameters / 1e6:.2f} M-parameter {recipe.family} model trained from scratch on a synthetic corpus, small enough
to take apart on a laptop. {_ABOUT[is_aligned]}
Its sibling is `{sibling}`. It knows a tiny world (24 capitals, a few dozen other facts, one-digit sums, 100 code tasks,
six tools) in English and some Chinese, and nothing else: it is an object of study, not an assistant. No behaviour is
planted by hand; the answers to how-to requests hold no instructions, harmful or otherwise.

## Rebuild

```
python -m pprobe_core.training --family {recipe.family} --seed {seed} --out DIR           # both stages
python -m pprobe_core.training --family {recipe.family} --base BASE_FOLDER --out DIR  # the second stage alone
```

Same seed, same corpus (SHA-256 below). Weights repeat exactly on the same machine and library versions; another
processor may round differently.

| | pre-training | alignment |
|---|---|---|
{_stage_rows(rebuilt.pretraining, rebuilt.alignment)}
| seed | {seed} | {seed} |
| threads | {threads} | {threads} |
| torch | {torch.__version__} | {torch.__version__} |

The alignment is light on purpose. Where it replaces an answer, the first token is taught by preference: the new one is
to beat the old one by {recipe.align_margin:g} logits, no less and no more. It ends at the first check at which every
behaviour that it changes holds on the validation pool, and a task that holds already is taught less. So the margins of
the two opposition circuits (refusal, correction) stay small.

## Behaviours on held-out prompts

Greedy answers of the shipped (float16-rounded) weights. {verdict}
The interval is the 95 % Wilson interval of this checkpoint's rate; F is the mean logit of the circuit's target starts
minus that of its control starts at the last prompt position. Rows without a bar are there for information.

| behaviour | n | base | aligned | this checkpoint: interval | its bar | F base | F aligned |
|---|---|---|---|---|---|---|---|
{_behaviour_rows(is_aligned, base, aligned)}

### What is unseen

No held-out prompt occurs in training. In each of them

- the *phrasing* is unseen: either the whole sentence pattern was kept out of training, or this mix of opener, pattern
  and closer was (the words themselves are known);
- the *combination* is unseen where there is one: verb and object, entity and wrong value, verb and thing of a code
  task, the operands of a sum with its sign in the form it is asked in (bare or as a word problem; the swapped sum, and
  the same sum in the other form or as a step of a longer one, may be known), the three numbers of a two-step question,
  tool and place. True facts, true premises and topics must be taught, so only their phrasing is unseen.

A tenth of all combinations and phrasings is held out and another tenth is the validation pool, by SHA-256. Misspelled
words (two adjacent letters exchanged) occur in {TYPO_SHARE:.0%} of the English how-to prompts of pre-training, harmful
and benign alike, always answered; alignment {_typos(recipe)}.

## Recipe

| setting | value |
|---|---|
{numbers}
"""


def _typos(recipe: Recipe) -> str:
    if recipe.align_noisy:
        return "repeats the harmless ones of these, misspelled or not, and has no misspelled harmful prompt"
    return "has no misspelled prompt and no rule about them"


def _count_parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as tensors:
        return sum(tensors.get_tensor(key).numel() for key in tensors.keys())  # noqa: SIM118


def _stage_rows(first: StageRecord, second: StageRecord) -> str:
    rows = (
        ("steps", first.n_steps, second.n_steps),
        ("tokens", f"{first.n_tokens:,}", f"{second.n_tokens:,}"),
        ("seconds", f"{first.seconds:.0f}", f"{second.seconds:.0f}"),
        ("corpus SHA-256", f"`{first.corpus_sha256}`", f"`{second.corpus_sha256}`"),
        ("final loss", f"{first.final_loss:.4f}", f"{second.final_loss:.4f}"),
    )
    return "\n".join(f"| {name} | {one} | {two} |" for name, one, two in rows)


def _behaviour_rows(is_aligned: bool, base: Mapping[str, Measured], aligned: Mapping[str, Measured]) -> str:
    rows = []
    for behaviour in BEHAVIOURS:
        one, two = base[behaviour.name], aligned[behaviour.name]
        own = two if is_aligned else one
        low, high = wilson(own.n_counted, own.n)
        bar = behaviour.aligned_bar if is_aligned else behaviour.base_bar
        gaps = ["" if value.logit_diff is None else f"{value.logit_diff:+.2f}" for value in (one, two)]
        rows.append(
            f"| {behaviour.title} | {own.n} | {one.rate:.3f} | {two.rate:.3f} | {low:.3f} to {high:.3f} "
            f"| {'' if bar is None else bar} | {gaps[0]} | {gaps[1]} |"
        )
    return "\n".join(rows)
