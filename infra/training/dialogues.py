"""Made-up dialogues with the summary of what was said: visits to a doctor, and friends who arrange things.

A dialogue is a few exchanges with small talk between them; each exchange brings its sentence of the summary. What is
said in words (`seventy six`, `I never touched a cigarette`) is written down as figures and terms, so that the summary
cannot be copied; it ends when everything is said once.
"""

from __future__ import annotations

import random

from corm_batch.evaluation.facts import CITIES, OBJECTS, PLACES
from infra.training.ailments import spoken
from infra.training.visits import ADULT, Exchange, Patient, visit

FIRST_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Irene", "Jack", "Kate", "Leo", "Maria", "Nina",
    "Oscar", "Paul", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SMALL_TALK = (
    ("Okay.", "Yes."), ("All right.", "Mm-hmm."), ("I see. Thanks for telling me.", "Of course."), ("Got it.", "Yeah."),
    ("How is the family?", "They are fine, thanks."), ("Busy day today.", "I can see that."), ("Let me see.", "Sure."),
    ("Hm.", "Is that bad?"), ("Oh, I'm sorry to hear that.", "Thank you."), ("Let me write that.", "Sure."),
    ("Good.", "Okay, doctor."), ("Just a few more questions.", "Go ahead."), ("I understand.", "It's been hard."),
    ("That's alright.", "Okay."), ("Nice weather, isn't it?", "It is. Finally some sun."), ("Wow!", "I know, right?"),
)  # fmt: skip
REQUESTS = ("Summarise the dialogue.", "Summarise the dialogue.", "Summarize the conversation.")


def arrangements(draw: random.Random, first: str, second: str) -> tuple[Exchange, ...]:
    """What two people plan, want or have done, one of each kind."""
    thing, place, city = draw.choice(OBJECTS), draw.choice(PLACES), draw.choice(CITIES)
    day, hour, price = draw.choice(DAYS), draw.randint(2, 11), draw.randint(5, 95)
    agreed = draw.choice(("Sure", "Of course", "No problem", "Fine with me"))
    return (
        Exchange(
            f"Can you bring the {thing} to the {place} on {day}?", f"{agreed}, I'll be there at {spoken(hour)}.",
            f"{second} will bring the {thing} to the {place} on {day} at {hour}.",
        ),
        Exchange(
            f"Shall we meet at the {place} on {day}?", f"{agreed}. At {spoken(hour)}?",
            f"{first} and {second} will meet at the {place} on {day} at {hour}.",
        ),
        Exchange(
            f"I'm going to {city} on {day}. I will be back after {spoken(hour)} days.", "Oh, have a good trip!",
            f"{first} is going to {city} on {day} for {hour} days.",
        ),
        Exchange(
            f"Have you seen my {thing}?", f"You left it in the {place}, I think.",
            f"{first} is looking for the {thing}; {second} thinks it is in the {place}.",
        ),
        Exchange(
            f"How much did you pay for that {thing}?", f"Only {spoken(price)} dollars, in {city}.",
            f"{second} bought a {thing} in {city} for {price} dollars.",
        ),
        Exchange(
            f"I can't come on {day}, I have to work.", f"That's a pity. {DAYS[(DAYS.index(day) + 1) % 7]} then?",
            f"{first} cannot come on {day} because of work, so {second} suggests {DAYS[(DAYS.index(day) + 1) % 7]}.",
        ),
    )  # fmt: skip


def greeting(draw: random.Random, patient: Patient) -> list[tuple[str, str]]:
    """How doctor and patient, or who brings the patient, begin; some do not."""
    words = patient.words()
    if draw.random() < 0.3:
        return []
    if patient.brought:
        relative = "son" if words["he"] == "he" else "daughter"
        relative = relative if patient.age < ADULT else "father" if words["he"] == "he" else "mother"
        return [("Hello, who are we seeing today?", f"This is my {relative}.")]
    name = draw.choice((f"{words['title']} {patient.name}", "sir" if patient.sex == "male" else "ma'am"))
    return [
        draw.choice(((f"Good morning, {name}.", "Good morning, doctor."), (f"Hi there, {name}! How are you?", "Hi.")))
    ]


def at_the_doctor(draw: random.Random, exchanges: int) -> tuple[tuple[str, str], list[tuple[str, str]], list[Exchange]]:
    """Who speaks, how they greet, and what is said at a doctor's."""
    patient = Patient.drawn(draw)
    speakers = ("Doctor", "Guest_family" if patient.brought else "Patient")
    return speakers, greeting(draw, patient), visit(draw, patient, exchanges)


def among_friends(draw: random.Random, exchanges: int) -> tuple[tuple[str, str], list[tuple[str, str]], list[Exchange]]:
    """The same for two friends."""
    first, second = draw.sample(FIRST_NAMES, 2)
    possible = len(arrangements(draw, first, second))
    kinds = draw.sample(range(possible), min(exchanges, possible))
    return (first, second), [], [arrangements(draw, first, second)[kind] for kind in kinds]


def dialogue(draw: random.Random, exchanges: int) -> tuple[str, str, str]:
    """A dialogue of at most so many exchanges that matter, what is asked for, and its summary."""
    speakers, turns, made = (at_the_doctor if draw.random() < 0.85 else among_friends)(draw, exchanges)
    for exchange in made:
        turns.append((exchange.first, exchange.second))
        if draw.random() < 0.3:
            turns.append(draw.choice(SMALL_TALK))
    said = "\n".join(f"{who}: {line}" for turn in turns for who, line in zip(speakers, turn, strict=True))
    gap = draw.choice((" ", "  "))
    return said, draw.choice(REQUESTS), gap.join(exchange.told for exchange in made)
