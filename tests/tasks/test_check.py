"""Each condition fails on a task that violates exactly it, and holds on all others."""

import json

import pytest

from sparse_circuits.tasks.check import Condition, check_task
from sparse_circuits.tasks.load import load_task, task_names
from sparse_circuits.tasks.task import Template


def with_template(task, split, index, template):
    chosen = list(task.templates[split])
    chosen[index] = template
    return {**task.templates, split: tuple(chosen)}


def after(template: Template, **changes) -> Template:
    return Template(**{**vars(template), **changes})


def violations(task):
    """condition -> the fields that break it and nothing else."""
    train, val = task.templates["train"], task.templates["val"]
    names = task.fillers["name"]
    return {
        "templates per split": {"templates": {**task.templates, "val": val[:2]}},
        "slots": {"fixed": {"unused": ("a",)}},
        "splits disjoint by template": {
            "templates": with_template(task, "val", 0, after(train[0], a="<name>  = [1, 2", b="<name> =  [[1, 2"))
        },
        "splits disjoint by word": {"fillers": {"name": {**names, "test": ("gate", "item")}}},
        "single-token completions": {"completions": ("]\n", "]]]]]]]\n")},
        "natural continuation": {
            "templates": with_template(task, "train", 0, after(train[0], a="<name> = [[1, 2]", b="<name> = [[[1, 2]"))
        },
        "same last token": {
            "templates": with_template(task, "train", 0, after(train[0], b="<name> = [[1, 3")),
        },
        "completions differ": {"completions": ("]\n", "]\n")},
        "prompt determines the answer": {"templates": with_template(task, "train", 0, after(train[0], b=train[0].a))},
    }


CONDITIONS = (
    "templates per split",
    "slots",
    "splits disjoint by template",
    "splits disjoint by word",
    "single-token completions",
    "natural continuation",
    "same last token",
    "completions differ",
    "prompt determines the answer",
)


def test_the_task_they_break_is_well_posed(make, tokenizer):
    report = check_task(make(), tokenizer)
    assert report.ok and not report.failed, report.failed
    assert {c.name for c in report.conditions} == {*CONDITIONS, "no prompt in two splits"}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_exactly_one_condition_fails(make, tokenizer, condition):
    report = check_task(make(**violations(make())[condition]), tokenizer)
    assert [c.name for c in report.failed] == [condition]
    (failed,) = report.failed
    assert failed.fix and "\n" not in failed.detail and not report.ok


def test_a_prompt_in_two_splits_is_found_where_templates_and_words_differ(make, tokenizer):
    """`y = [1, 2` in train, spelled out; in val the same text comes from a fixed list."""
    task = make()
    templates = with_template(task, "train", 0, Template("y = [1, 2", "y = [[1, 2", "x = 1\n", "x = 1\n"))
    templates["val"] = (Template("<f> = [1, 2", "<f> = [[1, 2", "x = 1\n", "x = 1\n"), *task.templates["val"][1:])
    report = check_task(make(templates=templates, fixed={"f": ("y",)}), tokenizer)
    assert [c.name for c in report.failed] == ["no prompt in two splits"]
    assert "train and val share the prompt 'y = [" in report.failed[0].detail


def test_a_mistyped_slot_is_found(make, tokenizer):
    task = make()
    broken = Template("<nmae> = [1, 2", "<nmae> = [[1, 2", "x = 1\n", "x = 1\n")
    report = check_task(make(templates=with_template(task, "train", 0, broken)), tokenizer)
    assert [c.detail for c in report.failed] == ["<nmae> is no slot, but there is a list 'name'"]


def test_an_answer_cut_off_by_truncation_does_not_determine(make, tokenizer):
    task = make()
    filler = "y = [1, 2]\n" * 60
    cut = Template(f"a = <name>\n{filler}x", f"b = <name>\n{filler}x", "x = 1\n", "x = 1\n")
    report = check_task(make(completions=(" =", " +="), templates=with_template(task, "train", 0, cut)), tokenizer)
    assert "prompt determines the answer" in [c.name for c in report.failed]


@pytest.mark.parametrize("name", task_names())
def test_built_in_tasks_are_well_posed(name, tokenizer):
    report = check_task(load_task(name), tokenizer)
    assert report.ok, report.failed


def test_report_extends_and_goes_to_json(make, tokenizer):
    report = check_task(make(), tokenizer)
    longer = report.extended([Condition("empty circuit", False, "scores 0.41", "choose another task")])
    assert report.ok and not longer.ok
    values = json.loads(json.dumps(longer.to_dict()))
    assert values["ok"] is False and values["conditions"][-1]["name"] == "empty circuit"
