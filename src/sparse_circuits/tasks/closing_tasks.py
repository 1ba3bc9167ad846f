"""Tasks about what is still open: quotes, brackets, braces (METHOD 1e, tasks 1, 2, 11, 12).

A prompt never ends in punctuation: the pre-token pattern merges punctuation runs, so `]]\\n` is a token of its own only
after a digit, a letter or a space.
"""

from .builder import build_task, choices
from .task import Task, Template


def single_double_quote() -> Task:
    """Close a string with the quote that opened it."""

    def template(text: str, after: str = "x = 1\n") -> Template:
        return choices(text, "'", '"', after, after)

    return build_task(
        "single_double_quote",
        "Close a string and the call around it with the quote that opened the string. The string is the last argument of a "
        "call and opens right after the parenthesis. The model must carry one bit, the kind of quote, over the words of "
        "the string.",
        "the prompts differ in the one quote character that opens the only string",
        completions=("')\n", '")\n'),
        train=(
            template("print(@<word> <word2>"),
            template("<name> = <number>\nprint(<name>)\nprint(@<word>"),
            template("<name> = []\n<name>.append(@<word>"),
            template("<name> = input(@<word> <word2>"),
            template("<name> = <number>\n<name2> = <number2>\nprint(@<word>"),
        ),
        val=(
            template("<name> = set()\n<name>.add(@<word>"),
            template("for <name> in range(<number>):\n    print(@<word> <word2>"),
            template("def <call>():\n    <name> = <number>\n    print(@<word>", "    return <name>\n"),
            template("<name> = <number>\nif <name> == <number2>:\n    <name2> = []\n    <name2>.append(@<word>"),
        ),
        test=(
            template("from tools import <call>\n<name> = <call>(@<word> <word2>"),
            template("def <call>(<name>):\n    print(@<word>", "    return <name>\n"),
            template("<name> = <number>\nif <name> > <number2>:\n    print(@<word>"),
            template("<name> = <number>\n<name2> = []\n<name2>.append(@<word>"),
        ),
    )


def bracket_counting() -> Task:
    """Close as many brackets as are open."""

    def template(before: str, flat: str, nested: str) -> Template:
        return Template(f"{before} {flat}", f"{before} {nested}", "print(<name>)\n", "print(<name>)\n")

    two, three = "[<number>, <number2>", "[<number>, <number2>, <number3>"
    return build_task(
        "bracket_counting",
        "Close a list with one bracket if it is flat and with two if it is a list of lists. The model must tell the "
        "depth at the end of the line from the brackets that were opened and closed before.",
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


def fstring_brace() -> Task:
    """Close the brace of an f-string; a plain string has none to close."""

    def braced(before: str, after: str = "x = 1\n") -> Template:
        return Template(f'{before}(f"{{<name>', f'{before}("{{<name>', after, after)

    def plain(before: str, after: str = "x = 1\n") -> Template:
        return Template(f'{before}(f"{{<name>', f'{before}("<name>', after, after)

    return build_task(
        "fstring_brace",
        "Close the brace and the string of an f-string, but only the string where it is no f-string: there a brace, or "
        "none, is text. The model must carry the letter f and not only the brace.",
        "the string has the prefix f in A and none in B; an open brace in a plain string is text",
        completions=('}")\n', '")\n'),
        train=(
            plain("print"),
            plain("<name> = <number>\nprint"),
            braced("<name> = <number>\nprint"),
            plain("for <name> in range(<number>):\n    print"),
            braced("def <call>(<name>):\n    print", "    return <name>\n"),
        ),
        val=(
            plain("<name> = <number>\nif <name> > <number2>:\n    print"),
            braced("<name> = <number>\n<name2> = <number2>\nprint"),
            plain("<name2> = []\n<name2>.append"),
        ),
        test=(
            plain("def <call>(<name>, <name2>):\n    print", "    return <name2>\n"),
            braced("<name> = <number>\nfor <counter> in range(<name>):\n    print"),
            plain("from tools import <call>\n<name> = <number>\n<call>"),
            braced("<name> = <number>\nif <name> == <number2>:\n    print"),
        ),
        shifted=("longer", "deeper", "names"),
    )


def bracket_brace() -> Task:
    """Close a list with a bracket, a set with a brace."""

    def template(before: str, items: str, after: str = "x = 1\n") -> Template:
        return choices(f"{before}@{items}", "[", "{", after, after)

    two, three = "<number>, <number2>", "<number>, <number2>, <number3>"
    return build_task(
        "bracket_brace",
        "Close a list with a square bracket and a set with a brace. The model must carry which of the two opened the "
        "literal over its numbers.",
        "the prompts differ in the one character that opens the literal",
        completions=("]\n", "}\n"),
        train=(
            template("<name> = ", two),
            template("<name> = ", f"{three}, <number4>"),
            template("<name> = <number5>\n<name2> = ", two),
            template("<name> = []\n<name2> = ", three),
            template("def <call>():\n    <name> = ", two, "    return <name>\n"),
        ),
        val=(
            template("<name> = <number5>\nprint(<name>)\n<name2> = ", two),
            template("<name> = set()\n<name2> = ", three),
            template("for <name> in range(<number5>):\n    <name2> = ", two, "    print(<name2>)\n"),
        ),
        test=(
            template("def <call>(<name>):\n    <name2> = ", two, "    return <name2>\n"),
            template("<name> = <number5>\nif <name> > <number6>:\n    <name2> = ", three),
            template("<name> = <number5>\n<name2> = <number6>\n<name3> = ", three),
            template("print('<word> <word2>')\n<name> = ", f"{three}, <number4>"),
        ),
    )
