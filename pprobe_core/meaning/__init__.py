"""What a run or a sweep means, in a short paragraph of plain words, by rules on its numbers: no language model.

A paragraph says what the model did, how sure that is, where in the network, what tests found beside their random
controls, what all this does not show, and one thing to do next. It repeats the verdict and the sweep's own statistics
in plainer words and never goes beyond the stage that they reached.
"""

from pprobe_core.meaning.of_run import run_meaning
from pprobe_core.meaning.of_sweep import sweep_meaning
from pprobe_core.meaning.parts import Meaning, Part, Tested
from pprobe_core.meaning.stored import circuit_of, meaning_of_run, meaning_of_sweep, to_tell_of

__all__ = [
    "Meaning",
    "Part",
    "Tested",
    "circuit_of",
    "meaning_of_run",
    "meaning_of_sweep",
    "run_meaning",
    "sweep_meaning",
    "to_tell_of",
]
