# Generated from nbs/10_storyworld.ipynb by tools/exercises.py: edit the notebook, then `make export`.
# %% setup
import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple
from minillm.storyworld import COLOURS, CONTAINERS, CONTRADICTIONS, Contradiction, EFFECTS, Event, FACTS, FEELINGS, FOODS, FORMS, FRAMES, FRAME_TABLE, Frame, INDOORS, LAMP, Meaning, OBJECTS, ODD, PEOPLE, PLACED, PLACES, PLANTS, PLOTS, Planted, Plot, QUESTIONS, Question, REPAIRS, RETOLD, RULES, Rule, SETUP, SLOT_NEEDS, SMALL, State, Story, StoryReport, StoryWorld, Trouble, answer_from, answer_question, apply_event, ask_state, check_story, find_trouble, is_right, judge_answer, judge_sentence, majority_answers, parse_sentence, plain_clause, plant_contradiction, split_sentences, story_signature, world_split

# %% exercise 10-a {"title": "Follow the tree", "answer": "def place_of(at: dict[str, str], name: str) -> str: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Where is the ball directly? And where is that?",
    "A loop that goes on while `name in at` is enough.",
]


def checks(place_of):
    at = {"ball": "box", "box": "barn", "Mia": "park", "kite": "Mia", "key": "cup", "cup": "Mia"}
    got = place_of(at, "Mia")
    expect(got == "park", f"Mia is in the park directly, so the answer is 'park', yours is {got!r}")
    got = place_of(at, "ball")
    if got == "box":
        mistake("the ball is in the box, and you stopped there; the box is in a place too")
    expect(got == "barn", f"ball → box → barn, so the answer is 'barn', yours is {got!r}")
    got = place_of(at, "key")
    if got == "Mia":
        mistake("key → cup → Mia → park: you followed two steps, but a chain may have more")
    expect(got == "park", f"key → cup → Mia → park, so the answer is 'park', yours is {got!r}")
    deep = dict(zip("abcdef", "bcdefg"))
    got = place_of(deep, "a")
    if got in deep:
        mistake(f"in a chain of six steps you stopped at {got!r}; a chain may have more than you counted on")
    expect(got == "g", f"a → b → … → g, so the answer is 'g', yours is {got!r}")
    got = place_of(at, "barn")
    expect(got == "barn", f"'barn' is a place itself, so the answer is 'barn', yours is {got!r}")


def wrong_one_step(at, name):
    return at.get(name, name)


def wrong_two_steps(at, name):
    first = at.get(name, name)
    return at.get(first, first)


def wrong_three_steps(at, name):
    for _ in range(3):
        name = at.get(name, name)
    return name


planted = {
    wrong_one_step: "you stopped there",
    wrong_two_steps: "a chain may have more",
    wrong_three_steps: "in a chain of six steps",
}

# %% exercise 10-b {"title": "A two-way frame", "answer": "def two_way(template: str) -> tuple[Callable[..., str], Callable[[str], dict[str, str] | None]]: ...", "returns": false}
import re

from minillm.exercises import expect, mistake

hints = [
    "`re.split` with a group keeps what it split at: words and gap names in turn.",
    "A full stop in a template is a full stop, and in a regular expression it is any character: `re.escape`.",
    "`re.fullmatch` wants the whole sentence.",
]


def checks(two_way):
    tell, read = two_way("{who} likes {what}.")
    got = tell(who="Mia", what="tea")
    expect(got == "Mia likes tea.", f"tell(who='Mia', what='tea') must be 'Mia likes tea.', yours is {got!r}")
    got = read("Mia likes tea.")
    expect(
        got == {"who": "Mia", "what": "tea"},
        f"reading 'Mia likes tea.' must give both values, yours is {got!r}",
    )
    got = read("Mia likes tea!")
    if got is not None:
        mistake("'Mia likes tea!' was read, but the template ends in a full stop: escape what is not a gap")
    odd = {"Mia Ann likes tea.": "two words", " likes tea.": "no word", "Mia likes green tea.": "two words"}
    for sentence, fault in odd.items():
        if read(sentence) is not None:
            mistake(f"{sentence!r} was read, but a gap takes one word, and here one holds {fault}")
    got = read("Mia_2 likes tea.")
    expect(got == {"who": "Mia_2", "what": "tea"}, f"'Mia_2' is a word (\\w+), yours reads {got!r}")
    if read("Mia! likes tea.") is not None:
        mistake("'Mia! likes tea.' was read, but '!' is no part of a word: a gap is \\w+")
    got = read("Mia likes tea. Ben sleeps.")
    if got is not None:
        mistake(
            "'Mia likes tea. Ben sleeps.' was read, but only its beginning fits; the whole sentence has to"
        )
    for sentence, fault in {"Mia LIKES tea.": "capital letters", "Mia likes tea.\n": "a line break"}.items():
        if read(sentence) is not None:
            mistake(f"{sentence!r} was read, but the template has no {fault} there; the rest stands exactly")
    got = read("Mia hates tea.")
    expect(got is None, f"'Mia hates tea.' does not fit, so read must give None, yours is {got!r}")
    tell, read = two_way("Is it {what} (or {other})?")
    sentence = tell(what="tea", other="milk")
    got = read(sentence)
    if got is None:
        mistake(
            f"{sentence!r} was told and could not be read: brackets and '?' mean something else in a pattern"
        )
    expect(
        got == {"what": "tea", "other": "milk"},
        f"reading {sentence!r} must give both values, yours is {got!r}",
    )


def _with(fit, escape, gap=r"\w+"):
    def two_way(template):
        parts = re.split(r"{(\w+)}", template)
        pattern = "".join(f"(?P<{part}>{gap})" if k % 2 else escape(part) for k, part in enumerate(parts))

        def read(sentence):
            match = fit(pattern, sentence)
            return match.groupdict() if match else None

        return template.format, read

    return two_way


def wrong_unescaped(template):
    return _with(re.fullmatch, str)(template)


def wrong_beginning(template):
    return _with(re.match, re.escape)(template)


def wrong_many_words(template):
    return _with(re.fullmatch, re.escape, ".+")(template)


def wrong_empty(template):
    return _with(re.fullmatch, re.escape, r"\w*")(template)


def wrong_not_spaces(template):
    return _with(re.fullmatch, re.escape, r"\S+")(template)


def wrong_letters(template):
    return _with(re.fullmatch, re.escape, "[a-zA-Z]+")(template)


def wrong_any_case(template):
    return _with(lambda pattern, text: re.fullmatch(pattern, text, re.I), re.escape)(template)


def wrong_last_line(template):
    return _with(lambda pattern, text: re.match(pattern + "$", text), re.escape)(template)


planted = {
    wrong_unescaped: "escape what is not a gap",
    wrong_beginning: "only its beginning fits",
    wrong_many_words: "a gap takes one word",
    wrong_empty: "a gap takes one word",
    wrong_not_spaces: "no part of a word",
    wrong_letters: "is a word",
    wrong_any_case: "capital letters",
    wrong_last_line: "a line break",
}

# %% exercise 10-c {"title": "Break it", "answer": "def fragile_story() -> list[str]: ...", "returns": true}
from minillm.exercises import expect, mistake

hints = [
    "Which rules have the need `broken`? Look for it in the table of rules.",
    "A thing that is broken cannot be played with. Both sentences need a thing in somebody's hands.",
]


def checks(fragile_story):
    told = fragile_story()
    fine = isinstance(told, list) and all(isinstance(sentence, str) for sentence in told)
    expect(fine and 2 <= len(told) <= 8, f"expected a list of two to eight sentences, yours is {told!r}")
    report = check_story(" ".join(told))
    expect(
        len(report.sentences) == len(told), f"each entry must be one sentence, yours are {report.sentences}"
    )
    if report.unparsed:
        mistake(f"{told[report.unparsed[0]]!r} fits no frame; use the sentences of FRAMES")
    if report.contradictions:
        first = report.contradictions[0]
        mistake(f"in your own order {first.said!r} is wrong already: {first.kind}, {first.known}")
    kinds = [found.kind for found in check_story(" ".join([*told[:-2], told[-1], told[-2]])).contradictions]
    if not kinds:
        mistake("after the change nothing is wrong: one of the last two sentences must rest on the other")
    expect(kinds == ["broken"], f"after the change the contradictions must be ['broken'], yours are {kinds}")


def wrong_no_frame():
    return ["Mia was in the park.", "Mia is having a ball."]


def wrong_order():
    return ["Mia was in the park.", "Mia had a red ball.", "Mia broke the ball.", "Mia played with the ball."]


def wrong_independent():
    return ["Mia was in the park.", "Ben was in the park."]


planted = {
    wrong_no_frame: "fits no frame",
    wrong_order: "is wrong already",
    wrong_independent: "nothing is wrong",
}

# %% exercise 10-d {"title": "How many worlds?", "answer": "def count_worlds(n_people: int, n_places: int, n_colours: int) -> int: ...", "returns": true}
import itertools

from minillm.exercises import expect, mistake

hints = [
    "Choices that do not depend on each other multiply.",
    "Each person has a place of their own choice: places times places times …, once for each person.",
    "The thing is in one of the places or with one of the people.",
]


def checks(count_worlds):
    for n_people, n_places, n_colours in ((1, 1, 1), (2, 3, 6), (3, 2, 4), (1, 4, 2)):
        homes = itertools.product(range(n_places), repeat=n_people)
        brute = len(list(itertools.product(homes, range(n_places + n_people), range(n_colours))))
        got = count_worlds(n_people, n_places, n_colours)
        given = f"count_worlds({n_people}, {n_places}, {n_colours})"
        if got != brute and got == n_places**n_people * n_places * n_colours:
            mistake(f"{given} is {brute}, yours is {got}: the thing may also be with a person")
        if got != brute and got == n_places * n_people * (n_places + n_people) * n_colours:
            mistake(
                f"{given} is {brute}, yours is {got}: every person chooses among all places, so it is a power"
            )
        expect(got == brute, f"{given} is {brute}, counted one by one; yours is {got}")


def wrong_never_held(n_people, n_places, n_colours):
    return n_places**n_people * n_places * n_colours


def wrong_product(n_people, n_places, n_colours):
    return n_places * n_people * (n_places + n_people) * n_colours


planted = {wrong_never_held: "may also be with a person", wrong_product: "it is a power"}

# %% exercise 10-e {"title": "Bug clinic: the thing that stayed behind", "answer": "def find_thing(sentences: list[str], thing: str) -> str | None: ...", "returns": false}
from minillm.exercises import expect, mistake

hints = [
    "Follow the function on: Mia was in the park. Mia took the ball. Mia went to the barn.",
    "Once it knows who has the ball it goes on backwards from there. What did it skip?",
    "Two searches, both from the end: who took the thing last, and where that person went last.",
]


def checks(find_thing):
    told = ["Mia was in the park.", "Mia took the ball.", "Mia went to the barn."]
    got = find_thing(told, "ball")
    if got == "park":
        mistake("Mia took the ball and then went to the barn; you did not look at what came after the taking")
    expect(got == "barn", f"the ball is in the barn with Mia, yours is {got!r}")
    told = ["Mia was in the park.", "Mia went to the barn.", "Mia took the kite.", "Mia took the ball."]
    got = find_thing(told, "ball")
    if got == "kite":
        mistake("'Mia took the kite.' also ends in 'the' and a word, and a kite is no place")
    expect(got == "barn", f"Mia took two things in the barn, so the ball is in the 'barn', yours is {got!r}")
    told = ["Mia was in the park.", "Ben was in the park.", "Mia took the ball.", "Ben took the ball."]
    told += [
        "Mia went to the barn.",
        "Ben went to the shop.",
        "Mia went to the shop.",
        "Mia went to the school.",
    ]
    got = find_thing(told, "ball")
    if got == "school":
        mistake("Ben took the ball last, so it is with Ben; you followed somebody else")
    expect(got == "shop", f"Ben took the ball last and went to the shop, yours is {got!r}")
    got = find_thing(["Mia was in the park.", "Mia took the ball."], "ball")
    if got is None:
        mistake("Mia never went anywhere, so the ball is where she was told to be; your answer is None")
    expect(
        got == "park", f"Mia took the ball in the park and stayed, so it is in the 'park', yours is {got!r}"
    )
    got = find_thing(["Mia was in the park."], "ball")
    expect(got is None, f"nobody took the ball, so the answer is None, yours is {got!r}")


def wrong_from_the_taking(sentences, thing):
    person = None
    for sentence in reversed(sentences):
        words = sentence.strip(".").split()
        if person is None and words[-1] == thing:
            person = words[0]
        elif person and words[0] == person and words[1] != "took":
            return words[-1]


def wrong_kite(sentences, thing):
    told = [sentence.strip(".").split() for sentence in reversed(sentences)]
    person = next((words[0] for words in told if words[-1] == thing), None)
    return next((words[-1] for words in told if words[0] == person and words[-1] != thing), None)


def wrong_last_mover(sentences, thing):
    told = [sentence.strip(".").split() for sentence in reversed(sentences)]
    taken = any(words[-1] == thing for words in told)
    return next((words[-1] for words in told if taken and words[1] != "took"), None)


def wrong_only_went(sentences, thing):
    told = [sentence.strip(".").split() for sentence in reversed(sentences)]
    person = next((words[0] for words in told if words[1] == "took" and words[-1] == thing), None)
    return next((words[-1] for words in told if words[0] == person and words[1] == "went"), None)


planted = {
    wrong_only_went: "never went anywhere",
    wrong_from_the_taking: "what came after the taking",
    wrong_kite: "a kite is no place",
    wrong_last_mover: "you followed somebody else",
}
