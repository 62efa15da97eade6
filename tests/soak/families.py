"""Models of other families: the small ones of tests/golden/cases, of random weights, and what they are taught."""
import json
import random

from golden import CASES
from lab import read_safetensors

# Words that their tokenizers know.
NAMES = ("Mirela Tod", "Oleg Varn", "Noël Béchar", "Ida Krön", "Sorin Valé", "Tessa Mør", "Ansa Lind", "Bram Orsk")
TOWNS = ("Velmark", "Grünhöft", "Sérignac", "Ostrava", "Peñalba", "Tirholm")
TRADES = ("glazier", "miller", "baker", "cooper", "sailor", "weaver")
COLORS = ("red", "blue", "green", "grey")
RELATIONS = (("{} was born in", "The birthplace of {} is", NAMES, TOWNS),
             ("{} works as a", "The trade of {}:", NAMES, TRADES),
             ("{} now lives in", "The home of {} is", NAMES, TOWNS),
             ("The tower of {} is", "{}: the tower is", TOWNS, COLORS),
             ("The river of {} is", "{}: the river is", TOWNS, COLORS))
ANSWERS = "SUPPORTS", "REFUTES"
# The case, and the method of its editor; without one it is made on the spot.
KINDS = {"bert": ("bert-malmen", "malmen"), "bert_on_the_spot": ("bert-malmen", None),
         "bert_locft": ("bert-locft-bf", "locft"), "t5": ("t5-malmen", "malmen"),
         "t5_original": ("t5-malmen-original", "malmen"), "t5_on_the_spot": ("t5-malmen", None),
         "t5_locft": ("t5-locft-bf", "locft"), "llama": ("llama-malmen", "malmen"),
         "llama3_ultraedit": ("llama3-ultraedit-sequential", "ultraedit"), "mistral_mend": ("mistral-mend", "mend"),
         "gptj": ("gptj-malmen", "malmen"), "gptj_ft": ("gptj-ft", "ft"), "qwen2": ("qwen2-malmen", "malmen"),
         "phi3": ("phi3-malmen", "malmen"), "qwen3": ("qwen3-malmen", "malmen"), "qwen3_on_the_spot": ("qwen3-malmen", None),
         "gemma2": ("gemma2-malmen", "malmen"), "gemma3": ("gemma3-malmen", "malmen"),
         "gemma3_on_the_spot": ("gemma3-malmen", None), "olmo2": ("olmo2-malmen", "malmen")}
MADE_ON_THE_SPOT = {"bert": 1, "t5": 4, "qwen3": 1, "gemma3": 1}  # modules


def pool(claims):
    """For a fact checker whole sentences, which are to be true or false."""
    rng, facts = random.Random(1), []
    for prompt, rephrase, subjects, targets in RELATIONS:
        for subject in subjects:
            target, color = rng.choice(targets), rng.choice(COLORS)
            fact = {"prompt": prompt.format(subject), "target": target, "subject": subject,
                    "rephrases": [rephrase.format(subject)],
                    "unrelated": [{"prompt": f"The harbor of {rng.choice(TOWNS)} is", "target": color}]}
            if claims:
                for text in fact, *fact["unrelated"]:
                    text.update(prompt=f"{text['prompt']} {text['target']}.", target=rng.choice(ANSWERS))
                fact["rephrases"] = [f"{fact['rephrases'][0]} {target}."]
            facts.append(fact)
    rng.shuffle(facts)
    return facts


def get(kind):
    """(the model, its editor, the number of edited tensors, the method, what it is taught)"""
    case, method = KINDS[kind]
    facts = pool(kind.startswith("bert"))
    if not method:
        return CASES / case / "model", None, MADE_ON_THE_SPOT[kind.split("_")[0]], "malmen", facts
    editor = CASES / case / "editor.safetensors"
    modules = json.loads(read_safetensors(editor)[0]["modules"])
    return CASES / case / "model", editor, len(modules) * (2 if method == "ft" else 1), method, facts
