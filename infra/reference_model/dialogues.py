"""Made-up dialogues with the summary of what was said: visits to a doctor, and friends who arrange things.

A dialogue is a few exchanges in any order with small talk between them; each exchange brings its sentence of the
summary. What is said in words (`seventy six`, `I never touched a cigarette`) is written down as figures and terms, so
that the summary cannot be copied; it ends when everything is said once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from infra.reference_model.facts import CITIES, OBJECTS, PLACES, SURNAMES

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
FIRST_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Irene", "Jack", "Kate", "Leo", "Maria", "Nina",
    "Oscar", "Paul", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COMPLAINTS = (
    "back pain", "chest pain", "a dry cough", "a sore throat", "knee pain", "a skin rash", "dizziness", "headaches",
    "stomach pain", "shortness of breath", "blurred vision", "ear pain", "shoulder pain", "fatigue", "neck pain",
    "swollen ankles", "trouble sleeping", "numbness in the left hand", "hip pain", "heartburn",
)  # fmt: skip
SYMPTOMS = (
    "fever", "chills", "nausea", "vomiting", "chest pain", "weight loss", "night sweats", "diarrhea", "palpitations",
    "wheezing", "headache", "blurry vision", "constipation", "weakness", "joint pain", "shortness of breath",
)  # fmt: skip
DRUGS = (
    "lisinopril", "metformin", "aspirin", "ibuprofen", "Tylenol", "insulin", "Lipitor", "Prilosec", "Zoloft",
    "prednisone", "albuterol", "Synthroid", "Coumadin", "Plavix", "amlodipine", "gabapentin", "Lasix", "Norvasc",
)  # fmt: skip
ALLERGENS = ("penicillin", "sulfa drugs", "latex", "codeine", "peanuts", "morphine", "amoxicillin", "shellfish")
ILLNESSES = (
    ("high blood pressure", "hypertension"), ("diabetes", "diabetes"), ("high cholesterol", "hypercholesterolemia"),
    ("asthma", "asthma"), ("acid reflux", "gastroesophageal reflux disease"), ("a stroke", "stroke"),
    ("a heart attack", "myocardial infarction"), ("thyroid trouble", "thyroid disease"), ("arthritis", "arthritis"),
    ("breast cancer", "breast cancer"), ("depression", "depression"), ("kidney stones", "kidney stones"),
)  # fmt: skip
OPERATIONS = (
    ("my appendix out", "Appendectomy"), ("my tonsils out", "Tonsillectomy"), ("a bypass", "Bypass surgery"),
    ("my gallbladder removed", "Cholecystectomy"), ("my knee replaced", "Knee replacement"),
    ("my hip replaced", "Hip replacement"),
    ("a hernia repaired", "Hernia repair"), ("a cataract taken out", "Cataract surgery"),
    ("a stent put in", "Stent placement"),
)  # fmt: skip
RELATIVES = ("mother", "father", "brother", "sister", "grandmother", "grandfather", "aunt", "uncle")
JOBS = ("teacher", "driver", "nurse", "farmer", "carpenter", "cook", "clerk", "mechanic", "painter", "lawyer")
SMALL_TALK = (
    ("Okay.", "Yes."), ("All right.", "Mm-hmm."), ("I see. Thanks for telling me.", "Of course."), ("Got it.", "Yeah."),
    ("How is the family?", "They are fine, thanks."), ("Busy day today.", "I can see that."), ("Let me see.", "Sure."),
)  # fmt: skip
REQUESTS = ("Summarise the dialogue.", "Summarise the dialogue.", "Summarize the conversation.")


class Exchange(NamedTuple):
    """What the first speaker says, what the second answers, and the sentence of the summary."""

    first: str
    second: str
    told: str


def spoken(number: int) -> str:
    """A number below 100 in words, as people write down what they hear: thirty five."""
    if number < 20:
        return ONES[number]
    return f"{TENS[number // 10]} {ONES[number % 10]}" if number % 10 else TENS[number // 10]


def listed(names: Sequence[str]) -> str:
    """One, two or more names: a, b and c."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def complaint(draw: random.Random, sex: str) -> Exchange:
    """Why the patient comes, and how old the patient is."""
    age, count, unit = draw.randint(18, 92), draw.randint(2, 12), draw.choice(("day", "week", "month", "year"))
    what, old = draw.choice(COMPLAINTS), draw.choice((spoken(age), str(age)))
    noun = draw.choice(("male", "man") if sex == "He" else ("female", "woman"))
    asked = draw.choice(("What brings you in today?", "How can I help you?", "Hi there! What's going on today?"))
    sentences = (
        "I'm {old}, and I have had {what} for {n} {unit}s.",
        "I have {what}. It started {n} {unit}s ago. I'm {old}.",
    )
    said = draw.choice(sentences)
    note = f"The patient is a {age}-year-old {noun} who presents with {what} for {count} {unit}s."
    return Exchange(asked, said.format(old=old, what=what, n=spoken(count), unit=unit), note)


def symptoms(draw: random.Random, sex: str) -> Exchange:
    """What the patient feels and what not."""
    names = draw.sample(SYMPTOMS, draw.randint(1, 4))
    asked = f"Any {' or '.join(names)}?" if draw.random() < 0.5 else f"Have you had {', '.join(names)}?"
    if draw.random() < 0.6:
        said = draw.choice(("No.", "No, nothing like that.", "Nope, not at all.", "No, I haven't noticed any."))
        return Exchange(asked, said, f"{sex} denies {listed(names)}.")
    said = draw.choice(("Yes, unfortunately.", "Yes, all the time.", "Yeah, I do."))
    return Exchange(asked, said, f"{sex} reports {listed(names)}.")


def drugs(draw: random.Random, _: str) -> Exchange:
    """What the patient takes."""
    names = draw.sample(DRUGS, draw.randint(1, 4))
    asked = draw.choice(("What medications are you taking?", "Do you take any medicine?", "Are you on any medication?"))
    said = draw.choice(("I take {}.", "Yes, I'm on {} right now.", "Just {}."))
    told = listed(names)
    return Exchange(asked, said.format(" and ".join(names)), f"{told[0].upper()}{told[1:]}.")


def allergies(draw: random.Random, sex: str) -> Exchange:
    """What the patient does not bear."""
    asked = draw.choice(("Do you have any allergies?", "Are you allergic to anything?", "Any drug allergies?"))
    if draw.random() < 0.4:
        return Exchange(asked, draw.choice(("No.", "None that I know of.", "Nothing, no.")), "No known drug allergies.")
    name = draw.choice(ALLERGENS)
    said = draw.choice(("Yes, {}.", "I can't have {}. I break out in hives.", "I'm allergic to {}."))
    return Exchange(asked, said.format(name), f"{sex} is allergic to {name}.")


def operation(draw: random.Random, _: str) -> Exchange:
    """What was operated and when."""
    asked = draw.choice(("Any surgeries?", "Have you had any surgery before?", "Have you ever been operated on?"))
    if draw.random() < 0.25:
        return Exchange(asked, draw.choice(("No, never.", "None.", "No surgeries.")), "No prior surgeries.")
    (plain, term), year = draw.choice(OPERATIONS), draw.randint(1970, 2021)
    return Exchange(asked, f"I had {plain} in {year}.", f"{term} in {year}.")


def history(draw: random.Random, _: str) -> Exchange:
    """What the patient suffers from."""
    chosen = draw.sample(ILLNESSES, draw.randint(1, 3))
    asked = draw.choice(("Do you have any medical problems?", "Any other conditions?", "What is your medical history?"))
    said = draw.choice(("I've had {}.", "Well, {}.", "Yes, I have a history of {}."))
    told = listed([term for _, term in chosen])
    return Exchange(asked, said.format(" and ".join(plain for plain, _ in chosen)), f"Significant for {told}.")


def family(draw: random.Random, _: str) -> Exchange:
    """What the relatives suffer from."""
    (plain, term), relative = draw.choice(ILLNESSES), draw.choice(RELATIVES)
    asked = draw.choice(("Does anything run in your family?", "Any family history?", "What about your family?"))
    return Exchange(asked, f"My {relative} had {plain}.", f"{relative.capitalize()} with {term}.")


def habits(draw: random.Random, sex: str) -> Exchange:
    """Cigarettes and drinks."""
    number = draw.randint(2, 30)
    return draw.choice(
        (
            Exchange("Do you smoke?", "No, I never touched a cigarette.", f"{sex} is a nonsmoker."),
            Exchange("Do you smoke?", f"I quit {spoken(number)} years ago.", f"{sex} quit smoking {number} years ago."),
            Exchange(
                "Do you smoke?", f"{spoken(number).capitalize()} a day.", f"{sex} smokes {number} cigarettes a day."
            ),
            Exchange("How about alcohol?", "I don't drink.", f"{sex} does not drink alcohol."),
            Exchange("Do you drink?", "A glass of wine now and then.", f"{sex} drinks alcohol occasionally."),
        )
    )


def work(draw: random.Random, sex: str) -> Exchange:
    """What the patient does."""
    job = draw.choice(JOBS)
    said = draw.choice(("I'm a {}.", "I work as a {}.", "I was a {} for years, and I still am."))
    return Exchange("What do you do for a living?", said.format(job), f"{sex} works as a {job}.")


VISIT: tuple[Callable[[random.Random, str], Exchange], ...] = (
    complaint, symptoms, drugs, allergies, operation, history, family, habits, work,
)  # fmt: skip


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


def visit(draw: random.Random, exchanges: int) -> tuple[tuple[str, str], list[tuple[str, str]], list[Exchange]]:
    """Who speaks, how they greet, and what is said at a doctor's; why the patient comes is said first."""
    speakers = draw.choice((("Doctor", "Patient"), ("Doctor", "Patient"), ("[doctor]", "[patient]")))
    sex, chosen = draw.choice(("He", "She")), draw.sample(VISIT, min(exchanges, len(VISIT)))
    made = [make(draw, sex) for make in sorted(chosen, key=lambda make: make is not complaint)]
    name = f"{'Mr.' if sex == 'He' else 'Mrs.'} {draw.choice(SURNAMES)}"
    return speakers, [(f"Good morning, {name}.", "Good morning.")], made


def meeting(draw: random.Random, exchanges: int) -> tuple[tuple[str, str], list[tuple[str, str]], list[Exchange]]:
    """The same for two friends."""
    first, second = draw.sample(FIRST_NAMES, 2)
    possible = len(arrangements(draw, first, second))
    kinds = draw.sample(range(possible), min(exchanges, possible))
    return (first, second), [], [arrangements(draw, first, second)[kind] for kind in kinds]


def dialogue(draw: random.Random, exchanges: int) -> tuple[str, str, str]:
    """A dialogue of at most so many exchanges that matter, what is asked for, and its summary."""
    speakers, turns, made = (visit if draw.random() < 0.6 else meeting)(draw, exchanges)
    for exchange in made:
        turns.append((exchange.first, exchange.second))
        if draw.random() < 0.3:
            turns.append(draw.choice(SMALL_TALK))
    mark = " " if speakers[0].startswith("[") else ": "
    said = "\n".join(f"{who}{mark}{line}" for turn in turns for who, line in zip(speakers, turn, strict=True))
    return said, draw.choice(REQUESTS), " ".join(exchange.told for exchange in made)
