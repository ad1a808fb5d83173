"""The commands that compute: a probe, and the training of the shipped models."""

import argparse
import sys

from pprobe_core.circuits.prompt_sets import default_prompts
from pprobe_core.cli.following import finished, worker, write_result
from pprobe_core.cli.output import say
from pprobe_core.errors import BadRequest
from pprobe_core.models.catalogue import find_model
from pprobe_core.probing.types import ProbeRequest


def probe(options: argparse.Namespace) -> int:
    """`probe`: run it (or find the run that exists) and print the report, or write the JSON."""
    from pprobe_core import report
    from pprobe_core.jobs import checked

    request = ProbeRequest(
        model=options.model,
        circuit=options.circuit,
        prompts=options.prompts or default_prompts(find_model(options.model).shipped),
        coupling=options.coupling,
        limit=options.limit,
        seed=options.seed,
        generate=not options.no_generate,
    )
    request = checked(request)  # before a results file is made for nothing
    with worker(options) as jobs:
        run_id = str(finished(jobs, request).run_id)
        if options.json:
            write_result(report.run_json(jobs.store, run_id, options.ranking), "run", run_id, options.json)
        else:
            say(report.run_text(jobs.store, run_id, options.ranking))
    return 0


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
