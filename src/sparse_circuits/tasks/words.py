"""The words of the built-in tasks, a list per kind and a part per split: no word stands in two splits of any list.

The shifted split `names` has variables of its own: single letters and short forms instead of nouns; `fillers` has other
string words and numbers of three digits.
"""

from collections.abc import Mapping

_NAMES = {
    "train": """item value key line text data result count index node score label group table row column cell
    field record entry event price cost rate size width height depth level limit step page block part title author
    book note mail reply answer question shape point edge graph tree root branch parent child owner member player
    team game deck board area""",
    "val": """city town street house room door window wall plant fruit plate bowl box bag basket car truck plane
    ship boat bike wheel engine road bridge port""",
    "test": """gate ticket trip distance speed season summer rain snow wind cloud sky sun moon star forest metal
    wood shirt coat hat shoe ring clock bell lamp fire power energy signal sensor robot motor button screen camera
    image photo picture video song music sound voice""",
}
_WORDS = {
    "train": """hello world good morning evening night happy green blue red black white big old new first last one
    two three four five apple lemon orange bread butter cheese milk sugar salt tea coffee water dog cat bird fish
    horse king queen river lake sea island mountain start stop done ready error open closed left right file name
    user total""",
    "val": """sad yellow small six seven eight grape peach pepper juice cow sheep lion wolf castle sword valley
    desert garden warning found empty full password""",
    "test": """nine ten banana cherry melon pear plum honey goat tiger bear fox rabbit mouse snake frog duck tower
    magic dragon ocean hill flower grass stone sand gold silver iron missing finished failed passed skipped added
    updated folder path token number today tomorrow paris london""",
}
_CALLS = {
    "train": "get make load save read write send fetch find build parse check run show draw",
    "val": "paint copy merge split join select pick choose",
    "test": "push pull move swap reset clear handle process scan search look replace",
}
_CLASSES = {
    "train": "Person Account Item Node Book Car Player Game Point Shape Animal User Task Order Product",
    "val": "City Town House Room Plant Fruit Box Bag",
    "test": "Ticket Trip Season Cloud Star Forest Shirt Clock Lamp Signal Sensor Robot Motor Button Camera Image",
}
_FILLERS = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "zebra",
    "piano",
    "violin",
    "rocket",
    "planet",
    "copper",
    "winter",
    "autumn",
)
FILLERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    name: {split: tuple(words.split()) for split, words in splits.items()}
    for name, splits in {"name": _NAMES, "word": _WORDS, "call": _CALLS, "class": _CLASSES}.items()
}
"""list -> split -> words"""
FIXED: Mapping[str, tuple[str, ...]] = {
    "number": tuple(str(number) for number in range(1, 31)),
    "counter": ("i", "j", "k", "n", "index"),
}
"""list -> words that all splits share"""
SHIFTED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "longer": {},
    "deeper": {},
    "names": {"name": tuple("abcdempqrstuvwxyz")},
    "fillers": {
        "word": _FILLERS,
        "number": tuple(str(number) for number in range(100, 1000, 37)),
    },
}
"""shifted split -> list -> words that replace those of test"""
