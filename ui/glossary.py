"""The glossary: every term of the pages in plain words, the forms it is met in, what belongs to it, where it is met."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One term: its definition, its group on the Glossary page, and how running text writes it.

    `forms` are marked in running text (any case, whole words; a single capital letter only as it is). `page` is the
    page on which the term is met most, as its address names it.
    """

    text: str
    group: str
    forms: tuple[str, ...]
    related: tuple[str, ...] = ()
    page: str = "probe"


MODEL, MEASURING, TESTING, READING, TOOL = (
    "Inside the model",
    "Measuring",
    "Testing",
    "Reading results",
    "This dashboard",
)
GROUPS: Mapping[str, str] = {
    MODEL: "What a chat model is made of.",
    MEASURING: "What two passes per prompt pair give.",
    TESTING: "What happens when the model is edited.",
    READING: "How sure a number is, and what it may be taken for.",
    TOOL: "What this program calls its own things.",
}

ENTRIES: Mapping[str, Entry] = {
    # ------------------------------------------------------------------------------------------- inside the model
    "Token": Entry(
        "A piece of text as the model reads and writes it: a word, a part of a word, or a sign. A *tokeniser* cuts "
        "text into tokens and gives each a number.",
        MODEL,
        ("token", "tokens", "first token", "first tokens", "tokeniser", "token ids"),
        ("Target and control", "Coverage"),
    ),
    "Layer": Entry(
        "One step of the model: attention, then a feed-forward part (FFN). A model has from a few to many dozens of "
        "layers, one after the other; they are counted from zero.",
        MODEL,
        ("layer", "layers"),
        ("Attention", "FFN", "Residual stream"),
    ),
    "Attention": Entry(
        "The part of a layer that looks at other places of the text and fetches from them. It is made of several "
        "*heads* that each look in their own way.",
        MODEL,
        ("attention", "attention head", "attention heads", "heads"),
        ("FFN", "Layer", "Routing circuit"),
    ),
    "FFN": Entry(
        "Feed-forward network: the part of a layer that works on one place of the text by itself. Its units are the "
        "neurons that this tool ranks.",
        MODEL,
        ("FFN", "FFNs", "feed-forward layers", "feed-forward layer"),
        ("Neuron", "Attention", "FFN/Skip ratio"),
    ),
    "Neuron": Entry(
        "One unit of a feed-forward layer (FFN): a single number that is computed from the residual stream and, "
        "scaled by it, adds a fixed vector back. `L12.N3405` is neuron 3405 of layer 12; both counts start at "
        "zero.",
        MODEL,
        ("neuron", "neurons", "activation", "activations"),
        ("FFN", "Importance I", "Ablation"),
    ),
    "Residual stream": Entry(
        "The vector that runs through all layers at one token position. Every attention and FFN layer reads it "
        "and adds to it; the output head reads it at the end.",
        MODEL,
        ("residual stream", "residual streams"),
        ("Skip path", "Injection", "Logit lens"),
    ),
    "Skip path": Entry(
        "What the residual stream already holds when it enters a layer: everything that earlier layers wrote, passed "
        "on past the layer.",
        MODEL,
        ("skip path", "skip signal", "skip signals"),
        ("FFN/Skip ratio", "Residual stream"),
    ),
    "Normalisation": Entry(
        "Between an FFN and the output the residual stream is rescaled, and in some models (Gemma 2 and 3, OLMo 2) the "
        "FFN's own output as well. A neuron can push hard by its weights and yet move little, or the other way round. "
        "The paper calls a circuit *normalisation-shielded* where the plain coupling is misled by this.",
        MODEL,
        ("normalisation", "norms", "final norm"),
        ("Coupling",),
    ),
    "Output head": Entry(
        "The last step: it reads the residual stream and gives every token of the vocabulary a score. The token with "
        "the highest score is the likeliest next one.",
        MODEL,
        ("output head",),
        ("Logit", "Residual stream"),
    ),
    "Alignment": Entry(
        "Training after the first one (pre-training) that makes a model follow instructions and refuse some of them. "
        "A *base model* is the same model before it.",
        MODEL,
        ("alignment", "base model", "base models", "pre-training"),
        ("Opposition circuit",),
        "compare",
    ),
    "Thinking": Entry(
        "Some models write down a train of thought before their answer, between `<think>` marks. Where a model has a "
        "switch for it, a run says how it was set.",
        MODEL,
        ("thinking", "chain of thought"),
        (),
        "start",
    ),
    "Chat template": Entry(
        "The marks that a chat model expects around every turn of a conversation. A prompt is put into them before the "
        "model reads it, and they are counted among its tokens.",
        MODEL,
        ("chat template", "chat format"),
        ("Token", "Thinking"),
    ),
    "Embedding": Entry(
        "The vector with which a token enters the first layer, before anything is computed.",
        MODEL,
        ("embedding", "embeddings"),
        ("Residual stream", "Token"),
    ),
    "Weights": Entry(
        "The numbers that training has set, also called parameters; they are what is downloaded. *bfloat16* stores "
        "each in two bytes. *Gradients* are how training finds out which way to move each of them.",
        MODEL,
        ("weights", "parameters", "bfloat16", "gradients"),
        ("Alignment", "Neuron"),
        "start",
    ),
    # ---------------------------------------------------------------------------------------------------- measuring
    "Circuit": Entry(
        "Here: one behaviour with a prompt pair that switches it and two groups of first tokens that tell which "
        "way the model goes, for example starts of a refusal against starts of an answer.",
        MEASURING,
        ("circuit", "circuits", "behaviour", "behaviours"),
        ("Target and control", "Original and perturbed prompt", "Prompt set"),
        "start",
    ),
    "Original and perturbed prompt": Entry(
        "The two prompts of a pair. The perturbed twin differs as little as possible, yet enough to change the "
        "decision: for instance two letters swapped in one word. The change is called the *perturbation*.",
        MEASURING,
        (
            "perturbed prompt",
            "perturbed prompts",
            "original prompt",
            "original prompts",
            "perturbation",
            "prompt pair",
            "prompt pairs",
            "twin",
        ),
        ("Flip rate", "Prompt set"),
    ),
    "Target and control": Entry(
        "The two groups of first tokens of a circuit. The target group stands for the behaviour (a refusal), the "
        "control group for its opposite (an affirmation).",
        MEASURING,
        (
            "target tokens",
            "control tokens",
            "target and control",
            "target and control tokens",
            "target side",
            "control side",
            "target words",
            "control words",
            "watched tokens",
        ),
        ("Logit difference", "Coverage", "Harvested tokens"),
    ),
    "Forward pass": Entry(
        "Letting the model read a prompt once, from the first layer to the last. The cost of everything here is "
        "counted in such passes.",
        MEASURING,
        ("forward pass", "forward passes", "two passes", "full passes"),
        (),
        "start",
    ),
    "Logit": Entry(
        "The score the output head gives a token. A token whose logit is one higher is about 2.7 times as likely.",
        MEASURING,
        ("logit", "logits"),
        ("Logit difference", "Output head"),
    ),
    "Logit difference": Entry(
        "Mean score (logit) of the target tokens minus mean score of the control tokens, at the position where "
        "the answer starts. Above zero the model leans to the target, below zero to the control. The paper calls "
        "it the gap F.",
        MEASURING,
        ("logit difference", "logit differences", "F", "margin", "margins"),
        ("Target and control", "Flip rate", "Logit lens"),
    ),
    "Decision position": Entry(
        "The place at the end of the prompt where the answer starts: the model's first word is decided there.",
        MEASURING,
        ("decision position", "where the answer starts"),
        ("Logit difference", "Ablation"),
        "dose",
    ),
    "Importance I": Entry(
        "How much a neuron's change between the two prompts moves the logit difference, on the direct path to the "
        "output: its activation change times its coupling. It predicts what happens if that neuron alone is set "
        "to its value on the other prompt, not what happens if it is switched off. *RMS* is its typical size over "
        "pairs, whatever its sign.",
        MEASURING,
        ("importance", "importances", "importance I", "direct path", "direct effect", "RMS", "RMS importance"),
        ("Coupling", "Ranking", "Patching", "Sign consistency"),
    ),
    "Coupling": Entry(
        "How strongly a neuron's output vector points from control to target. *Plain* takes the weights as they "
        "are, as the paper does. *Norm-aware* also accounts for the normalisation after the layer, so that "
        "predicted logits come out on the right scale.",
        MEASURING,
        ("coupling", "couplings", "norm-aware"),
        ("Normalisation", "Importance I"),
    ),
    "Ranking": Entry(
        "An order of neurons, best first. Each answers another question: *shared* and *magnitude*, which carry the "
        "change between the prompts; *ablation* and *measured*, which matter when switched off.",
        MEASURING,
        ("ranking", "rankings"),
        ("Importance I", "Discovery, validation, held out"),
    ),
    "FFN/Skip ratio": Entry(
        "At the last layer: size of what the FFN adds to the logit difference, divided by the size of what was "
        "there already (the skip path). Undefined when the skip path carries next to nothing.",
        MEASURING,
        ("FFN/Skip ratio", "FFN/Skip", "FFN / skip"),
        ("Skip path", "Opposition circuit", "Routing circuit"),
    ),
    "Logit lens": Entry(
        "Reading the logit difference off after each layer, as if the network ended there. Rough in early layers: "
        "the output head was only trained for the last one.",
        MEASURING,
        ("logit lens",),
        ("Logit difference", "Output head"),
    ),
    "Harvested tokens": Entry(
        "First tokens taken from the model's own answers, where a behaviour's tokens miss what it says. Discovery "
        "pairs suggest them; the other pairs show how well they fit.",
        MEASURING,
        ("harvested tokens", "harvested"),
        ("Coverage", "Target and control"),
    ),
    "Flip rate": Entry(
        "Share of pairs whose logit difference changes sign between the two prompts. A set that does not flip "
        "says nothing about the behaviour.",
        MEASURING,
        ("flip rate", "flip", "flips", "pairs that flip"),
        ("Logit difference", "Coverage"),
    ),
    "Coverage": Entry(
        "Share of prompts whose likeliest first token belongs to the target or control group. Where coverage is "
        "low the model starts its answer in a way this circuit does not look at.",
        MEASURING,
        ("coverage",),
        ("Target and control", "Harvested tokens"),
    ),
    "Sign consistency": Entry(
        "Share of pairs in which the neuron pushes the same way as on average.",
        MEASURING,
        ("sign consistency", "same sign"),
        ("Coherence",),
    ),
    "Coherence": Entry(
        "Size of the mean importance divided by its typical size over pairs: 1 when all pairs agree, near 0 if not.",
        MEASURING,
        ("coherence",),
        ("Sign consistency",),
    ),
    # ------------------------------------------------------------------------------------------------------ testing
    "Ablation": Entry(
        "Switching neurons off: their activation is set to zero, and everything after them is computed anew.",
        TESTING,
        ("ablation", "ablations", "switched off", "switching off", "switch off", "switching neurons off"),
        ("Dose response", "Random draws"),
        "dose",
    ),
    "Factor": Entry(
        "What a neuron's activation is multiplied with: 0 switches it off, 1 leaves it, 2 doubles it, below zero turns "
        "it around.",
        TESTING,
        ("factor", "factors"),
        ("Ablation",),
        "dose",
    ),
    "Dose response": Entry(
        "How the decision changes with the number of neurons switched off. The first neurons of a ranking are compared "
        "with as many random neurons of the same layers.",
        TESTING,
        ("dose response", "dose", "doses", "smallest dose"),
        ("Ablation", "Random draws"),
        "dose",
    ),
    "Patching": Entry(
        "Giving neurons, or whole layers, the values they have on the pair's other prompt. *Restoring* is the same "
        "from the perturbed prompt's side.",
        TESTING,
        ("patching", "patched"),
        ("Importance I",),
        "dose",
    ),
    "Injection": Entry(
        "Adding a direction to the residual stream after a layer. The strength is counted in lengths of the residual "
        "stream there (relative) or in its own unit (absolute).",
        TESTING,
        ("injection", "injections", "injected", "steering", "adding a direction", "direction was added", "strength"),
        ("Injection window", "Linear separability"),
        "window",
    ),
    "Injection window": Entry(
        "The layers after which an injected direction works. *Destructive*: the answers break. *Causal*: they switch "
        "and stay whole. *Committed*: it is too late, they stay as they were. Each name needs half of the answers.",
        TESTING,
        ("injection window", "destructive", "committed", "regime", "regimes"),
        ("Injection",),
        "window",
    ),
    "Random draws": Entry(
        "The control of every edit: random neurons of the same layers, or random directions at right angles to the "
        "injected one and as long. At least five draws; the grey band spans them. The *excess* of an edit is what it "
        "changes beyond their mean.",
        TESTING,
        (
            "random draws",
            "random draw",
            "random neurons",
            "random directions",
            "random controls",
            "random control",
            "random edits",
            "random edit",
            "random changes",
            "random change",
            "excess",
        ),
        ("Null", "Stage"),
        "dose",
    ),
    "Sweep": Entry(
        "One test with all its points: the same edit at several doses, factors, layers or strengths, with its random "
        "controls. A finished sweep never changes.",
        TESTING,
        ("sweep", "sweeps"),
        ("Dose response", "Injection window", "Run"),
        "dose",
    ),
    "Class of an answer": Entry(
        "What kind of answer a text is, by stated rules: refuses, goes along, corrects, and so on. *Switched* means it "
        "went to the other side; *broken* means empty, repeating or noise. Rules can err, so the texts stand beside "
        "them and can be labelled anew.",
        TESTING,
        ("class", "classes", "switched sides", "response classes"),
        ("Cohen's kappa", "McNemar's test"),
        "dose",
    ),
    "Collateral": Entry(
        "What the same edit does to the other behaviours and to the loss of neutral text. The loss is counted in "
        "*nats per token*: 0.1 more means that the text has become about a tenth less expected.",
        TESTING,
        ("collateral", "neutral text", "neutral texts", "nats per token", "loss"),
        ("Random draws",),
        "dose",
    ),
    "Linear separability": Entry(
        "Share of held-out prompts that lie on their own side of the difference of means of the discovery prompts. "
        "*AUC* is the same without a fixed border: one half is chance, 1 is perfect.",
        TESTING,
        ("linear separability", "difference of means", "separable", "AUC"),
        ("Injection",),
        "window",
    ),
    "Held parts": Entry(
        "Parts of later layers that are kept at what they do on the unedited prompt while an earlier place is edited. "
        "What the edit loses by this was carried on by those parts.",
        TESTING,
        ("attention held", "held fixed", "FFNs held"),
        ("Patching", "Attention"),
        "controls",
    ),
    # ---------------------------------------------------------------------------------------------- reading results
    "Verdict": Entry(
        "The reading of a run in one word (opposition, routing, not decided ...), with its reasons. It rests on two "
        "passes and proves no cause; the stage says how far the evidence goes.",
        READING,
        ("verdict",),
        ("Stage", "FFN/Skip ratio"),
    ),
    "Opposition circuit": Entry(
        "Alignment training overrides an older tendency; the last FFN pushes hard against it. In the paper "
        "FFN/Skip is above about 0.3 and switching off a few neurons changes the kind of answer.",
        READING,
        ("opposition circuit", "opposition circuits", "opposition"),
        ("Routing circuit", "Read-out", "Alignment"),
    ),
    "Routing circuit": Entry(
        "A behaviour from pre-training that attention carries. In the paper FFN/Skip is below about 0.2, switching off "
        "neurons does little, and pushing the residual stream in one direction may work.",
        READING,
        ("routing circuit", "routing circuits", "routing"),
        ("Opposition circuit", "Injection"),
    ),
    "Read-out": Entry(
        "Neurons respond to the perturbation, but switching them off changes nothing: they report, they do not decide.",
        READING,
        ("read-out",),
        ("Opposition circuit", "Ablation"),
    ),
    "Stage": Entry(
        "How far the evidence goes. *Observed*: two passes were measured. *Qualified*: the pairs flip and the "
        "answers the model really writes agree with the logit difference. *Causal*: an intervention beats random "
        "controls. *Replicated*: the same on prompts that took no part in choosing the neurons.",
        READING,
        ("stage", "stages", "how far the evidence goes"),
        ("Random draws", "Discovery, validation, held out"),
    ),
    "Discovery, validation, held out": Entry(
        "The prompt set is split 60/20/20. Only discovery pairs rank neurons, so that the others can check the "
        "ranking.",
        READING,
        (
            "held-out",
            "held out",
            "discovery",
            "discovery pairs",
            "discovery prompts",
            "held-out prompts",
            "held-out answers",
            "validation",
        ),
        ("Stage", "Ranking"),
        "controls",
    ),
    "Interval": Entry(
        "The range in which the mean would fall in 95 of 100 repeats with other pairs of the same kind. It says "
        "nothing about other models or other kinds of prompt. For shares it is *Wilson's*, for means a *bootstrap* "
        "(the pairs drawn again and again) or Student's t.",
        READING,
        ("95 % interval", "95 % intervals", "interval", "intervals", "95 % Wilson interval", "bootstrap"),
        ("Null",),
    ),
    "Null": Entry(
        "What chance alone would give. For neurons the signs of whole pairs are flipped at random many times and "
        "the largest importance is noted; a neuron below that threshold may be noise. For the prediction the "
        "pairs are shuffled.",
        READING,
        ("null", "what chance gives", "more than chance", "beyond chance", "sign-flip", "sign-flip control"),
        ("Random draws", "p value"),
    ),
    "p value": Entry(
        "How often chance alone would give an effect at least this large. In a *permutation test* the edit and its "
        "random draws are exchanged within prompts at random to find out.",
        READING,
        ("p value", "p values", "permutation test", "hypergeometric", "p"),
        ("Holm's correction", "Null"),
        "controls",
    ),
    "Holm's correction": Entry(
        "Who tests many points finds something by chance. Holm's method makes every p value as much larger as it takes "
        "for all points together to err in 5 of 100 cases.",
        READING,
        ("Holm", "Holm's correction", "Holm's method", "corrected p"),
        ("p value",),
        "controls",
    ),
    "McNemar's test": Entry(
        "Compares the classes of the same prompts before and after an edit: only those that changed count. Exact, and "
        "corrected over the points by Holm's method.",
        READING,
        ("McNemar", "McNemar's test", "McNemar's exact test"),
        ("Class of an answer", "Holm's correction"),
        "dose",
    ),
    "Cohen's kappa": Entry(
        "Agreement between the rules and a person beyond what chance gives: 1 is full agreement, 0 is chance.",
        READING,
        ("Cohen's kappa", "kappa"),
        ("Class of an answer",),
        "dose",
    ),
    "Concentration": Entry(
        "How few neurons hold how much of the total importance. The *Gini* number is 0 when all matter alike and near "
        "1 when few do.",
        READING,
        ("concentration", "Gini"),
        ("Importance I",),
        "compare",
    ),
    "Correlation": Entry(
        "How well two numbers go together over pairs: 1 when one always rises with the other, 0 when they have nothing "
        "to do with each other. *Spearman's rho* is the same for the places in two orders, whatever the distances.",
        READING,
        ("correlation", "Spearman's rho"),
        ("Null",),
    ),
    "Variance explained": Entry(
        "How much of the spread of one number a straight line through another one accounts for: 100 % is all of it. "
        "The line's *slope* says how much the one changes for every step of the other.",
        READING,
        ("variance", "slope"),
        ("Correlation", "Interval"),
        "compare",
    ),
    "The paper": Entry(
        "arXiv 2604.27401, in which perturbation probing was described. Its limits and numbers are shown as its own "
        "and were measured on other models.",
        READING,
        ("the paper", "the paper's", "in the paper"),
        ("Verdict", "FFN/Skip ratio"),
    ),
    # ----------------------------------------------------------------------------------------------- this dashboard
    "Run": Entry(
        "One measurement of a behaviour in a model on a set of prompt pairs. A finished run never changes and can be "
        "asked for by its id.",
        TOOL,
        ("finished run", "finished runs", "a run of its own"),
        ("Sweep", "Recorded run", "Permalink"),
        "runs",
    ),
    "Recorded run": Entry(
        "A run that came with the program and was computed elsewhere, so that there is something to look at from the "
        "start. It is marked as such, and *Compute it here* makes it anew.",
        TOOL,
        ("recorded run", "recorded runs", "recorded on"),
        ("Run",),
        "runs",
    ),
    "Prompt set": Entry(
        "The prompt pairs of a run. *Mini* is written for the small shipped models, *general* for real ones; pairs of "
        "one's own can be added.",
        TOOL,
        ("prompt set", "prompt sets", "own prompts"),
        ("Original and perturbed prompt", "Circuit"),
        "prompts",
    ),
    "Shipped model": Entry(
        "A small model that was trained for this program and comes with it. It knows a small world; what it shows need "
        "not hold for large models.",
        TOOL,
        ("shipped model", "shipped models"),
        ("Hub",),
        "start",
    ),
    "Hub": Entry(
        "The public collection of models at huggingface.co. Nothing is fetched from it unless a model of it is named.",
        TOOL,
        ("hub", "hub id"),
        ("Shipped model",),
        "start",
    ),
    "Playground": Entry(
        "The page on which a prompt of one's own is answered before and after an edit, side by side, while the edit is "
        "moved.",
        TOOL,
        ("playground",),
        ("Ablation", "Injection", "Factor"),
        "playground",
    ),
    "Fingerprint": Entry(
        "A short number computed from every byte of a file (*SHA-256*). Two files with the same fingerprint are the "
        "same, so it shows whether two runs used the same weights and prompts.",
        TOOL,
        ("fingerprint", "SHA-256"),
        ("Run", "Weights"),
        "runs",
    ),
    "Permalink": Entry(
        "A link that opens what is on the screen: run, layer, dose and model. On another computer it says what is "
        "missing there.",
        TOOL,
        ("permalink", "permalinks", "link to what is on screen"),
        ("Run",),
        "runs",
    ),
    "Seed": Entry(
        "The start of all random draws. The same seed gives the same numbers; other seeds show what chance in the "
        "drawing does.",
        TOOL,
        ("seed", "seeds"),
        ("Random draws",),
        "start",
    ),
}
