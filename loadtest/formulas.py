"""Formulas that are computed and shown from the same text, so that what is shown is what was calculated.

A formula is an expression of names, numbers, `+ - * /`, `min`, `max` and `ceil`. Pure.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "max": max,
    "min": min,
    "ceil": lambda value: math.ceil(value * (1 - 1e-12)),  # what is whole but for rounding is whole
}


def value(formula: str, names: Mapping[str, float]) -> float:
    """What the formula comes to. KeyError for a name that there is not, ValueError for what is no formula."""
    return _value(ast.parse(formula, mode="eval").body, names)


def with_numbers(formula: str, names: Mapping[str, float]) -> str:
    """The formula with numbers in place of its names, for a person."""
    return ast.unparse(_Numbers(names).visit(ast.parse(formula, mode="eval").body)).replace(" * ", " · ")


def number(figure: float) -> str:
    """A number as a person reads it: whole from 1,000 on, else up to four digits."""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"


def _value(formula: ast.expr, names: Mapping[str, float]) -> float:
    match formula:
        case ast.Constant(value=int() | float() as constant):
            return constant
        case ast.Name(id=name):
            return names[name]
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATORS:
            return _OPERATORS[type(operation)](_value(left, names), _value(right, names))
        case ast.Call(func=ast.Name(id=function), args=arguments) if function in _FUNCTIONS:
            return _FUNCTIONS[function](*(_value(argument, names) for argument in arguments))
    raise ValueError(f"no formula: {ast.unparse(formula)}")


class _Numbers(ast.NodeTransformer):
    """Puts numbers in place of names, and writes constants like any other number."""

    def __init__(self, names: Mapping[str, float]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.Call:
        """What is called keeps its name."""
        return ast.Call(node.func, [self.visit(one) for one in node.args], [])

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """A name gives way to its value."""
        return ast.Name(number(self._names[node.id]))

    def visit_Constant(self, node: ast.Constant) -> ast.Name:
        """Ten thousands are seen at a glance."""
        assert isinstance(node.value, int | float)
        return ast.Name(number(node.value))
