"""The words of the tiny Python corpus: identifiers, string contents and number runs.

Every pool is a tuple of 2^k ready-made pieces of text, so that drawing one costs one `getrandbits(k)` and one index:
that is what makes the corpus fast enough to be endless. A piece that should be frequent simply occurs several times.

1. Word lists by part of speech. Nouns and verbs are disjoint, and variables are nouns while functions start with a
   verb, so a variable never shadows a function. No word is a keyword or a builtin.
   The names kept for counters (i j k n index), files (f file) and functions (f g h) are in no pool of variables.
2. Compound names (`old_value`, `user_count`) pair the lists: thousands of identifiers from a few hundred words.
3. String literals come quoted both ways: each content occurs once with ' and once with ", so half of all strings use
   each style and the quote tells nothing about the content.
4. `_pool` fills up 2^k entries in a fixed shuffled order. Its generator has a constant seed of its own, so pools are
   the same on every machine and never depend on the order of a set.

Names carry no hint of their type on purpose: `v = set()` and `v = ""` draw `v` from the same pool, so only the
assignment tells a model which operation may follow.
"""

from collections.abc import Sequence
from random import Random

_SEED = 20  # any constant: it fixes the pools, not the programs


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS: tuple[str, ...] = _words(
    """
    item value name key word line text data result count node token score label group table row column
    cell field record entry event price cost rate size width height depth level limit step page block chunk
    batch part piece section chapter title author book letter note message mail reply answer question topic
    color shape point edge graph tree leaf root branch parent child owner member guest player team game card
    deck board tile area region city town street house room door window wall garden farm plant flower fruit
    apple pear lemon bread cake salt sugar water milk tea coffee cup plate bowl box bag basket car truck plane
    ship boat bike wheel engine road bridge tunnel station port gate ticket trip distance speed time date day
    week month year hour minute second moment season winter summer rain snow wind cloud sky sun moon star
    river lake sea island beach hill mountain valley forest desert stone rock sand metal gold silver iron
    glass paper wood cotton wool silk shirt coat hat shoe ring clock bell lamp candle fire smoke heat power
    energy signal sensor device machine robot motor button switch screen camera image photo picture pixel
    video song music sound voice noise tone beat track album artist band guitar piano drum dance film actor
    scene story poem model layer weight bias loss gain vector offset margin border corner center circle square
    angle queue stack heap cache buffer stream packet socket server client host session request response
    header body query cursor view form menu option choice setting config profile account balance payment
    invoice product stock store market shop customer worker manager office company project task plan goal
    target budget report summary detail status state mode reason cause effect change version source module
    package folder archive script command argument variable number digit total average path user
    """
)
ADJECTIVES: tuple[str, ...] = _words(
    """
    old new first last next small large big tiny short long high low left right top main local public active
    hidden closed free busy fast slow early late final full empty raw clean dirty red green blue black white
    dark bright warm cold hot dry wet soft hard heavy light strong weak rich poor young best worst extra spare
    common rare single double fixed base inner outer upper lower north south east west end default
    custom remote daily weekly known current previous
    """
)
VERBS: tuple[str, ...] = _words(
    """
    get make load save read write send fetch find add remove update create build parse check run start stop
    close show hide draw paint compute convert copy merge split join select pick choose drop push pull move
    swap reset clear handle process scan search look replace apply call notify log emit collect gather rank
    compare validate verify encode decode pack wrap render export download upload connect register visit walk
    climb travel cook wash fix repair
    """
)
STRING_WORDS: tuple[str, ...] = _words(
    """
    hello world good morning evening night happy sad green blue red yellow black white small big old new first
    last one two three four five six seven eight nine ten apple banana cherry lemon orange grape melon peach
    pear plum bread butter cheese milk honey sugar salt pepper tea coffee water juice dog cat bird fish horse
    cow sheep goat lion tiger bear wolf fox rabbit mouse snake frog duck goose hen king queen knight castle
    tower sword shield magic dragon forest river lake sea ocean island mountain hill valley desert field
    garden flower tree leaf grass stone sand gold silver iron copper start stop done ready error warning
    missing found empty full open closed left right up down north south east west loading saving reading
    writing sending waiting running finished failed passed skipped removed added updated created file folder
    path name user admin guest password token key value list table row column page line word letter number
    total count size price cost rate score level time date day week month year hour minute second today
    tomorrow london paris berlin rome madrid oslo tokyo delhi cairo lima boston chicago alice bob carol dave
    eve frank grace henry the a an and or not with without from into over under before after again always
    never maybe yes no ok please thanks
    """
)
_METHODS = _words(
    """
    send write log find get load save open start stop update push emit notify call read fetch select remove
    register handle check visit connect warn info debug show
    """
)
_MODULES = _words("tools helpers utils common core app store network services shared models parser engine backend")
_EXTENSIONS = ("txt", "csv", "json", "log", "md", "py")
_LETTERS = _words("x y z a b c d p q s t u v w")
_ACCUMULATORS = (*["current"] * 24, *["result"] * 4, *["output"] * 3, *["total"] * 3, *["found", "seen", "done"] * 2)


def _pool(items: Sequence[str], bits: int) -> tuple[str, ...]:
    """2^bits entries, each item as often as any other (up to one), in a fixed shuffled order."""
    rng, size = Random(f"{_SEED} {bits} {items[0]} {len(items)}"), 1 << bits
    order = sorted(items, key=lambda _: rng.random())
    return tuple((order * (size // len(order) + 1))[:size])


def _compounds(firsts: Sequence[str], seconds: Sequence[str], count: int) -> list[str]:
    """`count` different pairs `first_second`, spread evenly over both lists."""
    pairs = [f"{first}_{second}" for first in firsts for second in seconds if first != second]
    rng = Random(_SEED)
    return sorted(pairs, key=lambda _: rng.random())[:count]


def _phrases(count: int, words: int) -> list[str]:
    """`count` contents of that many words each."""
    rng = Random(_SEED + words)
    return [" ".join(rng.choice(STRING_WORDS) for _ in range(words)) for _ in range(count)]


def _both_quotes(contents: Sequence[str]) -> list[str]:
    """Each content as a literal in both quote styles."""
    return [f"{quote}{content}{quote}" for content in contents for quote in "'\""]


def _runs(count: int) -> list[str]:
    """Comma-separated runs of one to four numbers, as they stand between two brackets."""
    rng = Random(_SEED)
    lengths = [rng.choice((1, 2, 2, 3, 3, 4)) for _ in range(count)]
    return [", ".join(str(rng.randrange(rng.choice((10, 100)))) for _ in range(length)) for length in lengths]


# variables: two thirds single nouns and letters, one third compounds (4,000 adjective_noun and 2,000 noun_noun)
NAMES = _pool([*NOUNS * 28, *_LETTERS * 24, *_compounds(ADJECTIVES, NOUNS, 4000), *_compounds(NOUNS, NOUNS, 2000)], 14)
ACCUMULATORS = _pool([*_ACCUMULATORS, *NOUNS[:24]], 6)
FUNCTIONS = _pool([*VERBS * 12, *"fgh" * 20, *_compounds(VERBS, NOUNS, 3000)], 12)
CLASSES = _pool([name.title().replace("_", "") for name in (*NOUNS, *_compounds(ADJECTIVES, NOUNS, 400))], 10)
METHODS = _pool(_METHODS, 6)
MODULES = _pool(_MODULES, 5)
CONTENTS = _pool([*STRING_WORDS * 6, *_phrases(1600, 2), *_phrases(900, 3), *_phrases(400, 4)], 12)
STRINGS = _pool(_both_quotes(CONTENTS), 13)
WORDS = _pool(_both_quotes([*STRING_WORDS, *NOUNS]), 11)
FILES = _pool(_both_quotes([f"{noun}.{end}" for noun in NOUNS for end in _EXTENSIONS]), 12)
NUMBERS = _pool([*map(str, range(10))] * 4 + [*map(str, range(10, 100))], 8)
RUNS = _pool(_runs(4000), 12)
