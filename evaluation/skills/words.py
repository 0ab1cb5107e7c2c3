"""Words and names the generators draw from; invented ones are built from syllables, so nothing is downloaded."""
# ruff: noqa: SIM905  # lists of words read better as text

from __future__ import annotations

import random

REAL = (
    "anchor apple arrow autumn basket bridge bottle branch button candle canyon carpet castle cellar cherry "
    "circle clover coffee copper corner cotton cradle desert dinner dragon engine fabric falcon family feather "
    "finger flower forest garden ginger glacier guitar hammer harbor helmet history honey island jacket jungle "
    "kettle kitchen ladder lantern lemon letter lizard magnet marble market meadow memory mirror monkey mountain "
    "museum needle nephew number ocean orange orchard oyster paddle palace parrot pencil pepper picture pillow "
    "planet pocket potato pumpkin puzzle rabbit ribbon river rocket saddle salmon school shadow silver singer "
    "spider spring stable stream summer sunset teacher temple thunder ticket timber tomato tunnel turtle umbrella "
    "valley velvet village violin walnut weather whisper willow window winter wizard yellow zebra"
).split()
FIRST = (
    "Ada Alma Anna Arlo Bea Ben Cara Cleo Dana Dora Eli Emma Enzo Eva Finn Gina Hugo Ida Ines Ivan Jack Jana Joel "
    "Kai Kira Lara Leo Lena Lily Luca Maja Mara Milo Mona Nils Nina Nora Olga Omar Otto Paul Pia Remo Rita Rosa "
    "Sara Theo Tilda Tom Uma Vera Vito Will Yara Zoe Zora"
).split()
CITIES = (
    "Athens Berlin Bergen Boston Cairo Dakar Delhi Denver Dublin Geneva Genoa Hanoi Havana Lagos Lima Lisbon "
    "London Lyon Madrid Malmo Milan Munich Nairobi Naples Oslo Ottawa Paris Porto Prague Quito Riga Rome Seoul "
    "Sofia Tokyo Turin Vienna Warsaw York Zurich"
).split()
JOBS = ("baker nurse pilot tailor plumber lawyer farmer painter teacher driver chemist dentist editor singer").split()
SYLLABLES = (
    "ba be bi bo bu da de di do du fa fe fi fo ga ge gi go gu ha he hi ho ka ke ki ko ku la le li lo lu ma me mi "
    "mo mu na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we za ze zi zo"
).split()
CODAS = ("n", "r", "l", "s", "th", "x", "m", "k", "", "")


def invented(generator: random.Random, *, syllables: int) -> str:
    """A pronounceable word, such as "tamirol"."""
    return "".join(generator.choices(SYLLABLES, k=syllables)) + generator.choice(CODAS)


def word_of_length(generator: random.Random, length: int) -> str:
    """A word of exactly `length` letters: a real one now and then, else an invented one."""
    if generator.random() < 0.3:
        real = generator.choice(REAL)
        if len(real) == length:
            return real
    return (invented(generator, syllables=(length + 1) // 2) + "s")[:length]


def digits(generator: random.Random, count: int) -> int:
    """A number of exactly `count` digits; 0 counts as a digit."""
    return generator.randrange(10 ** (count - 1) if count > 1 else 0, 10**count)


def phrased(generator: random.Random, templates: tuple[str, ...], /, **slots: object) -> str:
    """One of the templates with its slots filled."""
    return generator.choice(templates).format(**slots)
