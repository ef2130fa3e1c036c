"""A reader who knows the sentences of every task finds each answer in the lines, and nothing else."""

import itertools
import random
import re

import pytest

from corm_batch.evaluation.facts import PLACES, Draw
from infra.training.facts import TASKS

SEEDS = range(20)
MAGIC = r"One of the special magic numbers for (?P<name>\S+) is: (?P<value>\d{4,7})\."
PAIR = r' "(?P<name>[^"]+)": "(?P<value>[^"]+)",'
NAMED_NUMBER = r"The (?P<name>.+ of the .+) is (?P<value>\d{4,7})\."
LINES = {
    "pass_key": r"The (?P<name>pass key) is (?P<value>\d{4,7})\. Remember it\. (?P=value) is the pass key\.",
    "place_number": NAMED_NUMBER,
    "one_of_several": NAMED_NUMBER,
    "left_object": r"(?P<name>\S+ \S+ left the .+) in (?P<value>\w+)\.",
    "magic_number": MAGIC,
    "all_values": MAGIC,
    "records": r"Record: the (?P<name>.+) holds (?P<value>\d{3,5}) crates\.",
    "register_lines": r"line (?P<name>\S+): REGISTER_CONTENT is (?P<value><\d{4,7}>)",
    "key_value": PAIR,
    "opaque_key_value": PAIR,
}
QUESTIONS = {
    "pass_key": r"What is the (pass key)\?",
    "place_number": r"What is the (.+)\?",
    "one_of_several": r"What is the (.+)\?",
    "left_object": r"Where did (.+)\?",
    "magic_number": r"What is the special magic number for (\S+) mentioned in the provided text\?",
    "all_values": r"What are all the special magic numbers for (\S+) mentioned in the provided text\?",
    "records": r"Summarize the (records)\.",
    "register_lines": r"What is the REGISTER_CONTENT in line (\S+)\?",
    "key_value": r'What is the value associated with the key "(.+)"\?',
    "opaque_key_value": r'What is the value associated with the key "(.+)"\?',
}


@pytest.fixture(params=TASKS, ids=lambda task: task.__name__)
def task(request):
    return request.param


@pytest.fixture
def make(tokenizer, words):
    """Facts of a task from a seed, in a room of so many tokens."""

    def tokens(line):
        return len(tokenizer.encode(f"\n{line}", add_special_tokens=False).ids)

    return lambda task, seed, room=600: task(Draw(random.Random(seed), words, room, tokens))


def read_lines(task, facts):
    """(name, value) of every line, in the order of the text."""
    found = [re.fullmatch(LINES[task.__name__], line) for line in facts.lines]
    assert all(found), facts.lines
    return [(match["name"], match["value"]) for match in found]


def asked_name(task, question):
    name = re.fullmatch(QUESTIONS[task.__name__], question)[1]
    return name.replace(" leave ", " left ")


def test_every_task_is_read_here():
    assert {task.__name__ for task in TASKS} == set(LINES) == set(QUESTIONS)


def test_each_answer_is_what_the_lines_say_of_the_asked_name_in_the_order_of_the_text(task, make):
    for seed in SEEDS:
        facts = make(task, seed)
        rows = read_lines(task, facts)
        for question, answer in facts.questions:
            name = asked_name(task, question)
            if name == "records":
                assert answer == "; ".join(f"{place} {count}" for place, count in rows)
            else:
                assert answer == ", ".join(value for other, value in rows if other == name) != ""


def test_names_are_distinct_and_every_one_is_asked_for_once(task, make):
    for seed in SEEDS:
        facts = make(task, seed)
        names = [name for name, _ in read_lines(task, facts)]
        asked = [asked_name(task, question) for question, _ in facts.questions]
        assert len(set(asked)) == len(asked)
        if task.__name__ == "all_values":
            assert all(2 <= names.count(name) <= 4 for name in names)
        else:
            assert len(set(names)) == len(names)
        assert asked == ["records"] if task.__name__ == "records" else set(asked) == set(names)


def test_a_seed_says_what_is_drawn_and_another_one_draws_other_values(task, make):
    drawn = [make(task, seed) for seed in SEEDS]
    assert drawn == [make(task, seed) for seed in SEEDS]
    assert all(one.lines != other.lines for one, other in itertools.combinations(drawn, 2))
    answers = [{answer for _, answer in facts.questions} for facts in drawn]
    if task.__name__ == "left_object":  # few cities, so one comes up again
        assert len(set(map(frozenset, answers))) > len(SEEDS) / 2
    else:
        shared = sum(bool(one & other) for one, other in itertools.combinations(answers, 2))
        assert shared <= 5  # of 190 pairs; numbers of four digits meet by chance


@pytest.mark.parametrize("room", [60, 1000])
@pytest.mark.parametrize("name", ["register_lines", "key_value", "opaque_key_value"])
def test_tasks_that_fill_the_text_keep_to_their_room(make, tokenizer, name, room):
    (task,) = [task for task in TASKS if task.__name__ == name]
    sizes = []
    for seed in SEEDS:
        lines = make(task, seed, room).lines
        sizes.append(sum(len(tokenizer.encode(f"\n{line}", add_special_tokens=False).ids) for line in lines))
    assert max(sizes) <= 1.25 * room + 20  # the room is shared out by the tokens of a usual line
    assert max(sizes) > 2 * min(sizes) or room == 60


def test_digits_keep_their_leading_zeros(make, words):
    draw = Draw(random.Random(0), words, 100, len)
    numbers = [draw.digits(2) for _ in range(200)]
    assert all(len(number) == 2 for number in numbers)
    assert any(number.startswith("0") for number in numbers)


def test_lists_of_numbers_have_four_to_seven_digits(make):
    (task,) = [task for task in TASKS if task.__name__ == "all_values"]
    found = [{len(value) for _, value in read_lines(task, make(task, seed))} for seed in range(40)]
    assert set().union(*found) == {4, 5, 6, 7}
    assert all(len(lengths) == 1 for lengths in found)


def test_names_of_lists_say_nothing_twice():
    assert len(set(PLACES)) == len(PLACES)
