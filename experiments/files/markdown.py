"""Tables in Markdown."""

from collections.abc import Iterable


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    r"""A table in Markdown, whose cells may hold any character but a line break.

    Example:
      >>> print(markdown_table(["law", "nats"], [["q(y|x)", "1.0"]]))
      | law | nats |
      | --- | --- |
      | q(y\|x) | 1.0 |
      <BLANKLINE>
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
