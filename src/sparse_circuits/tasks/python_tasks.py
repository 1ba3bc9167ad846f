"""The twenty tasks on Python code (METHOD 1e): which token closes, continues or follows what the program began.

Every prompt is the beginning of a valid program. Names, functions and the words of strings are different in every
split, and so are templates; numbers are shared. Each task is a function that returns it, registered here; `statement`
says what it tests, `determined_by` how its prompt determines the answer.
"""

from collections.abc import Callable, Mapping

from . import branch_tasks, closing_tasks, header_tasks, name_tasks
from .task import Task

BUILDERS: Mapping[str, Callable[[], Task]] = {
    "single_double_quote": closing_tasks.single_double_quote,
    "bracket_counting": closing_tasks.bracket_counting,
    "set_or_string": name_tasks.set_or_string,
    "set_or_string_fixedvarname": name_tasks.set_or_string_fixedvarname,
    "with_as": branch_tasks.with_as,
    "with_open": branch_tasks.with_open,
    "for_while": header_tasks.for_while,
    "else_elif": branch_tasks.else_elif,
    "if_ternary": branch_tasks.if_ternary,
    "if_equals": name_tasks.if_equals,
    "fstring_brace": closing_tasks.fstring_brace,
    "bracket_brace": closing_tasks.bracket_brace,
    "var_swap": name_tasks.var_swap,
    "var_if": name_tasks.var_if,
    "indent_for": header_tasks.indent_for,
    "while_return_true": header_tasks.while_return_true,
    "lambda_func": header_tasks.lambda_func,
    "enumerate_range": header_tasks.enumerate_range,
    "final_kwarg": name_tasks.final_kwarg,
    "class_init": header_tasks.class_init,
}
"""name -> the function that makes the task, in the order of METHOD 1e"""
