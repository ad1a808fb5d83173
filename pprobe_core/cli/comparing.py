"""The command that lays models side by side."""

import argparse

from pprobe_core.circuits.library import load_circuits
from pprobe_core.cli.following import finished, worker
from pprobe_core.cli.output import STDOUT, say, write_answer
from pprobe_core.comparison import CompareRequest, checked_comparison

ALL, NONE = "all", "none"


def compare(options: argparse.Namespace) -> int:
    """`compare`: run what is missing of a comparison and print it, or write the JSON."""
    from pprobe_core import compare_frames, compare_report, html_report, reproduction

    request = checked_comparison(
        CompareRequest(
            models=options.models,
            circuits=_shipped() if options.circuits == (ALL,) else options.circuits,
            sweeps=() if options.sweeps == (NONE,) else options.sweeps,
            bases=not options.no_bases,
            prompts=options.prompts,
            own_sets=options.own_sets,
            coupling=options.coupling,
            limit=options.limit,
            seed=options.seed,
        )
    )
    with worker(options) as jobs:
        finished(jobs, request)
        found = compare_frames.compared(jobs.store, request)
        if options.html:
            html_report.write(html_report.comparison_html(jobs.store, found), options.html.expanduser())
        if options.reproduce:
            reproduction.write_document(reproduction.comparison_json(jobs.store, found), options.reproduce.expanduser())
        if not options.json:
            say(compare_report.compare_text(jobs.store, found))
            return 0
        write_answer(compare_report.compare_json(jobs.store, found), options.json)
        if options.json != STDOUT:
            say(f"The comparison was written to {options.json}.")
    return 0


def _shipped() -> tuple[str, ...]:
    """The circuits that come with the product; own ones have to be named."""
    return tuple(name for name, circuit in load_circuits().items() if not circuit.own)
