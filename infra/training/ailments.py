"""What visits to a doctor are about: words for pain, drugs, relatives and figures, as said and as written down."""

from __future__ import annotations

import random
from collections.abc import Sequence

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
UNITS = ("day", "week", "month", "year")
COMPLAINTS = (
    "back pain", "chest pain", "a dry cough", "a sore throat", "a skin rash", "dizziness", "headaches", "fatigue",
    "stomach pain", "shortness of breath", "blurred vision", "ear pain", "neck pain", "swollen ankles", "heartburn",
    "trouble sleeping", "numbness in the left hand", "leg cramps", "a runny nose", "memory problems", "tremors",
    "jaw pain", "itching", "low back pain", "pain in the right foot", "hoarseness", "urinary frequency", "nosebleeds",
    "left shoulder pain", "right knee pain", "right hip pain", "a lump on the neck", "burning eyes", "loss of appetite",
)  # fmt: skip
SYMPTOMS = (
    "fever", "chills", "nausea", "vomiting", "chest pain", "weight loss", "night sweats", "diarrhea", "palpitations",
    "wheezing", "headache", "blurry vision", "constipation", "weakness", "joint pain", "shortness of breath", "cough",
    "numbness", "tingling", "dizziness", "fainting", "swelling", "rash", "itching", "abdominal pain", "heartburn",
    "fatigue", "double vision", "hearing loss", "sore throat", "runny nose", "blood in the stool", "back pain",
    "loss of appetite", "muscle aches", "bruising", "trouble swallowing", "seizures", "snoring", "anxiety",
)  # fmt: skip
PLAIN_SYMPTOMS = (
    ("pain when peeing", "dysuria"), ("throwing up", "vomiting"), ("getting winded", "dyspnea"),
    ("coughing up blood", "hemoptysis"), ("feeling your heart race", "palpitations"), ("passing out", "syncope"),
    ("belly pain", "abdominal pain"), ("blood in the pee", "hematuria"), ("a stuffy nose", "nasal congestion"),
    ("swelling in the legs", "lower extremity edema"), ("trouble sleeping", "insomnia"), ("feeling tired", "fatigue"),
)  # fmt: skip
"""(said, written down)."""
DRUGS = (
    "lisinopril", "metformin", "aspirin", "ibuprofen", "Tylenol", "insulin", "Lipitor", "Prilosec", "Zoloft",
    "prednisone", "albuterol", "Synthroid", "Coumadin", "Plavix", "amlodipine", "gabapentin", "Lasix", "Norvasc",
    "Advil", "Aleve", "Zyrtec", "Claritin", "Nexium", "Prozac", "Ambien", "Celebrex", "Flonase", "Singulair",
    "digoxin", "atenolol", "Toprol", "Accutane", "Zantac", "vitamin D", "calcium", "iron", "folic acid", "tramadol",
)  # fmt: skip
DOSES = (5, 10, 15, 20, 25, 30, 40, 50, 60, 75, 80, 81, 90)
OFTEN = (
    ("once a day", "daily"), ("twice a day", "twice daily"), ("every morning", "every morning"),
    ("at bedtime", "at bedtime"), ("when {I} need{s} it", "as needed"), ("three times a day", "three times daily"),
)  # fmt: skip
ALLERGENS = (
    "penicillin", "sulfa", "latex", "codeine", "peanuts", "morphine", "amoxicillin", "shellfish", "aspirin", "bees",
    "iodine", "eggs", "cats", "pollen", "erythromycin", "Keflex",
)  # fmt: skip
REACTIONS = ("hives", "a rash", "swelling", "nausea", "itching", "trouble breathing")
ILLNESSES = (
    ("high blood pressure", "hypertension"), ("sugar diabetes", "diabetes"), ("high cholesterol", "hyperlipidemia"),
    ("asthma", "asthma"), ("acid reflux", "gastroesophageal reflux disease"), ("a stroke", "stroke"),
    ("a heart attack", "myocardial infarction"), ("thyroid trouble", "thyroid disease"), ("arthritis", "arthritis"),
    ("cancer", "cancer"), ("depression", "depression"), ("kidney stones", "kidney stones"), ("gout", "gout"),
    ("migraines", "migraines"), ("sleep apnea", "sleep apnea"), ("weak bones", "osteoporosis"), ("anemia", "anemia"),
    ("heart failure", "congestive heart failure"), ("an irregular heartbeat", "atrial fibrillation"),
    ("epilepsy", "epilepsy"), ("glaucoma", "glaucoma"), ("emphysema", "emphysema"), ("eczema", "eczema"),
    ("chicken pox", "varicella"), ("pneumonia", "pneumonia"), ("hepatitis", "hepatitis"), ("anxiety", "anxiety"),
)  # fmt: skip
"""(said, written down)."""
OPERATIONS = (
    ("{my} appendix out", "appendectomy"), ("{my} tonsils out", "tonsillectomy"), ("a bypass", "bypass surgery"),
    ("{my} gallbladder removed", "cholecystectomy"), ("{my} knee replaced", "knee replacement"),
    ("{my} hip replaced", "hip replacement"), ("a hernia fixed", "hernia repair"),
    ("a stent put in", "stent placement"),
    ("a cataract taken out", "cataract surgery"), ("{my} wisdom teeth out", "wisdom teeth extraction"),
    ("tubes put in {my} ears", "ear tube placement"), ("{my} back fused", "spinal fusion"),
    ("a cyst cut out", "cyst excision"), ("{my} wrist pinned", "wrist fixation"),
)  # fmt: skip
CAUSES = (
    ("fell down the stairs", "falling down the stairs"), ("slipped on the ice", "slipping on ice"),
    ("lifted a heavy box", "lifting a heavy box"), ("had a car accident", "a motor vehicle accident"),
    ("played soccer", "playing soccer"), ("moved a couch", "moving a couch"), ("ate at a new place", "eating out"),
    ("worked in the yard", "yard work"), ("fell off a ladder", "a fall from a ladder"), ("had the flu", "the flu"),
    ("got back from a long flight", "a long flight"), ("started the new pills", "starting a new medication"),
)  # fmt: skip
"""(what someone did, what it is called after `after`)."""
QUALITIES = ("sharp", "dull", "burning", "throbbing", "aching", "stabbing", "crampy", "tight", "constant", "itchy")
WORSE = ("walking", "bending", "lying down", "eating", "lifting", "climbing stairs", "cold air", "sitting", "coughing")
BETTER = ("rest", "ice", "heat", "massage", "stretching", "sitting up", "fresh air", "a warm shower", "elevation")
TESTS = ("X-ray", "MRI", "CT scan", "blood test", "EKG", "ultrasound", "stress test", "sleep study", "biopsy")
DOCTORS = ("cardiologist", "neurologist", "dermatologist", "orthopedist", "dentist", "pulmonologist", "eye doctor")
RELATIVES = ("mother", "father", "brother", "sister", "grandmother", "grandfather", "aunt", "uncle")
JOBS = (
    "teacher", "driver", "nurse", "farmer", "carpenter", "cook", "clerk", "mechanic", "painter", "lawyer", "plumber",
    "librarian", "secretary", "welder", "baker", "student", "cashier", "janitor", "pilot", "florist", "roofer",
)  # fmt: skip
HOBBIES = ("walking", "swimming", "gardening", "yoga", "cycling", "dancing", "fishing", "tennis", "hiking", "golf")
ORDINALS = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth", 20: "twentieth"}


def spoken(number: int) -> str:
    """A number below 100 in words, as people write down what they hear: thirty five."""
    if number < 20:
        return ONES[number]
    return f"{TENS[number // 10]} {ONES[number % 10]}" if number % 10 else TENS[number // 10]


def spoken_year(year: int) -> str:
    """A year from 1910 to 2099 as it is said: nineteen eighty four, two thousand seven, twenty twelve."""
    if 2000 <= year < 2010:
        return f"two thousand {spoken(year % 100)}" if year % 100 else "two thousand"
    return f"{spoken(year // 100)} {spoken(year % 100)}" if year % 100 else f"{spoken(year // 100)} hundred"


def listed(names: Sequence[str], last: str = "and") -> str:
    """One, two or more names: a, b and c."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else names[0]


def date(draw: random.Random) -> tuple[str, str]:
    """A day as it is said and as it is written: March fifth two thousand nine, 03/05/2009."""
    month, day, year = draw.randrange(12), draw.choice(list(ORDINALS)), draw.randint(1985, 2021)
    return f"{MONTHS[month]} {ORDINALS[day]} {spoken_year(year)}", f"{month + 1:02}/{day:02}/{year}"
