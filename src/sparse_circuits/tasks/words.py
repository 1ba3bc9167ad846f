"""The words of the built-in tasks, a list per kind and a part per split: no word stands in two splits of any list.

The shifted split `names` has variables that occur a tenth as often in the corpus; `fillers` has other string words and numbers of
three digits.
"""

from collections.abc import Mapping

_NAMES = {  # the commonest names of tiny-python, dealt out by rank; nearly all are one token in a vocabulary of 1,500
    "train": """x value a total item line data number left key age items z values words numbers user p second height output
    end start step found counter t high color balance city r month scores status lines v letter fruit""",
    "val": """name b num score message price width names title row length m hour""",
    "test": """count y word result text s first c limit right size seen year level points answer temp low day speed amount
    distance position unique label table""",
}
_WORDS = {
    "train": """hello world good morning evening night happy green blue red black white big old new two three four five
    apple lemon orange bread butter cheese milk sugar salt tea coffee water dog cat bird fish horse king queen
    river lake sea island mountain stop done ready error open closed file""",
    "val": """sad yellow small six seven eight grape peach pepper juice cow sheep lion wolf castle sword valley desert
    garden warning empty full password""",
    "test": """nine ten banana cherry melon pear plum honey goat tiger bear fox rabbit mouse snake frog duck tower magic
    dragon ocean hill flower grass stone sand gold silver iron missing finished failed passed skipped added
    updated folder today tomorrow paris london""",
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
_FILLERS = "alpha beta gamma delta zebra piano violin rocket planet copper winter autumn"
_RARE = "state node mode command config rate col record weight token page option week target best entry buffer response"
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
    "names": {"name": tuple(_RARE.split())},
    "fillers": {
        "word": tuple(_FILLERS.split()),
        "number": tuple(str(number) for number in range(100, 1000, 37)),
    },
}
"""shifted split -> list -> words that replace those of test"""
