"""The tasks on Python code (METHOD 1e): which token closes, continues or follows what the program began.

Every prompt is the beginning of a valid program. Names, functions and the words of strings are different in every
split, and so are templates; numbers are shared. A prompt never ends in punctuation: the pre-token pattern merges
punctuation runs, so `]]\\n` is a token of its own only after a digit, a letter or a space.

Each task is a function that returns it, registered in `BUILDERS`; `determined_by` says how its prompt determines the
answer.
"""

from collections.abc import Callable, Mapping

from .task import SPLITS, Task, Template

# Common short words; every word stands in one split only, over all three lists.
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
_LISTS: Mapping[str, Mapping[str, str]] = {"name": _NAMES, "word": _WORDS, "call": _CALLS}
_NUMBERS = tuple(str(number) for number in range(1, 31))


def single_double_quote() -> Task:
    """Close a string with the quote that opened it."""

    def template(a: str, continuation: str = "<name> = 1\n") -> Template:
        continuation = continuation if "<name>" in a else "x = 1\n"
        return Template(a, a.replace("'", '"'), continuation, continuation)

    return _task(
        "single_double_quote",
        "Close a string and the call around it with the quote that opened the string.",
        "the prompts differ in the one quote character that opens the only string",
        completions=("')\n", '")\n'),
        train=(
            template("print('<word> <word2>"),
            template("<name> = <number>\nprint(<name>)\nprint('<word>"),
            template("<name> = []\n<name>.append('<word>"),
            template("<name> = input('<word> <word2>"),
            template("<name> = <number>\n<name2> = <number2>\nprint('<word>"),
        ),
        val=(
            template("<name> = set()\n<name>.add('<word>"),
            template("for <name> in range(<number>):\n    print('<word> <word2>"),
            template("def <call>():\n    <name> = <number>\n    print('<word>", "    return <name>\n"),
            template("<name> = <number>\nif <name> == <number2>:\n    <name2> = []\n    <name2>.append('<word>"),
        ),
        test=(
            template("from tools import <call>\n<name> = <call>('<word> <word2>"),
            template("def <call>(<name>):\n    print('<word>", "    return <name>\n"),
            template("<name> = <number>\nif <name> > <number2>:\n    print('<word>"),
            template("<name> = <number>\n<name2> = []\n<name2>.append('<word>"),
        ),
    )


def bracket_counting() -> Task:
    """Close as many brackets as are open."""

    def template(before: str, flat: str, nested: str) -> Template:
        after = "print(<name>)\n"
        return Template(f"{before} {flat}", f"{before} {nested}", after, after)

    two, three = "[<number>, <number2>", "[<number>, <number2>, <number3>"
    return _task(
        "bracket_counting",
        "Close a list with one bracket if it is flat and with two if it is a list of lists.",
        "the number of brackets still open at the end is one in A and two in B",
        completions=("]\n", "]]\n"),
        train=(
            template("<name> =", two, f"[{two}"),
            template("<name> =", three, f"[{three}"),
            template("<name> =", f"{three}, <number4>", f"[{two}], [<number3>, <number4>"),
            template("<name> = <number5>\n<name2> =", two, f"[{two}"),
            template("<name> = []\n<name2> =", two, f"[{two}"),
        ),
        val=(
            template("<name> = set()\n<name2> =", two, f"[{two}"),
            template("<name> = <number5>\n<name2> =", three, "[[<number>], [<number2>, <number3>"),
            template("for <name> in range(<number5>):\n    <name2> =", two, f"[{two}"),
        ),
        test=(
            template("def <call>(<name>):\n    <name2> =", two, f"[{two}"),
            template("<name> = <number5>\nif <name> > <number6>:\n    <name2> =", three, f"[{three}"),
            template("<name> = <number5>\n<name2> = <number6>\n<name3> =", two, f"[{two}"),
            template("<name> = True\n<name2> =", f"{three}, <number4>", f"[{two}], [<number3>, <number4>"),
        ),
    )


def set_or_string() -> Task:
    """Recall what a variable was bound to."""
    return _task(
        "set_or_string",
        "Continue a line that begins with a variable: .add for a set, += for a string.",
        "the variable is bound once, to set() in A and to an empty string in B; all other lines are the same",
        completions=(".add", " +="),
        train=_set_or_string_templates("<name>", "train"),
        val=_set_or_string_templates("<name>", "val"),
        test=_set_or_string_templates("<name>", "test"),
    )


def _set_or_string_templates(variable: str, split: str) -> tuple[Template, ...]:
    """`V` is the variable, bound on a line that ends in `= ?`."""
    texts = {
        "train": (
            "<name2> = []\nV = ?\nV",
            "V = ?\n<name2> = <number>\nV",
            "V = ?\nfor <name2> in range(<number>):\n    V",
            "def <call>(<name2>):\n    V = ?\n    V",
            "<name2> = <number>\nV = ?\n<name3> = <number2>\nV",
        ),
        "val": (
            "V = ?\n<name2> = []\nV",
            "def <call>(<name2>):\n    V = ?\n    for <name3> in <name2>:\n        V",
            "<name2> = <number>\nV = ?\nV",
        ),
        "test": (
            "V = ?\n<name2> = <number>\n<name3> = <number2>\nV",
            "<name2> = <number>\nV = ?\nif <name2> > <number2>:\n    V",
            "def <call>(<name2>):\n    V = ?\n    <name3> = <number>\n    V",
            "V = ?\n<name2> = <number>\nprint(<name2>)\n<name2> += <number2>\nV",
        ),
    }
    return tuple(
        Template(
            text.replace("V", variable).replace("?", "set()"),
            text.replace("V", variable).replace("?", '""'),
            "(1)\n",
            ' "a"\n',
        )
        for text in texts[split]
    )


BUILDERS: Mapping[str, Callable[[], Task]] = {
    "single_double_quote": single_double_quote,
    "bracket_counting": bracket_counting,
    "set_or_string": set_or_string,
}
"""name -> the function that makes the task"""


def _task(
    name: str,
    statement: str,
    determined_by: str,
    *,
    completions: tuple[str, str],
    train: tuple[Template, ...],
    val: tuple[Template, ...],
    test: tuple[Template, ...],
) -> Task:
    """A task that gets the word lists its templates use."""
    templates = {"train": train, "val": val, "test": test}
    fillers = {slot: {split: tuple(words[split].split()) for split in SPLITS} for slot, words in _LISTS.items()}
    fixed = {"number": _NUMBERS}
    used = {source for group in templates.values() for t in group for source in t.slots([*fillers, *fixed]).values()}
    return Task(
        name,
        statement,
        determined_by,
        completions,
        templates,
        {slot: words for slot, words in fillers.items() if slot in used},
        {slot: words for slot, words in fixed.items() if slot in used},
    )
