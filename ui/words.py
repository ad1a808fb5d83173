"""Plain words for what the pages show: one definition per term, used by help texts, cards and the glossary."""

from collections.abc import Mapping

ABOUT = (
    "A chat model decides how to answer before it writes its first word. pprobe shows a model two almost "
    "identical prompts, watches what changes inside, and ranks the neurons that carry the change. All it needs is "
    "two forward passes per prompt pair: no training, no gradients."
)

GLOSSARY: Mapping[str, str] = {
    "Neuron": (
        "One unit of a feed-forward layer (FFN): a single number that is computed from the residual stream and, "
        "scaled by it, adds a fixed vector back. `L12.N3405` is neuron 3405 of layer 12; both counts start at "
        "zero."
    ),
    "Residual stream": (
        "The vector that runs through all layers at one token position. Every attention and FFN layer reads it "
        "and adds to it; the output head reads it at the end."
    ),
    "Circuit": (
        "Here: one behaviour with a prompt pair that switches it and two groups of first tokens that tell which "
        "way the model goes, for example starts of a refusal against starts of an answer."
    ),
    "Original and perturbed prompt": (
        "The two prompts of a pair. The perturbed twin differs as little as possible, yet enough to change the "
        "decision: for instance two letters swapped in one word."
    ),
    "Target and control": (
        "The two groups of first tokens of a circuit. The target group stands for the behaviour (a refusal), the "
        "control group for its opposite (an affirmation)."
    ),
    "Logit difference": (
        "Mean score (logit) of the target tokens minus mean score of the control tokens, at the position where "
        "the answer starts. Above zero the model leans to the target, below zero to the control. The paper calls "
        "it the gap F."
    ),
    "Importance I": (
        "How much a neuron's change between the two prompts moves the logit difference, on the direct path to the "
        "output: its activation change times its coupling. It predicts what happens if that neuron alone is set "
        "to its value on the other prompt, not what happens if it is switched off."
    ),
    "Coupling": (
        "How strongly a neuron's output vector points from control to target. *Plain* takes the weights as they "
        "are, as the paper does. *Norm-aware* also accounts for the normalisation after the layer, so that "
        "predicted logits come out on the right scale."
    ),
    "FFN/Skip ratio": (
        "At the last layer: size of what the FFN adds to the logit difference, divided by the size of what was "
        "there already (the skip path). Undefined when the skip path carries next to nothing."
    ),
    "Opposition circuit": (
        "Alignment training overrides an older tendency; the last FFN pushes hard against it. In the paper "
        "FFN/Skip is above about 0.3 and switching off a few neurons changes the kind of answer."
    ),
    "Routing circuit": (
        "A behaviour from pre-training that attention carries. In the paper FFN/Skip is below about 0.2, switching off "
        "neurons does little, and pushing the residual stream in one direction may work."
    ),
    "Read-out": (
        "Neurons respond to the perturbation, but switching them off changes nothing: they report, they do not decide."
    ),
    "Stage": (
        "How far the evidence goes. *Observed*: two passes were measured. *Qualified*: the pairs flip and the "
        "answers the model really writes agree with the logit difference. *Causal*: an intervention beats random "
        "controls. *Replicated*: the same on prompts that took no part in choosing the neurons."
    ),
    "Flip rate": (
        "Share of pairs whose logit difference changes sign between the two prompts. A set that does not flip "
        "says nothing about the behaviour."
    ),
    "Coverage": (
        "Share of prompts whose likeliest first token belongs to the target or control group. Where coverage is "
        "low the model starts its answer in a way this circuit does not look at."
    ),
    "Null": (
        "What chance alone would give. For neurons the signs of whole pairs are flipped at random many times and "
        "the largest importance is noted; a neuron below that threshold may be noise. For the prediction the "
        "pairs are shuffled."
    ),
    "Interval": (
        "The range in which the mean would fall in 95 of 100 repeats with other pairs of the same kind. It says "
        "nothing about other models or other kinds of prompt."
    ),
    "Logit lens": (
        "Reading the logit difference off after each layer, as if the network ended there. Rough in early layers: "
        "the output head was only trained for the last one."
    ),
    "Sign consistency": "Share of pairs in which the neuron pushes the same way as on average.",
    "Coherence": (
        "Size of the mean importance divided by its typical size over pairs: 1 when all pairs agree, near 0 if not."
    ),
    "Discovery, validation, held out": (
        "The prompt set is split 60/20/20. Only discovery pairs rank neurons, so that the others can check the ranking."
    ),
}

STRUCTURES: Mapping[str, str] = {
    "opposition": "Opposition circuit",
    "routing": "Routing circuit",
    "read_out": "Read-out",
    "undetermined": "Not decided",
    "uninformative": "Prompt set does not tell",
}

STRUCTURE_HELP: Mapping[str, str] = {
    "opposition": GLOSSARY["Opposition circuit"],
    "routing": GLOSSARY["Routing circuit"],
    "read_out": GLOSSARY["Read-out"],
    "undetermined": "Two passes do not decide between the kinds of circuit here; the reasons say why.",
    "uninformative": GLOSSARY["Flip rate"],
}

STAGES: tuple[tuple[str, str], ...] = (
    ("observed", "two passes measured"),
    ("qualified", "pairs flip, answers agree"),
    ("causal", "intervention beats random"),
    ("replicated", "holds on unseen prompts"),
)

RANKING_QUESTION: Mapping[str, str] = {
    "shared": "Which neurons move the decision the same way in most pairs? Mean importance, the paper's ranking.",
    "magnitude": "Which neurons matter in any direction, even if the sign depends on the prompt? RMS importance.",
    "ablation": "Which neurons would change the original answer if switched off? Active on the original prompt, "
    "pushing, and responding to the perturbation.",
}

COUPLINGS: Mapping[str, str] = {"plain": "Plain (the paper's)", "norm_aware": "Norm-aware"}
PROMPT_SETS: Mapping[str, str] = {"mini": "Mini (small models)", "general": "General (real models)"}
OWN_FILE = "file"  # in the picker, beside the two sets: pairs of one's own
CIRCUIT_ORDER = (  # as the paper tells them; circuits of one's own follow
    "safety_refusal",
    "sycophancy",
    "language",
    "factual_recall",
    "code",
    "math",
    "chain_of_thought",
    "tool_use",
)
SPLITS: Mapping[str, str] = {"discovery": "Discovery", "validation": "Validation", "heldout": "Held out"}

HELP: Mapping[str, str] = {
    "model": "A shipped small model, the path of a model folder on this computer, or a model id of the hub.",
    "circuit": "The behaviour to look at. Each comes with its own prompt pairs and its own first tokens to watch.",
    "prompts": "Which prompt pairs to run. The small shipped models know only the world of the mini set.",
    "own_file": "A CSV or JSONL file with the columns original and perturbed, optionally id and split. It stays on "
    "this computer, in the cache folder.",
    "coupling": GLOSSARY["Coupling"],
    "limit": "Use only the first so many pairs; 0 means all. Fewer pairs are faster and give wider intervals.",
    "seed": "Start of every random draw (perturbations, intervals, controls). The same seed gives the same numbers.",
    "run_button": "Two forward passes per pair plus the first words of each answer. Seconds for the shipped models.",
    "ranking": "Which question the order of neurons answers. The sentence below says it in full.",
    "run": "A finished run to look at. Runs never change; a new one is made on the Start page.",
    "top_k": "How many neurons to list and to mark in the map.",
    "pair": "Click a row to see the two prompts, their tokens and the answers.",
    "stage": GLOSSARY["Stage"],
    "flip_rate": GLOSSARY["Flip rate"],
    "coverage": GLOSSARY["Coverage"],
    "ffn_skip": GLOSSARY["FFN/Skip ratio"],
    "logit_diff": GLOSSARY["Logit difference"],
    "agreement": "Share of written answers whose class lies on the side the logit difference predicts. It lifts a run "
    "to the stage *qualified*.",
    "predicted": GLOSSARY["Importance I"],
}

QUANTITIES: Mapping[str, str] = {
    "ffn": "FFN",
    "attention": "Attention",
    "skip": "Skip path",
    "ffn_skip": "FFN/Skip",
    "lens_after_ffn": "Trajectory",
}
