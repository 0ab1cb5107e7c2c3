"""Reading for meaning and form: fields into JSON, tool calls, sentiment and the topic of a ticket."""
# ruff: noqa: SIM905  # lists of words read better as text

from __future__ import annotations

import json
import random

from evaluation.skills import grading
from evaluation.skills.types import Draw, Skill
from evaluation.skills.words import CITIES, FIRST, JOBS, invented, phrased

_ASK = ("Extract {f} as JSON: {t}", "Return JSON with {f} from this text: {t}", "{t} Give me {f} as JSON.")
_PARAMETERS = (
    "city", "title", "name", "label", "topic", "target", "place", "color", "count", "days", "limit", "size",
    "guests", "hours",
    "level", "amount",
)  # fmt: skip
_INTEGERS = frozenset(("count", "days", "limit", "size", "guests", "hours", "level", "amount"))
_VERBS = (
    "add book cancel create find get list move open order plan print query rename send set show start stop track"
).split()
_OBJECTS = (
    "alarm album booking car file flight invoice lamp meeting note order parcel photo report room seat song table "
    "task trip"
).split()
_GOOD = [
    "great",
    "excellent",
    "lovely",
    "superb",
    "wonderful",
    "reliable",
    "perfect",
    "delightful",
    "amazing",
    "fantastic",
]
_BAD = ["terrible", "awful", "horrible", "broken", "useless", "dreadful", "poor", "disappointing", "noisy", "flimsy"]
_THINGS = ("phone hotel lamp jacket blender book movie chair headset keyboard kettle printer camera tent bag").split()
_ASIDES = (
    "I bought it last week.", "My sister has one too.", "It came in a box.", "We used it twice.", "The color is blue.",
    "I ordered it online.", "It was a gift.", "It is for my office.",
)  # fmt: skip
_OPINIONS = ("The {t} is {x}.", "What a {x} {t}!", "I find this {t} {x}.", "This {t} was really {x}.")
_FEELING = ("Is this review positive or negative? {r}", "Sentiment of this review: {r}", "Positive or negative? {r}")
_TICKETS = {
    "billing": ("I was charged twice.", "My invoice is wrong.", "I want a refund.", "The price on my bill is off."),
    "shipping": (
        "My parcel is late.",
        "The package never arrived.",
        "Where is my delivery?",
        "Tracking shows nothing.",
    ),
    "account": ("I forgot my password.", "I cannot log in.", "Please change my email.", "My profile is locked."),
    "technical": ("The app crashes.", "The screen stays black.", "I get an error message.", "The update fails."),
}
_LANGUAGES = {
    "German": "der die das und nicht ich wir haben wird mit auch eine sehr gut heute wo".split(),
    "French": "le les et pas je nous avons sera avec aussi une très bon demain où chez".split(),
    "Spanish": "el los y no yo nosotros tenemos con también una muy bueno mañana donde hoy pero".split(),
    "Dutch": "het de en niet ik wij hebben zal met ook een heel goed vandaag waar maar".split(),
    "English": "the and not I we have will with also a very good today where but from".split(),
}
_WHICH = ("Which language is this: {t}", "What language is {t} in?", "Name the language of this text: {t}")
_ROUTE = (
    "Which team handles this ticket: billing, shipping, account or technical? {r}",
    "Label this ticket as billing, shipping, account or technical: {r}",
)


def _person(generator: random.Random) -> dict[str, str | int]:
    first, last = generator.choice(FIRST), invented(generator, syllables=2).title()
    return {
        "name": f"{first} {last}",
        "age": generator.randint(18, 90),
        "city": generator.choice(CITIES),
        "job": generator.choice(JOBS),
        "phone": f"{generator.randint(200, 999)}-{generator.randint(1000, 9999)}",
    }


_TOLD = (
    "{name}, {age}, is a {job} in {city} (phone {phone}).",
    "{name} lives in {city}, is {age} years old, works as a {job}, phone {phone}.",
    "Meet {name} from {city}: {job}, aged {age}. Call {phone}.",
)


def _extract(generator: random.Random, level: int) -> Draw:
    person = _person(generator)
    names = generator.sample(sorted(person), level)
    text = phrased(generator, _TOLD, **person)
    prompt = phrased(generator, _ASK, f=", ".join(names), t=text)
    return Draw(prompt, json.dumps({name: person[name] for name in names}), text)


def _tool(generator: random.Random, parameters: int) -> tuple[str, dict[str, str]]:
    """A tool's name and its parameters' JSON types."""
    name = f"{generator.choice(_VERBS)}_{generator.choice(_OBJECTS)}"
    chosen = generator.sample(_PARAMETERS, parameters)
    return name, {parameter: "integer" if parameter in _INTEGERS else "string" for parameter in chosen}


def _schema(name: str, parameters: dict[str, str]) -> dict[str, object]:
    properties = {parameter: {"type": kind} for parameter, kind in parameters.items()}
    return {"name": name, "parameters": {"type": "object", "properties": properties}}


def _value(generator: random.Random, kind: str) -> str | int:
    if kind == "integer":
        return generator.randint(1, 99)
    return generator.choice((generator.choice(CITIES), generator.choice(FIRST), invented(generator, syllables=2)))


def _call(generator: random.Random, level: int) -> Draw:
    """A tool call from one tool of 1..3 parameters, or from two tools of one or two."""
    tools = [_tool(generator, level if level < 4 else level - 3) for _ in range(1 if level < 4 else 2)]
    name, parameters = generator.choice(tools)
    arguments = {parameter: _value(generator, kind) for parameter, kind in parameters.items()}
    said = " and ".join(f"{parameter} {value}" for parameter, value in arguments.items())
    schemas = json.dumps([_schema(*tool) for tool in tools])
    request = phrased(
        generator,
        ("Please {v} a {o} with {s}.", "{v} the {o}, {s}.", "I want to {v} my {o} with {s}."),
        v=name.split("_")[0],
        o=name.split("_")[1],
        s=said,
    )
    prompt = f"Tools: {schemas}\n{request[0].upper()}{request[1:]}"
    return Draw(prompt, json.dumps({"name": name, "arguments": arguments}), request)


def _sentiment(generator: random.Random, level: int) -> Draw:
    good = generator.random() < 0.5
    negated = level > 3 and generator.random() < 0.5
    word = generator.choice(_GOOD if good != negated else _BAD)
    opinion = phrased(generator, _OPINIONS, t=generator.choice(_THINGS), x=f"not {word}" if negated else word)
    parts = [opinion, *generator.sample(_ASIDES, min(level - 1, 3))]
    generator.shuffle(parts)
    review = " ".join(parts)
    return Draw(phrased(generator, _FEELING, r=review), "positive" if good else "negative", review)


def _language(generator: random.Random, level: int) -> Draw:
    language = generator.choice(sorted(_LANGUAGES))
    text = " ".join(generator.sample(_LANGUAGES[language], 7 - level))
    return Draw(phrased(generator, _WHICH, t=text), language, text)


def _topic(generator: random.Random, level: int) -> Draw:
    topic = generator.choice(sorted(_TICKETS))
    parts = [generator.choice(_TICKETS[topic]), *generator.sample(_ASIDES, min(level, 4))]
    generator.shuffle(parts)
    ticket = f"{generator.choice(('Hello', 'Hi', 'Good morning'))}, {generator.choice(FIRST)} here. {' '.join(parts)}"
    return Draw(phrased(generator, _ROUTE, r=ticket), topic, ticket)


SKILLS = (
    Skill("extract", "one to five fields of a sentence as JSON", _extract, grading.fields, share=0.7),
    Skill("tool", "a call of one of one or two tools given by JSON schema", _call, grading.call, share=0.7),
    Skill(
        "sentiment", "is a review positive or negative, with asides and negation", _sentiment, grading.exact, share=0.5
    ),
    Skill("language", "the language of six words down to two", _language, grading.exact, share=0.5),
    Skill("topic", "which team a support ticket belongs to", _topic, grading.exact, share=0.5),
)
