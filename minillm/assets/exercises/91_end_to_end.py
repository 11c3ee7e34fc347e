# Generated from nbs/91_end_to_end.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup


# %% exercise 91-a {"title": "As far as it is true", "answer": "def true_start(text: str) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake
from minillm.storyworld import StoryWorld, check_story, plant_contradiction

hints = [
    "check_story(text) follows the text; its report has .sentences, .unparsed and .contradictions.",
    "`unparsed` holds numbers of sentences; each contradiction has such a number, .sentence. Which is first?",
    "Sentences before number n: report.sentences[:n]. Where nothing is wrong, n is their number.",
]


def cases():
    story = StoryWorld(seed=3).story(1)
    sentences = list(story.sentences)
    planted = plant_contradiction(story, "wrong-colour", seed=1)
    faulty = planted.text + " The the owl."
    yield faulty.replace(sentences[0], sentences[0] + " Owl owl.", 1), sentences[0]
    yield planted.text, " ".join(sentences[: planted.sentence])
    yield " ".join([*sentences[:4], "The the owl.", *sentences[4:]]), " ".join(sentences[:4])
    broken = plant_contradiction(story, "two-places", seed=2)
    yield "Owl owl. " + broken.text, ""
    late = broken.text + " The the owl."
    yield late, " ".join(sentences[: broken.sentence])
    yield story.text, story.text


def numbers(text):
    report = check_story(text)
    return list(report.unparsed), [one.sentence for one in report.contradictions], report.sentences


def checks(true_start):
    for text, right in cases():
        got = true_start(text)
        unparsed, wrong, sentences = numbers(text)
        kept = lambda n, sentences=sentences: " ".join(sentences[:n])
        faults = sorted([*unparsed, *wrong])
        where = f"for {text[:50]!r} …"
        if faults and got == kept(faults[0] + 1):
            mistake(f"{where} you kept the wrong sentence itself; stop before it")
        if faults and got == kept(min(wrong, default=len(sentences))) != right:
            mistake(f"{where} a sentence that fits no frame is a fault, too: see report.unparsed")
        if faults and got == kept(min(unparsed, default=len(sentences))) != right:
            mistake(f"{where} you looked at what fits no frame only; see report.contradictions")
        if faults and got == kept(faults[-1]) != right:
            mistake(f"{where} you stopped before the last fault; the first is asked for")
        expect(got == right, f"{where} the true start is {right[-60:]!r} at its end; yours ends in {got[-60:]!r}")


def _cut(text, faults, more=0):
    sentences = check_story(text).sentences
    return " ".join(sentences[: min(faults, default=len(sentences)) + more])


def wrong_keeps_it(text):
    unparsed, wrong, _ = numbers(text)
    return _cut(text, [*unparsed, *wrong], 1)


def wrong_frames_only(text):
    return _cut(text, numbers(text)[0])


def wrong_truth_only(text):
    return _cut(text, numbers(text)[1])


def wrong_last(text):
    unparsed, wrong, _ = numbers(text)
    return _cut(text, sorted([*unparsed, *wrong])[-1:])


planted = {
    wrong_keeps_it: "stop before it",
    wrong_frames_only: "see report.contradictions",
    wrong_truth_only: "see report.unparsed",
    wrong_last: "the first is asked for",
}

# %% exercise 91-b {"title": "Judge a sampler", "answer": "def two_shares(texts: list[str]) -> tuple[float, float]: ...", "returns": true}
from minillm.exercises import expect, mistake
from minillm.storyworld import check_story

hints = [
    "check_story of each text: a sentence is bad if its number is in .unparsed or a contradiction has it.",
    "One sentence may contradict in two ways and is still one bad sentence: collect numbers in a set.",
    "Add up over all texts first, then divide: a short text must not weigh as much as a long one.",
]

STORY = "Mia was in the park. Mia had a red ball. The red ball was in the park. Mia went to the barn."
TWICE = "Mia was in the park. Mia had a red ball. In the barn, Mia painted the blue ball green."
SHORT = "Mia was in the park. The the owl."
CASES = ([STORY], [STORY, STORY], [STORY, SHORT], [TWICE, STORY], [SHORT, SHORT, TWICE])


def bad_ones(text):
    report = check_story(text)
    return [*report.unparsed], [one.sentence for one in report.contradictions], report.sentences


def right_shares(texts):
    told = [sentence for text in texts for sentence in bad_ones(text)[2]]
    bad = sum(len({*bad_ones(text)[0], *bad_ones(text)[1]}) for text in texts)
    return 1 - bad / len(told), len(set(told)) / len(told)


def checks(two_shares):
    for texts in CASES:
        got, right = two_shares(list(texts)), right_shares(texts)
        where = f"for {texts}"
        if not near(got[0], right[0]):
            parts = [bad_ones(text) for text in texts]
            bad = (1 - got[0]) * sum(len(told) for _, _, told in parts)  # that this answer found
            if near(bad, sum(len(a) + len(b) for a, b, _ in parts)):
                mistake(f"{where} you counted a sentence with two contradictions twice")
            if near(bad, sum(len(a) for a, _, _ in parts)):
                mistake(f"{where} you forgot the sentences that contradict")
            if near(got[0], sum(right_shares([text])[0] for text in texts) / len(texts)):
                mistake(f"{where} you took a mean of means; add up first, then divide")
        if near(got[1], len(set(texts)) / len(texts)) and not near(got[1], right[1]):
            mistake(f"{where} you counted different texts; sentences are asked for")
        same = near(got[0], right[0]) and near(got[1], right[1])
        expect(same, f"{where} the shares are {right[0]:.3f} and {right[1]:.3f}; yours are {got}")


def near(a, b):
    return abs(a - b) < 1e-9


def wrong_twice(texts):
    told = [sentence for text in texts for sentence in bad_ones(text)[2]]
    return 1 - sum(len(a) + len(b) for a, b, _ in map(bad_ones, texts)) / len(told), right_shares(texts)[1]


def wrong_frames_only(texts):
    told = [sentence for text in texts for sentence in bad_ones(text)[2]]
    return 1 - sum(len(bad_ones(text)[0]) for text in texts) / len(told), right_shares(texts)[1]


def wrong_means(texts):
    return sum(right_shares([text])[0] for text in texts) / len(texts), right_shares(texts)[1]


def wrong_texts(texts):
    return right_shares(texts)[0], len(set(texts)) / len(texts)


planted = {
    wrong_twice: "two contradictions twice",
    wrong_frames_only: "sentences that contradict",
    wrong_means: "mean of means",
    wrong_texts: "sentences are asked for",
}

# %% exercise 91-c {"title": "Smaller at equal loss", "answer": "def smallest_as_good(runs: dict[int, list[float]], within: float) -> int: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "First the mean loss of every size; a single run may have been lucky.",
    "The best mean is the smallest of these. Which sizes are within reach of it?",
    "Of those the smallest number of parameters; a dictionary may have any order.",
]

CASES = (  # runs, within, the answer
    ({100: [1.6, 1.7], 300: [1.21, 1.19], 200: [1.20, 1.22], 400: [1.19, 1.18]}, 0.05, 200),
    ({400: [1.30, 1.31, 1.29], 200: [1.32, 1.33, 1.31], 100: [1.50, 1.29, 1.51]}, 0.03, 200),
    ({900: [1.10, 1.10], 500: [1.20, 1.22], 100: [1.4, 1.5]}, 0.01, 900),
    ({50: [2.0, 1.0], 80: [1.25, 1.27]}, 0.1, 80),
)


def means(runs):
    return {size: sum(losses) / len(losses) for size, losses in runs.items()}


def checks(smallest_as_good):
    for runs, within, right in CASES:
        got = smallest_as_good(runs, within)
        where = f"for {runs} and within={within}"
        if got != right:
            if got == wrong_lucky(runs, within):
                mistake(f"{where} you compared the best single runs; one lucky seed is no model: take means")
            if got == wrong_best(runs, within):
                mistake(f"{where} {got} has the lowest mean, but a smaller one is within {within} of it")
            if got == wrong_first(runs, within):
                mistake(f"{where} {got} is the first that is good enough; the smallest is asked for")
        expect(got == right, f"{where} the answer is {right}, yours is {got}")


def wrong_lucky(runs, within):
    best = min(min(losses) for losses in runs.values())
    return min(size for size, losses in runs.items() if min(losses) <= best + within)


def wrong_best(runs, within):
    return min(runs, key=lambda size: means(runs)[size])


def wrong_first(runs, within):
    best = min(means(runs).values())
    return next(size for size, mean in means(runs).items() if mean <= best + within)


def wrong_smallest(runs, within):
    return min(runs)


planted = {
    wrong_lucky: "one lucky seed",
    wrong_best: "a smaller one is within",
    wrong_first: "the smallest is asked for",
    wrong_smallest: "the answer is",
}

# %% exercise 91-d {"title": "Only look", "answer": "def look(model, write): ...", "returns": true}
import torch
from torch import nn

from minillm.exercises import expect, mistake

may_change_input = True  # the model's mode is looked at below
hints = [
    "model.training says in which mode it is; model.train(that) puts it back.",
    "torch.get_rng_state and set_rng_state, or `with torch.random.fork_rng([]):` around the seed and the writing.",
    "A model that was in evaluation mode before must be so afterwards, too.",
]
well_done = "a look that changes nothing: the run with the diary is now, bit for bit, the run without"


def write(model):
    return [model.training, *torch.rand(2).tolist()]


def checks(look):
    with torch.random.fork_rng([]):
        for training in (True, False):
            model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train(training)
            torch.manual_seed(5)
            state = torch.get_rng_state()
            pages = [look(model, write), look(model, write)]
            if pages[0][0]:
                mistake("the model wrote in training mode, so dropout was on; call model.eval() before")
            if pages[0] != pages[1]:
                mistake("two looks at the same model gave other random numbers; put torch's generator at seed 0")
            if not torch.equal(torch.get_rng_state(), state):
                mistake("torch's generator is not where it was: the run goes on with other random numbers")
            mode = "training" if training else "evaluation"
            expect(model.training == training, f"the model was in {mode} mode before, and is not afterwards")
            torch.manual_seed(0)
            right = torch.rand(2).tolist()
            expect(pages[0][1:] == right, f"with seed 0 the page is {right}, yours is {pages[0][1:]}")


def wrong_colleague(model, write):
    model.eval()
    torch.manual_seed(0)
    return write(model)


def wrong_always_train(model, write):
    model.eval()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        page = write(model)
    model.train()
    return page


def wrong_stays_eval(model, write):
    model.eval()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return write(model)


def wrong_mode(model, write):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return write(model)


def wrong_chance(model, write):
    training = model.training
    page = write(model.eval())
    model.train(training)
    return page


planted = {
    wrong_colleague: "generator is not where it was",
    wrong_always_train: "was in evaluation mode before",
    wrong_stays_eval: "was in training mode before",
    wrong_mode: "dropout was on",
    wrong_chance: "gave other random numbers",
}
