"""Tasks about with and if: what a line that they open goes on with (METHOD 1e, tasks 5, 6, 8, 9)."""

from .builder import build_task
from .task import Task, Template


def with_as() -> Task:
    """A context manager binds a name; a conditional expression goes on with else."""

    def template(before: str, call: str, target: str = "<name2>") -> Template:
        texts = (f"{before}with {call}", f"{before}{target} = <number8> if {call}")
        return Template(*texts, " f:\n", " 0\n")

    return build_task(
        "with_as",
        "Bind the context that a with statement opens with ` as`, but go on with ` else` where the same call is the test of a "
        "conditional expression. The model must know what kind of line it is in.",
        "the line begins with with in A; in B it assigns a conditional expression, which needs an else",
        completions=(" as", " else"),
        train=(
            template("", "<call>(<name>)"),
            template("<name> = '<word>'\n", "<call>(<name>)"),
            template("from tools import <call>\n", "<call>('<word>')"),
            template("def <call>(<name>):\n    ", "<call2>(<name>)"),
        ),
        val=(
            template("<name> = <number>\n", "<call>(<name>)"),
            template("for <name> in <name3>:\n    ", "<call>(<name>)"),
            template("print('<word>')\n", "<call>('<word2>')"),
        ),
        test=(
            template("def <call>(<name>, <name3>):\n    ", "<call2>(<name>)"),
            template("<name> = <number>\nif <name> > <number2>:\n    ", "<call>('<word>')"),
            template("import tools\n", "tools.<call>(<name>)"),
            template("<name> = []\n", "<call>('<word>.txt')"),
        ),
    )


def with_open() -> Task:
    """What a with statement opens: the file whose path is at hand, or the lock."""
    opens = "(<name>) as f:\n"

    def template(path: str, lock: str) -> Template:
        return Template(path, lock, opens.replace("<name>", "path") if "<name>" not in path else opens, ":\n")

    return build_task(
        "with_open",
        "Open a file where the program holds a path, take the lock where it holds a lock. The model must tell from the "
        "names and values above what the with statement is for.",
        "the program above binds a path in A and a lock in B, and nothing else that with could open",
        completions=(" open", " lock"),
        train=(
            template("<name> = '<word>.txt'\nwith", "lock = Lock()\nwith"),
            template("path = '<word>.txt'\n<name> = <number>\nwith", "lock = Lock()\n<name> = <number>\nwith"),
            template(
                "path = '<word>.csv'\nwhile <name> < <number>:\n    with",
                "lock = Lock()\nwhile <name> < <number>:\n    with",
            ),
            template("filename = '<word>.csv'\nwith", "import threading\nlock = threading.Lock()\nwith"),
        ),
        val=(
            template("import json\npath = '<word>.json'\nwith", "from threading import Lock\nlock = Lock()\nwith"),
            template(
                "path = '<word>.txt'\nfor <name> in range(<number>):\n    with",
                "lock = Lock()\nfor <name> in range(<number>):\n    with",
            ),
            template("<name> = []\n<name2> = '<word>.csv'\nwith", "<name> = []\nlock = Lock()\nwith"),
        ),
        test=(
            template(
                "def <call>(<name>):\n    path = '<word>.txt'\n    with",
                "def <call>(<name>):\n    lock = Lock()\n    with",
            ),
            template(
                "<name> = '<word>.json'\nprint('<word2>')\nwith",
                "<name> = '<word>'\nlock = Lock()\nprint('<word2>')\nwith",
            ),
            template(
                "path = '<word>.txt'\n<name> = <number>\nprint(<name>)\nwith",
                "from threading import Lock\n\nlock = Lock()\n<name> = <number>\nwith",
            ),
            template(
                "import os\n\n<name> = '<word>.csv'\n<name2> = <number>\nif <name2> > <number2>:\n    with",
                "import threading\n\nlock = threading.Lock()\n<name2> = <number>\nif <name2> > <number2>:\n    with",
            ),
        ),
    )


def else_elif() -> Task:
    """How a chain of tests goes on."""

    def template(before: str, pad: str, test: str, value: str, value2: str, body: str, body2: str) -> Template:
        """A chain one level deep or flat; `pad` is its indentation, of which the prompt ends in all but one space."""
        first = f"{before}{pad}if {test} {value}:\n{pad}    {body}\n"
        chain = f"{first}{pad}elif {test} {value2}:\n{pad}    {body2}\n"
        completions = (" else", " elif") if pad else ("else", "elif")
        after = (f":\n{pad}    pass\n", f" {test} {value2}:\n")
        return Template(chain + pad[1:], first + pad[1:], *after, completions)

    say, say2, deep = "print('<word>')", "print('<word2>')", " " * 4
    equal, numbers = "<name> ==", ("<number>", "<number2>")
    return build_task(
        "else_elif",
        "Go on with a chain of comparisons: after its first branch comes an `elif` on the same variable, after that the "
        "`else` (the programs of tiny-python keep this rule). The model must tell whether the chain has had its elif.",
        "the chain at the end has an elif already in A and only its if in B",
        completions=("else", "elif"),
        train=(
            template("", "", equal, *numbers, say, say2),
            template("<name> = <number3>\n", "", equal, *numbers, say, say2),
            template("", "", "<name> >", *numbers, say, say2),
            template("def <call>(<name>):\n", deep, equal, *numbers, say, say2),
        ),
        val=(
            template("<name> = <number3>\n", "", "<name> >", *numbers, say, say2),
            template("for <name> in range(<number3>):\n", deep, equal, *numbers, say, say2),
            template("<name> = '<word3>'\n", "", equal, "'<word4>'", "'<word5>'", say, say2),
        ),
        test=(
            template("<name> = <number3>\n<name2> = <number4>\n", "", equal, *numbers, say, say2),
            template("def <call>(<name>, <name2>):\n", deep, "<name2> ==", *numbers, say, say2),
            template("<name> = <number3>\n", "", "<name> <", *numbers, say, say2),
            template("from tools import <call>\n\n<name> = <call>('<word3>')\n", "", equal, *numbers, say, say2),
        ),
    )


def if_ternary() -> Task:
    """A statement if opens a block; a conditional expression needs its else."""

    def template(before: str, test: str, target: str = "<name5>") -> Template:
        texts = (f"{before}if {test}", f"{before}{target} = <number8> if {test}")
        return Template(*texts, "    print(0)\n", " 0\n")

    return build_task(
        "if_ternary",
        "Open a block with a colon after the test of an if statement, but go on with ` else` after the test of a conditional "
        "expression. The test itself is the same.",
        "the line begins with if in A; in B it assigns a conditional expression, which needs an else",
        completions=(":\n", " else"),
        train=(
            template("", "<name>"),
            template("<name> = <number>\n", "<name> > <number2>"),
            template("<name> = []\n", "<name>"),
            template("<name> = <number>\n<name2> = <number2>\n", "<name> < <name2>"),
        ),
        val=(
            template("<name> = <number>\nprint(<name>)\n", "<name> == <number2>"),
            template("<name> = set()\n", "<number> in <name>"),
            template("<name> = True\n", "<name>"),
        ),
        test=(
            template("<name> = <number>\n<name2> = []\n", "<name> in <name2>"),
            template("print('<word>')\n<name> = <number>\n", "<name> < <number2>"),
            template("<name> = True\n<name2> = <number>\n", "not <name>"),
            template("from tools import <call>\n\n<name> = <call>('<word>')\n", "<name> == <number>"),
        ),
        shifted=("longer", "names", "fillers"),
    )
