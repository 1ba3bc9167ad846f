"""A reader of programs that lists names loaded before they are surely bound; it knows Python, not the grammar.

1. Statements are followed in order. What only one branch binds, or a loop's body, is not bound afterwards.
2. A function sees what the module has bound above it, and its parameters; a method also the attributes of `__init__`.
3. Where the type of a name is evident (a display, a constant, set()), a name keeps it, and its methods fit it.
"""

import ast
import builtins

METHODS = {
    "set": {"add"},
    "str": {"upper", "lower", "strip", "title", "format", "split", "startswith", "endswith"},
    "list": {"append"},
    "dict": {"items", "get"},
}
Bound = dict[str, str | None]
"""name -> its evident type, or None"""


def kind_of(node: ast.AST, bound: Bound) -> str | None:
    """The type an expression evidently has, or None."""
    displays = {ast.List: "list", ast.ListComp: "list", ast.Set: "set", ast.Dict: "dict", ast.JoinedStr: "str"}
    if isinstance(node, ast.Constant):
        kind = type(node.value).__name__
        return None if kind in ("NoneType", "float", "bool") else kind
    if isinstance(node, ast.Name | ast.Attribute):
        return bound.get(ast.unparse(node))
    if isinstance(node, ast.Call):
        return {"set": "set", "len": "int", "str": "str", "input": "str"}.get(ast.unparse(node.func))
    return displays.get(type(node))


class Reader:
    """Follows a program; `problems` is what it found."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def expression(self, node: ast.AST | None, bound: Bound) -> None:
        if node is None:
            return
        if isinstance(node, ast.Lambda):
            self.expression(node.body, bound | dict.fromkeys(entry.arg for entry in node.args.args))
            return
        if isinstance(node, ast.ListComp):
            inner = dict(bound)
            for part in node.generators:
                self.expression(part.iter, inner)
                inner.pop(ast.unparse(part.target), None)  # a name of its own, whatever it was outside
                self.bind(part.target, None, inner)
                for test in part.ifs:
                    self.expression(test, inner)
            self.expression(node.elt, inner)
            return
        if isinstance(node, ast.Name) and node.id not in bound and not hasattr(builtins, node.id):
            self.problems.append(f"{node.id} is loaded unbound")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and ast.unparse(node) not in bound:
            self.problems.append(f"{ast.unparse(node)} is loaded unbound")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = kind_of(node.func.value, bound)
            if owner and node.func.attr not in METHODS.get(owner, set()):
                self.problems.append(f"{owner}: {ast.unparse(node.func)}")
        if isinstance(node, ast.BinOp):
            left, right = kind_of(node.left, bound), kind_of(node.right, bound)
            if left and right and left != right and not isinstance(node.op, ast.Mult):
                self.problems.append(f"{left} and {right}: {ast.unparse(node)}")
        for child in ast.iter_child_nodes(node):
            self.expression(child, bound)

    def bind(self, target: ast.AST, kind: str | None, bound: Bound) -> None:
        if isinstance(target, ast.Tuple):
            for entry in target.elts:
                self.bind(entry, None, bound)
        elif isinstance(target, ast.Subscript):
            self.expression(target, bound)
        else:
            name = ast.unparse(target)
            known = bound.get(name)
            if known and kind and known != kind:
                self.problems.append(f"{name} was {known} and becomes {kind}")
            bound[name] = kind or known

    def block(self, body: list[ast.stmt], bound: Bound) -> Bound:
        """What is bound after the block if it runs."""
        inner = dict(bound)
        for statement in body:
            self.statement(statement, inner)
        return inner

    def both(self, first: Bound, second: Bound, bound: Bound) -> None:
        bound.update({name: kind for name, kind in first.items() if name in second})

    def statement(self, node: ast.stmt, bound: Bound) -> None:
        for field in ("value", "test", "iter", "exc", "msg"):
            self.expression(getattr(node, field, None), bound)
        if isinstance(node, ast.Assign):
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                kinds = [kind_of(value, bound) for value in node.value.elts]
                for target, kind in zip(node.targets[0].elts, kinds, strict=True):
                    self.bind(target, kind, bound)
            else:
                self.bind(node.targets[0], kind_of(node.value, bound), bound)
        elif isinstance(node, ast.AnnAssign):
            self.bind(node.target, ast.unparse(node.annotation).split("[")[0], bound)
        elif isinstance(node, ast.AugAssign):
            self.expression(node.target, bound)
            kinds = kind_of(node.target, bound), kind_of(node.value, bound)
            if "set" in kinds or "dict" in kinds or None not in kinds and kinds[0] != kinds[1]:
                self.problems.append(ast.unparse(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(dict.fromkeys(alias.name for alias in node.names))
        elif isinstance(node, ast.FunctionDef):
            self.function(node, bound)
        elif isinstance(node, ast.ClassDef):
            self.klass(node, bound)
        else:
            self.compound(node, bound)

    def compound(self, node: ast.stmt, bound: Bound) -> None:
        if isinstance(node, ast.If):
            self.both(self.block(node.body, bound), self.block(node.orelse, bound), bound)
        elif isinstance(node, ast.For):
            inner = dict(bound)
            self.bind(node.target, None, inner)
            self.block(node.body, inner)
        elif isinstance(node, ast.While):
            after = self.block(node.body, bound)
            if ast.unparse(node.test) == "True":
                bound.update(after)
        elif isinstance(node, ast.With):
            for item in node.items:
                self.expression(item.context_expr, bound)
                if item.optional_vars:
                    self.bind(item.optional_vars, None, bound)
            bound.update(self.block(node.body, bound))
        elif isinstance(node, ast.Try):
            after = self.block(node.body, bound)
            for handler in node.handlers:
                self.expression(handler.type, bound)
                inner = bound | ({handler.name: None} if handler.name else {})
                self.both(after, self.block(handler.body, inner), bound)
            self.block(node.finalbody, bound)

    def function(self, node: ast.FunctionDef, bound: Bound) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator, bound)
        bound[node.name] = None
        entries = [*node.args.args, *([node.args.vararg] if node.args.vararg else [])]
        stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        shared = {name for n in ast.walk(node) if isinstance(n, ast.Global) for name in n.names}
        inner = {name: kind for name, kind in bound.items() if name not in stored - shared}  # those are its own
        for entry in entries:
            hint = ast.unparse(entry.annotation).split("[")[0] if entry.annotation else None
            inner[entry.arg] = hint if hint in METHODS or hint == "int" else None
        self.block(node.body, inner)

    def klass(self, node: ast.ClassDef, bound: Bound) -> None:
        """Attributes that __init__ sets are bound in the other methods."""
        bound[node.name] = None
        inner, attributes = dict(bound), Bound()
        for entry in node.body:
            if isinstance(entry, ast.FunctionDef) and entry.name == "__init__":
                made = self.block(entry.body, inner | dict.fromkeys(argument.arg for argument in entry.args.args))
                attributes = {name: kind for name, kind in made.items() if name.startswith("self.")}
        methods = [f"self.{entry.name}" for entry in node.body if isinstance(entry, ast.FunctionDef)]
        for entry in node.body:
            if not isinstance(entry, ast.FunctionDef) or entry.name != "__init__":
                self.statement(entry, inner | dict.fromkeys(methods) | attributes)


def problems_of(source: str) -> list[str]:
    """Names loaded unbound and operations that do not fit, in the order found."""
    reader, bound = Reader(), Bound({"__name__": "str"})
    for statement in ast.parse(source).body:
        reader.statement(statement, bound)
    return reader.problems
