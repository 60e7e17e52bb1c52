"""Sums and products of integers and letters, in which `Spec.passes` counts."""

import ast
from collections.abc import Mapping


def evaluated(text: str, numbers: Mapping[str, int]) -> int:
    """The value of an expression, which may be as large as 2^20000.

    Args:
      text: sums and products of integers and of the letters in `numbers`.
      numbers: what the letters stand for.

    Raises:
      ValueError: it is something else.

    Example:
      >>> evaluated("m * (1 + V) + 2", {"m": 2, "V": 400})
      804
    """

    def of(node: ast.expr) -> int:
        match node:
            case ast.Name(id=letter) if letter in numbers:
                return numbers[letter]
            case ast.Constant(value=int() as number):
                return number
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return of(left) + of(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return of(left) * of(right)
        raise ValueError(f"{text!r} is no sum or product of integers and {', '.join(numbers)}")

    try:
        parsed = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} cannot be read: {error.msg}") from error
    return of(parsed.body)
