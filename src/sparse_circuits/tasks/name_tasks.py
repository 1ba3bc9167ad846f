"""Tasks about names: what one is bound to, which one comes next, what is done with it (METHOD 1e, 3, 4, 10, 13, 14, 19)."""

from .builder import build_task, choices
from .task import Task, Template


def set_or_string() -> Task:
    """Recall what a variable was bound to."""
    return _set_or_string("set_or_string", "<name>", "any variable")


def set_or_string_fixedvarname() -> Task:
    """The same with one variable name."""
    return _set_or_string("set_or_string_fixedvarname", "current", "the variable `current`")


def _set_or_string(name: str, variable: str, whose: str) -> Task:
    """`V` is the variable, bound on a line that ends in `= @`."""

    def template(text: str) -> Template:
        return choices(text.replace("V", variable), "set()", '""', "(1)\n", ' "a"\n')

    return build_task(
        name,
        f"Continue a line that begins with {whose}: `.add` for a set, ` +=` for a string. The model must recall what the "
        "variable was bound to some lines above.",
        "the variable is bound once, to set() in A and to an empty string in B; all other lines are the same",
        completions=(".add", " +="),
        train=(
            template("<name2> = []\nV = @\nV"),
            template("V = @\n<name2> = <number>\nV"),
            template("V = @\nfor <name2> in range(<number>):\n    V"),
            template("def <call>(<name2>):\n    V = @\n    V"),
            template("<name2> = <number>\nV = @\n<name3> = <number2>\nV"),
        ),
        val=(
            template("V = @\n<name2> = []\nV"),
            template("def <call>(<name2>):\n    V = @\n    for <name3> in <name2>:\n        V"),
            template("<name2> = <number>\nV = @\nV"),
        ),
        test=(
            template("V = @\n<name2> = <number>\n<name3> = <number2>\nV"),
            template("<name2> = <number>\nV = @\nif <name2> > <number2>:\n    V"),
            template("def <call>(<name2>):\n    V = @\n    <name3> = <number>\n    V"),
            template("V = @\n<name2> = <number>\nprint(<name2>)\n<name2> += <number2>\nV"),
        ),
    )


def if_equals() -> Task:
    """A name after `if` is compared, a name at the start of a line is assigned to."""

    def template(text: str) -> Template:
        after = " 0"
        return Template(text.replace("@", "if "), text.replace("@", ""), f"{after}:\n", f"{after}\n")

    return build_task(
        "if_equals",
        "Compare with ` ==` after `if`, assign with ` =` at the start of a statement. The last token, the end of an indented "
        "or compound name, is the same; the model must know whether an `if` opened the line.",
        "the line begins with if in A and with the name itself in B",
        completions=(" ==", " ="),
        train=(
            template("def <call>(<name>):\n    @<name>"),
            template("for <name> in range(<number>):\n    @<name2>"),
            template("max_<name> = <number>\n@max_<name>"),
            template("while True:\n    @<name>"),
            template("def <call>(<name>):\n    <name2> = <number>\n    @<name2>"),
        ),
        val=(
            template("while <name> < <number>:\n    @<name2>"),
            template("old_<name> = <number>\nprint('<word>')\n@old_<name>"),
            template("def <call>():\n    <name> = <number>\n    @<name>"),
        ),
        test=(
            template("def <call>(<name>, <name2>):\n    @<name2>"),
            template("last_<name> = <number>\n<name2> = <number2>\n@last_<name>"),
            template("for <name> in <name2>:\n    @<name>"),
            template("<name> = <number>\nwhile <name> < <number2>:\n    print(<name>)\n    @<name>"),
        ),
    )


def var_swap() -> Task:
    """Which of two variables comes next on the right of a tuple assignment."""

    def template(before: str) -> Template:
        """The same targets; A has used the second already, B the first."""
        a, b = (f"{before}<name>, <name2> = {used}," for used in ("<name2>", "<name>"))
        return Template(a, b, "\n", " + 0\n")

    def turned(before: str) -> Template:
        """Swaps both: the targets change places."""
        a, b = (f"{before}{pair}," for pair in ("<name>, <name2> = <name2>", "<name2>, <name> = <name>"))
        return Template(a, b, "\n", "\n")

    bound = "<name> = <number>\n<name2> = <number2>\n"
    return build_task(
        "var_swap",
        "Complete the right side of a tuple assignment of two variables with the one that is not yet there: after "
        "`a, b = b,` comes a, after `a, b = a,` comes b. The model must find the two names and leave out the one just used.",
        "of the two names on the left, one stands on the right already: the second in A, the first in B",
        completions=(" <name>", " <name2>"),
        train=(
            template("<name> = <number>\n<name2> = <name> + <number2>\n"),
            turned("from tools import <call>\n\n<name>, <name2> = <call>()\n"),
            template(f"def <call>(<name>, <name2>):\n{' ' * 4}"),
            turned(""),
        ),
        val=(
            template("<name>, <name2> = <number>, <number2>\n"),
            turned("<name>, <name2> = '<word>', '<word2>'\n"),
            turned(f"for <name>, <name2> in <name3>:\n{' ' * 4}"),
        ),
        test=(
            template(f"{bound}print(<name>, <name2>)\n"),
            turned(f"<name3> = <number3>\n{bound}"),
            template(f"{bound}if <name> > <name2>:\n    "),
            turned(f"def <call>(<name3>, <name>, <name2>):\n{' ' * 4}"),
        ),
        shifted=("longer", "deeper", "names"),
    )


def var_if() -> Task:
    """Test the variable that was bound above."""

    def template(text: str) -> Template:
        return choices(text, "<name>", "<name2>", " > 0:\n", " > 0:\n")

    return build_task(
        "var_if",
        "Test the variable that the program has bound, not another one. The model must copy a name from an assignment or a "
        "parameter list above.",
        "each prompt binds one of the two names; the other one does not occur in it",
        completions=(" <name>", " <name2>"),
        train=(
            template("@ = <number>\nif"),
            template("@ = <number>\nprint(@)\nif"),
            template("def <call>(@):\n    if"),
            template("print('<word>')\n@ = <number>\nif"),
            template("@ = '<word>'\nif"),
        ),
        val=(
            template("@ = <number>\nprint('<word>')\nif"),
            template("for @ in range(<number>):\n    if"),
            template("import tools\n@ = <number>\nif"),
        ),
        test=(
            template("@ = <number>\n@ += <number2>\nif"),
            template("def <call>():\n    @ = <number>\n    if"),
            template("@ = input('<word>')\nif"),
            template("# <word> <word2>\n@ = <number>\nif"),
        ),
    )


def final_kwarg() -> Task:
    """Close a call after its last argument, go on where more is due."""

    def template(two: str, three: str, call: str) -> Template:
        called = f"{call}(<name>=<number>, <name2>=<number2>"
        return Template(two + called, three + called, "x = 1\n", " <name3>=0)\n")

    def defined(body: str, between: str = "\n\n") -> tuple[str, str]:
        heads = ("def <call>(<name>, <name2>", "def <call>(<name>, <name2>, <name3>")
        return f"{heads[0]}):\n    {body}\n{between}", f"{heads[1]}):\n    {body}\n{between}"

    return build_task(
        "final_kwarg",
        "Close a call whose keyword arguments are complete, go on with a comma where one is missing. The function above has "
        "two parameters or three; the call names the first two, in order.",
        "the function takes two parameters in A and three in B, and the call has given the first two",
        completions=(")\n", ","),
        train=(
            template(*defined("return <name>"), "<call>"),
            template(*defined("print(<name>)"), "<call>"),
            template(*defined("return <name> + <name2>"), "<name4> = <call>"),
            template(*defined("print('<word>')", ""), "<call>"),
        ),
        val=(
            template(*defined("return <name2>"), "<name4> = <call>"),
            template(*defined("print(<name>, <name2>)"), "<call>"),
            template(*defined("return <name> * <name2>"), "<call>"),
        ),
        test=(
            template(*defined("print(<name2>)"), "<name4> = <call>"),
            template(*defined("return <name> - <name2>"), "<name4> = <call>"),
            template(*defined("<name5> = <number3>\n    return <name5>"), "<call>"),
            template(*defined("return <name> + <name2>", "\n\n<name5> = <number3>\n"), "<call>"),
        ),
        shifted=("longer", "names", "fillers"),
    )
