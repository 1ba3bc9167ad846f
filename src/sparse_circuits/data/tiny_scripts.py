"""Passages of several lines that stand in scripts as they are: reading input, counting under a lock, decorators ...

A frame's first line holds, apart by spaces, the imports (`-` for none, `+` for a space in them) and the names the
passage binds, as alternatives:kind (see `tiny_idioms.KINDS`; F is a function). The lines below are its text, in which
{0} {1} are those names. Frames are written out at import, as those of `tiny_idioms`.
"""

import ast
from random import Random
from typing import NamedTuple

from .tiny_idioms import KINDS, restyled, split_frames
from .tiny_scope import NOT_A_VARIABLE, Scope, bind

_SEED = 23


class Script(NamedTuple):
    """A passage, written out."""

    lines: tuple[str, ...]
    imports: tuple[str, ...]
    names: tuple[tuple[int, str], ...]
    """(kind, name) of what it binds for the lines below"""
    passing: tuple[str, ...]
    """the other names it binds at top level: loop variables and the like"""


_FRAMES = """
import+threading counter|count|total|hits:i lock|lock|mutex:L increment|add_one|bump|update_counter:F
{0} = 0
{1} = threading.Lock()


def {2}():
    global {0}
    with {1}:
        {0} += 1


{2}()
from+threading+import+Lock items|results|values|queue_items:I lock:L add_item|push_value|store:F
{1} = Lock()
{0} = []


def {2}(value):
    with {1}:
        {0}.append(value)


{2}(value=1)
import+sys path|filename|file_path:p
if len(sys.argv) > 1:
    {0} = sys.argv[1]
else:
    {0} = "data.txt"
with open({0}) as f:
    print(f.read())
import+time run|work|slow_task:F timer|timed|log_call|measure:F
def {1}(func):
    def helper(*args):
        print("start")
        return func(*args)

    return helper


@{1}
def {0}(n):
    print(n)


{0}(3)
- numbers_up_to|count_to|generate|get_numbers:F
def {0}(limit):
    i = 0
    while i < limit:
        yield i
        i += 1


for x in {0}(5):
    print(x)
- config|settings|options|params:d
{0} = {{
    "width": 80,
    "height": 24,
    "debug": 0,
}}
print({0}["width"])
- names|fruits|colors|words:S
{0} = [
    "apple",
    "banana",
    "cherry",
]
for item in {0}:
    print(item)
- line|command|answer|text:s
while True:
    {0} = input("Enter a command")
    if {0} == "quit":
        break
    print({0})
import+json path|config_path|file_name:p load_config|load_json|read_config:F
{0} = "config.json"


def {1}(path):
    with open(path) as f:
        return json.load(f)


config = {1}(path={0})
- lines|rows_read|entries:S path|log_file|filename:p
{1} = "log.txt"
{0} = []
with open({1}) as f:
    for line in f:
        line = line.strip()
        if not line:
            continue
        {0}.append(line)
print(len({0}))
import+random secret|target|number:i guess|answer|choice_made:i
{0} = random.randint(1, 10)
{1} = 0
while {1} != {0}:
    {1} = {1} + 1
print("You win")
- limit|n|top:i
{0} = 15
for i in range(1, {0}):
    if i % 3 == 0:
        print("Fizz")
    else:
        print(i)
- numbers|values|nums:I left|low|start:i right|high|end:i
{0} = [1, 3, 5, 7, 9]
{1}, {2} = 0, len({0}) - 1
while {1} < {2}:
    {0}[{1}], {0}[{2}] = {0}[{2}], {0}[{1}]
    {1} += 1
    {2} -= 1
print({0})
- matrix|grid|board:g
{0} = [[0, 0, 0], [0, 0, 0]]
for i in range(2):
    for j in range(3):
        {0}[i][j] = i * j
for row in {0}:
    print(row)
- names|users|students:S ages|scores|points:I
{0} = ["Alice", "Bob"]
{1} = [30, 25]
for name, value in zip({0}, {1}):
    print(f"{{name}}: {{value}}")
- total_of|add_all|sum_args:F
def {0}(*args):
    total = 0
    for x in args:
        total += x
    return total


print({0}(1, 2, 3))
import+logging logger|log:O
{0} = logging.getLogger("app")
{0}.info("Starting")
{0}.warning("Not found")
- text|sentence|phrase:s counts|letters|freq:d
{0} = "hello world"
{1} = {{}}
for c in {0}:
    if c in {1}:
        {1}[c] += 1
    else:
        {1}[c] = 1
print({1})
- user|person|item_data:A
{0} = {{"name": "Alice", "age": 30}}
if "name" in {0}:
    print({0}["name"])
- value|result|x:i
try:
    {0} = int(input("Enter a number"))
except ValueError:
    print("Invalid number")
    {0} = 0
- first|a|x:i second|b|y:i
{0} = 10
{1} = 20
print({0}, {1})
{0}, {1} = {1}, {0}
print({0}, {1})
- current|result|text|output:s
{0} = ""
for i in range(3):
    {0} += str(i)
print({0})
- current|seen|unique|visited:n
{0} = set()
for i in range(3):
    {0}.add(i)
print({0})
- value|data|node:A get_or_none|find_item|lookup_value:F
def {1}(key):
    if key is None:
        return None
    return key


{0} = {1}(key=None)
"""


def _written(size: int) -> tuple[Script, ...]:
    rng, scripts = Random(_SEED), []
    frames = split_frames(_FRAMES, lambda line: line.split(" ")[-1][-2:-1] == ":" and line[0] in "-if" and "|" in line)
    for place in range(size):
        head, *lines = frames[place % len(frames)]
        imports, *texts = head.split(" ")
        pairs = [text.split(":") for text in texts]
        names = [rng.choice(alternatives.split("|")) for alternatives, _ in pairs]
        kinds = [NOT_A_VARIABLE if kind == "F" else KINDS[kind] for _, kind in pairs]
        bound = tuple((kind, name) for kind, name in zip(kinds, names, strict=True) if kind is not None)
        written = [line.format(*names) for line in lines]
        needed = () if imports == "-" else (imports.replace("+", " "),)
        found = restyled(rng, written, documented=False)
        scripts.append(Script(found, needed, bound, tuple(sorted(_stored("\n".join(found)) - {*names}))))
    return tuple(scripts)


def _stored(text: str) -> set[str]:
    """The variables that a passage assigns to outside of its functions."""
    stored: set[str] = set()
    left: list[ast.AST] = [ast.parse(text)]
    while left:
        node = left.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored.add(node.id)
        left.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef))
    return stored


SCRIPTS = _written(512)


def script(s: Scope, pad: str) -> None:
    """A passage at top level, if its names are free; else one statement."""
    written = SCRIPTS[s.bits(9)]
    kinds = s.kinds
    taken = pad or any(name in kinds and kinds[name] != kind or name in s.fixed for kind, name in written.names)
    if taken or any(name in kinds for name in written.passing):
        s.simple[s.bits(8)](s, pad)
        return
    kinds.update(dict.fromkeys(written.passing, NOT_A_VARIABLE))
    s.imports.update(dict.fromkeys(written.imports))
    s.lines.extend(written.lines)
    for kind, name in written.names:
        if kind == NOT_A_VARIABLE:
            kinds[name] = kind
        elif name not in s.names[kind]:
            bind(s, kind, name)
