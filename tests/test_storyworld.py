"""The story world: a second implementation that searches backwards, planted contradictions, fuzz, splits, the same bytes everywhere."""

import ast
import hashlib
import inspect
import random
import re
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import storyworld
from minillm.storyworld import (
    COLOURS,
    CONTAINERS,
    CONTRADICTIONS,
    FOODS,
    FRAMES,
    LAMP,
    OBJECTS,
    PEOPLE,
    PLACES,
    PLANTS,
    PLOTS,
    QUESTIONS,
    RULES,
    SETUP,
    Story,
    StoryWorld,
    answer_question,
    check_story,
    majority_answers,
    parse_sentence,
    plant_contradiction,
    story_signature,
    world_split,
)

WORLD = StoryWorld()
STORIES = list(WORLD.stories(1000))
THING = "|".join((*OBJECTS, *FOODS, LAMP))
COLOUR = "|".join(COLOURS)
BOX = "|".join(CONTAINERS)

# ---- the same bytes on every platform


def digest(stories: list[Story]) -> str:
    return hashlib.sha256("\n\n".join(story.with_questions() for story in stories).encode()).hexdigest()


PINNED = {
    "train": "20f07ff2e1737021c42f7305a567eced670d1cc57364825252f9ea986d682186",
    "validation": "744993cf398aab9cd75332f4ff3b8e1ef826ddb65524861c71171d1f2a03df92",
    "test": "dbfba8114d408b3ff51ea6c7ed79c709a3ca2bd3243cef8ea91777628f73fd4a",
}


@pytest.mark.parametrize("split", PINNED)
def test_the_first_stories_are_pinned(split: str) -> None:
    "If this fails, all stories have changed: tell everybody who trains on them, then pin the new hash."
    assert digest(list(StoryWorld(split=split).stories(50))) == PINNED[split]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_order_of_sets_does_not_matter(hash_seed: str) -> None:
    code = "from minillm.storyworld import StoryWorld as W; print([s.with_questions() for s in W(split='test').stories(20)])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": hash_seed, "PYTHONUTF8": "1"},
        check=True,
    )
    assert run.stdout.strip() == repr([story.with_questions() for story in StoryWorld(split="test").stories(20)])


def test_only_promised_randomness_is_used() -> None:
    "`random()` seeded by an int keeps its values in all versions of Python; `choice`, `shuffle` and the like do not."
    tree = ast.parse(inspect.getsource(storyworld))
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute)
        and isinstance(n.value, ast.Call)
        and getattr(n.value.func, "id", "") == "Random"
    }
    assert used == {"random"}
    assert not any(isinstance(n, ast.alias) and n.name == "random" for n in ast.walk(tree))


# ---- its own stories are fine


def test_no_false_alarm() -> None:
    for story in STORIES:
        report = check_story(story.with_questions())
        assert report.ok, (story.text, report)
        assert report.sentences[: len(story.sentences)] == story.sentences
        assert (report.events, report.world, report.state.facts()) == (story.events, story.world, story.facts)


@pytest.mark.parametrize("n_events", [3, 5, 12])
def test_the_number_of_events(n_events: int) -> None:
    stories = list(StoryWorld(events=n_events, remention=0.0).stories(60))
    assert {len(story.events) for story in stories} == {n_events}
    assert all(len(story.sentences) >= 6 and check_story(story.text).ok for story in stories)


def test_variety() -> None:
    assert len(FRAMES) == len(RULES) >= 60 and len(PLOTS) >= 6 and len(PLANTS) >= 20
    told = Counter(parse_sentence(sentence).event.kind for story in STORIES for sentence in story.sentences)
    assert told.keys() == RULES.keys(), set(RULES) - told.keys()
    assert Counter(story.plot for story in STORIES).keys() == PLOTS.keys()
    assert {question.kind for story in STORIES for question in story.questions} == QUESTIONS.keys()
    words = {word for story in STORIES for word in re.findall(r"\w+|[^\w\s]", story.with_questions())}
    assert 120 <= len(words) <= 200
    assert (
        len({story.text for story in STORIES}) == len({story_signature(story.text) for story in STORIES}) == 1000
    )
    share = sum('"' in sentence for story in STORIES for sentence in story.sentences) / sum(
        len(story.sentences) for story in STORIES
    )
    assert 0.08 < share < 0.4, "there is dialogue"


def test_names_that_hold_words_of_the_frames() -> None:
    world = StoryWorld(objects=("becauses", "isle", "backpack"))
    assert all(check_story(story.with_questions()).ok for story in world.stories(150))


def test_other_names() -> None:
    world = StoryWorld(
        people=("Ida", "Otto", "Finn"), objects=("spoon", "flute", "vase"), places=("attic", "cellar", "yard")
    )
    for story in world.stories(100):
        assert check_story(story.with_questions()).ok
        named = set(re.findall(r"[A-Z][a-z]+(?= (?:went|took|gave|had))", story.text))
        assert named <= {"Ida", "Otto", "Finn"}


def test_facts_are_told_once_or_again() -> None:
    "Without re-mention each thing's colour stands in the text once, and in the text of colour changes."
    for story in StoryWorld(remention=0.0).stories(200):
        for fact in story.world:
            thing, _, rest = fact.partition("@")
            if rest.split(":")[-1] in COLOURS:
                named = len(re.findall(rf"\b(?:{COLOUR}) {thing}\b", story.text)) + len(
                    re.findall(rf"{thing} was (?:{COLOUR})\b", story.text)
                )
                assert named == 1, (thing, story.text)
    often = [
        len(re.findall(rf"the (?:{COLOUR}) ", story.text)) for story in StoryWorld(remention=1.0).stories(100)
    ]
    assert sum(often) / len(often) > 5


# ---- splits


def test_no_world_is_in_two_splits() -> None:
    variants = [
        {},
        {"seed": 7},
        {"remention": 0.1, "events": (3, 5)},
        {"people": PEOPLE[:4], "objects": OBJECTS[:3]},
    ]
    worlds = {
        split: {story.world for kw in variants for story in StoryWorld(split=split, **kw).stories(150)}
        for split in PINNED
    }
    assert (
        not worlds["train"] & worlds["test"]
        and not worlds["train"] & worlds["validation"]
        and not worlds["test"] & worlds["validation"]
    )
    for split, found in worlds.items():
        assert all(world_split(world) == split for world in found)


def test_the_split_can_be_read_from_the_text() -> None:
    for split in PINNED:
        assert all(world_split(check_story(s.text).world) == split for s in StoryWorld(split=split).stories(100))


def test_small_worlds_are_disjoint_too() -> None:
    "In a world so small that worlds recur, they recur within one split only."
    tiny = {"people": PEOPLE[:3], "objects": OBJECTS[:3], "places": PLACES[:3], "events": 3}
    worlds = {
        split: Counter(story.world for story in StoryWorld(split=split, **tiny).stories(400)) for split in PINNED
    }
    assert not worlds["train"].keys() & worlds["test"].keys()


# ---- a second implementation: search the sentences backwards with regular expressions


class Backwards:
    "Answers without a state: each question looks for the last sentence that decides it."

    def __init__(self, sentences: tuple[str, ...]) -> None:
        self.raw = sentences
        self.told = [self.plain(sentence) for sentence in sentences]

    @staticmethod
    def plain(sentence: str) -> str:
        "Without openings, reasons, claims beside the event; speech only where it tells of a new thing."
        if '"' in sentence:
            new = re.search(rf'"(There is a (?:{COLOUR}) \w+ in the \w+)[.,]"', sentence)
            return new[1].replace(" is ", " was ") + "." if new else ""
        sentence = re.sub(r"^(In the \w+, (?=[A-Z])|Then |Soon )", "", sentence)
        sentence = re.sub(r" because .*", ".", sentence)
        sentence = re.sub(r" that (was in the \w+|[A-Z]\w+ had)(?=\.)", "", sentence)
        return re.sub(rf"\b([Tt])he (?:{COLOUR}) ", r"\1he ", sentence)

    def last(self, pattern: str, end: int | None = None) -> tuple[int, re.Match] | None:
        for k in range((len(self.told) if end is None else end) - 1, -1, -1):
            if match := re.fullmatch(pattern, self.told[k]):
                return k, match
        return None

    # -- people

    def stays(self, person: str, end: int | None = None) -> list[str]:
        "The places of a person in order."
        places = []
        for sentence in self.told[:end]:
            if m := re.fullmatch(
                r"(\w+)(?: and (\w+))? (?:was|were|sat) in the (\w+)(?: with ([A-Z]\w+)| with a .*| and had a .*)?\.",
                sentence,
            ):
                if person in (m[1], m[2], m[4]) and not places:
                    places.append(m[3])
            elif m := re.fullmatch(
                r"(\w+)(?: and (\w+))? (?:went|ran|walked)(?: back)?(?: from the \w+)? to the (\w+)(?: again)?(?: with (?:the \w+|(\w+)))?\.",
                sentence,
            ):
                if person in (m[1], m[2], m[4]):
                    places.append(m[3])
            elif m := re.fullmatch(r"(\w+) (?:left the \w+ and went|took the \w+) to the (\w+)\.", sentence):
                if person == m[1]:
                    places.append(m[2])
        return places

    def where_person(self, p: str) -> str:
        return f"in the {self.stays(p)[-1]}"

    def before(self, p: str, place: str) -> str | None:
        stays = self.stays(p)
        return (
            f"in the {stays[-2]}" if len(stays) > 1 and stays[-1] == place and stays.count(place) == 1 else None
        )

    # -- things

    def changes(self, t: str) -> list[tuple[str, int]]:
        "Patterns after which the thing t is with the person in the group."
        return [
            (rf"(\w+) (?:took|picked up|grabbed) the {t}(?: out of the \w+| from \w+| away from \w+)?\.", 1),
            (rf"(\w+) got the {t} (?:out of the \w+|(?:back )?from \w+(?: for the \w+)?)\.", 1),
            (rf"\w+ got the \w+ from (\w+) for the {t}\.", 1),
            (rf"\w+ gave (\w+) the {t}(?: for the \w+)?\.", 1),
            (rf"(\w+) gave \w+ the \w+ for the {t}\.", 1),
            (rf"\w+ (?:gave|lent) the {t} (?:back )?to (\w+)\.", 1),
            (rf"\w+ lent (\w+) the {t}\.", 1),
            (rf"(\w+) found the {t}(?: in the \w+)?\.", 1),
            (rf"(\w+) looked into the \w+ and found the {t}\.", 1),
            (rf"(\w+) (?:had|(?:was|sat) in the \w+ (?:with|and had)) a (?:{COLOUR}) {t}\.", 1),
        ]

    def where(self, t: str, end: int | None = None) -> str | None:
        "'with Mia', 'in the box', 'in the park', or None."
        found = []
        for pattern, group in self.changes(t):
            if hit := self.last(pattern, end):
                found.append((hit[0], f"with {hit[1][group]}"))
        for pattern in (
            rf"\w+ (?:put|hid) the {t} in the ({BOX})\.",
            rf"There was a \w+ {t} in the (\w+)\.",
            rf"In the (\w+) there was a \w+ {t}\.",
            rf"A \w+ {t} lay in the (\w+)\.",
        ):
            if hit := self.last(pattern, end):
                found.append((hit[0], f"in the {hit[1][1]}"))
        if hit := self.last(
            rf"(\w+) (?:put the {t} down|put down the {t}|left the {t} in the \w+|put the {t} down in the \w+)\.",
            end,
        ):
            found.append((hit[0], f"in the {self.stays(hit[1][1], hit[0])[-1]}"))
        if hit := self.last(rf"\w+ (?:lost|ate) the {t}(?: up)?\.", end):
            found.append((hit[0], ""))
        return max(found)[1] or None

    def holder(self, t: str) -> str:
        where = self.where(t)
        return where.removeprefix("with ") if where and where.startswith("with ") else "nobody"

    def colour(self, t: str) -> str:
        painted = self.last(rf"\w+ painted the {t} ({COLOUR})\.")
        return painted[1][1] if painted else re.search(rf"\b[aA] ({COLOUR}) {t}\b", " ".join(self.told))[1]

    def transfers(self, t: str, end: int | None = None) -> list[tuple[int, str, str, bool]]:
        "(sentence, from, to, is it a gift or a way back) of each transfer, the last first."
        forms = [
            (rf"(\w+) gave (\w+) the {t}(?: for the \w+)?\.", 1, 2, True),
            (rf"(\w+) gave the {t} (?:back )?to (\w+)\.", 1, 2, True),
            (rf"(\w+) got the {t} (?:back )?from (\w+)(?: for the \w+)?\.", 2, 1, True),
            (rf"(\w+) gave (\w+) the \w+ for the {t}\.", 2, 1, True),
            (rf"(\w+) got the \w+ from (\w+) for the {t}\.", 1, 2, True),
            (rf"(\w+) lent the {t} to (\w+)\.", 1, 2, False),
            (rf"(\w+) lent (\w+) the {t}\.", 1, 2, False),
        ]
        sentences = list(enumerate(self.told[:end]))[::-1]
        return [
            (k, m[a], m[b], own)
            for k, s in sentences
            for pattern, a, b, own in forms
            if (m := re.fullmatch(pattern, s))
        ]

    def giver(self, t: str, p: str) -> str | None:
        givers = {giver for _, giver, taker, _ in self.transfers(t) if taker == p}
        return givers.pop() if len(givers) == 1 else None

    def owner(self, t: str, end: int | None = None) -> str | None:
        "The taker of the last transfer whose giver was the owner then, or else who had the thing at first."
        for k, giver, taker, own in self.transfers(t, end):
            if own and self.owner(t, k) in (giver, None):
                return taker
        first = self.last(rf"(\w+) (?:had|(?:was|sat) in the \w+ (?:with|and had)) a \w+ {t}\.", end)
        return first[1][1] if first else None

    # -- containers

    def lid(self, k: str) -> str:
        moved = self.last(rf"\w+ (opened|closed) the {k}\.")
        if moved:
            return "yes" if moved[1][1] == "opened" else "no"
        return "yes" if re.search(rf"an open {k}\b", " ".join(self.told)) else "no"

    def contents(self, k: str) -> str:
        things = sorted(set(re.findall(rf"\b[aA] (?:{COLOUR}) ({THING})\b", " ".join(self.told))))
        return " and ".join(f"the {t}" for t in things if self.where(t) == f"in the {k}") or "nothing"

    # -- feelings

    def weather(self, place: str, end: int) -> str | None:
        "What the weather does to somebody who comes to a place."
        dark = self.last(rf"It (?:was|got) dark in the {place}\.", end)
        light = self.last(rf"\w+ turned on the lamp in the {place}\.", end)
        if dark and (not light or light[0] < dark[0]):
            return "afraid"
        return "cold" if self.rains(place, end) else None

    def felt(self, p: str, end: int | None = None) -> tuple[str, str] | None:
        "(feeling, reason) of a person: the last sentence that makes them feel something."
        for k in range((len(self.told) if end is None else end) - 1, -1, -1):
            if found := self.made(p, k):
                return found
        return None

    def made(self, p: str, k: int) -> tuple[str, str] | None:
        "What sentence k makes a person feel, and the sentence in its plainest form."
        s = self.told[k]
        fit = partial(re.fullmatch, string=s)
        if (
            m := fit(r"(\w+) (?:went|ran|walked) to the (\w+)\.")
            or fit(r"(\w+) (?:went|ran) back to the (\w+)\.")
            or fit(r"(\w+) went to the (\w+) again\.")
        ):
            again = " back" if " back " in s or s.endswith(" again.") else ""
            return self.came(p, k, [m[1]], m[2], f"{m[1]} went{again} to the {m[2]}")
        if m := fit(r"(\w+) (?:went from|left) the (\w+) (?:and went )?to the (\w+)\."):
            return self.came(p, k, [m[1]], m[3], f"{m[1]} went from the {m[2]} to the {m[3]}")
        if m := fit(r"(\w+) took the (\w+) to the (\w+)\."):
            return self.came(p, k, [m[1]], m[3], f"{m[1]} took the {m[2]} to the {m[3]}")
        if m := fit(r"(\w+) went to the (\w+) with the (\w+)\."):
            return self.came(p, k, [m[1]], m[2], f"{m[1]} took the {m[3]} to the {m[2]}")
        if m := fit(r"(\w+) and (\w+) went to the (\w+)\."):
            return self.came(p, k, [m[1], m[2]], m[3], f"{m[1]} and {m[2]} went to the {m[3]}")
        if m := fit(r"(\w+) walked to the (\w+) with ([A-Z]\w+)\."):
            return self.came(p, k, [m[1], m[3]], m[2], f"{m[1]} and {m[3]} went to the {m[2]}")
        if m := fit(r"It (?:was|got) dark in the (\w+)\.") or fit(
            r"(?:It began to rain|It rained|Rain fell) in the (\w+)\."
        ):
            before = self.weather(m[1], k)
            old = before == "afraid" if "dark" in s else self.rains(m[1], k)
            here = self.stays(p, k)[-1:] == [m[1]]
            return (
                self.condition("afraid" if "dark" in s else before or "cold", m[1]) if here and not old else None
            )
        if m := fit(r"(\w+) turned on the lamp in the (\w+)\."):
            afraid = self.stays(p, k)[-1:] == [m[2]] and (self.felt(p, k) or ("",))[0] == "afraid"
            return ("happy", f"{m[1]} turned on the lamp in the {m[2]}") if afraid else None
        return self.made_by_things(p, k, fit)

    def came(self, p: str, k: int, who: list[str], place: str, reason: str) -> tuple[str, str] | None:
        if p not in who:
            return None
        if weather := self.weather(place, k):
            return self.condition(weather, place)
        feeling = {"cold": "warm", "afraid": "happy"}.get((self.felt(p, k) or ("",))[0])
        return (feeling, reason) if feeling else None

    @staticmethod
    def condition(feeling: str, place: str) -> tuple[str, str]:
        return feeling, f"it was dark in the {place}" if feeling == "afraid" else f"it rained in the {place}"

    def rains(self, place: str, end: int) -> bool:
        return bool(self.last(rf"(?:It began to rain|It rained|Rain fell) in the {place}\.", end))

    def made_by_things(self, p: str, k: int, fit: partial) -> tuple[str, str] | None:
        if m := fit(r"(\w+) gave (\w+) the (\w+) for the (\w+)\.") or fit(
            r"(?P<p>\w+) got the (?P<u>\w+) from (?P<q>\w+) for the (?P<o>\w+)\."
        ):
            a, b, o, u = (m[1], m[3], m[4], m[2]) if "p" in m.groupdict() else (m[1], m[2], m[3], m[4])
            return ("happy", f"{a} gave {b} the {o} for the {u}") if p in (a, b) else None
        for verb, words in (("gave", "gave the {} to"), ("lent", "lent the {} to")):
            if (m := fit(rf"(\w+) {verb} (\w+) the (\w+)\.")) and m[2] == p:
                return "happy", f"{m[1]} {words.format(m[3])} {p}"
            if (m := fit(rf"(\w+) {verb} the (\w+) to (\w+)\.")) and m[3] == p:
                return "happy", f"{m[1]} {words.format(m[2])} {p}"
        if (m := fit(r"(\w+) got the (\w+) from (\w+)\.")) and m[1] == p:
            return "happy", f"{m[3]} gave the {m[2]} to {p}"
        if (m := fit(r"(\w+) gave the (\w+) back to (\w+)\.")) and m[3] == p:
            return "happy", f"{m[1]} gave the {m[2]} back to {p}"
        if (m := fit(r"(\w+) got the (\w+) back from (\w+)\.")) and m[1] == p:
            return "happy", f"{m[3]} gave the {m[2]} back to {p}"
        if (m := fit(r"(\w+) (?:grabbed|took) the (\w+) (?:away )?from (\w+)\.")) and m[3] == p:
            return "angry", f"{m[1]} grabbed the {m[2]} from {p}"
        if m := fit(r"(\w+) (?:fell and )?broke the (\w+)\."):
            owner = self.owner(m[2], k) or m[1]
            feeling = "sad" if p == owner else "sorry" if p == m[1] else ""
            return (feeling, f"{m[1]} broke the {m[2]}") if feeling else None
        if m := fit(r"(\w+) fixed the (\w+)\."):
            return ("happy", f"{m[1]} fixed the {m[2]}") if p == (self.owner(m[2], k) or m[1]) else None
        if (m := fit(r"(\w+) looked into the (\w+) and found the (\w+)\.")) and m[1] == p:
            return "happy", f"{p} found the {m[3]} in the {m[2]}"
        if (m := fit(r"(\w+) found the (\w+)(?: in the (\w+))?\.")) and m[1] == p:
            place = m[3] or re.match(r"In the (\w+),", self.raw[k])[1]
            return "happy", f"{p} found the {m[2]} in the {place}"
        for pattern, feeling, words in (
            (r"(\w+) lost the (\w+)\.", "sad", "lost the {}"),
            (r"(\w+) ate the (\w+)(?: up)?\.", "happy", "ate the {}"),
            (r"(\w+) had (nothing) to eat\.", "hungry", "had {} to eat"),
        ):
            if (m := fit(pattern)) and m[1] == p:
                return feeling, f"{p} {words.format(m[2])}"
        return None

    def answer(self, kind: str, text: str) -> str | None:
        slots = re.fullmatch(re.sub(r"\\{(\w)\\}", r"(\\w+)", re.escape(QUESTIONS[kind][0])), text).groups()
        ways = {
            "where-person": self.where_person,
            "where-thing": self.where,
            "holder": self.holder,
            "colour": self.colour,
        }
        ways |= {
            "owner": self.owner,
            "giver": self.giver,
            "before": self.before,
            "contents": self.contents,
            "lid": self.lid,
        }
        ways |= {"feeling": lambda p: (self.felt(p) or (None,))[0]}
        ways |= {"why": lambda p, f: f"because {found[1]}" if (found := self.felt(p)) and found[0] == f else None}
        return ways[kind](*slots)


def agree(stories: list[Story]) -> Counter:
    "Compare each answer with the second implementation's; how many of each kind."
    compared: Counter = Counter()
    for story in stories:
        second = Backwards(story.sentences)
        for question in storyworld.ask_state(check_story(story.text).state):
            assert second.answer(question.kind, question.text) == question.answer, (question, story.text)
            compared[question.kind] += 1
    return compared


@pytest.mark.parametrize("remention", [0.0, 0.8, 1.0])
def test_answers_agree_with_a_second_implementation(remention: float) -> None:
    compared = agree(list(StoryWorld(remention=remention, seed=3).stories(150)))
    assert compared.keys() == QUESTIONS.keys() and min(compared.values()) > 30


def test_the_second_implementation_can_disagree() -> None:
    story = STORIES[0]
    person = check_story(story.text).state.people()[0]
    changed = (*story.sentences, f"{person} went to the nowhere.")
    assert (
        Backwards(changed).where_person(person)
        == "in the nowhere"
        != Backwards(story.sentences).where_person(person)
    )


def test_answer_question_reads_the_text_alone() -> None:
    for story in STORIES[:200]:
        for question in story.questions:
            assert answer_question(story.text, question.text) == question.answer
            assert answer_question(story.text, question.text.replace("?", "!")) is None
    assert answer_question("Mia was in the park.", "Where is Ben?") is None
    assert answer_question("", "Where is the ball?") is None
    assert answer_question("Mia was in the park.", "Where was Mia before the park?") is None


def test_majority_answers() -> None:
    frequent = majority_answers(STORIES)
    for kind, (answer, share) in frequent.items():
        answers = [question.answer for story in STORIES for question in story.questions if question.kind == kind]
        assert (
            share == answers.count(answer) / len(answers) == max(map(answers.count, set(answers))) / len(answers)
        )


# ---- planted contradictions


def plant_all(stories: list[Story], wanted: int) -> Counter:
    "Plant each kind up to `wanted` times; each must be found, alone, by kind and sentence."
    found: Counter = Counter()
    for kind in PLANTS:
        for number, story in enumerate(stories):
            if found[kind] == wanted:
                break
            try:
                planted = plant_contradiction(story, kind, seed=number)
            except ValueError:
                continue
            report = check_story(planted.text)
            where = [(one.kind, one.sentence) for one in report.contradictions]
            assert where == [(kind, planted.sentence)] and not report.unparsed, (
                kind,
                planted,
                report.contradictions,
            )
            assert (
                report.contradictions[0].known
                and report.sentences[planted.sentence] == report.contradictions[0].said
            )
            found[kind] += 1
    return found


def test_every_kind_is_found_where_it_was_planted() -> None:
    found = plant_all(STORIES, 12)
    assert set(found) == set(PLANTS) and set(found.values()) == {12}


def test_every_contradiction_that_a_story_can_report_is_planted() -> None:
    reported = {kind for rule in RULES.values() for kind, _, _ in rule.needs}
    assert reported == set(PLANTS), reported ^ set(PLANTS)
    assert {test for rule in RULES.values() for _, test, _ in rule.needs} == set(CONTRADICTIONS)


CLAIMS = "There was a red ball in the box. Mia was in the park. Ben was in the barn. Ben had a blue kite. Ben lost the blue kite."
CLAIMS = CLAIMS.replace("There was a red", "There was an open box in the park. There was a red")


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("Mia took the blue ball.", "wrong-colour"),
        ("In the barn, Mia took the ball.", "two-places"),
        ("Mia took the ball that was in the bag.", "thing-elsewhere"),
        ("Mia took the ball that was in the barn.", "thing-elsewhere"),
        ("Mia took the ball that Ben had.", "wrong-holder"),
        ("Ben was sad because Ben lost the red kite.", "wrong-colour"),
        ("Ben was sad because Mia lost the kite.", "wrong-cause"),
        ("Ben was happy because Ben lost the kite.", "against-cause"),
        ("Mia was sad because Ben lost the kite.", "no-cause"),
        ('"The ball is green," said Ben.', "false-speech"),
        ('"I have the ball," said Ben.', "false-speech"),
        ('"Mia has the ball," said Ben.', "false-speech"),
        ('"I am happy," said Ben.', "false-speech"),
        ('"I am in the shop," said Ben.', "false-speech"),
        ("Mia told Ben that the ball was in the box.", "absent"),
        ('"Come to the shop, Ben," said Mia.', "absent"),
        ("The box was empty.", "wrong-contents"),
        ("There was a green ball in the barn.", "told-twice"),
        ("There was an open box in the barn.", "told-twice"),
        ("Mia and Mia went to the barn.", "to-oneself"),
        ("Mia went back to the shop.", "not-again"),
        ("Mia looked at the kite.", "lost"),
        ("Mia went to the ball.", "no-place"),
        ("Tom went to the barn.", "unknown-person"),
        ("Mia looked at the drum.", "unknown-thing"),
        ("Mia opened the bag.", "unknown-thing"),
        ("Q: Where is Mia? A: in the barn.", "wrong-answer"),
        ("Q: Who gave the ball to Mia? A: Ben.", "wrong-answer"),
    ],
)
def test_claims_beside_the_event(sentence: str, kind: str) -> None:
    assert check_story(CLAIMS).ok
    report = check_story(f"{CLAIMS}\n{sentence}")
    assert [(one.kind, one.sentence) for one in report.contradictions] == [(kind, 6)] and not report.unparsed


def test_an_event_that_cannot_be_does_not_happen() -> None:
    report = check_story(
        "Mia was in the park. Ben was in the barn. Mia had a red ball. Mia gave the ball to Ben. Mia had the ball."
    )
    assert [one.kind for one in report.contradictions] == ["absent"]


def test_mending_and_lighting_end_what_they_should() -> None:
    here = "Mia was in the park. Mia had a red drum. Mia broke the drum. "
    assert [one.kind for one in check_story(here + "Mia played with the drum.").contradictions] == ["broken"]
    assert check_story(
        here + "Mia fixed the drum. Mia was happy. Mia played with the drum. Mia broke the drum."
    ).ok
    assert [one.kind for one in check_story(here + "Mia fixed the drum. Mia fixed the drum.").contradictions] == [
        "not-broken"
    ]
    dark = "Mia was in the park. Ben was in the barn. Mia had a red lamp. It was dark in the park. "
    assert check_story(dark + "Ben went to the park. Ben was afraid because Ben went to the park.").ok
    lit = dark + "Mia turned on the lamp in the park. Mia was happy. Ben went to the park. "
    assert [one.kind for one in check_story(lit + "Ben was afraid.").contradictions] == ["no-cause"]
    assert check_story(lit + "It got dark in the park. Ben was afraid because it was dark in the park.").ok


# ---- every need of every rule, from tables written by hand

SCENE = (
    "Mia was in the park. Ben was in the park. Tom was in the barn. Mia had a red ball. Mia had a green ring. "
    "Mia had a white doll. Mia had a yellow lamp. Mia had a red cake. Ben had a blue kite. Ben had a red book. "
    "Tom had a blue boat. A green drum lay in the park. There was an open box in the park. "
    "There was a closed bag in the park. There was an open basket in the barn. A white hat lay in the bag. "
    "A black cup lay in the barn. Ben lent Mia the book. Mia lost the ring. Mia broke the doll. "
    "Mia broke the lamp. It got dark in the shop. It began to rain in the shop. The box was empty."
)
# kind to report → sentences, each of which fails it
FAILS = {
    "two-places": """Mia was in the barn. Mia and Zoe were in the barn. Zoe and Mia were in the barn.
        Mia was in the barn with a red bell. Mia left the ball in the barn. Mia found the ring in the barn.
        Mia turned on the lamp in the barn. Mia was still in the barn. Mia saw Tom in the barn.
        Mia saw Tom in the park. Mia saw the cup in the barn. Mia looked for the ring in the barn.""",
    "to-oneself": """Mia and Mia were in the park. Mia and Mia went to the barn. Mia gave the ball to Mia.
        Mia lent the ball to Mia. Mia gave the ball back to Mia. Mia grabbed the ball from Mia.
        Mia gave Mia the ball for the doll. Mia saw Mia in the park. Mia asked Mia, "Can I have the ball?"
        "Come to the barn, Mia," said Mia. "I am sorry, Mia," said Mia. Mia thanked Mia for the ball.
        Mia told Mia that the ball was in the park. Mia told Mia that the hat was in the bag.
        Mia told Mia that Tom was in the barn. Mia told Ben that Mia was in the park.
        Mia told Ben that Ben was in the park.""",
    "no-place": "A red garden lay in the garden. Zoe was in the garden with a red garden.",
    "wrong-contents": """A red bell lay in the box. Ben said, "There is a red bell in the box."
        Mia took the drum out of the box. Mia found the ring in the box. The bag was empty.""",
    "already-there": """Mia went to the park. Mia went from the park to the park. Mia went back to the park.
        Mia and Ben went to the park. Mia took the ball to the park. "Come to the park, Ben," said Mia.""",
    "wrong-start": "Mia went from the barn to the house.",
    "not-again": "Mia went back to the house.",
    "absent": """Mia and Tom went to the barn. Mia gave the ball to Tom. Mia lent the ball to Tom.
        Mia gave the ball back to Tom. Mia grabbed the boat from Tom. Mia gave Tom the ball for the boat.
        Mia asked Tom, "Can I have the boat?" "Come to the house, Tom," said Mia. "I am sorry, Tom," said Mia.
        Mia thanked Tom for the ball. Mia told Tom that the ball was in the park.
        Mia told Tom that the hat was in the bag. Mia told Tom that Ben was in the park.""",
    "not-holding": """Mia took the kite to the barn. Mia put the kite in the box. Mia put the kite down.
        Mia left the kite in the park. Mia gave the kite to Ben. Mia lent the kite to Ben.
        Mia gave the kite back to Ben. Mia gave Ben the kite for the kite. Mia gave Ben the ball for the doll.
        Mia lost the kite. Mia broke the kite. Mia fixed the kite. Mia painted the kite red. Ben ate the cake.
        Ben turned on the lamp in the park. Mia played with the kite.""",
    "already-holding": "Mia took the ball.",
    "held-by-other": "Mia took the kite.",
    "not-here": "Mia took the cup. Mia looked at the cup.",
    "container-closed": """Mia took the hat. Mia took the hat out of the bag. Mia put the ball in the bag.
        Mia found the ring in the bag. Mia looked at the hat. Mia saw the hat in the park.""",
    "container-away": """Mia took the cup out of the basket. Mia put the ball in the basket. Mia opened the basket.
        Mia closed the basket. Mia found the ring in the basket.""",
    "already-open": "Mia opened the box.",
    "already-closed": "Mia closed the bag.",
    "wrong-owner": "Mia lent the book to Ben. Mia gave the ball back to Ben. The ball belonged to Ben.",
    "wrong-holder": """Mia grabbed the drum from Ben. Mia asked Ben, "Can I have the drum?" Ben had the ball.""",
    "not-lost": "Mia found the kite in the park. Mia found the drum in the box.",
    "broken": "Mia broke the doll. Mia played with the doll. Mia turned on the lamp in the park.",
    "not-broken": "Mia fixed the ball.",
    "same-colour": "Mia painted the ball red.",
    "wrong-use": "Mia ate the ball. Mia turned on the ball in the park.",
    "already-dark": "It got dark in the shop.",
    "already-raining": "It began to rain in the shop.",
    "has-food": "Mia had nothing to eat.",
    "thing-elsewhere": "Mia saw the cup in the park. The cup was in the park. The drum was in the box.",
    "wrong-colour": "The ball was blue.",
    "no-cause": "Ben was happy. Ben was happy because Ben got the kite from Mia.",
    "against-cause": "Mia was happy. Mia was happy because Mia lost the ring.",
    "wrong-cause": "Mia was sad because Mia lost the ball.",
    "no-reason": '"I am sorry, Ben," said Mia.',
    "wrong-giver": "Mia thanked Ben for the ball.",
    "false-speech": """"I am in the barn," said Mia. "The cup is in the park," said Mia.
        "The drum is in the box," said Mia. "I have the kite," said Mia. "Ben has the ball," said Mia.
        "The ball is blue," said Mia. "I am happy," said Ben. "I am happy," said Mia.
        Mia told Ben that the cup was in the park. Mia told Ben that the drum was in the box.
        Mia told Ben that Tom was in the park.""",
}


def test_every_need_of_every_rule_has_a_sentence_that_fails_it() -> None:
    assert check_story(SCENE).ok
    number, tried = len(check_story(SCENE).sentences), set()
    for kind, text in FAILS.items():
        for sentence in storyworld.split_sentences(text):
            report = check_story(f"{SCENE} {sentence}")
            assert [(one.kind, one.sentence) for one in report.contradictions] == [(kind, number)], sentence
            assert not report.unparsed, sentence
            event = parse_sentence(sentence).event
            trouble = storyworld.find_trouble(check_story(SCENE).state, event)
            values = dict(zip(RULES[event.kind].slots, event.args))
            tried |= {
                (event.kind, need)
                for need in RULES[event.kind].needs
                if (need[1], tuple(values[slot] for slot in need[2])) == (trouble.test, trouble.args)
            }
    wanted = {
        (kind, need)
        for kind, rule in RULES.items()
        for need in rule.needs
        if not (len(need[2]) == 1 and need[1] in storyworld.SLOT_NEEDS.get(need[2][0], ()))
    }
    assert wanted <= tried, wanted - tried
    assert len(wanted) == 130, "a need was added or taken out: the table above has to follow"


PERSON = [("Ida", "unknown-person")]
USABLE = [("spoon", "unknown-thing"), ("ring", "lost"), ("pear", "gone")]
PLACE = [("ball", "no-place"), ("pear", "no-place"), ("lamp", "no-place"), ("(lost)", "no-place")]
BAD_NAMES = {
    **dict.fromkeys("pqr", PERSON),
    **dict.fromkeys("ou", USABLE),
    "z": [USABLE[0], USABLE[2]],
    "i": [("ball", "told-twice"), ("barn", "told-twice"), ("house", "told-twice")],
    "b": [("box", "told-twice")],
    "k": [("sack", "unknown-thing")],
    **dict.fromkeys("lm", PLACE),
}


@pytest.mark.parametrize("kind", RULES)
def test_every_name_of_every_rule_has_to_be_of_its_sort(kind: str) -> None:
    text = SCENE + " Tom went to the house. Ben had a blue pear. Ben ate the pear."
    good = dict(
        zip(
            "pqrnhouzibgklmcdf",
            "Mia Ben Tom Zoe Ann ball kite ball bell sack open box park barn red blue sad".split(),
        )
    )
    good["x"] = storyworld.Event("lose", ("Mia", "ring"))
    for slot in RULES[kind].slots:
        for name, expected in BAD_NAMES.get(slot, ()):
            state = check_story(text).state
            args = tuple((good | {slot: name})[one] for one in RULES[kind].slots)
            assert storyworld.find_trouble(state, storyworld.Event(kind, args)).kind == expected, (
                kind,
                slot,
                name,
            )


# ---- true sentences, written by hand: the teller tells only what the rules allow, so its stories cannot show these

DARK = "Mia was in the park. Ben was in the shop. It got dark in the park. "
LENT = "Mia was in the park. Ben was in the park. Mia had a red ball. "


@pytest.mark.parametrize(
    "text",
    [
        DARK
        + "It was dark in the park. It was dark in the park. Mia was afraid because it got dark in the park.",
        DARK + "Ben went from the shop to the park. Ben was afraid because it was dark in the park.",
        DARK + "Ben went from the shop to the park. Ben was afraid because Ben went to the park.",
        "It was dark in the park. Mia was in the park. Mia was afraid because it was dark in the park.",
        "Mia was in the park. It was dark in the park. Mia was afraid because it was dark in the park.",
        DARK + "Mia went to the barn. Mia was happy because Mia went to the barn.",
        DARK + "Mia was in the park. Mia was afraid.",
        "Mia was in the park. It rained in the park. It rained in the park. Mia was cold because it rained in the park.",
        LENT + 'Mia lent Ben the ball. Ben lost the ball. Ben was sad. "I am sorry, Mia," said Ben.',
        LENT
        + 'Mia gave Ben the ball. Tom was in the park. Ben gave Tom the ball. "Thank you for the ball, Mia," said Ben.',
        LENT + "Mia gave Ben the ball. Ben gave the ball back to Mia. The ball belonged to Mia.",
        LENT + "Mia gave Ben the ball. Mia went to the barn. Ben was happy because Mia gave the red ball to Ben.",
        LENT
        + "Mia gave Ben the red ball. Ben painted the ball blue. Ben was happy because Mia gave Ben the red ball.",
        LENT
        + "Mia gave Ben the ball. Mia had a blue kite. Mia gave Ben the kite. Ben was happy because Mia gave Ben the ball.",
        LENT
        + "Ben had a blue kite. Mia gave Ben the ball for the kite. Mia was happy because Ben gave Mia the kite for the ball.",
        LENT + "Mia looked for the ball in the park. Mia put the ball down. Ben found the ball in the park.",
        "Mia was in the park. There was a red ball in the park. The ball belonged to Mia. Mia took the ball.",
        "There was an open box in the park. The box was empty. Mia was in the park. Mia had a red ball. Mia lost the ball. Mia found the ball in the box.",
        "There was an open box in the park. The box was empty. Mia was in the park. Mia had a red ball. Mia put the ball in the box. The ball was in the box.",
    ],
)
def test_true_sentences_are_fine(text: str) -> None:
    report = check_story(text)
    assert report.ok, report


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            LENT
            + "There was an open box in the park. Mia lost the ball. The box was empty. Ben found the ball in the box.",
            "wrong-contents",
        ),
        (
            "There was an open box in the park. The box was empty. There was a red ball in the box.",
            "wrong-contents",
        ),
        (
            LENT + "There was a red drum in the park. The drum belonged to Mia. The drum belonged to Ben.",
            "wrong-owner",
        ),
        ("Mia was in the park. Mia went to the barn. There was a red park in the barn.", "told-twice"),
        (LENT + "Mia gave Ben the ball. Ben was happy because Mia gave Ben the blue ball.", "wrong-colour"),
        (DARK + "Ben went to the park. Ben was afraid because Mia went to the park.", "wrong-cause"),
        (DARK + "Mia went to the barn. Mia was afraid.", "against-cause"),
        (
            LENT + "Ben grabbed the ball from Mia. Ben gave the ball to Mia. The ball belonged to Ben.",
            "wrong-owner",
        ),
        (
            LENT + "Mia lent Ben the ball. Tom was in the park. Ben gave Tom the ball. The ball belonged to Tom.",
            "wrong-owner",
        ),
    ],
)
def test_contradictions_between_told_facts(text: str, kind: str) -> None:
    report = check_story(text)
    assert [(one.kind, one.sentence) for one in report.contradictions] == [(kind, len(report.sentences) - 1)]
    assert not report.unparsed


@pytest.mark.parametrize(
    "sentence",
    [
        "Mia was in the happy.",
        "Mia had a red and.",
        "Mia ran to the red.",
        "It was in the park.",
        "She was in the park.",
        "There was in the park.",
        "The was in the park.",
        "A red the lay in the park.",
    ],
)
def test_words_of_the_frames_are_no_names(sentence: str) -> None:
    assert parse_sentence(sentence) is None
    assert check_story(f"Mia was in the park. {sentence}").unparsed == (1,)


# ---- answers in other words

ASKED = (
    "Mia was in the park. Ben was in the park. Tom was in the park. There was an open box in the park. "
    "There was a red ball in the box. There was a blue kite in the box. Mia had a green drum. "
    "Mia gave Ben the drum. Ben gave the drum back to Mia. Ben went to the barn. Ben went to the park. "
    "Ben went to the shop. Ben went to the park. Mia gave Tom the drum. Tom gave Ben the drum. "
    "Ben gave Mia the drum. Mia gave Ben the drum."
)


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("Where is the ball?", ["in the box", "in the park"], ["in the barn", "with Mia", "in the bag", "red"]),
        ("Where is the drum?", ["with Ben", "in the park"], ["with Mia", "in the box"]),
        (
            "What is in the box?",
            ["the ball and the kite", "the kite and the ball"],
            ["the ball", "nothing", "the ball and the ball"],
        ),
        ("Who gave the drum to Ben?", ["Mia", "Tom"], ["Ben", "Zoe"]),
        ("Where was Ben just before the park?", ["in the barn", "in the shop"], ["in the park", "in the box"]),
        (
            "Why is Ben happy?",
            [
                "because Mia gave the drum to Ben",
                "because Ben got the green drum from Mia",
                "because Tom gave Ben the drum",
            ],
            [
                "because Mia lent Ben the drum",
                "because Mia gave the red drum to Ben",
                "because Ben went to the barn",
                "of Mia",
            ],
        ),
        ("Where is Mia?", ["in the park"], ["in the barn"]),
    ],
)
def test_every_right_answer_is_right(question: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert check_story(f"{ASKED}\nQ: {question} A: {answer}.").ok, answer
    for answer in wrong:
        report = check_story(f"{ASKED}\nQ: {question} A: {answer}.")
        assert [one.kind for one in report.contradictions] == ["wrong-answer"], answer


def test_only_questions_with_one_answer_are_asked() -> None:
    asked = {question.text for question in storyworld.ask_state(check_story(ASKED).state)}
    assert "Who gave the drum to Ben?" not in asked and "Who gave the drum to Tom?" in asked
    assert "Where was Ben just before the park?" not in asked


def test_a_reason_that_the_text_gives_is_right() -> None:
    "Unless somebody felt something else in between: then it was the reason of an earlier feeling."
    compared = 0
    for story in STORIES:
        state = check_story(story.text).state
        for person, (feeling, _) in state.feels.items():
            told = [
                re.fullmatch(rf"(?:In the \w+, )?{person} (?:was|felt) (\w+) (because .*)\.", s)
                for s in story.sentences
            ]
            found = [m for m in told if m]
            if found and {m[1] for m in found} == {feeling}:
                others = [
                    s
                    for s in story.sentences
                    if re.search(rf"{person} (?:was|felt) (?!{feeling})|am (?!{feeling}).*said {person}", s)
                ]
                event = parse_sentence(found[-1].string).event.args[-1]
                if not others and event in state.reasons[person]:
                    compared += 1
                    assert storyworld.is_right(state, f"Why is {person} {feeling}?", found[-1][2])
    assert compared > 200


@pytest.mark.parametrize(
    "text", ["Q: " + "? A: x" * 40_000, "Q: " + "?" * 200_000, "Q: Where is Mia? A: " + "x? A: " * 40_000]
)
def test_long_lines_take_linear_time(text: str) -> None:
    start = time.process_time()
    check_story(text)
    assert time.process_time() - start < 2


# ---- what an editor would object to


def test_nothing_odd_is_told() -> None:
    for story in STORIES:
        for event in story.events:
            assert not (event.kind in ("rain", "rains") and event.args[0] in storyworld.INDOORS), story.text
            assert not (event.kind == "paint" and event.args[1] in FOODS), story.text
            assert not (event.kind == "break" and event.args[1] in ("book", "hat")), story.text
        assert "Soon " not in "".join(s for s in story.sentences if s.endswith("nothing to eat."))
        assert not re.search(r"In the (?:box|basket|bag), \w+ found", story.text)


def test_now_is_told_after_a_change_only() -> None:
    for story in STORIES[:300]:
        for number, sentence in enumerate(story.sentences):
            if match := re.fullmatch(r"([A-Z]\w+) was (still )?in the \w+( now)?\.", sentence):
                moved = bool(check_story(" ".join(story.sentences[:number])).state.before.get(match[1]))
                assert not (match[3] and not moved) and not (match[2] and moved), (sentence, story.text)


def test_a_prompt_holds_the_world() -> None:
    for story in STORIES[:200]:
        assert check_story(story.prompt()).world == story.world and story.text.startswith(story.prompt())
        assert story.prompt(2) == " ".join(story.sentences[:2])


def test_planting_errors() -> None:
    with pytest.raises(ValueError, match="none that can be planted; there are unknown-person"):
        plant_contradiction(STORIES[0], "nonsense")
    calm = next(story for story in STORIES if not any(event.kind == "rain" for event in story.events))
    with pytest.raises(ValueError, match="try another story"):
        plant_contradiction(calm, "already-raining")
    assert plant_contradiction(calm, "two-places", 1) == plant_contradiction(calm, "two-places", 1)


# ---- any text can be judged

WORDS = sorted({word for story in STORIES[:100] for word in re.findall(r"\w+", story.text)})


def scrambled(story: Story, draw: random.Random, changes: int) -> str:
    "A story with words replaced, swapped and dropped, as a poor model might write it."
    words = story.with_questions().split(" ")
    for _ in range(changes):
        k = draw.randrange(len(words))
        stop = re.search(r"\W*$", words[k])[0]
        words[k] = draw.choice(
            [draw.choice(WORDS) + stop, words[draw.randrange(len(words))], "", words[k] + " " + words[k]]
        )
    return " ".join(words)


def survive(texts: list[str]) -> Counter:
    "Judge, ask, sign: nothing fails, and every state is a tree. How often each kind was found."
    found: Counter = Counter()
    for text in texts:
        report = check_story(text)
        assert all(one.kind in PLANTS or one.kind == "wrong-answer" for one in report.contradictions)
        assert all(report.state.root(name) not in report.state.at for name in report.state.at)
        storyworld.ask_state(report.state)
        story_signature(text)
        found.update(one.kind for one in report.contradictions)
    return found


def test_no_text_makes_it_fail() -> None:
    draw = random.Random(5)
    found = survive([scrambled(story, draw, draw.choice((1, 5, 40))) for story in STORIES[:400]])
    assert len(found) >= 20, found


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.sampled_from([*'".,!? \nQA:', *"MiaBenthbox", "\ud83d", "é"]), max_size=200)
    | st.text(max_size=100)
)
def test_no_characters_make_it_fail(text: str) -> None:
    survive([text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        '"',
        "....",
        "Q: ",
        "Q: Where is Mia? A: x.",
        '"' * 3000 + ".",
        "Mia was sad because " * 2000 + ".",
        "In the park, " * 3000,
        "a" * 100_000,
    ],
)
def test_odd_texts(text: str) -> None:
    assert not check_story(text).ok


def test_a_thing_is_not_inside_itself() -> None:
    "Texts that would make a cycle of the tree."
    for text in (
        "A red ball lay in the ball.",
        "There was a red park in the garden. There was a blue garden in the park.",
        "Mia was in the park. There was a red park in the garden. Mia had a red park. Mia went to the park.",
        "Mia was in the ball with a red ball. Mia lost the ball.",
        "Mia was in the park. Mia had a red lost. Mia lost the lost. Mia found the lost in the lost.",
    ):
        survive([text])
        assert not check_story(text).ok, text


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="got Story, expected str; a Story has its text"):
        check_story(STORIES[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="i=-1 is negative"):
        WORLD.story(-1)
    for number in (1.5, 1.0, True):
        with pytest.raises(TypeError, match="is no int"):
            WORLD.story(number)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": "Mia"}, "people='Mia' is no list or tuple of str"),
        ({"people": ("Mia", "Ben")}, "not 3 or more different names"),
        ({"people": ("Mia", "Mia", "Ben")}, "not 3 or more different names"),
        ({"people": ("mia", "Ben", "Tom")}, "'mia', which is not of the form"),
        ({"people": ("Soon", "Ben", "Tom")}, "a word of the frames"),
        ({"objects": ("ball", "kite", "lamp")}, "'lamp', which is a word of the frames"),
        ({"objects": ("ball", "kite", "red kite")}, "not of the form"),
        ({"objects": ("ball", "kite", "park")}, r"objects and places share \['park'\]"),
        ({"places": ("park", "barn", "box")}, "'box', which is a word of the frames"),
        ({"split": "dev"}, "split='dev' is none"),
        ({"events": 2}, "events=2 is not within 3 to 12; try"),
        ({"events": (5, 4)}, r"events=\(5, 4\) is not within 3 to 12"),
        ({"remention": 1.5}, "remention=1.5 is no share"),
        ({"remention": "x"}, "remention='x' is no number"),
        ({"events": (3.5, 7.5)}, r"events=\(3.5, 7.5\) is no int or pair of int"),
        ({"events": (3,)}, "no int or pair of int"),
        ({"events": 4.0}, "no int or pair of int"),
        ({"events": None}, "no int or pair of int"),
        ({"events": True}, "no int or pair of int"),
        ({"people": {"Mia", "Ben", "Tom"}}, "no list or tuple of str"),
        ({"people": (name for name in PEOPLE)}, "no list or tuple of str"),
        ({"n_questions": -1}, "n_questions=-1 is no int from 0 on"),
        ({"n_questions": 2.5}, "n_questions=2.5 is no int from 0 on"),
        ({"seed": "x"}, "seed='x' is no int"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        StoryWorld(**settings)


# ---- signatures


def test_signatures_are_about_facts() -> None:
    one = "Mia was in the park. Ben was in the park. Mia had a red ball. Mia gave Ben the ball. Ben was happy."
    other = "Ben and Mia were in the park. Mia had a red ball. In the park, Ben got the red ball from Mia."
    assert check_story(one).ok and check_story(other).ok
    assert story_signature(one) == story_signature(other) != story_signature(one.replace("red", "blue"))
    assert story_signature(one) != story_signature(one + " Mia went to the barn.")
    later = [one + f" There was a {colour} kite in the barn." for colour in ("red", "blue")]
    assert len({story_signature(text) for text in (one, *later)}) == 3, "what is told later counts"


def test_setup_kinds_are_the_ones_that_introduce() -> None:
    assert set(SETUP) == {kind for kind, rule in RULES.items() if set(rule.slots) & set("nhib")}
