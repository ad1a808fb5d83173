"""Two stages: pre-training that complies and agrees, then a short alignment that refuses and corrects."""

import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from pprobe_core.training import evaluate
from pprobe_core.training.architecture import Shape, build_model
from pprobe_core.training.corpus import (
    ALIGNMENT_MIX,
    CORE_MIX,
    PRETRAINING_MIX,
    Chat,
    CorpusHash,
    Stage,
    draw_chats,
)
from pprobe_core.training.evaluate import Measured
from pprobe_core.training.optimizer import pretraining_optimizers
from pprobe_core.training.tokenizer import build_tokenizer, render

Progress = Callable[[str], None]
N_MICROBATCHES = 2  # a step's sequences, sorted by length and cut in two, so that little padding is computed
VALIDATION_N = 100

# the behaviours that alignment changes or must keep against its own pull, with the tasks that teach each group
ALIGNMENT_GROUPS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("harmful_refused", "benign_answered"): ("harmful", "harmful_zh", "benign", "benign_zh"),
    ("false_corrected", "true_agreed"): ("true_premise", "false_premise"),
    ("push_back_held", "true_push_back_agreed"): ("true_push_back", "push_back"),
}

# What pre-training answers where alignment answers otherwise: the rejected first token of a preference pair.
REJECTED: Mapping[str, str] = {"harmful": "Sure", "harmful_zh": "好", "false_premise": "Yes", "push_back": "Yes"}


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run but the seed of corpus and tokeniser."""

    family: str = "qwen3"
    weights_seed: int | None = None  # of the initial weights; None: the same as the corpus's
    shape: Shape = field(default_factory=Shape)
    n_steps: int = 1800
    core_share: float = 0.4  # of the steps, at the start: few tasks, so that telling true from false is learned at all
    batch_tokens: int = 2048
    muon_lr: float = 0.004  # small steps: larger ones drown what is learned from few tokens in noise
    adam_lr: float = 3e-3
    warmup: float = 0.03  # share of the steps
    decay: float = 0.9  # share of the steps, at the end
    first_token_weight: float = 3.0  # the token that decides counts more
    save_every: int = 250
    bf16: bool = False  # matrix products in bfloat16 where the processor knows it; weights and the loss in float32
    align_max_steps: int = 600
    align_batch_tokens: int = 2048
    align_lr: float = 2e-4
    align_check_every: int = 10
    align_slack: float = 0.01  # how far above its bar a behaviour must be on the validation pool
    align_mean_decay: float = 0.9  # of the running mean of the weights, per step
    align_held_share: float = 0.1  # weight of a task group that already holds
    align_margin: float = 2.5  # logits by which the new first token is to beat the old one, and no more
    align_margin_tasks: tuple[str, ...] = tuple(REJECTED)
    align_floor: float = 2.0  # logits by which it is to beat every other token, at least
    align_leash: float = 0.0  # logits by which the first token of a look-alike must go on beating all others
    align_noisy: float = 0.0  # weight, in the mixture, of harmless how-to prompts with the typos of pre-training
    align_leash_tasks: tuple[str, ...] = ("benign", "benign_zh", "true_premise", "true_push_back")


# What the shipped models were made with.
RECIPES: Mapping[str, Recipe] = {
    "qwen3": Recipe(bf16=True),
    "llama": Recipe(family="llama", align_leash=8.0, align_noisy=10.0),
    "gemma3": Recipe(family="gemma3", align_leash=8.0),
}


@dataclass(frozen=True)
class StageRecord:
    """What a stage did, for the model card."""

    stage: Stage
    n_steps: int
    n_tokens: int
    seconds: float
    corpus_sha256: str
    final_loss: float


@dataclass(frozen=True)
class Encoded:
    """One chat as token ids; the answer starts at `start`."""

    ids: list[int]
    start: int
    rejected: int = -1  # first token of the answer that alignment replaces; -1 where it replaces none
    leashed: bool = False  # whether its first token must keep its lead


def encode(
    tokenizer: PreTrainedTokenizerFast,
    chats: Sequence[Chat],
    preference_tasks: Sequence[str] = (),
    leash_tasks: Sequence[str] = (),
) -> list[Encoded]:
    """Prompt and answer of each chat, the answer closed by the end-of-turn token."""
    prompts = tokenizer([render(c.messages, c.tools) for c in chats], add_special_tokens=False)["input_ids"]
    answers = tokenizer([c.answer + "<|im_end|>" for c in chats], add_special_tokens=False)["input_ids"]
    rejected = {task: tokenizer.encode(REJECTED[task], add_special_tokens=False)[0] for task in preference_tasks}
    return [
        Encoded(p + a, len(p), rejected.get(c.task, -1), c.task in leash_tasks)
        for p, a, c in zip(prompts, answers, chats, strict=True)
    ]


def draw_step(
    stream: Iterator[Chat],
    tokenizer: PreTrainedTokenizerFast,
    n_tokens: int,
    preference_tasks: Sequence[str] = (),
    leash_tasks: Sequence[str] = (),
) -> tuple[list[Chat], list[Encoded]]:
    """Chats for one step: as many as fill about n_tokens."""
    chats: list[Chat] = []
    rows: list[Encoded] = []
    while (missing := n_tokens - sum(len(row.ids) for row in rows)) > 0:
        more = list(itertools.islice(stream, max(1, missing // 40)))
        chats += more
        rows += encode(tokenizer, more, preference_tasks, leash_tasks)
    return chats, rows


def pad(rows: Sequence[Encoded], pad_id: int, first_token_weight: float) -> tuple[Tensor, Tensor]:
    """Ids `[row, position]`, padded on the right, and the loss weight of predicting each next token."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    weights = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, row.start - 1 : len(row.ids) - 1] = 1.0
        weights[i, row.start - 1] = first_token_weight
    return ids, weights


def preference_losses(
    logits: Float[Tensor, "token vocab"],
    chosen: Int[Tensor, "token"],
    rejected: Int[Tensor, "token"],
    margin: float,
    floor: float,
) -> Float[Tensor, "token"]:
    """How far the chosen token is from beating the rejected one by `margin` logits, no less and no more.

    A Huber loss around the margin (identity preference optimisation does the same with a square), so that examples
    learned early are not pushed on while others are still being learned; and a hinge that keeps the chosen token
    `floor` logits above all others together.
    """
    own, old = (logits.gather(1, ids[:, None])[:, 0] for ids in (chosen, rejected))
    both = torch.stack((chosen, rejected), dim=1)
    others = logits.scatter(1, both, -torch.inf).logsumexp(1)
    target = torch.full_like(own, margin)
    return F.smooth_l1_loss(own - old, target, reduction="none") + F.relu(floor - (own - others))


def leash_losses(
    logits: Float[Tensor, "token vocab"], kept: Int[Tensor, "token"], lead: float
) -> Float[Tensor, "token"]:
    """How far the kept token's lead over all others together has fallen below `lead` logits: a hinge.

    Without it the first steps refuse every how-to request and learn to tell them apart only afterwards; what alignment
    never saw (a misspelled keyword) is then left refused.
    """
    own = logits.gather(1, kept[:, None])[:, 0]
    others = logits.scatter(1, kept[:, None], -torch.inf).logsumexp(1)
    return F.relu(lead - (own - others))


def accumulate(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    pad_id: int,
    first_token_weight: float,
    bf16: bool,
    margin: float = 0.0,
    floor: float = 0.0,
    leash: float = 0.0,
) -> float:
    """Add the gradient of one step's loss (on answer tokens only) to the parameters; returns the loss.

    The first token of rows with a rejected one gets the preference loss in place of the cross-entropy, that of leashed
    rows the leash besides.

    Padding stands on the right of causal attention, so no mask is needed; logits are computed at answer positions only.
    """
    ordered = sorted(rows, key=lambda row: len(row.ids))
    size = -(-len(ordered) // N_MICROBATCHES)
    total = sum(first_token_weight + len(row.ids) - row.start - 1 for row in rows)
    loss_sum = 0.0
    for begin in range(0, len(ordered), size):
        some = ordered[begin : begin + size]
        ids, weights = pad(some, pad_id, first_token_weight)
        chosen = weights[:, :-1] > 0
        rejected = torch.full_like(ids[:, 1:], -1)
        leashed = torch.zeros_like(chosen)
        for i, row in enumerate(some):
            rejected[i, row.start - 1] = row.rejected
            leashed[i, row.start - 1] = row.leashed and leash > 0
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            logits = hidden[:, :-1][chosen] @ model.get_input_embeddings().weight.T
        targets, old = ids[:, 1:][chosen], rejected[chosen]
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        if bool((old >= 0).any()):
            pairs = old >= 0
            preferred = preference_losses(logits.float()[pairs], targets[pairs], old[pairs], margin, floor)
            losses = losses.masked_scatter(pairs, preferred)
        held = leashed[chosen]
        if bool(held.any()):
            losses = losses + torch.zeros_like(losses).masked_scatter(
                held, leash_losses(logits.float()[held], targets[held], leash)
            )
        loss = (losses * weights[:, :-1][chosen]).sum() / total
        loss.backward()
        loss_sum += loss.item()
    return loss_sum


def schedule(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """Learning-rate factor: linear warm-up, a plateau, linear decay to nearly nothing."""
    done = (step + 1) / n_steps
    return min(1.0, done / warmup if warmup else 1.0, max(0.02, (1 - done + 1 / n_steps) / decay))


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    on_progress: Progress,
    state_file: Path | None = None,
) -> StageRecord:
    """First stage. With a state file, the state is kept there now and then, and training goes on from it."""
    optimizers = pretraining_optimizers(
        model, recipe.muon_lr, recipe.adam_lr, torch.bfloat16 if recipe.bf16 else torch.float32
    )
    bases = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    n_core = int(recipe.core_share * recipe.n_steps)
    core = draw_chats(2 * seed, "pretraining", "train", CORE_MIX)
    full = draw_chats(2 * seed + 1, "pretraining", "train", PRETRAINING_MIX)
    seen = CorpusHash()
    n_tokens, done, seconds, smooth = 0, 0, 0.0, 0.0
    if state_file and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        done, seconds, smooth = state["step"], state["seconds"], state["loss"]
    began = time.perf_counter() - seconds
    model.train()
    for step in range(recipe.n_steps):
        chats, rows = draw_step(core if step < n_core else full, tokenizer, recipe.batch_tokens)
        seen.add(chats)
        n_tokens += sum(len(row.ids) for row in rows)
        if step < done:
            continue
        factor = schedule(step, recipe.n_steps, recipe.warmup, recipe.decay)
        for optimizer, lrs in zip(optimizers, bases, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        loss = accumulate(model, rows, tokenizer.pad_token_id, recipe.first_token_weight, recipe.bf16)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        smooth = loss if step == 0 else 0.95 * smooth + 0.05 * loss
        if (step + 1) % 50 == 0:
            spent = time.perf_counter() - began
            on_progress(
                f"pre-training step {step + 1}/{recipe.n_steps} loss {smooth:.4f} tokens {n_tokens} {spent:.0f} s"
            )
        if (step + 1) % recipe.save_every == 0:
            if state_file:
                states = [optimizer.state_dict() for optimizer in optimizers]
                spent = time.perf_counter() - began
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizers": states,
                        "step": step + 1,
                        "seconds": spent,
                        "loss": smooth,
                    },
                    state_file,
                )
            on_progress(describe(evaluate.measure(model, tokenizer, "validation", 50, quick=True)))
            model.train()
    return StageRecord("pretraining", recipe.n_steps, n_tokens, time.perf_counter() - began, seen.hex, smooth)


def describe(measured: Mapping[str, Measured]) -> str:
    """One line of rates (and logit differences) for a log."""
    return "  ".join(
        f"{name} {value.rate:.2f}" + ("" if value.logit_diff is None else f" ({value.logit_diff:+.1f})")
        for name, value in measured.items()
    )


def align(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    seed: int,
    on_progress: Progress,
) -> StageRecord:
    """Second stage, as light as it can be: it ends at the first check at which all changed behaviours hold.

    Checks use the validation pool. A group of tasks that holds already is taught less, so that no margin grows while
    another behaviour is still being learned. What is checked and kept is the running mean of the weights: single steps
    swing between refusing and answering too much.
    """
    began = time.perf_counter()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.align_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    mean = copy.deepcopy(model)
    whole = dict(ALIGNMENT_MIX) | ({"benign_noisy": recipe.align_noisy} if recipe.align_noisy else {})
    mix = dict(whole)
    seen = CorpusHash()
    n_tokens, step, loss = 0, 0, float("nan")
    names = [name for group in ALIGNMENT_GROUPS for name in group] + ["misspelled_answered"]  # the last has no bar
    for check in itertools.count():
        stream = draw_chats(seed * 1000 + check, "alignment", "train", mix)
        model.train()
        for _ in range(recipe.align_check_every):
            chats, rows = draw_step(
                stream, tokenizer, recipe.align_batch_tokens, recipe.align_margin_tasks, recipe.align_leash_tasks
            )
            seen.add(chats)
            n_tokens += sum(len(row.ids) for row in rows)
            for group in optimizer.param_groups:
                group["lr"] = recipe.align_lr * min(1.0, (step + 1) / 10)
            loss = accumulate(
                model,
                rows,
                tokenizer.pad_token_id,
                recipe.first_token_weight,
                recipe.bf16,
                recipe.align_margin,
                recipe.align_floor,
                recipe.align_leash,
            )
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            with torch.no_grad():
                for averaged, parameter in zip(mean.parameters(), model.parameters(), strict=True):
                    averaged.lerp_(parameter, max(1 / step, 1 - recipe.align_mean_decay))
        measured = evaluate.measure(mean, tokenizer, "validation", VALIDATION_N, names)
        below = set(evaluate.missed(measured, aligned=True, slack=recipe.align_slack))
        on_progress(f"alignment step {step} loss {loss:.4f}  {describe(measured)}")
        if not below or step >= recipe.align_max_steps:
            break
        mix = dict(whole)
        for behaviours, tasks in ALIGNMENT_GROUPS.items():
            if not below & set(behaviours):
                for task in tasks:
                    mix[task] *= recipe.align_held_share
    model.load_state_dict(mean.state_dict())
    return StageRecord("alignment", step, n_tokens, time.perf_counter() - began, seen.hex, loss)


def round_weights(model: PreTrainedModel) -> None:
    """Round every weight to the nearest float16 value, in place: what is shipped is what is measured."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a hub-format checkpoint: float16 weights, a configuration that loads them as float32, the tokeniser."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half()
    model.save_pretrained(folder)
    model.float()
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


RECORD = "training.json"  # beside a base checkpoint: what pre-training was, so that alignment can start from it


@dataclass(frozen=True)
class Rebuilt:
    """Both checkpoints' folders and how they came about."""

    base: Path
    aligned: Path
    pretraining: StageRecord
    alignment: StageRecord


def rebuild(
    seed: int,
    out_dir: Path,
    *,
    recipe: Recipe | None = None,
    on_progress: Progress | None = None,
    threads: int = 1,
    n_card: int = 200,
) -> Rebuilt:
    """Train both checkpoints from a seed into `out_dir`: `mini-<family>-base` and `mini-<family>`, each with its card.

    One thread is nearly as fast as two at this size, and the same on every machine; so two seeds can run side by side.
    An interrupted run goes on from its last saved state in `out_dir/state`.
    """
    recipe = recipe or RECIPES["qwen3"]
    report: Progress = on_progress or (lambda line: None)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(seed)
    model = build_model(
        recipe.family,
        recipe.shape,
        len(tokenizer),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        seed if recipe.weights_seed is None else recipe.weights_seed,
    )
    state_folder = out_dir / "state"
    state_folder.mkdir(parents=True, exist_ok=True)
    state_file = state_folder / f"{recipe.family}-{seed}.pt"
    pretraining = pretrain(model, tokenizer, recipe, seed, report, state_file)
    round_weights(model)
    base = out_dir / f"mini-{recipe.family}-base"
    save_checkpoint(model, tokenizer, base)
    record = {"seed": seed, "threads": threads, "pretraining": vars(pretraining)}
    (base / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return realign(base, out_dir, recipe=recipe, on_progress=report, n_card=n_card)


def realign(
    base: Path,
    out_dir: Path,
    *,
    recipe: Recipe | None = None,
    on_progress: Progress | None = None,
    n_card: int = 200,
) -> Rebuilt:
    """Align a base checkpoint again, with the seed and threads of its record; writes `out_dir/mini-<family>` and cards.

    What `rebuild` does after pre-training: it starts from the rounded weights that are on disk, so the result is the
    same. Raises FileNotFoundError where the base has no record beside it.
    """
    from pprobe_core.training import card

    recipe = recipe or RECIPES["qwen3"]
    report: Progress = on_progress or (lambda line: None)
    record = json.loads((base / RECORD).read_text())
    seed, threads = int(record["seed"]), int(record["threads"])
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    tokenizer = build_tokenizer(seed)
    model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    base_rows = evaluate.measure(model, tokenizer, "heldout", n_card)
    report(f"base, held out: {describe(base_rows)}")
    alignment = align(model, tokenizer, recipe, seed, report)
    round_weights(model)
    aligned = out_dir / f"mini-{recipe.family}"
    save_checkpoint(model, tokenizer, aligned)
    aligned_rows = evaluate.measure(model, tokenizer, "heldout", n_card)
    report(f"aligned, held out: {describe(aligned_rows)}")
    rebuilt = Rebuilt(base, aligned, StageRecord(**record["pretraining"]), alignment)
    card.write_cards(rebuilt, recipe, seed, threads, base_rows, aligned_rows)
    return rebuilt


def recipe_numbers(recipe: Recipe) -> dict[str, Any]:
    """The recipe as flat names and values, for the card."""
    numbers: dict[str, Any] = {}
    for name, value in vars(recipe).items():
        numbers.update(vars(value) if isinstance(value, Shape) else {name: value})
    return numbers
