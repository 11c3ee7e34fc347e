# Generated from nbs/31_loss.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import contextlib
import math
import torch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing import Any, TypeAlias
from minillm.attention import _autocast, _no_autocast
from minillm.batches import IGNORED, Batch
from minillm.bigram import bits_per_byte, perplexity
from minillm.loss import Evaluation, cross_entropy, evaluate_loss, linear_cross_entropy, log_sum_exp, next_token_loss

# %% exercise 31-a {"title": "Piece by piece", "answer": "def running_log_sum_exp(pieces: Iterable[Tensor]) -> Tensor: ...", "returns": true}
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minillm.exercises import expect, mistake

hints = [
    "The sum of two sums is the sum of all: ln(eᵃ + eᵇ) is the log-sum-exp of the two numbers a and b.",
    "Keep one number a row. For each piece: its log-sum-exp, and then the log-sum-exp of that and what you have.",
]
well_done = "Flash attention does this with softmax-weighted sums: chapter 22's online softmax."


class Widest(TorchDispatchMode):
    "The most numbers that a new tensor has."

    most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


def checks(running_log_sum_exp):
    generator = torch.Generator().manual_seed(0)
    for scale, what in ((1.0, "small logits"), (2000.0, "logits in the thousands")):
        for sizes in ((4, 1, 7), (3,), (5,) * 40):
            row = scale * torch.randn(2, 3, sum(sizes), generator=generator)
            pieces = [piece.clone() for piece in row.split(sizes, -1)]
            with Widest() as seen:
                got = running_log_sum_exp(iter(pieces))
            where = f"for {what} in pieces of {sizes[:3]}"
            expect(
                getattr(got, "shape", None) == (2, 3),
                f"{where} of shape (2, 3, n) the result should have shape (2, 3), one number a row",
            )
            if not got.isfinite().all() and scale > 1:
                mistake(f"{where} it overflows: take the largest out before exp, as log_sum_exp does")
            last = pieces[-1].logsumexp(-1)
            if len(sizes) > 1 and torch.allclose(got, last):
                mistake(f"{where} you returned the last piece alone")
            right = row.double().logsumexp(-1)
            added = sum(piece.double().logsumexp(-1) for piece in pieces)
            if len(sizes) > 1 and torch.allclose(got.double(), added, rtol=1e-4):
                mistake(f"{where} you added logarithms; it is the numbers that are added")
            expect(
                torch.allclose(got.double(), right, rtol=1e-5),
                f"{where} it is {right.tolist()}, yours {got.tolist()}",
            )
            if len(sizes) == 40 and seen.most >= row.numel():
                mistake(f"{where} a tensor of {seen.most} numbers was made: do not put the pieces together")
    silent = torch.full((2, 3), -torch.inf)
    got = running_log_sum_exp(iter([silent, torch.zeros(2, 2), silent]))
    if got.isnan().any():
        mistake("a piece of nothing but −inf gives nan: −inf − (−inf) is not a number")
    expect(torch.allclose(got, torch.tensor(2.0).log()), "pieces of −inf add nothing to the sum")
    got = running_log_sum_exp(iter([silent, silent]))
    expect((got == -torch.inf).all(), f"where all pieces are −inf so is the result, yours {got.tolist()}")


def wrong_concatenates(pieces):
    return torch.cat(list(pieces), -1).logsumexp(-1)


def wrong_adds_logarithms(pieces):
    return sum(piece.logsumexp(-1) for piece in pieces)


def wrong_overflows(pieces):
    return sum(piece.exp().sum(-1) for piece in pieces).log()


def wrong_last(pieces):
    for piece in pieces:
        total = piece.logsumexp(-1)
    return total


def wrong_floor(pieces):
    total = torch.tensor(-1e4)
    for piece in pieces:
        total = torch.logaddexp(total, piece.logsumexp(-1))
    return total


def wrong_silent(pieces):
    top, total = torch.tensor(-torch.inf), torch.tensor(0.0)
    for piece in pieces:
        new = torch.maximum(top, piece.amax(-1))
        total = total * (top - new).exp() + (piece - new[..., None]).exp().sum(-1)
        top = new
    return top + total.log()


planted = {
    wrong_concatenates: "do not put the pieces together",
    wrong_adds_logarithms: "added logarithms",
    wrong_overflows: "overflows",
    wrong_last: "last piece alone",
    wrong_silent: "nothing but −inf",
    wrong_floor: "where all pieces are −inf",
}

# %% exercise 31-b {"title": "A teacher's probabilities", "answer": "def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> Tensor: ...", "returns": true}
import torch
import torch.nn.functional as F

from minillm.exercises import expect, mistake

hints = [
    "ln p is logits minus their log-sum-exp. Never take the logarithm of a softmax.",
    "Where the teacher says 0, ln p may be −inf, and 0 · −inf is nan: replace ln p by 0 there before multiplying.",
    "The teacher is not trained: teacher_logits.detach().",
]


def checks(soft_cross_entropy):
    generator = torch.Generator().manual_seed(0)
    teacher, logits = (3 * torch.randn(4, 6, generator=generator) for _ in range(2))
    right = lambda z, t: F.cross_entropy(z, t.softmax(-1)).item()
    got = float(soft_cross_entropy(logits.clone(), teacher.clone()))
    if abs(got - right(teacher, logits)) < 1e-4:
        mistake("the two are exchanged: the teacher's probabilities weigh the model's surprises")
    kl = F.kl_div(logits.log_softmax(-1), teacher.softmax(-1), reduction="batchmean").item()
    if abs(got - kl) < 1e-4:
        mistake("that is the divergence, without the teacher's own entropy; asked is −Σ q ln p")
    if abs(got - 4 * right(logits, teacher)) < 1e-3:
        mistake("you added the rows; it is their mean")
    expect(abs(got - right(logits, teacher)) < 1e-4, f"it is {right(logits, teacher):.4f}, yours {got:.4f}")
    got, wanted = float(soft_cross_entropy(300 * logits, teacher)), right(300 * logits, teacher)
    if not abs(got) < float("inf"):
        mistake(
            "logits in the hundreds: ln of a softmax that became 0 is −inf; use logits minus their log-sum-exp"
        )
    expect(abs(got - wanted) < 1e-3 * wanted, f"for large logits it is {wanted:.1f}, yours {got:.1f}")
    got, wanted = float(soft_cross_entropy(logits, 300 * teacher)), right(logits, 300 * teacher)
    expect(abs(got - wanted) < 1e-4, f"for large logits of the teacher it is {wanted:.4f}, yours {got:.4f}")
    certain = torch.full((4, 6), -torch.inf).index_fill(1, torch.tensor([5]), 0.0)
    got, wanted = float(soft_cross_entropy(logits, certain)), F.cross_entropy(logits, torch.tensor([5] * 4)).item()
    expect(
        abs(got - wanted) < 1e-4,
        f"a teacher that is certain: the plain loss of its tokens, {wanted:.4f}, yours {got:.4f}",
    )
    banned = torch.zeros(4, 6).index_fill(1, torch.tensor([2]), -torch.inf)
    z = (logits + banned).requires_grad_()
    t = (teacher + banned).requires_grad_()
    with torch.enable_grad():
        loss = soft_cross_entropy(z, t)
    allowed = torch.tensor([0, 1, 3, 4, 5])
    wanted = right(logits[:, allowed], teacher[:, allowed])
    if loss.isnan():
        mistake("a token that both ban gives nan: 0 · −inf")
    expect(abs(loss.item() - wanted) < 1e-4, f"with a banned token it is {wanted:.4f}, yours {loss.item():.4f}")
    slope, of_teacher = torch.autograd.grad(loss, [z, t], allow_unused=True)
    if of_teacher is not None and of_teacher.nan_to_num().any():
        mistake("the teacher gets a gradient; it is not trained")
    got = float(soft_cross_entropy(logits + banned, teacher))
    expect(got == float("inf"), f"the model bans what the teacher wants: an infinite loss, yours {got}")
    p, q = (x.detach().softmax(-1) for x in (z, t))
    expect(torch.allclose(slope, (p - q) / 4, atol=1e-5), "the gradient by the logits should be (p − q) / R")


def wrong_exchanged(logits, teacher_logits):
    return -(logits.softmax(-1) * teacher_logits.log_softmax(-1)).sum(-1).mean()


def wrong_log_of_softmax(logits, teacher_logits):
    return -(teacher_logits.detach().softmax(-1) * logits.softmax(-1).log()).sum(-1).mean()


def wrong_banned(logits, teacher_logits):
    return -(teacher_logits.detach().softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()


def wrong_teaches_the_teacher(logits, teacher_logits):
    q = teacher_logits.softmax(-1)
    return -(q * logits.log_softmax(-1).masked_fill(q == 0, 0.0)).sum(-1).mean()


def wrong_naive_teacher(logits, teacher_logits):
    q = teacher_logits.detach().exp()
    q = q / q.sum(-1, keepdim=True)
    return -(q * logits.log_softmax(-1).masked_fill(q == 0, 0.0)).sum(-1).mean()


def wrong_hides(logits, teacher_logits):
    log_p = logits.log_softmax(-1)
    return -(teacher_logits.detach().softmax(-1) * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1).mean()


def wrong_sum(logits, teacher_logits):
    q = teacher_logits.detach().softmax(-1)
    return -(q * logits.log_softmax(-1).masked_fill(q == 0, 0.0)).sum()


def wrong_divergence(logits, teacher_logits):
    return F.kl_div(logits.log_softmax(-1), teacher_logits.softmax(-1), reduction="batchmean")


planted = {
    wrong_exchanged: "exchanged",
    wrong_log_of_softmax: "in the hundreds",
    wrong_banned: "0 · −inf",
    wrong_teaches_the_teacher: "not trained",
    wrong_sum: "added the rows",
    wrong_naive_teacher: "large logits of the teacher",
    wrong_hides: "an infinite loss",
    wrong_divergence: "divergence",
}

# %% exercise 31-c {"title": "Mend it", "answer": "def validation_loss(model: nn.Module, batches: list[Tensor]) -> float: ...", "returns": true}
import torch
import torch.nn.functional as F

from minillm.exercises import expect, mistake

hints = [
    "Loss 0.04 is what a model gets that sees the answer. The logits at place t are about the token at t + 1.",
    "A batch with few targets should count for little. Add up surprises and targets, and divide once, at the end.",
    "The mean of a batch times its number of targets (those that are not −100) is its sum.",
]
well_done = "The same trap waits in training: gradients of small batches that are added up must be weighted too."


def right_sums(model, ids):
    logits, targets = model(ids.clamp(min=0))[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    return F.cross_entropy(logits, targets, reduction="sum").item(), int((targets != -100).sum())


def checks(validation_loss):
    generator = torch.Generator().manual_seed(0)
    table = 2 * torch.randn(9, 9, generator=generator)
    model = lambda ids: table[ids] + 0.3 * table[ids].cumsum(1)  # of the last token, and of all before it

    def batch(*lengths):
        rows = torch.full((len(lengths), max(lengths)), -100)
        for row, length in enumerate(lengths):
            rows[row, :length] = torch.randint(9, (length,), generator=generator)
        return rows

    one = [batch(7, 7)]
    nats, n = right_sums(model, one[0])
    got = float(validation_loss(model, [ids.clone() for ids in one]))
    itself = F.cross_entropy(model(one[0]).flatten(0, 1), one[0].flatten()).item()
    back = F.cross_entropy(model(one[0])[:, 1:].flatten(0, 1), one[0][:, :-1].flatten()).item()
    if abs(got - itself) < 1e-4:
        mistake("each token is still judged by the logits of its own place, which have seen it: shift by one")
    if abs(got - back) < 1e-4:
        mistake("shifted the wrong way: the logits at place t are about the token at t + 1, not t − 1")
    expect(abs(got - nats / n) < 1e-4, f"for one batch without padding it is {nats / n:.4f}, yours {got:.4f}")
    many = [batch(12, 12, 12), batch(2), batch(9, 3), batch(4, 2)]
    sums = [right_sums(model, ids) for ids in many]
    nats, n = (sum(column) for column in zip(*sums))
    got = float(validation_loss(model, [ids.clone() for ids in many]))
    if abs(got - sum(a / b for a, b in sums) / len(sums)) < 1e-4:
        mistake("that is the mean of the batches' means; a batch of one target counts as much as one of 33")
    places = sum(ids[:, 1:].numel() for ids in many)
    if abs(got - nats / places) < 1e-4:
        mistake("you divided by all places; padding is no target")
    expect(abs(got - nats / n) < 1e-4, f"for four batches with padding it is {nats / n:.4f}, yours {got:.4f}")
    again = float(validation_loss(model, [many[2].flip(0), many[1], many[3].flip(0), many[0]]))
    expect(abs(again - got) < 1e-4, "with the batches in another order it should be the same")
    again = float(validation_loss(model, [*many, batch(1, 1)]))
    if again != again:
        mistake("a batch of single tokens has no target, and its mean is 0/0; nan times 0 is still nan")
    expect(abs(again - got) < 1e-4, "a batch of single tokens has no target and should change nothing")


def wrong_not_shifted(model, batches):
    sums = [
        (F.cross_entropy(model(ids.clamp(min=0)).flatten(0, 1), ids.flatten(), reduction="sum"), (ids >= 0).sum())
        for ids in batches
    ]
    return sum(a for a, _ in sums) / sum(b for _, b in sums)


def wrong_mean_of_means(model, batches):
    sums = [right_sums(model, ids) for ids in batches]
    return sum(a / b for a, b in sums) / len(sums)


def wrong_way(model, batches):
    logits, targets = (
        torch.cat(x)
        for x in zip(*((model(ids.clamp(min=0))[:, 1:].flatten(0, 1), ids[:, :-1].flatten()) for ids in batches))
    )
    return F.cross_entropy(logits, targets)


def wrong_without_target(model, batches):
    sums = [
        (right_sums(model, ids)[0] / torch.tensor(right_sums(model, ids)[1]), right_sums(model, ids)[1])
        for ids in batches
    ]
    return sum(a * b for a, b in sums) / sum(b for _, b in sums)


def wrong_one_at_a_time(model, batches):
    alone = lambda ids: model(ids.flatten()[:, None])[:, 0].unflatten(0, ids.shape)
    sums = [right_sums(alone, ids) for ids in batches]
    return sum(a for a, _ in sums) / sum(b for _, b in sums)


def wrong_counts_padding(model, batches):
    return sum(right_sums(model, ids)[0] for ids in batches) / sum(ids[:, 1:].numel() for ids in batches)


planted = {
    wrong_not_shifted: "shift by one",
    wrong_mean_of_means: "mean of the batches' means",
    wrong_way: "the wrong way",
    wrong_counts_padding: "padding is no target",
    wrong_without_target: "nan times 0",
    wrong_one_at_a_time: "without padding it is",
}
