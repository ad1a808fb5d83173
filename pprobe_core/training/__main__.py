"""Rebuild both checkpoints (`--seed N --out DIR`), or align a base again (`--base DIR`), or write the mini sets."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from pprobe_core.training.architecture import FAMILIES
from pprobe_core.training.prompts import write_prompt_sets
from pprobe_core.training.train import RECIPES, realign, rebuild


def tell(line: str) -> None:
    """One line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, train, and report progress on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pprobe_core.training", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of corpus, tokeniser and weights")
    parser.add_argument("--family", choices=list(FAMILIES), default="qwen3", help="architecture (default: qwen3)")
    parser.add_argument("--weights-seed", type=int, help="another seed for the initial weights alone")
    parser.add_argument("--out", type=Path, help="folder that gets both checkpoints")
    parser.add_argument("--base", type=Path, help="base checkpoint to align again, instead of training one first")
    parser.add_argument("--prompts", type=Path, help="folder that gets the mini prompt sets (nothing is trained)")
    options = parser.parse_args(arguments)
    if options.prompts:
        options.prompts.mkdir(parents=True, exist_ok=True)
        write_prompt_sets(options.prompts)
    recipe = replace(RECIPES[options.family], weights_seed=options.weights_seed)
    if options.out and options.base:
        realign(options.base, options.out, recipe=recipe, on_progress=tell)
    elif options.out:
        rebuild(options.seed, options.out, recipe=recipe, on_progress=tell)
    if not (options.prompts or options.out):
        parser.error("give --out DIR to train, or --prompts DIR to write the prompt sets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
