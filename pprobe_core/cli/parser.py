"""Names, options and help of every command. Imports nothing heavy: `--help` and the listings answer at once."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, get_args

from pprobe_core import settings
from pprobe_core.circuits.schema import Condition
from pprobe_core.cli import circuits, comparing, listings, probing, prompts, recorded, responding, runs, sweeping
from pprobe_core.comparison import AUTO, SWEEP_PARTS
from pprobe_core.errors import BadRequest
from pprobe_core.interventions.edits import Position
from pprobe_core.interventions.types import KINDS, N_DRAWS, DirectionKind, Side, SweepKind
from pprobe_core.probing.types import RANKINGS, THINKING

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one sentence like all others, instead of a usage block."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf\b)")  # "-0.5,1" is a value, too

    def error(self, message: str) -> NoReturn:
        raise BadRequest(f"{message[:1].upper()}{message[1:]}. `{self.prog} --help` shows what is accepted.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m pprobe_core`; `options.run(options)` runs the chosen command."""
    parser = _Parser(
        prog="python -m pprobe_core",
        description="Which neurons of a chat language model carry a behaviour: probes, sweeps, and what they left.",
        epilog="Exit codes: 0 done, 2 bad request, 3 the model cannot be loaded or is unsupported, 130 cancelled.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    names = "models, circuits, prompts, probe, sweep, compare, respond, runs, recorded, reproduce or train"
    parser.set_defaults(run=_nothing_chosen(names))
    _add_models(commands)
    _add_circuits(commands)
    _add_prompts(commands)
    _add_probe(commands)
    _add_sweep(commands)
    _add_compare(commands)
    _add_respond(commands)
    _add_runs(commands)
    _add_recorded(commands)
    _add_reproduce(commands)
    _add_train(commands)
    return parser


def _add_models(commands: argparse._SubParsersAction) -> None:
    models = _command(commands, "models", listings.models, "list the models that can be chosen, or look at one")
    _add_json(models)
    actions = models.add_subparsers(title="actions", metavar="ACTION")
    check = _command(actions, "check", listings.check_model, "whether a model can be used here, and at what cost")
    check.add_argument("model", metavar="ID", help="hub id, with @revision if wanted, folder or shipped model")
    check.add_argument("--device", metavar="cpu|cuda|cuda:1|mps", help="default: the fastest one that holds the model")
    check.add_argument("--dtype", metavar="float32|bfloat16|float16", help="default: float32 on the CPU, else stored")
    _add_json(check)


def _add_circuits(commands: argparse._SubParsersAction) -> None:
    group = _command(commands, "circuits", listings.circuits, "list the circuits and their prompt sets, or use one")
    _add_json(group)
    actions = group.add_subparsers(title="actions", metavar="ACTION")
    show = _command(actions, "show", circuits.show, "everything a circuit is made of")
    check = _command(actions, "check", circuits.check, "run a circuit and say whether it measures what it says")
    bring = _command(actions, "import", circuits.import_file, "make a circuit of your own from a file")
    hand_on = _command(actions, "export", circuits.export, "write a circuit to a file")
    delete = _command(actions, "delete", circuits.delete, "delete a circuit of your own; runs made with it stay")
    for action in (show, hand_on, delete):
        action.add_argument("circuit", metavar="ID", help="circuit id (see `circuits`)")
    check.add_argument("circuit", metavar="FILE|ID", help="a circuit's YAML file, or the id of one that is there")
    check.add_argument("--model", required=True, help="shipped model, local folder or hub id (see `models`)")
    check.add_argument("--prompts", required=True, metavar="SET|FILE", help="prompt pairs to check it with")
    bring.add_argument("file", type=Path, metavar="FILE", help="a YAML file as `circuits export` writes it")
    hand_on.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    delete.add_argument("--yes", action="store_true", help="really delete")
    _add_db(check)
    _add_json(show)
    _add_json(check)


def _add_prompts(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("prompts", help="prompt sets of your own, and published ones to fetch")
    actions = group.add_subparsers(title="actions", metavar="ACTION")
    group.set_defaults(run=_nothing_chosen("list, known, add, show or delete"))
    listing = _command(actions, "list", prompts.list_sets, "list your own prompt sets, newest first")
    listing.add_argument("--circuit", metavar="C", help="of this circuit only")
    known = _command(actions, "known", prompts.list_known, "list published sets that can be fetched")
    add = _command(actions, "add", prompts.add, "make a set from a file, a dataset of the hub or a published set")
    add.add_argument("source", type=Path, nargs="?", metavar="FILE", help="CSV, TSV, JSONL, JSON, TXT or Parquet")
    add.add_argument("--hub", metavar="OWNER/NAME", help="a dataset of the hub")
    add.add_argument("--revision", metavar="COMMIT", help="of the dataset (default: the newest, which is recorded)")
    add.add_argument("--file", metavar="NAME", help="which file of the dataset")
    add.add_argument("--known", metavar="ID", help="a published set or mix (see `prompts known`)")
    add.add_argument("--circuit", metavar="C", help="which behaviour the pairs are for (see `circuits`)")
    add.add_argument("--title", metavar="TEXT", help="default: the file's name")
    add.add_argument("--licence", metavar="TEXT", help="what the source says about use")
    for part in prompts.PARTS:
        add.add_argument(f"--{part}", metavar="COLUMN", help="a column, or a text with {column} in it")
    show = _command(actions, "show", prompts.show, "print what a set is and its first pairs")
    delete = _command(actions, "delete", prompts.delete, "delete a set; runs made with it stay")
    for action in (show, delete):
        action.add_argument("name", metavar="NAME", help="name of the set (see `prompts list`)")
    for action in (listing, known, add, show):
        _add_json(action)
    delete.add_argument("--yes", action="store_true", help="really delete")


def _add_probe(commands: argparse._SubParsersAction) -> None:
    probe = _command(commands, "probe", probing.probe, "run a two-pass probe and print a short report")
    probe.add_argument("--model", required=True, help="shipped model, local folder or hub id (see `models`)")
    probe.add_argument("--circuit", required=True, help="which behaviour (see `circuits`)")
    probe.add_argument(
        "--prompts",
        metavar="mini|general|NAME|FILE",
        help="prompt set, one of your own (see `prompts list`), or a CSV / JSONL file with original, perturbed "
        "(default: mini for shipped models, else general)",
    )
    couplings = ("plain", "norm_aware")
    probe.add_argument("--coupling", default="plain", choices=couplings, help="default: plain, the paper's")
    probe.add_argument("--limit", type=int, metavar="N", help="use the first N pairs only")
    probe.add_argument("--seed", type=int, default=settings.SEED, help="of every random draw (default: %(default)s)")
    probe.add_argument(
        "--thinking",
        default="auto",
        choices=THINKING,
        help="whether the model may think before it answers, where its chat template has the switch "
        "(default: auto, only where the circuit looks for <think>)",
    )
    for side in ("target", "control"):
        probe.add_argument(
            f"--{side}",
            metavar="A|B",
            help=f"first tokens that count as {side}, in place of the circuit's; \\| is a bar, \\n a line break",
        )
    probe.add_argument(
        "--harvest",
        action="store_true",
        help="where the circuit's tokens miss most answers: run again with first tokens of the model's own answers",
    )
    probe.add_argument("--no-generate", action="store_true", help="do not read the first words of the model's answers")
    _add_here(probe)
    _add_ranking(probe)
    _add_db(probe)
    _add_json(probe)


_SWEEPS: dict[SweepKind, str] = {
    "dose": "switch off the first n neurons of a ranking, for several n",
    "factor": "multiply one set of neurons by several factors",
    "window": "add a direction after each layer at several strengths",
    "strength": "add a direction after one layer or a band at several strengths",
    "layers": "switch off the whole FFN, and the whole attention, of each layer",
    "patch": "put in what the pairs' other prompts give, per top n and per layer",
    "heads": "switch off the first n attention heads: the attention-only baseline",
    "held": "put in the other prompt's residual stream while later parts are held",
}
# Options that only some kinds of sweep take (sweeping.FITS); the others refuse them with a sentence.
_SWEEP_OPTIONS: dict[str, dict[str, Any]] = {
    "ranking": {
        "choices": (*RANKINGS, "measured"),
        "help": "order of the neurons (default: the circuit's own; measured costs one pass per neuron and prompt)",
    },
    "side": {"choices": get_args(Side), "help": "neurons of one sign of mean importance only (default: both)"},
    "neurons": {"type": sweeping.names, "metavar": "L1.N2,...", "help": "neurons chosen by hand, in their order"},
    "doses": {"type": sweeping.whole_numbers, "metavar": "1,5,20", "help": "how many are edited"},
    "factors": {"type": sweeping.numbers, "metavar": "0,1,2", "help": "factors of the curve"},
    "factor": {"type": float, "metavar": "X", "help": "what activations are multiplied by (default: 0)"},
    "layers": {"type": sweeping.layer_list, "metavar": "3,4|3-8", "help": "layers after which the direction is added"},
    "strengths": {"type": sweeping.numbers, "metavar": "0.5,1", "help": "above 0 towards the target tokens"},
    "absolute": {"action": "store_true", "help": "strengths in the residual stream's unit, not in its lengths"},
    "direction": {"choices": get_args(DirectionKind), "help": "default: difference_of_means"},
    "draws": {"type": int, "metavar": "K", "help": f"random controls per point (default: {N_DRAWS}, fewer prove less)"},
}


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("sweep", help="edit the model of a run at many points, beside random controls")
    actions = group.add_subparsers(title="what to sweep, or what to do with stored sweeps", metavar="KIND|ACTION")
    group.set_defaults(run=_nothing_chosen(f"{', '.join(KINDS)}, list, show or delete"))
    for kind, text in _SWEEPS.items():
        parser = _command(actions, kind, sweeping.sweep, text)
        parser.set_defaults(kind=kind)
        _add_sweep_options(parser, kind)
        _add_run(parser, required=True)
        _add_db(parser)
        _add_json(parser)
    listing = _command(actions, "list", sweeping.list_sweeps, "list stored sweeps, newest first")
    _add_run(listing, required=False)
    show = _command(actions, "show", sweeping.show_sweep, "print the report of a sweep")
    delete = _command(actions, "delete", sweeping.delete_sweep, "delete a sweep with its answers and labels")
    for action in (show, delete):
        action.add_argument("sweep_id", metavar="ID", help="sweep id (see `sweep list`)")
    for action in (listing, show, delete):
        _add_db(action)
    _add_json(listing)
    _add_json(show)
    delete.add_argument("--yes", action="store_true", help="really delete")


def _add_sweep_options(parser: argparse.ArgumentParser, kind: SweepKind) -> None:
    for name, options in _SWEEP_OPTIONS.items():
        fits = kind in sweeping.FITS[name]
        parser.add_argument(f"--{name}", **(options if fits else options | {"help": argparse.SUPPRESS}))
    _add_position(parser)
    parser.add_argument("--condition", choices=get_args(Condition), help="which prompt of the pairs")
    parser.add_argument("--responses", action="store_true", help="also generate and classify answers at every point")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds of sampled answers (default: 1)")
    parser.add_argument("--temperature", type=float, metavar="T", help="of sampled answers (default: 0, greedy)")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="of each answer (default: 24)")
    parser.add_argument("--no-collateral", action="store_true", help="leave out other circuits and neutral text")
    _add_here(parser)
    parser.add_argument("--seed", type=int, help=f"of every random draw (default: {settings.SEED})")


def _add_respond(commands: argparse._SubParsersAction) -> None:
    respond = _command(commands, "respond", responding.respond, "answer one prompt before and after an edit")
    respond.add_argument("--model", required=True, help="shipped model, local folder or hub id (see `models`)")
    respond.add_argument("--prompt", required=True, metavar="TEXT", help="what the user says")
    respond.add_argument("--system", metavar="TEXT", help="system message before it")
    respond.add_argument("--ablate", metavar="L1.N2,...", help="neurons to switch off")
    respond.add_argument("--factor", type=float, metavar="X", help="or to multiply by this (default: 0)")
    respond.add_argument("--inject", metavar="L3", help="layer after which the direction of a run is added")
    respond.add_argument("--strength", type=float, metavar="X", help="above 0 towards the target (default: 1)")
    respond.add_argument("--direction", **_SWEEP_OPTIONS["direction"])
    respond.add_argument("--absolute", **_SWEEP_OPTIONS["absolute"])
    _add_run(respond, required=False)
    _add_position(respond)
    respond.add_argument("--max-new-tokens", type=int, metavar="N", help=f"default: {responding.DEFAULT_NEW_TOKENS}")
    respond.add_argument("--temperature", type=float, metavar="T", help="default: 0, greedy")
    respond.add_argument("--seed", type=int, help="of sampled tokens")
    _add_db(respond)
    _add_json(respond)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    compare = _command(commands, "compare", comparing.compare, "run and lay side by side what several models do")
    compare.add_argument("--models", type=sweeping.names, required=True, metavar="A,B,...", help="two to six models")
    compare.add_argument("--circuits", type=sweeping.names, default=(comparing.ALL,), metavar="all|C,...")
    compare.add_argument(
        "--sweeps",
        type=sweeping.names,
        default=SWEEP_PARTS,
        metavar="dose,window|none",
        help="interventions on every run (default: both)",
    )
    compare.add_argument("--no-bases", action="store_true", help="leave out the models before alignment")
    prompts = (AUTO, "mini", "general")
    compare.add_argument("--prompts", default=AUTO, choices=prompts, help="default: the set that fits each model")
    compare.add_argument(
        "--own-sets", type=sweeping.names, default=(), metavar="NAME,...",
        help="prompt sets of your own, in place of those of their circuits (of a circuit of yours: its newest one)",
    )  # fmt: skip
    compare.add_argument("--coupling", default="plain", choices=("plain", "norm_aware"), help="default: plain")
    compare.add_argument("--limit", type=int, metavar="N", help="use the first N pairs of each set only")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a report that opens in any browser")
    compare.add_argument("--reproduce", type=Path, metavar="FILE", help="also write what `reproduce` computes again")
    compare.add_argument("--seed", type=int, default=settings.SEED, help="of every random draw (default: %(default)s)")
    _add_db(compare)
    _add_json(compare)


def _add_runs(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("runs", help="list, show, export or delete stored runs")
    actions = group.add_subparsers(title="actions", metavar="ACTION")
    group.set_defaults(run=_nothing_chosen("list, show, export or delete"))
    listing = _command(actions, "list", runs.list_runs, "list stored runs, newest first")
    show = _command(actions, "show", runs.show_run, "print the report of a run")
    export = _command(actions, "export", runs.export, "write a run's tables, its report or what reproduces it")
    delete = _command(actions, "delete", runs.delete, "delete a run and everything of it")
    for action in (show, export, delete):
        action.add_argument("run_id", metavar="ID", help="run id (see `runs list`)")
    for action in (listing, show, export, delete):
        _add_db(action)
    _add_json(listing)
    _add_json(show)
    _add_ranking(show)
    export.add_argument("--format", default="csv", choices=runs.FORMATS, help="default: csv")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, or a file")
    export.add_argument("--sweep", dest="sweep_id", metavar="ID", help="with reproduce: this sweep of the run")
    delete.add_argument("--yes", action="store_true", help="really delete")


def _add_recorded(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser("recorded", help="results that come with the program: list, check, load, remove, build")
    actions = group.add_subparsers(title="actions", metavar="ACTION")
    group.set_defaults(run=_nothing_chosen("list, check, load, remove or build"))
    listing = _command(actions, "list", recorded.list_recorded, "list what is recorded")
    check = _command(actions, "check", recorded.check, "whether this program would record the same again")
    check.add_argument("--fast", action="store_true", help="compare ids only, run no model")
    text = "compute these again (default: a few small ones)"
    check.add_argument("--only", type=sweeping.names, default=(), metavar="ID,...", help=text)
    load = _command(actions, "load", recorded.load, "bring the recorded results into a results file")
    remove = _command(actions, "remove", recorded.remove, "take the recorded results out of a results file")
    build = _command(actions, "build", recorded.build, "compute and write the set (about an hour on two cores)")
    build.add_argument("--out", type=Path, default=settings.RECORDED, metavar="DIR", help="default: %(default)s")
    for action in (load, remove, build):
        _add_db(action)
    for action in (listing, check):
        _add_json(action)


def _add_reproduce(commands: argparse._SubParsersAction) -> None:
    reproduce = _command(commands, "reproduce", recorded.reproduce, "compute a reproduce.json again and compare")
    reproduce.add_argument("file", type=Path, metavar="FILE", help="from `runs export RUN --format reproduce`")
    reproduce.add_argument("--model", metavar="MODEL", help="where its model is on this computer, if elsewhere")
    reproduce.add_argument("--download", action="store_true", help="allow fetching its model from the hub")
    _add_json(reproduce)


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


def _add_run(parser: argparse.ArgumentParser, *, required: bool) -> None:
    text = f"id of a stored run, its first letters, or {sweeping.LATEST} (see `runs list`)"
    parser.add_argument("--run", dest="run_id", metavar="RUN", required=required, help=text)


def _add_here(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--here", action="store_true", help="compute it even where a recorded result is there")


def _add_position(parser: argparse.ArgumentParser) -> None:
    text = "edit at the last prompt position, or at every one (default: decision, or the circuit's own)"
    parser.add_argument("--position", choices=get_args(Position), help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE|-", help="one JSON value to a file or stdout (-)")


def _add_ranking(parser: argparse.ArgumentParser) -> None:
    text = "order of the neurons (default: shared, the paper's)"
    parser.add_argument("--ranking", default="shared", choices=RANKINGS, help=text)
