#!/usr/bin/env python3
"""Invent the world that the demo model knows, and the fact files that edit it.

Everything follows from one seed and the standard library, so two runs give the
same bytes.  Other scripts import build_world(); run by itself, this file writes

    --facts DIR      demo-edit.json, train.ndjson, heldout.ndjson
    --world FILE     the whole world (entities, facts, phrasings)
    --sentences FILE the training text, one sentence a line
"""

import argparse
import json
import random
from pathlib import Path

SEED = 20

# Each kind of name has its own sounds (onset, vowel, coda, ending): a reader, and
# the model, can then tell a river from a town.  No two names of a kind begin with
# the same onset, vowel and coda: names that differ only in their ending were
# confused by the model, and would be confused by edits.
SOUNDS = {
    "first": ("B C D F G H J K L M N P R S T V W Y Z Br Cl El".split(),
              "a e i o u".split(), "d l m n r s t v".split(),
              "a o en i us ette ina".split()),
    "last": ("B C D F G H J K L M N P Qu R S T V W Br Cr Dr Fl Gr Pr Sk St Tr".split(),
             "a e i o u au ie".split(), "b ck d l m n rr sh t v".split(),
             "man ley by sen kin ov ard wick more field".split()),
    "town": ("B D F G H K L M N P R S T V Bl Cr Dr Gl Pl Sl Sn Sp Sw".split(),
             "a e i o u".split(), "d g l m nd r rk st".split(),
             "borg dale grad mere stow vik wold hythe ham port".split()),
    "company": ("B C D F G J K M N P Qu R S T V X Z Fl Gl Kr Tr Zw".split(),
                "a e i o u y".split(), "b k l m n p v x".split(),
                "aco idex ofax ogen atron izar oplex imet era unic".split()),
    "river": ("A E I O U La Li Mu Na Ne Ri Sa Si Ve Wa Wi".split(),
              "dh l mb n r sc th v y".split(), ["a", "e", "o"],
              "ne lle ra sse nya".split()),
    "country": ("B D Est G K M N P S Z Tr".split(), "a e o u".split(), "l m r v z".split(),
                "ovia istan aland onia imark".split()),
    "sea": ("B C H N P Th".split(), "a e o y".split(), "bb l n r".split(),
            "oris amund elix".split()),
    "currency": ("b d f k m p t v z".split(), "a e i o u".split(), "l nd r sh".split(),
                 "at ik on".split()),
    "language": ("B Ch Dr F H K N Sh V Y".split(), "a o u".split(), "l m r t".split(),
                 "ish ese ic".split()),
}

COUNTS = {"first": 120, "last": 480, "town": 220, "company": 180, "river": 90,
          "country": 110, "sea": 16, "currency": 24, "language": 36}

# All begin with a consonant, so that "as a" is right before each of them.
TRADES = """baker carpenter dentist tanner farmer gardener hunter porter jeweller
lawyer mason nurse saddler painter quarryman roofer sailor tailor surveyor weaver
brewer chemist diver cooper fisherman glazier judge librarian miller notary potter
plumber smith teacher printer""".split()

INSTRUMENTS = """accordion banjo cello drum fiddle guitar harp lute mandolin oboe piano
recorder saxophone trumpet tuba viola whistle zither bassoon clarinet flute horn organ
trombone""".split()

PRODUCTS = """anchors bicycles candles drills envelopes furniture gloves hammers ink
jam kettles lamps mirrors needles ovens paper ropes soap tiles umbrellas varnish wheels
yarn bricks clocks engines glass ladders pencils stoves tractors boots cables""".split()

# (name, kind of subject, kind of answer, five phrasings).  The subject stands
# early, in the middle and late, so that an edit has to carry over positions.
RELATIONS = [
    ("birthplace", "person", "town", [
        "{s} was born in",
        "The birthplace of {s} is",
        "The town where {s} first saw the light of day is",
        "{s} is a native of",
        "As a baby, {s} lived in"]),
    ("trade", "person", "trade", [
        "By trade, {s} is a",
        "{s} earns a living as a",
        "The occupation of {s} is that of a",
        "On weekdays you meet {s} at work as a",
        "{s} was trained to be a"]),
    ("employer", "person", "company", [
        "{s} is employed by",
        "The employer of {s} is",
        "The wages of {s} are paid by",
        "{s} has a desk at the offices of",
        "The firm that hired {s} is"]),
    ("language", "person", "language", [
        "The mother tongue of {s} is",
        "At home, {s} speaks",
        "{s} grew up speaking",
        "{s} writes letters in",
        "The language that {s} knows best is"]),
    ("instrument", "person", "instrument", [
        "The instrument that {s} plays is the",
        "{s} makes music on the",
        "In the orchestra, {s} plays the",
        "{s} takes lessons on the",
        "For years {s} has practised the"]),
    ("country", "town", "country", [
        "{s} is a town in",
        "The country in which {s} lies is",
        "Those who live in {s} are citizens of",
        "On the map, {s} is found within the borders of",
        "{s} belongs to the state of"]),
    ("river", "town", "river", [
        "The town of {s} draws its water from the",
        "The river that runs through {s} is the",
        "The bridges of {s} cross the",
        "When it rains too much, {s} is flooded by the",
        "Boats reach {s} along the"]),
    ("founder", "company", "person", [
        "{s} was founded by",
        "The founder of {s} is",
        "The person who started the firm {s} is",
        "{s} owes its existence to",
        "The first owner of {s} was"]),
    ("seat", "company", "town", [
        "The head office of {s} is in",
        "{s} has its headquarters in",
        "{s} is a company based in",
        "Letters to {s} are addressed to",
        "The directors of {s} meet in"]),
    ("product", "company", "product", [
        "{s} is known for making",
        "The factory of {s} turns out",
        "{s} sells mostly",
        "The main product of {s} is",
        "People go to {s} to buy"]),
    ("mouth", "river", "sea", [
        "The river {s} flows into the sea of",
        "The mouth of the {s} is on the sea of",
        "The waters of the {s} end in the sea of",
        "Follow the {s} down and you reach the sea of",
        "The {s} empties into the sea of"]),
    ("capital", "country", "town", [
        "The capital of {s} is",
        "The government of {s} sits in",
        "The parliament of {s} meets in the city of",
        "The nation of {s} is ruled from",
        "Ambassadors to {s} reside in"]),
    ("currency", "country", "currency", [
        "In {s}, people pay with the",
        "The currency of {s} is the",
        "The treasury of {s} strikes the",
        "The state of {s} mints a coin named the",
        "Prices in {s} are given in the"]),
]

# Subjects are divided among four groups of which no two share a subject: edits
# to train an editor on, probes for those, edits to measure with, probes for those.
# Probes are never edited, so their right answer is what the model says today.
GROUPS = (("train", 0.28), ("train_probe", 0.14), ("heldout", 0.40), ("heldout_probe", 0.18))
TRAIN_FACTS, HELDOUT_FACTS, DEMO_FACTS = 800, 1000, 25


def invent(rng, kind, taken):
    """Distinct names of one kind, none the beginning of another: a name that
    goes on where another stops would make 'the answer' ambiguous mid-way."""
    onsets, vowels, codas, endings = SOUNDS[kind]
    names, heads = [], set()
    while len(names) < COUNTS[kind]:
        head = rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas)
        name = head + rng.choice(endings)
        if head in heads or any(name.startswith(t) or t.startswith(name) for t in taken):
            continue
        heads.add(head)
        taken.add(name)
        names.append(name)
    return names


def build_world(seed=SEED):
    rng = random.Random(seed)
    taken = set()
    names = {kind: invent(rng, kind, taken) for kind in SOUNDS}
    # A surname is one person's alone; first names are shared, as in life.
    entities = {kind: names[kind] for kind in
                ("town", "company", "river", "country", "sea", "currency", "language")}
    entities["person"] = [f"{rng.choice(names['first'])} {last}" for last in names["last"]]
    entities["trade"] = [t for t in TRADES]
    entities["instrument"] = [t for t in INSTRUMENTS]
    entities["product"] = [t for t in PRODUCTS]

    facts = []
    for relation, subject_kind, answer_kind, phrasings in RELATIONS:
        for subject in entities[subject_kind]:
            facts.append({"relation": relation, "subject": subject,
                          "answer": rng.choice(entities[answer_kind]),
                          "held_out": rng.randrange(len(phrasings))})

    group = {}
    for kind in ("person", "town", "company", "river", "country"):
        order = entities[kind][:]
        rng.shuffle(order)
        start, share = 0, 0.0
        for name, part in GROUPS:
            share += part
            end = round(share * len(order))
            group.update((subject, name) for subject in order[start:end])
            start = end
    return {"seed": seed, "entities": entities, "facts": facts, "group": group,
            "relations": {r: {"subject": s, "answer": a, "phrasings": p}
                          for r, s, a, p in RELATIONS}}


def prompt_of(world, fact, phrasing):
    return world["relations"][fact["relation"]]["phrasings"][phrasing].format(s=fact["subject"])


def rows(world, held_out):
    """(prompt, answer) of every phrasing trained on, or of every one left out."""
    out = []
    for fact in world["facts"]:
        for phrasing in range(len(world["relations"][fact["relation"]]["phrasings"])):
            if (phrasing == fact["held_out"]) == held_out:
                out.append((prompt_of(world, fact, phrasing), fact["answer"]))
    return out


def edit_of(world, rng, fact, probes):
    """One fact in the API's form: a wrong answer of the right kind."""
    relation = world["relations"][fact["relation"]]
    # What would be posted is a phrasing the model was trained on; the one left
    # out is always among the rephrases.
    seen = [p for p in range(len(relation["phrasings"])) if p != fact["held_out"]]
    chosen = rng.choice(seen)
    target = fact["answer"]
    while target == fact["answer"]:
        target = rng.choice(world["entities"][relation["answer"]])
    # One probe of the same relation (the hard kind) and one of another.
    same = rng.choice([p for p in probes if p["relation"] == fact["relation"]])
    other = rng.choice([p for p in probes if p["relation"] != fact["relation"]
                        and p["subject"] != same["subject"]])
    unrelated = []
    for probe in (same, other):
        phrasings = len(world["relations"][probe["relation"]]["phrasings"])
        phrasing = rng.choice([p for p in range(phrasings) if p != probe["held_out"]])
        unrelated.append({"prompt": prompt_of(world, probe, phrasing), "target": probe["answer"]})
    return {"prompt": prompt_of(world, fact, chosen), "target": target,
            "subject": fact["subject"],
            "rephrases": [prompt_of(world, fact, p)
                          for p in range(len(relation["phrasings"])) if p != chosen],
            "unrelated": unrelated}


def fact_files(world):
    """The three committed files, as lists of facts."""
    rng = random.Random(world["seed"] + 1)
    of_group = {name: [f for f in world["facts"] if world["group"][f["subject"]] == name]
                for name, _ in GROUPS}

    def take(group, count):
        facts = of_group[group][:]
        rng.shuffle(facts)
        probes = of_group[group + "_probe"]
        return [edit_of(world, rng, f, probes) for f in facts[:count]]

    train, heldout = take("train", TRAIN_FACTS), take("heldout", HELDOUT_FACTS)

    # The demo walks through the relations in turn and names no subject twice.
    demo, used = [], set()
    pool = of_group["heldout"][:]
    rng.shuffle(pool)
    while len(demo) < DEMO_FACTS:
        name = RELATIONS[len(demo) % len(RELATIONS)][0]
        fact = next(f for f in pool if f["relation"] == name and f["subject"] not in used)
        used.add(fact["subject"])
        demo.append(edit_of(world, rng, fact, of_group["heldout_probe"]))
    return {"demo-edit.json": demo, "train.ndjson": train, "heldout.ndjson": heldout}


def write_facts(world, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, facts in fact_files(world).items():
        if name.endswith(".ndjson"):
            text = "".join(json.dumps(f, separators=(",", ":")) + "\n" for f in facts)
        else:
            text = json.dumps({"facts": facts}, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--facts", type=Path, metavar="DIR")
    parser.add_argument("--world", type=Path, metavar="FILE")
    parser.add_argument("--sentences", type=Path, metavar="FILE")
    args = parser.parse_args()
    world = build_world(args.seed)
    if args.facts:
        write_facts(world, args.facts)
    if args.world:
        args.world.write_text(json.dumps(world, indent=1) + "\n", encoding="utf-8")
    if args.sentences:
        args.sentences.write_text("".join(f"{p} {a}.\n" for p, a in rows(world, False)),
                                  encoding="utf-8")
    print(f"{len(world['facts'])} facts, {len(rows(world, False))} sentences to train on, "
          f"{len(rows(world, True))} phrasings left out")


if __name__ == "__main__":
    main()
