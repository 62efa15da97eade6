"""What a logits case holds, computed: logits of whole sequences, a classifier's hidden states, and what
greedy generation adds to some of them."""
import torch

from models import load_model, read_config
from reference import logit_error

NEW = 8  # tokens generated


def numbered(stored, what):
    """{k: list} of the tensors what.0, what.1, ..."""
    return {int(name.rpartition(".")[2]): value.tolist() for name, value in stored.items()
            if name.startswith(what + ".")}


def sequences_of(stored):
    """The sequences of a case's tensors, and the numbers of those that are continued."""
    ids, decoder_ids = numbered(stored, "ids"), numbered(stored, "decoder_ids")
    sequences = [{"ids": ids[k], **({"decoder_ids": decoder_ids[k]} if k in decoder_ids else {})}
                 for k in range(len(ids))]
    return sequences, sorted(numbered(stored, "generate"))


def run(model, sequence):
    arguments = {"input_ids": torch.tensor([sequence["ids"]])}
    if "decoder_ids" in sequence:
        arguments["decoder_input_ids"] = torch.tensor([sequence["decoder_ids"]])
    with torch.no_grad():
        return model(**arguments)


def generate(model, ids):
    """NEW ids by transformers' greedy generation, the end token being like any other."""
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([ids])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                         max_new_tokens=NEW)[0]
    return out[-NEW:].tolist()


def continued(kind, ids, new):
    """The sequence whose last NEW positions predict what was generated."""
    if kind == "t5":
        return {"ids": ids, "decoder_ids": [0] + new[:-1]}
    return {"ids": ids + new[:-1]}


def compute(model_dir, sequences, generated):
    """Tensors, the largest error of fp32, the margin of what is generated as a multiple of that error
    (None: nothing is)."""
    kind = read_config(model_dir)["model_type"]
    single, double = (load_model(model_dir, dtype) for dtype in (torch.float32, torch.float64))
    tensors, error, margin = {}, 0, None
    for k, sequence in enumerate(sequences):
        a, b = run(single, sequence), run(double, sequence)
        tensors[f"logits.{k}"] = a.logits[0, 0] if kind == "bert" else a.logits[0]
        error = max(error, logit_error(a.logits[0], b.logits[0]))
        if kind == "bert":
            tensors[f"hidden.{k}"] = a.hidden[0]
            error = max(error, logit_error(a.hidden[0], b.hidden[0]))
    for k in generated:
        new = generate(single, sequences[k]["ids"])
        tensors[f"generate.{k}"] = torch.tensor(new, dtype=torch.int32)
        after = continued(kind, sequences[k]["ids"], new)
        a, b = (run(model, after).logits[0, -NEW:] for model in (single, double))
        top = b.topk(2).values
        gap = (top[:, 0] - top[:, 1]).min().item() / (a - b).abs().max().item()
        if a.argmax(-1).tolist() != new:
            raise ValueError(f"{model_dir}: generation and logits differ")
        margin = gap if margin is None else min(margin, gap)
    return tensors, error, margin
