"""The story world at length: 10,000 stories without a false alarm, 100 planted contradictions of each kind, more seeds."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_storyworld import agree, plant_all, scrambled, survive

from minillm.storyworld import PLANTS, QUESTIONS, StoryWorld, check_story


@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_stories_without_a_false_alarm(part: int) -> None:
    world = StoryWorld(
        split=("train", "train", "validation", "test", "train")[part % 5], remention=part / 9, seed=part
    )
    for story in world.stories(1_000):
        report = check_story(story.with_questions())
        assert report.ok, (story.text, report)
        assert (report.events, report.world) == (story.events, story.world)


def test_a_hundred_of_each_kind_are_found() -> None:
    found = plant_all(list(StoryWorld(seed=1, events=(6, 12)).stories(5_000)), 100)
    assert set(found) == set(PLANTS) and set(found.values()) == {100}


@pytest.mark.parametrize("seed", range(5))
def test_answers_agree_with_a_second_implementation(seed: int) -> None:
    assert (
        agree(list(StoryWorld(seed=seed, events=(8, 12), remention=seed / 4).stories(300))).keys()
        == QUESTIONS.keys()
    )


def test_no_text_makes_it_fail() -> None:
    draw = random.Random(6)
    stories = list(StoryWorld(seed=9).stories(1_500))
    assert len(survive([scrambled(story, draw, draw.choice((1, 3, 10, 60))) for story in stories])) >= 25
