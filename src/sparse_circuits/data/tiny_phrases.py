"""The literals of the tiny Python corpus: numbers, strings, and the sentences of comments and docstrings.

1. String literals come quoted both ways: each content occurs once with ' and once with ", so half of all strings use
   each style and the quote tells nothing about the content. No content holds a quote or a brace.
2. Sentences come from a grammar of a few dozen frames, so they read as comments do; a tenth are random words.
3. Pools as in `tiny_vocabulary`: tuples of 2^k pieces.
"""

from collections.abc import Iterable, Sequence
from random import Random

from .tiny_vocabulary import ADJECTIVES, NOUNS, even, pool, words, zipf

_SEED = 21

STRING_WORDS: tuple[str, ...] = words(
    """
    hello apple red Alice world name banana blue Bob done yes error green cat no key dog a start admin title cherry b
    Paris good stop ok text age bird active foo bar ready Carol user value London orange one two x open Python test
    data city email status id three pass fail Monday left right up down north south first last next small large big
    morning evening night happy sad yellow black white old new four five six seven eight nine ten lemon grape melon
    peach pear plum bread butter cheese milk honey sugar salt pepper tea coffee water juice fish horse cow sheep goat
    lion tiger bear wolf fox rabbit mouse snake frog duck hen king queen knight castle tower sword shield magic
    dragon forest river lake sea ocean island mountain hill valley desert field garden flower tree leaf grass stone
    sand gold silver iron copper warning missing found empty full closed loading saving reading writing sending
    waiting running finished failed passed skipped removed added updated created file folder path guest password
    token list table row column page line word letter number total count size price cost rate score level day week
    month year hour minute second today tomorrow Berlin Rome Madrid Oslo Tokyo Delhi Cairo Lima Boston Chicago Dave
    Eve Frank Grace Henry John Jane Tom Anna Max Rex Sunday Friday winter summer spring autumn math history art music
    always never maybe please thanks true false none abc c d e
    """
)
MESSAGES: tuple[str, ...] = (
    *(
        "Hello, world",
        "Hello",
        "Done",
        "Enter your name",
        "Invalid value",
        "Invalid input",
        "Hello, World",
        "Yes",
        "No",
    ),
    *("Not found", "Error", "Start", "Finished", "Good morning", "Welcome", "Goodbye", "Access denied", "Try again"),
    *("File not found", "Something went wrong", "Hi there", "Enter a number", "Loading data", "Ready", "OK", "Success"),
    *("Failed", "Enter your age", "Thank you", "Please wait", "No results", "Too low", "Too high", "You win", "Even"),
    *("Odd", "Positive", "Negative", "Zero", "Adult", "Minor", "Empty", "Game over", "Value must be positive", "Bye"),
    *("Cannot divide by zero", "Unknown command", "Processing", "Connected", "Low", "High", "Small", "Large", "Pass"),
)
_NAMES = words("Alice Bob Carol Dave Eve John Jane Tom Anna Max world friend everyone")
_VERBS = words("Loading Saving Reading Updating Checking Sending Processing Opening Starting Removing Adding Printing")
_FRAMES = (
    *("Return the {n}", "Check the {n}", "Print the {n}", "Get the {a} {n}", "Set the {n}", "Add the {n} to the {m}"),
    *("Loop over the {n}s", "Skip the {a} ones", "Make sure the {n} is {a}", "Find the {a} {n}", "Update the {n}"),
    *("Create a new {n}", "This is the {a} {n}", "Read the {n} from the {m}", "Count the {n}s", "Save the {n}"),
    *("Check if the {n} is {a}", "Start with the {a} {n}", "Use the {a} {n}", "Remove the {n}", "Show every {n}"),
    *("Store the {n} of the {m}", "Compute the {n} of the {m}", "Go through each {n}", "Keep the {a} {n}", "The {n}"),
    *("Default {n}", "number of {n}s", "the {a} {n}", "list of {n}s", "each {n}", "one {n} per {m}", "a {a} {n}"),
    *("no {n} yet", "only the {a} {n}s", "TODO: handle {a} {n}s", "Do nothing if the {n} is {a}", "Load the {n}"),
    *("update {n}", "print {n}", "Represents a {n}", "A {a} {n} with a {m}", "Return True if the {n} is {a}"),
    *("skip this one", "done", "try again", "main loop", "stop here", "not used", "for each {n}", "every {n}", "test"),
)
_REPORTS = (
    *("The {n} is {a}", "No {n} found", "{n} not found", "Invalid {n}", "{v} {n}", "Enter the {n}", "{n} is {a}"),
    *(
        "{v} the {n}",
        "Hello, {who}",
        "Hi {who}",
        "Missing {n}",
        "Total {n}",
        "Unknown {n}",
        "Number of {n}s",
        "New {n}",
    ),
    *("The {n} must be {a}", "Please enter a {n}", "{n} added", "{n} removed", "{a} {n}", "Wrong {n}", "{n} and {m}"),
    *("Enter your {n}", "Your {n}, please", "One {n}, two {m}s", "We have a {n}", "I like {n}", "{a}, {n}", "{n}s"),
)


def _sentences(frames: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` different texts, frames filled with random words."""
    rng = Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        frame, noun, other = rng.choice(frames), rng.choice(NOUNS), rng.choice(NOUNS)
        text = frame.format(n=noun, m=other, a=rng.choice(ADJECTIVES), v=rng.choice(_VERBS), who=rng.choice(_NAMES))
        made[text[0].upper() + text[1:] if frame[0] == "{" and rng.random() < 0.6 else text] = None
    return list(made)


def _random_words(count: int, length: int) -> list[str]:
    rng = Random(_SEED + length)
    return [" ".join(rng.choice(STRING_WORDS) for _ in range(length)) for _ in range(count)]


def _both_quotes(contents: Iterable[str]) -> tuple[str, ...]:
    """Each content as a literal in both quote styles: twice as many entries."""
    return tuple(f"{quote}{content}{quote}" for content in contents for quote in "'\"")


def _runs(count: int) -> list[str]:
    """Comma-separated runs of one to five numbers, as they stand between two brackets."""
    rng = Random(_SEED)
    made = []
    for _ in range(count):
        length, style = rng.choice((1, 2, 2, 2, 3, 3, 3, 4, 5)), rng.random()
        if style < 0.3:
            numbers = list(range(1, length + 1))
        elif style < 0.35:
            numbers = [rng.randrange(10) * 10 for _ in range(length)]
        else:
            numbers = [rng.randrange(rng.choice((10, 10, 10, 100, 1000))) for _ in range(length)]
        if rng.random() < 0.06:
            numbers[0] = -numbers[0] - 1
        made.append(", ".join(map(str, numbers)))
    return made


def _grids(count: int) -> list[str]:
    """Nested lists: rows of one to three numbers, one to three rows, now and then a ragged or empty row."""
    rng, made = Random(_SEED + 1), []
    for _ in range(count):
        width, rows = rng.choice((1, 2, 2, 2, 3, 3)), rng.choice((1, 1, 2, 2, 2, 3))
        lengths = [rng.randint(1, 3) if rng.random() < 0.2 else width for _ in range(rows)]
        top = rng.choice((2, 10, 10, 10, 100))
        flat = list(range(1, 10)) if rng.random() < 0.3 else [rng.randrange(top) for _ in range(9)]
        made.append(str([[flat.pop(0) for _ in range(length)] for length in lengths]))
    return made


_BASE = [*even(_sentences(_REPORTS, 1500, 3), 30), *even(_random_words(700, 2), 8), *even(_random_words(300, 3), 4)]
CONTENTS = pool([*zipf(STRING_WORDS, 32), *zipf(MESSAGES, 26), *_BASE], 12)
"""string contents without quotes"""
STRINGS = _both_quotes(CONTENTS)
WORDS = _both_quotes(pool([*zipf(STRING_WORDS, 80), *even(NOUNS, 20)], 10))
COMMENTS = pool(
    [*even(_sentences(_FRAMES, 2600, 4), 88), *even(_random_words(300, 2), 6), *even(_random_words(200, 3), 6)], 12
)
DOCS = pool([*even(_sentences(_FRAMES[:24], 900, 5), 1)], 10)
_PATHS = [
    f"{folder}{noun}.{ending}"
    for folder in ("", "", "", "data/", "logs/", "/tmp/", "files/")
    for noun in (*words("data input output config log test notes users report file a results names"), *NOUNS[::4])
    for ending in ("txt", "csv", "json", "log")
]
FILES = _both_quotes(pool(even(_PATHS, 1), 11))
NUMBERS = pool(
    [
        *zipf(words("1 0 2 10 3 5 4 100 6 7 8 9 20 50 12 15 30 18 1000 25"), 70),
        *even(map(str, range(11, 100)), 22),
        *even(words("-1 200 500 -5 150 2024 1500 5000 250 64 128 -2 -10 365 1024 404 300 10000"), 8),
    ],
    10,
)
SMALL = pool(zipf(words("1 2 10 3 5 4 100 6 7 8 9 20 50"), 1), 6)
"""positive numbers, as factors and limits"""
FLOATS = pool(even(words("0.5 1.5 3.14 9.99 2.5 0.1 19.99 0.0 1.0 98.6 4.75 0.01 36.6 12.5 0.25 7.5"), 1), 5)
RUNS = pool(even(_runs(4000), 1), 12)
GRIDS = pool(even(_grids(2000), 1), 11)
ODDITIES = pool(
    even(
        [
            *("None", "None", "None", "(1, 2)", "(0, 0)", "(3, 4)", "(10, 20)", '("a", 1)', "('Bob', 25)", "()"),
            *("[[[1, 2], [3, 4]], [[5, 6]]]", "[[[1], [2]]]", '[["a", "b"], ["c", "d"]]', "[['x'], ['y', 'z']]"),
            *("[1.5, 2.5, 3.0]", "[0.1, 0.2]", "[True, False]", "(1, 2, 3)", "[None, None]", "{}", "[(1, 2), (3, 4)]"),
            *('{"name": "Alice", "age": 30}', "{'id': 1, 'tags': ['a', 'b']}", '{"x": [1, 2], "y": [3, 4]}', "[[]]"),
        ],
        1,
    ),
    6,
)
"""displays of kinds that are only printed, tested and passed on"""
