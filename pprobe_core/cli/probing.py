"""The commands that compute: a probe, and the training of the shipped models."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from pprobe_core.circuits.library import load_circuit
from pprobe_core.circuits.prompt_sets import default_prompts
from pprobe_core.cli.following import finished, worker, write_result
from pprobe_core.cli.output import say
from pprobe_core.errors import BadRequest
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.strings import parse_strings
from pprobe_core.probing.types import ProbeRequest

if TYPE_CHECKING:
    from pprobe_core.jobs import Jobs
    from pprobe_core.probing.harvest import Coverage


def probe(options: argparse.Namespace) -> int:
    """`probe`: run it (or find the run that exists) and print the report, or write the JSON.

    With --harvest: where its tokens miss most answers, run it again with those that the answers suggest.
    """
    from pprobe_core import report
    from pprobe_core.jobs import checked

    if options.harvest and (options.target or options.control or options.no_generate):
        raise BadRequest(
            "Harvesting takes the tokens from the model's answers. Leave out --harvest, or leave out --target, "
            "--control and --no-generate."
        )
    request = ProbeRequest(
        model=options.model,
        circuit=options.circuit,
        prompts=options.prompts or default_prompts(find_model(options.model).shipped),
        coupling=options.coupling,
        limit=options.limit,
        seed=options.seed,
        generate=not options.no_generate,
        thinking=options.thinking,
        target=_strings("target", options.target),
        control=_strings("control", options.control),
    )
    request = checked(request)  # before a results file is made for nothing
    with worker(options) as jobs:
        run_id = str(finished(jobs, request, here=options.here).run_id)
        harvest: dict[str, Any] = {}
        said = ""
        if options.harvest:
            run_id, harvest, said = _harvested(jobs, run_id)
        if options.json:
            write_result(report.run_json(jobs.store, run_id, options.ranking) | harvest, "run", run_id, options.json)
        else:
            say(said + report.run_text(jobs.store, run_id, options.ranking))
    return 0


def _strings(side: str, text: str | None) -> tuple[str, ...]:
    """The strings of an option; () where it was left out."""
    strings = parse_strings(text or "")
    if text is not None and not strings:
        raise BadRequest(f"--{side} names no string. Give single tokens with | between them, for example 'Sure|Here'.")
    return strings


def _harvested(jobs: "Jobs", run_id: str) -> tuple[str, dict[str, Any], str]:
    """The run to report, what was harvested for the JSON, and the same in words.

    It is a second run where the first one's tokens miss most answers and the answers suggest others, else the first.
    """
    from pprobe_core.probing.harvest import harvest, harvested_request, misses_answers, own_pairs

    run = jobs.store.run(run_id)
    if not misses_answers(run.summary):
        note = "The circuit's own tokens cover the first tokens of most answers, so none were harvested."
        return run_id, {"harvest": {"from_run": run_id, "used": False, "note": note}}, f"{note}\n\n"
    found = harvest(
        load_circuit(run.request.circuit),
        jobs.store.pairs(run_id),
        jobs.store.first_tokens(run_id),
        own_pairs(run.summary),
    )
    document = {"harvest": {"from_run": run_id, "used": found.usable, **found.as_json()}}
    if not found.usable:
        return run_id, document, f"Nothing was harvested. {found.note}\n\n"
    again = str(finished(jobs, harvested_request(run.request, run_id, found)).run_id)
    kept = {
        side: ", ".join(f"{c.token!r} ({c.n_target + c.n_control})" for c in found.counts if c.kept == side)
        for side in ("target", "control")
    }
    lines = (
        f"First tokens harvested from the model's own answers in run {run_id}",
        f"  target (answers they start): {kept['target']}",
        f"  control: {kept['control']}",
        f"  covered prompts of pairs that did not suggest them: {_covered(found.coverage_before)} before, "
        f"{_covered(found.coverage_after)} with them",
    )
    return again, document, "\n".join(lines) + "\n\n"


def _covered(coverage: "Coverage") -> str:
    n = coverage.n_pairs
    return f"{coverage.n_original} of {n} original and {coverage.n_perturbed} of {n} perturbed"


def train(options: argparse.Namespace) -> int:
    """`train`: both checkpoints of a shipped model from a seed; an interrupted training goes on when asked again."""
    from pprobe_core.training.architecture import FAMILIES
    from pprobe_core.training.train import RECIPES, rebuild

    if options.family not in FAMILIES:
        raise BadRequest(
            f"There is no recipe for the family {options.family!r}. There is one for {', '.join(FAMILIES)}."
        )
    out = options.out.expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadRequest(f"The folder {out} cannot be made ({reason}). Name another one with --out.") from error
    rebuilt = rebuild(options.seed, out, recipe=RECIPES[options.family], on_progress=_tell)
    say(f"{rebuilt.base}\n{rebuilt.aligned}")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
