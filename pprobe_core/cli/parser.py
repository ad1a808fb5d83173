"""Names, options and help of every command. Imports nothing heavy: `--help` and the listings answer at once."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pprobe_core import settings
from pprobe_core.cli import listings, probing, runs
from pprobe_core.errors import BadRequest
from pprobe_core.probing.types import RANKINGS

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence like all others, instead of a usage block."""

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message[:1].upper()}{message[1:]}. `{self.prog} --help` shows what is accepted.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m pprobe_core`; `options.run(options)` runs the chosen command."""
    parser = _Parser(
        prog="python -m pprobe_core",
        description="Which neurons of a chat language model carry a behaviour: probes, and the runs they left.",
        epilog="Exit codes: 0 done, 2 bad request, 3 the model cannot be loaded or is unsupported, 130 cancelled.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=_nothing_chosen("models, circuits, probe, runs or train"))
    _add_models(commands)
    _add_circuits(commands)
    _add_probe(commands)
    _add_runs(commands)
    _add_train(commands)
    return parser


def _add_models(commands: argparse._SubParsersAction) -> None:
    models = _command(commands, "models", listings.models, "list the shipped models")
    _add_json(models)


def _add_circuits(commands: argparse._SubParsersAction) -> None:
    circuits = _command(commands, "circuits", listings.circuits, "list the circuits and their prompt sets")
    _add_json(circuits)


def _add_probe(commands: argparse._SubParsersAction) -> None:
    probe = _command(commands, "probe", probing.probe, "run a two-pass probe and print a short report")
    probe.add_argument("--model", required=True, help="shipped model, local folder or hub id (see `models`)")
    probe.add_argument("--circuit", required=True, help="which behaviour (see `circuits`)")
    probe.add_argument(
        "--prompts",
        metavar="mini|general|FILE",
        help="prompt set, or a CSV / JSONL file with the columns original, perturbed "
        "(default: mini for shipped models, else general)",
    )
    couplings = ("plain", "norm_aware")
    probe.add_argument("--coupling", default="plain", choices=couplings, help="default: plain, the paper's")
    probe.add_argument("--limit", type=int, metavar="N", help="use the first N pairs only")
    probe.add_argument("--seed", type=int, default=settings.SEED, help="of every random draw (default: %(default)s)")
    probe.add_argument("--no-generate", action="store_true", help="do not read the first words of the model's answers")
    _add_ranking(probe)
    _add_db(probe)
    _add_json(probe)


def _add_runs(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("runs", help="list, show, export or delete stored runs")
    actions = group.add_subparsers(title="actions", metavar="ACTION")
    group.set_defaults(run=_nothing_chosen("list, show, export or delete"))
    listing = _command(actions, "list", runs.list_runs, "list stored runs, newest first")
    show = _command(actions, "show", runs.show_run, "print the report of a run")
    export = _command(actions, "export", runs.export, "write a run's tables into a folder")
    delete = _command(actions, "delete", runs.delete, "delete a run and everything of it")
    for action in (show, export, delete):
        action.add_argument("run_id", metavar="ID", help="run id (see `runs list`)")
    for action in (listing, show, export, delete):
        _add_db(action)
    _add_json(listing)
    _add_json(show)
    _add_ranking(show)
    export.add_argument("--format", default="csv", choices=("csv", "parquet", "json"), help="default: csv")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    delete.add_argument("--yes", action="store_true", help="really delete")


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = _command(commands, "train", probing.train, "train a shipped model and its base again from a seed")
    train.add_argument("--seed", type=int, default=1, help="of corpus, tokeniser, weights (default: %(default)s)")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder that gets both checkpoints")
    train.add_argument("--family", default="qwen3", help="architecture (default: %(default)s)")


def _command(commands: argparse._SubParsersAction, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _nothing_chosen(names: str) -> Command:
    def command(options: argparse.Namespace) -> int:
        raise BadRequest(f"Say what to do: {names}. `python -m pprobe_core --help` explains them.")

    return command


def _add_db(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", type=Path, metavar="FILE", help=f"results file (default: {settings.default_db()})")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE|-", help="one JSON value to a file or stdout (-)")


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    text = "order of the neurons (default: shared, the paper's)"
    parser.add_argument("--ranking", default="shared", choices=RANKINGS, help=text)
