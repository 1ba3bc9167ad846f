"""Tasks about loops and definitions: heads of blocks and what belongs to them (METHOD 1e, tasks 7, 15 to 18, 20)."""

from .builder import build_task, choices
from .task import Task, Template


def for_while() -> Task:
    """Which loop keyword opened the line."""

    def template(text: str) -> Template:
        return choices(text, "for", "while", " range(0):\n", " 0:\n")

    return build_task(
        "for_while",
        "Go on with ` in` where for opened the line and with the comparison ` <` where while did. The last token, the "
        "name, is the same.",
        "the line begins with for in A and with while in B",
        completions=(" in", " <"),
        train=(
            template("@ <name>"),
            template("<name2> = <number>\n@ <name>"),
            template("def <call>(<name>):\n    @ <name2>"),
            template("<name> = 0\n@ <name>"),
        ),
        val=(
            template("<name2> = []\n@ <name>"),
            template("print('<word>')\n@ <name>"),
            template("def <call>():\n    <name> = <number>\n    @ <name>"),
        ),
        test=(
            template("<name> = <number>\n<name2> = []\n@ <name>"),
            template("def <call>(<name>):\n    <name2> = <number>\n    @ <name2>"),
            template("if <name> > <number>:\n    @ <name>"),
            template("from tools import <call>\n\n<name> = <call>('<word>')\n@ <name>"),
        ),
    )


def indent_for() -> Task:
    """An open header asks for an indented line."""

    def template(header: str, plain: str, comment: str = "  # <word> <word2>\n") -> Template:
        return Template(header + comment, plain + comment, " print(0)\n", "(0)\n")

    return build_task(
        "indent_for",
        "Indent the next line after the header of a block, stay at the line start after a plain statement. Both prompts end in "
        "a comment and a line end, so the colon is not the last thing read: the model must carry it over the comment.",
        "the last statement is an open header in A and complete in B",
        completions=("   ", "print"),
        train=(
            template("for <name> in <name2>:", "<name> = <name2>"),
            template("<name2> = <number>\nfor <name> in range(<number>):", "<name2> = <number>\n<name> = <number>"),
            template("if <name> > <number>:", "<name> = <number>"),
            template("while <name> < <number>:", "<name> += <number>"),
        ),
        val=(
            template("<name2> = []\nfor <name> in <name2>:", "<name2> = []\n<name> = <name2>", "  # <word>\n"),
            template("print('<word3>')\nfor <name> in <name2>:", "print('<word3>')\n<name> = <name2>"),
            template("def <call>(<name>):", "<name> = <call>(<name2>)"),
        ),
        test=(
            template(
                "<name> = <number>\nprint(<name>)\nfor <name2> in range(<name>):",
                "<name> = <number>\nprint(<name>)\n<name2> = <name>",
            ),
            template("<name> = <number>\nwhile <name> > <number2>:", "<name> = <number>\n<name> -= <number2>"),
            template(
                "from tools import <call>\n\nfor <name> in <call>('<word3>'):",
                "from tools import <call>\n\n<call>('<word3>')",
            ),
            template("<name> = []\nif <name2> in <name>:", "<name> = []\n<name>.append(<name2>)", "  # <word>\n"),
        ),
        shifted=("longer", "names", "fillers"),
    )


def while_return_true() -> Task:
    """A loop's condition ends in a colon, a returned value in a line end."""

    def template(before: str, pad: str = "    ") -> Template:
        a, b = (f"{before}{pad}{keyword} True" for keyword in ("while", "return"))
        return Template(a, b, f"{pad}    print(0)\n", "x = 1\n")

    return build_task(
        "while_return_true",
        "End `while True` with a colon and `return True` with the line. The model must know which keyword opened the line.",
        "the line begins with while in A and with return in B",
        completions=(":\n", "\n"),
        train=(
            template("def <call>():\n"),
            template("def <call>(<name>):\n"),
            template("def <call>(<name>):\n    <name2> = <number>\n"),
            template("def <call>(<name>):\n    print(<name>)\n"),
        ),
        val=(
            template("def <call>(<name>):\n    <name2> = []\n"),
            template("def <call>():\n    print('<word>')\n"),
            template("class <class>:\n    def <call>(self):\n", " " * 8),
        ),
        test=(
            template("def <call>(<name>, <name2>):\n    <name> += <name2>\n"),
            template("def <call>(<name>):\n    <name2> = set()\n"),
            template("class <class>:\n    def <call>(self, <name>):\n", " " * 8),
            template("def <call>(<name>):\n    if <name> > <number>:\n", " " * 8),
        ),
        shifted=("longer", "names"),
    )


def lambda_func() -> Task:
    """Parameters of a lambda end in a colon, those of a def in a parenthesis."""

    def template(before: str, parameters: str, name: str = "<name8>") -> Template:
        texts = (f"{before}{name} = lambda {parameters}", f"{before}def <call9>({parameters}")
        body = ("    " if before.endswith("    ") else "") + "    return <name>\n"
        return Template(*texts, " <name> + 0\n", body)

    return build_task(
        "lambda_func",
        "End the parameters of a lambda with a colon and those of a def with a parenthesis and a colon. The last token, the "
        "end of the last parameter, is the same.",
        "the parameters belong to a lambda in A and to a def in B",
        completions=(":", "):\n"),
        train=(
            template("", "<name>, <name2>"),
            template("<name3> = <number>\n", "<name>, <name2>"),
            template("", "<name>, <name2>, <name3>"),
            template("print('<word>')\n", "<name>, <name2>"),
        ),
        val=(
            template("<name3> = []\n", "<name>, <name2>"),
            template("import tools\n\n", "<name>, <name2>"),
            template("def <call>(<name3>):\n    ", "<name>, <name2>"),
        ),
        test=(
            template("<name3> = <number>\n<name4> = <number2>\n", "<name>, <name2>"),
            template("from tools import <call>\n\n", "<name>, <name2>, <name3>"),
            template("def <call>(<name3>):\n    <name4> = <number>\n    ", "<name>, <name2>"),
            template("<name4> = '<word>'\nprint(<name4>)\n", "<name>, <name2>"),
        ),
        shifted=("longer", "names"),
    )


def enumerate_range() -> Task:
    """Two loop variables go over an enumeration, one over a range."""

    def template(before: str, item: str = "<name>") -> Template:
        texts = (f"{before}for <counter>, {item} in", f"{before}for <counter> in")
        return Template(*texts, "(items):\n", "(9):\n")

    return build_task(
        "enumerate_range",
        "Loop over ` enumerate` where the line has an index and an item, over ` range` where it has the index alone.",
        "the line binds two loop variables in A and one in B",
        completions=(" enumerate", " range"),
        train=(
            template(""),
            template("<name2> = [<number>, <number2>]\n"),
            template("def <call>(<name2>):\n    "),
            template("<name2> = []\nprint('<word>')\n"),
        ),
        val=(
            template("<name2> = ['<word>', '<word2>']\n"),
            template("<name2> = []\n<name3> = <number>\n"),
            template("def <call>(<name2>):\n    <name3> = <number>\n    "),
        ),
        test=(
            template("<name2> = [<number>, <number2>, <number3>]\nprint(<name2>)\n"),
            template("def <call>(<name2>, <name3>):\n    "),
            template("<name2> = ['<word>', '<word2>', '<word3>']\n<name3> = <number>\n"),
            template("from tools import <call>\n\n<name2> = <call>('<word>')\n"),
        ),
    )


def class_init() -> Task:
    """The first method of a class is its constructor; a function within a function is a helper."""

    def template(head: str, function: str, body: str = "") -> Template:
        texts = (f"{head}{body}    def", f"{function}{body}    def")
        return Template(*texts, "init__(self):\n", "(x):\n")

    return build_task(
        "class_init",
        "Begin a class with its constructor, `__init__`, and a function within a function with the name helper. The last "
        "token, an indented def, is the same; the model must know what the line above opened.",
        "the def stands first in a class in A and in a function in B",
        completions=(" __", " helper"),
        train=(
            template("class <class>:\n", "def <call>():\n"),
            template("class <class>:\n", "def <call>(<name>):\n"),
            template("<name> = <number>\n\n\nclass <class>:\n", "<name> = <number>\n\n\ndef <call>(<name2>):\n"),
            template("import tools\n\n\nclass <class>:\n", "import tools\n\n\ndef <call>(<name2>):\n"),
        ),
        val=(
            template("class <class>(<class2>):\n", "def <call>(<name>, <name2>):\n"),
            template("print('<word>')\n\n\nclass <class>:\n", "print('<word>')\n\n\ndef <call>(<name>):\n"),
            template("class <class>:\n", "def <call>(<name>):\n", '    """<word> <word2>."""\n\n'),
        ),
        test=(
            template("<name> = '<word>'\n\n\nclass <class>:\n", "<name> = '<word>'\n\n\ndef <call>(<name2>):\n"),
            template(
                "from tools import <call>\n\n\nclass <class>:\n", "from tools import <call>\n\n\ndef <call2>(<name>):\n"
            ),
            template("class <class>:\n", "def <call>(<name>, <name2>):\n", '    """<word> <word2> <word3>."""\n\n'),
            template(
                "<name> = [<number>, <number2>]\n\n\nclass <class>:\n",
                "<name> = [<number>, <number2>]\n\n\ndef <call>(<name2>):\n",
            ),
        ),
        shifted=("longer", "names", "fillers"),
    )
