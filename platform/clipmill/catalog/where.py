"""Filters: `label in ['a', 'b'] and duration > 2` over the columns of a catalog.

The text is read as Python's grammar has it and never evaluated. A comparison with a value that
is not there is neither true nor false, and selects nothing. Knows no files.
"""

import ast
import difflib
import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipmill.catalog.schema import MEASURES, SCHEMA
from clipmill.errors import UsageError

ALIASES = {"duration": "duration_seconds"}

Value = Any  # an array of a column, or a plain value
Made = Callable[[pa.Table], Value]  # a part of the filter, over rows

_COMPARE: dict[type[ast.cmpop], Callable[[Value, Value], Value]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}


# What Python's own reader says of a text that is no filter, and Arrow of values that do not match.
_NO_TEXT_OF_OURS = (SyntaxError, RecursionError, MemoryError, ValueError, TypeError)
_NO_MATCH = (pa.ArrowException, TypeError, OverflowError)


@dataclass(frozen=True)
class Filter:
    """A filter that was understood: the columns it needs, and how it decides."""

    text: str
    columns: frozenset[str]
    measured: frozenset[str]  # columns whose values it compares, that may never have been measured
    _decide: Made

    def mask(self, table: pa.Table) -> NDArray[np.bool_]:
        """Say for each row whether it fulfils the filter; the table has at least `columns`."""
        try:
            decided = self._decide(table)
            if isinstance(decided, pa.ChunkedArray):
                decided = decided.combine_chunks()
            filled = pc.fill_null(decided.cast(pa.bool_()), False)
            return np.asarray(filled.to_numpy(zero_copy_only=False), np.bool_)
        except _NO_MATCH as error:  # such as a comparison of a text with a number
            raise _no_filter(self.text, str(error).splitlines()[0]) from error

    def check_measured(self, there: dict[str, int], rows: int) -> None:
        """Refuse what compares a column of which none of the rows has a value."""
        for name in sorted(self.measured):
            if rows and not there[name]:
                raise UsageError(
                    f"the filter {self.text!r} asks for {name}, which was never measured",
                    "a column with values",
                    "run ingest with --curate on these videos",
                )


def parse(text: str) -> Filter:
    """Read a filter, or refuse what is none."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        made = _truth(node)
    except (_UnknownForm, *_NO_TEXT_OF_OURS) as error:
        name = error.column if isinstance(error, _UnknownForm) else ""
        raise _no_filter(text, str(error) or type(error).__name__, name) from error
    columns = frozenset(_columns(node))
    if not columns:
        raise _no_filter(text, "it names no column")
    return Filter(text, columns, frozenset(_compared(node)) & set(MEASURES), made)


def column_of(name: str) -> list[str]:
    """The column that holds a value: `motion`, or `attributes` of `attributes.level`."""
    if name.startswith("attributes."):
        return ["attributes"]
    name = ALIASES.get(name, name)
    kind = SCHEMA.field(name).type if name in SCHEMA.names else None
    if kind is None or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        near = difflib.get_close_matches(name, SCHEMA.names, n=1)
        hint = f"did you mean {near[0]}?" if near else "name one such as motion"
        raise UsageError(f"{name!r} is no column of numbers", "one, or attributes.NAME", hint)
    return [name]


def numbers_of(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Values as numbers, NaN where there is none; the table has the column of `column_of`."""
    column = table[column_of(name)[0]]
    if name.startswith("attributes."):
        column = pc.map_lookup(column, name.partition(".")[2], "first")
    try:
        made = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise UsageError(f"{name} holds {str(error).splitlines()[0]}", "numbers") from error
    return np.asarray(made, np.float64)


def _no_filter(text: str, reason: str, column: str = "") -> UsageError:
    near = difflib.get_close_matches(column, [*SCHEMA.names, *ALIASES], n=3, cutoff=0.7)
    near = list(dict.fromkeys(ALIASES.get(name, name) for name in near))
    names = [*near, *(name for name in SCHEMA.names if name not in near)]
    return UsageError(
        f"the filter {text!r} is not understood ({reason})",
        "comparisons of columns joined by and, or, not",
        f"columns are {', '.join(names)}",
    )


class _UnknownForm(Exception):
    def __init__(self, told: str, column: str = "") -> None:
        super().__init__(told)
        self.column = column


def _columns(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield ALIASES.get(inner.id, inner.id)


def _compared(node: ast.AST) -> Iterator[str]:
    """Columns whose values decide, not only whether they are there."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Compare) and not any(
            map(_is_none, (inner.left, *inner.comparators))
        ):
            yield from _columns(inner)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _truth(node: ast.expr) -> Made:
    """A part of the filter that is true or false."""
    match node:
        case ast.BoolOp(op=ast.And()):
            return _joined(pc.and_kleene, [_truth(value) for value in node.values])
        case ast.BoolOp(op=ast.Or()):
            return _joined(pc.or_kleene, [_truth(value) for value in node.values])
        case ast.UnaryOp(op=ast.Not()):
            inner = _truth(node.operand)
            return lambda table: pc.invert(inner(table))
        case ast.Compare():
            operands = [node.left, *node.comparators]
            steps = zip(operands, node.ops, operands[1:], strict=False)
            return _joined(pc.and_kleene, [_comparison(*step) for step in steps])
        case ast.Name() if _type_of(node) == pa.bool_():
            return _operand(node)
    raise _UnknownForm(ast.unparse(node))


def _joined(how: Callable[[Value, Value], Value], parts: list[Made]) -> Made:
    return lambda table: functools.reduce(how, (part(table) for part in parts))


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Made:
    told = ast.unparse(ast.Compare(left, [op], [right]))
    if not any(map(_is_column, (left, right))):
        raise _UnknownForm(f"{told} names no column")
    if _is_none(left) or _is_none(right):
        return _presence(right if _is_none(left) else left, op, told)
    if isinstance(op, ast.In | ast.NotIn):
        made = _inside(left, right, told)
        return made if isinstance(op, ast.In) else lambda table: pc.invert(made(table))
    if type(op) not in _COMPARE:
        raise _UnknownForm(told)
    _check_plain(left, right, told)
    if any(isinstance(_plain(node), list) for node in (left, right) if not _is_column(node)):
        raise _UnknownForm(f"{told}: for a list of values ask with in")
    compare, first, second = _COMPARE[type(op)], _operand(left), _operand(right)
    return lambda table: compare(first(table), second(table))


def _presence(node: ast.expr, op: ast.cmpop, told: str) -> Made:
    """Whether a value is there at all: `label == None`; an empty list is none."""
    values = _operand(node)
    there = _is_filled if pa.types.is_list(_type_of(node)) else pc.is_valid
    if isinstance(op, ast.Eq | ast.Is):
        return lambda table: pc.invert(there(values(table)))
    if isinstance(op, ast.NotEq | ast.IsNot):
        return lambda table: there(values(table))
    raise _UnknownForm(told)


def _is_filled(lists: Value) -> Value:
    return pc.greater(pc.fill_null(pc.list_value_length(lists), 0), 0)


def _inside(left: ast.expr, right: ast.expr, told: str) -> Made:
    """`label in ['a', 'b']` or `'a' in labels`."""
    if _is_column(right):
        kind = _type_of(right)
        if _is_column(left) or not pa.types.is_list(kind) or pa.types.is_struct(kind.value_type):
            raise _UnknownForm(f"{told}: in wants a list of values or a column of lists")
        wanted, lists = pa.scalar(ast.literal_eval(left), kind.value_type), _operand(right)
        return lambda table: _lists_with(lists(table), wanted)
    _check_plain(left, None, told)
    plain, values = _plain(right), _operand(left)
    if not isinstance(plain, list):
        raise _UnknownForm(f"{told}: in wants a list of values or a column of lists")
    return lambda table: _among(values(table), plain)


def _among(values: Value, plain: list[Any]) -> Value:
    # A value that is not there is in no list, and is not outside of one either.
    found = pc.is_in(values, value_set=pa.array(plain, values.type))
    return pc.if_else(pc.is_valid(values), found, None)


def _lists_with(lists: Value, wanted: pa.Scalar) -> Value:
    """Which lists hold a value; a list that is not there holds nothing."""
    whole = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    hits = pc.fill_null(pc.equal(pc.list_flatten(whole), wanted), False)
    found = np.zeros(len(whole), np.bool_)
    found[np.asarray(pc.list_parent_indices(whole).filter(hits))] = True
    return pa.array(found)


def _check_plain(left: ast.expr, right: ast.expr | None, told: str) -> None:
    for node in (left, right):
        if node is not None and _is_column(node) and pa.types.is_nested(_type_of(node)):
            raise _UnknownForm(f"{told}: {ast.unparse(node)} holds many values, ask with in")


def _is_column(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript)


def _type_of(node: ast.expr) -> pa.DataType:
    match node:
        case ast.Name(id=name):
            name = ALIASES.get(name, name)
            if name not in SCHEMA.names:
                raise _UnknownForm(f"no column {name}", name)
            return SCHEMA.field(name).type
        case _ if _attribute(node) is not None:
            return pa.string()
    raise _UnknownForm(ast.unparse(node))


def _attribute(node: ast.expr) -> str | None:
    """The attribute that `attributes.weather` or `attributes['time of day']` asks for."""
    match node:
        case ast.Attribute(value=ast.Name(id="attributes"), attr=name):
            return name
        case ast.Subscript(value=ast.Name(id="attributes"), slice=ast.Constant(value=str(name))):
            return name
    return None


def _operand(node: ast.expr) -> Made:
    """A column, or a plain value."""
    if not _is_column(node):
        value = _plain(node)
        return lambda table: value
    _type_of(node)
    if (attribute := _attribute(node)) is not None:
        return lambda table: pc.map_lookup(table["attributes"], attribute, "first")
    assert isinstance(node, ast.Name)
    name = ALIASES.get(node.id, node.id)
    return operator.itemgetter(name)


def _plain(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError) as error:
        raise _UnknownForm(ast.unparse(node)) from error
    return list(value) if isinstance(value, tuple | set) else value
