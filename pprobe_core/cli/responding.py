"""The command `respond`: one prompt answered by the model as it is, and with neurons or a direction edited."""

import argparse
from typing import TYPE_CHECKING, Any

from pprobe_core import settings
from pprobe_core.circuits.prompt_sets import MAX_PROMPT_CHARS
from pprobe_core.circuits.schema import Prompt
from pprobe_core.cli.following import stdout_is_ours
from pprobe_core.cli.output import progress, say, write_answer
from pprobe_core.cli.runs import opened
from pprobe_core.cli.sweeping import find_run
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Neuron, Position, Scale, parse_neurons
from pprobe_core.interventions.requests import MAX_NEW_TOKENS, MAX_STRENGTH
from pprobe_core.interventions.types import DirectionKind
from pprobe_core.models.catalogue import find_model
from pprobe_core.store import Run

if TYPE_CHECKING:
    from pprobe_core.interventions.edits import Edits
    from pprobe_core.interventions.generation import Response
    from pprobe_core.models.loading import LoadedModel
    from pprobe_core.playground.context import RunContext

DEFAULT_NEW_TOKENS = 64
_OF_INJECTION = ("strength", "direction", "absolute")


def respond(options: argparse.Namespace) -> int:
    """`respond`: the answer before and after an edit, side by side; nothing is stored."""
    neurons = _check_options(options)
    layer = _layer(options.inject)
    model = find_model(options.model).id
    run = _run(options, model)
    with stdout_is_ours():
        progress("Loading the model")
        document = _answers(options, model, run, neurons, layer)
    progress("")
    if options.json:
        write_answer(document, options.json)
    else:
        say(_text(document))
    return 0


def _answers(
    options: argparse.Namespace, model: str, run: Run | None, neurons: tuple[Neuron, ...], layer: int | None
) -> dict[str, Any]:
    from pprobe_core.interventions.evaluator import Evaluator
    from pprobe_core.interventions.generation import GenerationSettings
    from pprobe_core.interventions.generation import respond as generate
    from pprobe_core.models.loading import load_model
    from pprobe_core.playground.context import RunContext, own_prompt

    loaded = load_model(model)
    context = None if run is None else RunContext.of(loaded, run)
    # The observable is not asked for here: the prompt has the one that stands in for it.
    evaluator = Evaluator(loaded, (own_prompt(loaded, _prompt(options), context),))
    progress("Reading both answers")
    edits, rows = _edits(options, loaded, context, neurons, layer)
    generation = GenerationSettings(
        options.max_new_tokens or DEFAULT_NEW_TOKENS,
        options.temperature or 0.0,
        seed=settings.SEED if options.seed is None else options.seed,
    )
    found: dict[int, Response] = {answer.edit: answer for answer in generate(evaluator, [(), edits], generation)}
    return {
        "model": loaded.id,
        "run_id": None if run is None else run.run_id,
        "system": options.system,
        "prompt": options.prompt,
        "edits": rows,
        "generation": {
            "max_new_tokens": generation.max_new_tokens,
            "temperature": generation.temperature,
            "seed": generation.seed if generation.temperature else None,
        },
        "before": {"text": found[0].text, "finish": found[0].finish},
        "after": {"text": found[1].text, "finish": found[1].finish},
    }


def _edits(
    options: argparse.Namespace,
    loaded: "LoadedModel",
    context: "RunContext | None",
    neurons: tuple[Neuron, ...],
    layer: int | None,
) -> "tuple[Edits, list[dict[str, Any]]]":
    """The edits asked for, and the same as plain rows."""
    position: Position = options.position or "decision"
    edits: Edits = ()
    rows: list[dict[str, Any]] = []
    if neurons:
        factor = 0.0 if options.factor is None else options.factor
        edits += (Scale(neurons, factor, position),)
        named = [str(neuron) for neuron in neurons]
        rows.append({"edit": "scale", "neurons": named, "factor": factor, "position": position})
    if layer is not None and context is not None:
        kind: DirectionKind = options.direction or "difference_of_means"
        strength = 1.0 if options.strength is None else options.strength
        edits += (context.push(loaded, layer, strength, kind, relative=not options.absolute, position=position),)
        rows.append(
            {
                "edit": "add",
                "layer": layer,
                "direction": kind,
                "strength": strength,
                "relative": not options.absolute,
                "n_pairs": context.directions(loaded, kind).n_pairs,
                "position": position,
            }
        )
    return edits, rows


def _check_options(options: argparse.Namespace) -> tuple[Neuron, ...]:
    """The neurons to scale. Raises BadRequest for what is missing, does nothing, or lies out of range."""
    if not options.prompt.strip():
        raise BadRequest("The prompt is empty. Give the text the model should answer.")
    if len(options.prompt) + len(options.system or "") > MAX_PROMPT_CHARS:
        raise BadRequest(f"The prompt has more than the {MAX_PROMPT_CHARS:,} characters that are accepted. Shorten it.")
    if options.ablate is None and options.inject is None:
        raise BadRequest(
            "There is nothing to edit. Name neurons with --ablate L3.N12,L4.N7, or a layer with --inject L3."
        )
    if options.factor is not None and options.ablate is None:
        raise BadRequest("--factor multiplies the neurons of --ablate. Name some, or leave it out.")
    for name in _OF_INJECTION:
        if getattr(options, name) not in (None, False) and options.inject is None:
            raise BadRequest(f"--{name} is about --inject. Name the layer with --inject L3, or leave it out.")
    if options.inject is not None and options.run_id is None:
        raise BadRequest(
            "--inject adds a direction that comes from the prompt pairs of a stored run. Name one with --run "
            "(`runs list` shows them)."
        )
    if options.seed is not None and not options.temperature:
        raise BadRequest("--seed draws tokens. Give a --temperature above 0, or leave it out.")
    if options.strength is not None and not abs(options.strength) <= MAX_STRENGTH:
        raise BadRequest(
            f"The strength is {options.strength}; it must be a finite number, at most {MAX_STRENGTH:,.0f}."
        )
    if options.max_new_tokens is not None and not 1 <= options.max_new_tokens <= MAX_NEW_TOKENS:
        raise BadRequest(f"{options.max_new_tokens} new tokens were asked for; 1 to {MAX_NEW_TOKENS} are accepted.")
    if options.ablate is None:
        return ()
    neurons = parse_neurons(options.ablate)
    if not neurons:
        raise BadRequest("--ablate names no neuron. Write some as L3.N12, separated by commas.")
    Scale(neurons, 0.0 if options.factor is None else options.factor)  # the factor, before a model is loaded
    return neurons


def _layer(text: str | None) -> int | None:
    if text is None:
        return None
    number = text.strip().removeprefix("L").removeprefix("l")
    if not (number.isascii() and number.isdigit() and len(number) <= 6):
        raise BadRequest(f"{text!r} is no layer. Write it as L3.")
    return int(number)


def _run(options: argparse.Namespace, model: str) -> Run | None:
    """The stored run that was named; it must be of the same model."""
    if options.run_id is None:
        return None
    with opened(options, f"run {options.run_id!r}") as store:
        run = store.run(find_run(store, options.run_id))
    if run.request.model != model:
        raise BadRequest(
            f"The run {run.run_id} is of {run.request.model} and --model is {model}. Name the same model in both."
        )
    return run


def _prompt(options: argparse.Namespace) -> Prompt:
    system = [{"role": "system", "content": options.system}] if options.system else []
    return Prompt((*system, {"role": "user", "content": options.prompt}))


# -- the text --


_FINISH = {
    "stop": "",
    "limit": " [the limit of new tokens was reached]",
    "broken": " [the model broke: its output were no numbers]",
}


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['model']}: {_shown(document['prompt'])}", *(_edit_line(row) for row in document["edits"])]
    for title, name in (("Unedited", "before"), ("Edited", "after")):
        answer = document[name]
        lines += ["", f"{title}{_FINISH[answer['finish']]}", _shown(answer["text"]) or "(empty)"]
    if document["before"] == document["after"]:
        lines += ["", "The edit does not change this answer."]
    return "\n".join(lines)


def _edit_line(row: dict[str, Any]) -> str:
    at = "at every position" if row["position"] == "all" else "at the decision position"
    if row["edit"] == "scale":
        n = len(row["neurons"])
        few = ", ".join(row["neurons"][:5]) + (", ..." if n > 5 else "")
        return f"Edit: {n} {'neuron' if n == 1 else 'neurons'} ({few}) times {row['factor']:g}, {at}"
    unit = "lengths of the residual stream" if row["relative"] else "in the residual stream's own unit"
    return (
        f"Edit: direction {row['direction']} (from {row['n_pairs']} pairs) added after layer {row['layer']}, "
        f"strength {row['strength']:+g} {unit}, {at}"
    )


def _shown(text: str) -> str:
    """Text without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
