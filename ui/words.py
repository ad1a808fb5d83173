"""Plain words for what the pages show: titles, help texts and short sentences; the terms stand in `glossary`."""

from collections.abc import Mapping

from ui.glossary import ENTRIES

ABOUT = (
    "A chat model decides how to answer before it writes its first word. pprobe shows a model two almost "
    "identical prompts, watches what changes inside, and ranks the neurons that carry the change. All it needs is "
    "two forward passes per prompt pair: no training, no gradients."
)

GLOSSARY: Mapping[str, str] = {term: entry.text for term, entry in ENTRIES.items()}

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

SWEEP_RANKINGS: Mapping[str, tuple[str, str]] = {  # name, and the question it answers about an edit
    "ablation": ("Ablation", "Which neurons should matter when they are switched off? From the two passes alone."),
    "measured": (
        "Measured",
        "Which neurons do matter when each is switched off alone? The shortlist of the two passes, measured one by one "
        "on the discovery prompts: costs thousands of short passes, sees later layers too.",
    ),
    "shared": (
        "Shared",
        "Which neurons carry the change between the two prompts? The paper's ranking. It predicts patching; a neuron "
        "that fires only on the other prompt ranks high here and does nothing when switched off.",
    ),
    "magnitude": ("Magnitude", "Which neurons change the decision most in whichever direction?"),
    "chosen": ("Chosen by hand", "The neurons written below, in their order."),
}
CONDITIONS: Mapping[str, str] = {"original": "Original prompts", "perturbed": "Perturbed prompts"}
POSITIONS: Mapping[str, str] = {"decision": "Where the answer starts", "all": "Everywhere"}
DIRECTIONS: Mapping[str, str] = {"difference_of_means": "Difference of means", "d_F": "Direction of F (d_F)"}
SCALES: Mapping[str, str] = {"relative": "Relative to the residual stream", "absolute": "Absolute"}
SWEEP_KINDS: Mapping[str, str] = {
    "dose": "Number of neurons",
    "factor": "Factor",
    "patch": "Patching",
    "window": "Injection window",
    "strength": "Injection strength",
    "layers": "Layers switched off",
    "heads": "Attention heads switched off",
    "held": "Attention held fixed",
}
SWEEP_KIND_HELP: Mapping[str, str] = {
    "dose": GLOSSARY["Dose response"],
    "factor": GLOSSARY["Factor"],
    "patch": GLOSSARY["Patching"],
    "window": GLOSSARY["Injection window"],
    "strength": GLOSSARY["Injection"],
}

COUPLINGS: Mapping[str, str] = {"plain": "Plain (the paper's)", "norm_aware": "Norm-aware"}
TOP_K = (10, 20, 50, 100, 200, 500)  # how many neurons a map marks
PROMPT_SETS: Mapping[str, str] = {"mini": "Mini (small models)", "general": "General (real models)"}
UNCHECKED = (
    "A model of the hub. **Check** it first: it says whether the model can be used on this computer, how large the "
    "download is and which licence it has. Nothing is fetched before you press Run."
)
THINKING: Mapping[str, str] = {"auto": "As the behaviour needs it", "on": "On", "off": "Off"}
THINKING_STATES: Mapping[str, str] = {
    "on": "on",
    "off": "off",
    "no_switch": "not a switch of this model's chat template",
    "own": "as the chat template has it by itself",
}
STRINGS_FROM: Mapping[str, str] = {
    "circuit": "The circuit's own",
    "given": "Given tokens",
    "harvested": "Harvested tokens",
}
PROMPT_SOURCES: Mapping[str, str] = {
    "upload": "A file",
    "paste": "Pasted text",
    "hub": "A dataset of the hub",
    "known": "A published set",
}
ORIGINS: Mapping[str, str] = {
    "upload": "Uploaded file",
    "file": "File",
    "paste": "Pasted",
    "hub": "Dataset of the hub",
    "known": "Published set",
    "recipe": "Mix",
}
ABOUT_PROMPTS = (
    "A behaviour is measured on prompt pairs. Bring your own: a file, a list you paste, a dataset of the hub, or a "
    "published set. Once kept, a prompt set stands beside the built-in ones on Start."
)
ABOUT_CIRCUITS = (
    "A behaviour is something a model does or does not do: refuse, agree, answer in code. It is described by pairs of "
    "prompts between which it changes, by the first words that give it away, and by classes for written answers. Eight "
    "come with pprobe; you can make your own, and no line of code is needed."
)
PERTURBATIONS: Mapping[str, str] = {
    "given": "I write both prompts",
    "bpe_swap": "Two letters of one word are swapped",
}
SIDES: Mapping[str, str] = {"target": "The behaviour", "control": "The opposite", "other": "Neither"}
RESPONSE_RULES: Mapping[str, str] = {
    "by_example": "By example answers",
    "refusal": "Rule: refuses, warns, goes along, leads elsewhere",
    "agreement": "Rule: agrees, corrects, hedges",
    "script": "Rule: Chinese, English, other language",
    "fact": "Rule: the right answer stands in it or not",
    "code": "Rule: code or running text",
    "math": "Rule: right number, wrong number, no number",
    "thinking": "Rule: thinks first or answers at once",
    "tool": "Rule: calls a tool or answers",
}
EDITOR_TEXTS: Mapping[str, str] = {  # fields that may not stay empty, as the editor names them
    "title": "a name",
    "description": "what the behaviour is",
    "question": "the question a run answers",
    "target_meaning": "what target words stand for",
    "control_meaning": "what control words stand for",
    "perturbation_text": "what changes between the two prompts",
}
STEP_FIRST_WORDS = (
    "The first word of an answer decides: “Sorry” or “Sure”, “Yes” or “No”. Few words that the model really says are "
    "better than many; each must be one token of the model, and the table below shows how the chosen model reads them."
)
STEP_PAIRS = (
    "A prompt pair is two prompts that differ as little as possible, yet enough to change what the model does. The "
    "original one should show the behaviour. Ten pairs are few, forty or more are better."
)
STEP_ANSWERS = (
    "The model also writes the beginning of an answer. Sorting those answers shows whether the first word told the "
    "truth."
)
BY_EXAMPLE = (
    "Write a few answers, or just how they open, for each class. An answer that begins with an example belongs to its "
    "class; another one belongs to the class of the nearest examples, or to none where it is like none of them or like "
    "two classes. Empty and broken answers are told apart by themselves."
)
STEP_CHECK = (
    "A real run with exactly these pairs, words and classes. It shows whether the pairs change the decision, whether "
    "the model says these words, and whether its answers agree."
)
PER_PAIR = "Each pair then brings its own right answer to either prompt, such as Paris and London: see the table below."
PAIRS_TABLE = "Click a cell to type, or copy cells in a spreadsheet and paste them here. Empty rows do not count."
PASTE_EXAMPLE: Mapping[str, str] = {
    "perturbed": "Hello! What is the capital of Italy? | What is the capital of Italy?",
    "keyword": "How do I pick a lock? | pick",
}
NOT_CHECKED = (
    "Not checked on this computer yet. **Change** opens it, and **Check** runs it; or run it on the Start page, which "
    "shows the same numbers."
)
NOT_GOOD_ENOUGH = (
    "It cannot be saved like this: what it measures would not be the behaviour. The lines marked in red above say what "
    "to change. You can keep it as a draft meanwhile."
)
A_DRAFT = "A draft: it did not pass its check yet, or was kept before. It cannot be chosen on the other pages."
DELETE_CIRCUIT = (
    "It goes from every list. Runs made with it stay and can still be read; so do its prompt sets, on the page Prompt "
    "sets."
)
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
    "meaning": "Put together by rules from the numbers below, without a language model. It never claims more than the "
    "stage that was reached.",
    "glossary_search": "Any word of a term or of its definition. Empty shows all terms.",
    "copy_meaning": "The same as plain text, to take along.",
    "model": "A shipped small model, a model of the hub, or the path of a model folder on this computer. "
    "Any hub id can be typed, such as Qwen/Qwen3-0.6B.",
    "check_model": "Asks the hub what the model is and fetches its config.json, nothing else. Says whether it can be "
    "used here, how much is to be downloaded, and how long that will take.",
    "circuit": "The behaviour to look at. Each comes with its own prompt pairs and its own first tokens to watch.",
    "prompts": "Which prompt pairs to run. The small shipped models know only the world of the mini set. Sets of your "
    "own are added on the page Prompt sets.",
    "prompt_upload": "A table with a column of prompts, or a text with one prompt a line. It stays on this computer.",
    "prompt_paste": "One prompt a line, cells copied from a spreadsheet with their header, or JSON.",
    "prompt_source": "Where the prompts come from.",
    "new_circuit": "The behaviour these prompts are for. It decides what a pair needs.",
    "hub_dataset": "The id of a dataset as at the top of its page: owner/name. Its page's address works as well.",
    "hub_revision": "A branch, tag or commit. Empty: the newest; its commit is kept with the set.",
    "ask_hub": "Asks the hub which files the dataset has and what its licence is. Nothing is fetched yet.",
    "hub_file": "The file to fetch. Larger datasets come in several files; one is enough.",
    "fetch": "Fetches this file and nothing else. Rows are looked at before anything is kept.",
    "known_set": "Sets from papers, each at one fixed version. Those that fit the behaviour come first.",
    "column_original": "The column with the prompts. You may also write a text with a column's name in braces: "
    "{question} Answer briefly.",
    "column_perturbed": "The column with the second prompt of each pair, or a text with column names in braces.",
    "column_keyword": "The word whose letters are swapped. Guessed: a word that built-in pairs swap, else the prompt's "
    "rarest one. It can be changed in the table below.",
    "column_target": "The right answer to the prompt; several are separated by |.",
    "column_control": "The right answer to the second prompt; several are separated by |.",
    "column_gold": "The right result, so that answers can be checked.",
    "rows_left_out": "Their numbers in the file, counted from 1; a header does not count, an empty row does.",
    "set_title": "A few words by which you know the set again.",
    "set_licence": "What its source says about use and sharing. It is kept with the set.",
    "keep_set": "Keeps these pairs on this computer, for the Start page.",
    "use_set": "Opens the Start page with this behaviour and this set chosen.",
    "add_prompts": "Upload, paste or fetch prompts of your own for this behaviour.",
    "edit_title": "A few words that stand in every list. The behaviour's id is made from it.",
    "edit_description": "Two or three sentences for people who have never heard of it.",
    "edit_question": "One sentence with a question mark: what one wants to know from a run.",
    "edit_model": "The model that the first words are read by and the check is run on. The small ones take seconds.",
    "edit_per_pair": "As in questions of fact: the right answer to one prompt is the wrong one to the other.",
    "edit_meaning": "What such first words stand for, for the charts: “starts of a refusal”.",
    "edit_strings": "First words of such answers, written as the model writes them: capital letters count.",
    "edit_tokenizer": "Fetches the small files of this model from the hub, so that its tokens can be shown.",
    "edit_perturbation": "You write both prompts yourself, or two letters inside one word are swapped, so that the "
    "model sees other pieces of it.",
    "edit_perturbation_text": "One sentence that stands under the behaviour's name on the Start page.",
    "edit_pairs_from": "Pairs typed here become a prompt set of this behaviour; sets it already has can be taken too.",
    "edit_original": "What the user says to the model, with the behaviour.",
    "edit_perturbed": "The same with as little changed as possible, so that the behaviour stops.",
    "edit_paste": "Cells copied from a spreadsheet, or lines with | between the two.",
    "edit_rule": "By examples of your own, or by one of the rules that come with pprobe.",
    "edit_add_class": "A further kind of answer, such as “hedges”.",
    "edit_class": "What such an answer does, in a word or two.",
    "edit_side": "Whether such an answer shows the behaviour (target), its opposite (control), or neither.",
    "edit_examples": "Whole answers or just their first words, one a line. Five to ten that differ work well.",
    "edit_try": "Shows at once which class the examples give this answer, and why.",
    "edit_same_content": "Then a switched answer should say the same thing in another form, as in two languages.",
    "edit_expected": "Only a note for readers: it stands beside what is measured and changes no number.",
    "edit_expected_note": "One sentence that is shown beside the verdict for comparison.",
    "edit_confusion": "Every example is taken out and sorted by the others. Rows: what you said; columns: the outcome.",
    "check_circuit": "Runs both prompts of every pair and reads how the answers begin; seconds for small models.",
    "save_circuit": "Puts it among the behaviours of all pages. Possible once the check holds.",
    "draft_circuit": "Keeps it on this page only; it cannot be chosen elsewhere.",
    "close_editor": "Back to the list, where what you typed is offered to go on with.",
    "go_on": "Opens the editor with what was typed, checks included.",
    "throw_away": "What was typed is gone; what was saved or kept as a draft stays.",
    "circuit_looked_at": "The eight that come with pprobe, your own, and drafts.",
    "new_behaviour": "Start with empty fields.",
    "copy_circuit": "Start with everything this one has; the copy is yours.",
    "change_circuit": "Open it in the editor. Runs made before keep the version they were made with.",
    "export_circuit": "A small text file (YAML) that can be imported on another computer. It holds no prompts.",
    "import_circuit": "A file made by Export, on this computer or another one.",
    "coupling": GLOSSARY["Coupling"],
    "thinking": "Some models can think before they answer, and their chat template has a switch for it. By default "
    "room is left for it only where the behaviour looks for `<think>`. With thinking on, nearly every answer starts "
    "with `<think>`, so the tokens of other behaviours are not covered.",
    "strings": "First tokens to watch in place of the behaviour's own, with | between them: Sorry|I|No. Each must be "
    "one token of the model. Fill in both sides or neither; \\| is a bar, \\n a line break.",
    "harvest": "The first tokens of the model's own answers, sorted by what those answers turned out to be. Only "
    "discovery pairs suggest tokens; the others check them.",
    "run_harvested": "The same prompts again, measured with the tokens proposed here. Both runs are kept, and the new "
    "one says where its tokens come from.",
    "strings_from": "Whether the watched first tokens are the behaviour's own, were given, or come from the model's "
    "answers in an earlier run.",
    "limit": "Use only the first so many pairs; 0 means all. Fewer pairs are faster and give wider intervals.",
    "seed": "Start of every random draw (perturbations, intervals, controls). The same seed gives the same numbers.",
    "run_button": "Two forward passes per pair plus the first words of each answer. Seconds for the shipped models.",
    "ranking": "Which question the order of neurons answers. The sentence below says it in full.",
    "run": "A finished run to look at. Runs never change; a new one is made on the Start page.",
    "region": "The rectangle of the map without a mouse: the neurons of these layers with scores between two numbers.",
    "region_layers": "First and last layer whose neurons are listed.",
    "region_score": "An end of the scores, on the map's upright axis. Empty: as far as they go.",
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
    "sweep_ranking": "Which neurons come first. The sentence below says which question each order answers.",
    "condition": "Which prompt of each pair the edit is made on. The default is where the behaviour shows.",
    "position": "At the decision position only (fast), or at every position, generated words included.",
    "answers": "Also write and classify the edited model's answers at every point. Takes longer.",
    "draws": "How many random controls stand beside every point. Five are the least a stage can rest on.",
    "doses": "Numbers of neurons, separated by commas. Empty: 1, 2, 5, 10, 20, 50, 100 and the paper's shares.",
    "factors": "What the activations are multiplied with, separated by commas. Empty: from −2 to 4.",
    "strengths": "Strengths separated by commas; above zero towards the target. Empty: towards the other prompts.",
    "layers": "Layers to inject after, such as 3, 5-8. Empty: all.",
    "n_seeds": "1 takes the likeliest word each time; more draws words at random, once for every seed.",
    "dose": "Which point of the curve the numbers and answers below belong to.",
    "outcome": "What counts about an answer.",
    "sweep": "A finished sweep of this run. Sweeps never change; a new one is made with the button.",
    "direction": "What is added: the difference of the two prompts' mean residual streams (per layer), or the "
    "direction the output head reads the logit difference along (the same at every layer).",
    "scale": "Relative counts in lengths of the residual stream at that place, so that a step means the same at every "
    "layer; absolute is what the paper uses.",
    "play_pair": "Examples from the run's prompt set, those first that took no part in choosing neurons or directions; "
    "or words of your own.",
    "play_condition": "Each example is a pair: the original prompt, and its twin with one small change.",
    "play_text": "Change it as you like. A small model knows only the world of its own examples.",
    "play_ask": "Puts what is written to the model; Ctrl and Enter in the text field does the same.",
    "play_n": "The first so many neurons of the run's ranking. 0 leaves them all alone.",
    "play_factor": "What their activations are multiplied with: 0 is off, 1 leaves them, above 1 turns them up.",
    "play_strength": "How far the residual stream is pushed along the run's direction, in lengths of that stream.",
    "play_layer": "The layer (a step of the model, counted from zero) after which the direction is added.",
    "play_unedited": "The model as it is, with the class that the behaviour's rules give the answer. Underlined: words "
    "that the changed answer lacks.",
    "play_edited": "The model with the change above. Bold and underlined: words that the first answer lacks.",
    "play_random": "The control: as many random neurons of the same layers, or a random direction at right angles and "
    "as long. Where this one does the same, there is nothing special about the change.",
    "play_redraw": "Writes out the answer under another of the random changes.",
    "chosen": "Neurons as L3.N12, separated by commas; the Probe page fills this in from ticked rows.",
    "recorded": "A real result that came with pprobe, computed by the same program on another computer. It is there so "
    "that every page has something to show at once.",
    "compute_here": "Runs the same request on this computer. The recorded result gives way to it, and how both agree "
    "is shown.",
    "sweep_button": "Edits the model at every point and at every random control; nothing is changed for good.",
    "label": "What you say this answer is. It is kept beside what the rules said.",
    "split": "Discovery prompts chose the neurons; held-out ones took no part.",
    "compare_models": "Two to six: shipped models, models with runs, or any folder or hub id (type it, press Enter).",
    "compare_circuits": "Which behaviours to compare. Every one is probed in every model.",
    "compare_sweeps": "Which tests to run on every probe. Without them only the two passes are compared.",
    "compare_bases": "Also probe the model before alignment where there is one, to see what alignment made.",
    "compare_own": "In place of the sets above, for their behaviours. Of a behaviour of yours the newest set is taken.",
    "compare_prompts": "The set every model is probed on. Only the same prompts make numbers strictly comparable.",
    "compare_matrix": "Every part is a run or a sweep of its own, found on the other pages as well.",
    "compare_button": "Queues the parts that are missing or failed, model by model. It can be stopped and continued.",
    "compare_view": "Which side of the comparison to show.",
    "compare_strength": "How strongly the direction is added, in lengths of the residual stream. Above zero towards "
    "what the other prompts do. A model without this strength shows its nearest one.",
    "quantity": "Which layer-wise number to lay over each other.",
    "scaled": "Divides each line by its model's own change between the two prompts, so that shapes can be compared.",
    "dose_value": "How far F moves, in units of the unedited F (−100 %: the decision is gone), or how many answers "
    "change.",
    "dose_axis": "Count neurons as they are, or as a share of the model's neurons.",
    "overlap_model": "The model whose behaviours are compared with each other.",
    "fit_log": "Fit against the logarithm of FFN/Skip; the ratios span decades.",
    "with_paper": "Lay the paper's own numbers over yours, marked as such. They were measured on other models.",
}

COMPARE_VIEWS: Mapping[str, str] = {
    "overview": "FFN/Skip",
    "layers": "Layer by layer",
    "neurons": "Where the neurons are",
    "dose": "Dose response",
    "window": "Injection window",
    "alignment": "Before and after alignment",
    "overlap": "Shared neurons",
    "fit": "Ratio against ablation",
    "words": "In words",
}
EFFECTS: Mapping[str, str] = {"relative": "Change of F, in its own units", "changed": "Answers that change class"}
DOSE_AXES: Mapping[str, str] = {"n_neurons": "Number of neurons", "fraction": "Share of all neurons"}

QUANTITIES: Mapping[str, str] = {
    "ffn": "FFN",
    "attention": "Attention",
    "skip": "Skip path",
    "ffn_skip": "FFN/Skip",
    "lens_after_ffn": "Trajectory",
}
