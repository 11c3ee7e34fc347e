"""A two-layer transformer on torch's own layers learns to copy; at which earlier letters does it look?

A text repeats a unit of 6 to 12 distinct letters: algorithmalgorithmalg… After the first copy every next letter
is determined: look up the last letter where it stood before, and take what followed it there. So the right
pattern of attention is known. `make results` makes the record; `python results/attention_copy.py` then writes,
from seed 0, the example that chapter 22 draws: minillm/assets/attention_example.safetensors.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

LETTERS, LENGTH, WIDTH, HEADS, LAYERS = 20, 24, 64, 4, 2  # V, T, D, N, L
STEPS, EVERY, BATCH, RATE = 400, 20, 64, 3e-3
SEEDS = [0, 1, 2, 3, 4]


def texts(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    "n texts (n,T+1) and where the next letter is determined (n,T)."
    letters = torch.rand(n, LETTERS, generator=generator).argsort(-1)
    unit = torch.randint(6, 13, (n, 1), generator=generator)
    return letters.gather(1, torch.arange(LENGTH + 1) % unit), torch.arange(LENGTH) >= unit


class CopyModel(nn.Module):
    "Embeddings, torch's pre-norm layers, a linear head: (B,T) ids → (B,T,V)."

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        options = {"dim_feedforward": 2 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, **options) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, LETTERS)

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, seen = self.letters(ids) + self.places(torch.arange(LENGTH)), []
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for layer in self.layers:
            projected = F.linear(layer.norm1(h), layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias)
            seen.append(projected.view(-1, LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4))  # (3,B,N,T,H)
            h = layer(h, src_mask=mask, is_causal=True)
        return self.head(h), seen


def train(seed: int) -> tuple[CopyModel, list[float], torch.Generator]:
    "The trained model, its accuracy on fresh texts every EVERY steps, and the generator."
    torch.manual_seed(seed)
    generator, model, curve = torch.Generator().manual_seed(seed), CopyModel(), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    for step in range(STEPS + 1):
        ids, known = texts(BATCH, generator)
        logits, target = model(ids[:, :-1])[0][known], ids[:, 1:][known]
        if step % EVERY == 0:
            curve.append((logits.argmax(-1) == target).float().mean().item())
        optimiser.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 100) * min(1, 4 * (1 - step / (STEPS + 1)))
        optimiser.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimiser.step()
    return model.eval(), curve, generator


def run(seed: int) -> dict:
    "Accuracy, and per layer and head the mean weight on the letter before and on the letters that come next."
    model, curve, generator = train(seed)
    ids, known = texts(512, generator)
    with torch.no_grad():
        logits, seen = model(ids[:, :-1])
    before, right = [], []
    for q, k, _ in seen:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~torch.ones(LENGTH, LENGTH).tril().bool(), -torch.inf).softmax(-1)
        before.append([round(x, 4) for x in weights.diagonal(-1, -2, -1).mean((0, 2)).tolist()])
        same = ids[:, None, :-1] == ids[:, 1:, None]  # (B,T,S): key s holds the letter that follows t
        found = (weights * same[:, None]).sum(-1).transpose(0, 1)[:, known]
        right.append([round(x, 4) for x in found.mean(-1).tolist()])
    accuracy = (logits.argmax(-1) == ids[:, 1:])[known].float().mean().item()
    curve = [round(x, 4) for x in curve]
    return {"accuracy": round(accuracy, 4), "curve": curve, "before": before, "right": right}


FUNCTIONS = [texts, CopyModel, train, run]  # what the record's hash covers


def save_example(path: Path, record: dict, word: str = "algorithm", seed: int = 0) -> None:
    "Queries, keys and values (L,N,T,H) of the trained model reading a repeated word, and what it guessed."
    model, _, _ = train(seed)
    letters = (word * LENGTH)[:LENGTH]
    with torch.no_grad():
        logits, seen = model(torch.tensor([[ord(c) - ord("a") for c in letters]]))
    guesses = "".join(chr(ord("a") + i) for i in logits[0].argmax(-1).tolist())
    tensors = {"qkv"[i]: torch.stack([layer[i][0] for layer in seen]).contiguous() for i in range(3)}
    about = {"letters": letters, "unit": len(word), "guesses": guesses, "seed": seed, "every": EVERY}
    about["curves"] = [of_seed["curve"] for of_seed in record["seeds"].values()]
    path.write_bytes(save(tensors, metadata={"example": json.dumps(about)}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Path(__file__).parent
    measured = json.loads((here / "attention_copy.json").read_text(encoding="utf-8"))
    save_example(here.parent / "minillm" / "assets" / "attention_example.safetensors", measured)
