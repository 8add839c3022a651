"""Mutants of a module's source: one operator, number or condition changed. Pure: the same source gives the same
list.
"""

from __future__ import annotations

import ast
import copy
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclass(frozen=True)
class Mutant:
    """One changed place."""

    line: int
    before: str
    after: str
    source: str
    """the whole module with the change."""
    change: str
    """the changed line, for example `return a [< -> <=] b`: it stays the same when other lines move."""


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module, in the order of its syntax tree. Annotations, docstrings and decorators stay as they
    are.
    """
    tree = ast.parse(source)
    lines = ast.unparse(tree).splitlines()
    return [_mutant(tree, lines, *place) for place in _changed_places(tree)]


def one_mutant(source: str, rng: random.Random) -> Mutant | None:
    """One of them, drawn; None where there are none."""
    tree = ast.parse(source)
    places = list(_changed_places(tree))
    return _mutant(tree, ast.unparse(tree).splitlines(), *rng.choice(places)) if places else None


def _changed_places(tree: ast.AST) -> Iterator[tuple[int, ast.AST]]:
    """Number of a node and what may stand in its place."""
    return ((number, after) for number, node in enumerate(_places(tree)) for after in _changes(node))


def _mutant(tree: ast.AST, lines: Sequence[str], number: int, after: ast.AST) -> Mutant:
    changed = copy.deepcopy(tree)
    node = _places(changed)[number]
    before = ast.unparse(node)[:100]
    _Replace(node, after).visit(changed)
    text = ast.unparse(ast.fix_missing_locations(changed))
    line = getattr(node, "lineno", 0)
    return Mutant(line, before, ast.unparse(after)[:100], text, _change(lines, text.splitlines()))


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    """What differs, in brackets, in its line. A mutant keeps the lines of its module, save inside of one statement."""
    same = _common(before, after)
    old, new = (re.findall(r"[\w.]+|\s+|[^\w\s]+", lines[same].strip()) for lines in (before, after))
    head = _common(old, new)
    tail = _common(old[head:][::-1], new[head:][::-1])
    middle = ["".join(words[head : len(words) - tail]) for words in (old, new)]
    return f"{''.join(old[:head])}[{' -> '.join(middle)}]{''.join(old[len(old) - tail :])}"


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many entries both lists begin with."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _places(tree: ast.AST) -> list[ast.AST]:
    left_alone = _untouched(tree)
    return [node for node in ast.walk(tree) if id(node) not in left_alone]


def _untouched(tree: ast.AST) -> set[int]:
    """Ids of the nodes that change nothing when the program runs, or only its messages."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            roots += node.decorator_list
        elif isinstance(node, ast.arg):
            roots.append(node.annotation)
        elif isinstance(node, ast.JoinedStr):  # messages
            roots += [item.format_spec for item in node.values if isinstance(item, ast.FormattedValue)]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            roots.append(node)
    return {id(node) for root in roots if root is not None for node in ast.walk(root)}


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    match node:
        case ast.Compare(ops=[operator], left=left, comparators=comparators) if type(operator) in _COMPARISONS:
            yield ast.Compare(left, [_COMPARISONS[type(operator)]()], comparators)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS and not _is_text(node):
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.BoolOp(op=operator, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value) if value + 1 != value:
            yield ast.Constant(value + 1)
        case _:
            yield from _changed_flow(node)


def _changed_flow(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case _:
            return


def _is_text(node: ast.AST) -> bool:
    return any(
        isinstance(item, ast.Constant | ast.JoinedStr) and not isinstance(getattr(item, "value", 0), int | float)
        for item in ast.walk(node)
    )


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new if node is self._old else self.generic_visit(node)
