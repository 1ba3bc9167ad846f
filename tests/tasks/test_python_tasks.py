"""The built-in tasks against Python itself and against an own count of what is open."""

import ast
import re
import time

import pytest
import torch

from sparse_circuits.tasks.load import load_task, task_names


def parses(text: str) -> ast.Module:
    return ast.parse(text)


ASKED = {"train": 1000, "val": 512, "test": 2000}


@pytest.mark.parametrize("name", task_names())
@pytest.mark.parametrize("split", ASKED)
def test_there_are_enough_distinct_pairs_in_every_template(name, split):
    task, n = load_task(name), ASKED[split]
    drawn = task.sample(split, n)
    assert len({pair[:2] for pair in drawn}) == n
    counts = [sum(pair.template == i for pair in drawn) for i in range(len(task.templates[split]))]
    assert min(counts) >= 8


@pytest.mark.parametrize("name", task_names())
def test_natural_text_is_python(name):
    """As it stands, or with the body that an open header wants."""
    task = load_task(name)
    for pair in (pair for split in task.splits for pair in task.sample(split, 40)):
        for side, after in ((0, pair.continuation_a), (1, pair.continuation_b)):
            text = pair.prompt(side) + pair.completion(side) + after
            pad = re.search(r"( *)[^\n]*\n$", text)[1]
            parses(text) if not text.rstrip().endswith(":") else parses(f"{text}{pad}    pass\n")


def last_line(text: str) -> str:
    return text.split("\n")[-1].strip()


def opens_string(text: str) -> str:
    return "'" if last_line(text).count("'") % 2 else '"'


def bound_to(text: str, name: str) -> str:
    return next(line.split(" = ")[1] for line in text.split("\n") if line.strip().startswith(f"{name} = "))


def parameters(text: str) -> list[str]:
    """Of the last def, read by ast."""
    source = text[: text.rindex(last_line(text))]
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    called = last_line(text).split(" = ")[-1].split("(")[0]
    return next([arg.arg for arg in f.args.args] for f in functions if f.name == called)


def left_and_right(text: str) -> tuple[set[str], set[str]]:
    left, right = last_line(text).split(" = ")
    return set(left.split(", ")), set(right.strip(",").split(", "))


def chain(text: str) -> str:
    """`else` once the last chain has had its elif; one space before it inside a block."""
    opened = max((i for i, line in enumerate(text.split("\n")) if line.strip().startswith("if ")), default=0)
    word = "else" if any(line.strip().startswith("elif ") for line in text.split("\n")[opened:]) else "elif"
    return word if text.endswith("\n") else " " + word


RULES = {
    "single_double_quote": lambda text: opens_string(text) + ")\n",
    "bracket_counting": lambda text: "]" * (text.count("[") - text.count("]")) + "\n",
    "set_or_string": lambda text: ".add" if bound_to(text, last_line(text)) == "set()" else " +=",
    "set_or_string_fixedvarname": lambda text: ".add" if "current = set()" in text else " +=",
    "with_as": lambda text: " as" if last_line(text).startswith("with ") else " else",
    "with_open": lambda text: " lock" if re.search(r"\block\b", text) else " open",
    "for_while": lambda text: " in" if last_line(text).startswith("for ") else " <",
    "else_elif": chain,
    "if_ternary": lambda text: ":\n" if last_line(text).startswith("if ") else " else",
    "if_equals": lambda text: " ==" if last_line(text).startswith("if ") else " =",
    "fstring_brace": lambda text: '}")\n' if last_line(text).split('"')[0].endswith("f") else '")\n',
    "bracket_brace": lambda text: "}\n" if last_line(text).split(" = ")[1][0] == "{" else "]\n",
    "var_swap": lambda text: " " + min(left_and_right(text)[0] - left_and_right(text)[1]),
    "indent_for": lambda text: "   " if text.split("\n")[-2].split("  #")[0].endswith(":") else "print",
    "while_return_true": lambda text: ":\n" if last_line(text).startswith("while") else "\n",
    "lambda_func": lambda text: ":" if "lambda" in last_line(text) else "):\n",
    "enumerate_range": lambda text: " enumerate" if "," in last_line(text) else " range",
    "final_kwarg": lambda text: (
        ")\n" if last_line(text).count("=") - (" = " in text.split("\n")[-1]) == len(parameters(text)) else ","
    ),
    "class_init": lambda text: " __" if re.findall(r"^\s*(class|def) \w", text, re.M)[-1] == "class" else " helper",
}


@pytest.mark.parametrize("name", task_names())
def test_an_own_rule_solves_each_task(name):
    """The rule that `determined_by` states, written down independently, gives every answer, on shifted splits too."""
    task = load_task(name)
    for split in task.splits:
        for pair in task.sample(split, 100):
            if name == "var_if":
                answers = tuple(" " + word for word in (pair.completion_a.strip(), pair.completion_b.strip()))
                assert answers == (pair.completion_a, pair.completion_b)
                for side, other in ((0, 1), (1, 0)):
                    words = re.findall(r"\w+", pair.prompt(side))
                    assert pair.completion(side).strip() in words and pair.completion(other).strip() not in words
                continue
            assert RULES[name](pair.prompt_a) == pair.completion_a
            assert RULES[name](pair.prompt_b) == pair.completion_b


def test_all_twenty_are_there_with_statements_and_shifts():
    assert len(task_names()) == 20
    for name in task_names():
        task = load_task(name)
        assert task.name == name and len(task.statement) > 80 and len(task.determined_by) > 20
        assert {"longer", "names"} <= set(task.shifted)


def test_a_thousand_pairs_take_less_than_a_second(tokenizer):
    for name in task_names():
        start = time.perf_counter()
        task = load_task(name)
        pairs = task.pairs("train", 1024, tokenizer)
        assert time.perf_counter() - start < 2
        assert pairs.n == 1024 and pairs.tokens.dtype == torch.int64
        assert pairs.fixed_completions == (name not in ("var_swap", "var_if", "else_elif"))


def test_transformers_tokenizers_give_the_same_pairs(tokenizer):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")
    wrapped(["x", "x = 1"], padding=True)  # leaves padding switched on in the backend
    task = load_task("bracket_counting")
    assert torch.equal(task.pairs("val", 40, wrapped).tokens, task.pairs("val", 40, tokenizer).tokens)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'quotes'; allowed: single_double_quote, .*path of a .jsonl"):
        load_task("quotes")
    with pytest.raises(ValueError, match="no task file at missing.jsonl"):
        load_task("missing.jsonl")
