"""The language in which a model says who depends on whom, and its parser.

One line a variable, in the review's notation: ``h_t <- x_{t-1}, h_{t-1}`` for a deterministic state,
``z_t ~ z_{t-1}, h_t`` for a random variable. `parse_block` turns such lines into `Statement` objects; whatever
it cannot accept raises a `SpecError` that points at the line and the column.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

__all__ = [
    "Form",
    "Index",
    "Process",
    "Reference",
    "SpecError",
    "Statement",
    "check_choice",
    "check_references",
    "parse_block",
]

Process = Literal["generation", "inference"]
Form = Literal["compact", "developed"]


def check_choice(value: str, name: str, allowed: Sequence[str]) -> None:
    """Refuse a value of an argument that is none of those allowed.

    Raises:
        ValueError: With the argument's name, what it may be, and what it was.
    """
    if value not in allowed:
        *others, last = map(repr, allowed)
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, not {value!r}")


class SpecError(ValueError):
    """A spec that does not make sense, with the place where it stops making sense.

    Attributes:
        block: ``"generation"`` or ``"inference"``.
        line: Number of the offending line, from 1; the line break right after the opening quotes is not counted.
        column: Number of the offending character in that line, from 1.
    """

    def __init__(self, message: str, block: str, text: str = "", line: int = 0, column: int = 0) -> None:
        self.block, self.line, self.column = block, line, column
        where = f"{block}, line {line}, column {column}: " if line else f"{block}: "
        pointer = f"\n    {text}\n    {' ' * (column - 1)}^" if line else ""
        super().__init__(f"{where}{message}{pointer}")


@dataclass(frozen=True, order=True)
class Index:
    """A point in time: ``1``, ``T``, ``t``, ``t-k`` or ``t+k``.

    Arguments:
        anchor: ``"1"``, ``"t"`` or ``"T"``.
        offset: What is added to it, in frames.
    """

    anchor: str
    offset: int = 0

    def at(self, t: int, num_steps: int) -> int:
        """The number of the frame, for the current frame ``t`` of a sequence of ``num_steps``."""
        return {"1": 1, "t": t, "T": num_steps}[self.anchor] + self.offset

    def __str__(self) -> str:
        if self.anchor == "1":
            return str(1 + self.offset)
        return f"{self.anchor}{self.offset:+d}" if self.offset else self.anchor


@dataclass(frozen=True)
class Reference:
    """A variable on the right side: at one time, over a range of times, or of the whole sequence.

    Arguments:
        name: The variable.
        first: Its time, or the first of a range; `None` for a variable of the whole sequence.
        last: The last time of a range, equal to ``first`` where there is only one.
        line: Where it stands, for messages.
        column: Where it stands, for messages.
    """

    name: str
    first: Index | None = None
    last: Index | None = None
    line: int = 0
    column: int = 0

    def times(self, t: int | None, num_steps: int) -> Iterable[int | None]:
        """The frames it names that exist, given the frame ``t`` of the left side."""
        if self.first is None or self.last is None:
            return (None,)
        low, high = self.first.at(t or 0, num_steps), self.last.at(t or 0, num_steps)
        return range(max(low, 1), min(high, num_steps) + 1)

    def __str__(self) -> str:
        if self.first is None:
            return self.name
        inside = str(self.first) if self.first == self.last else f"{self.first}:{self.last}"
        return f"{self.name}_{inside}" if len(inside) == 1 else f"{self.name}_{{{inside}}}"


@dataclass(frozen=True)
class Statement:
    """One line: a variable and its parents.

    Arguments:
        name: The variable on the left.
        framewise: Whether there is one per frame (``z_t``) or one per sequence (``v``).
        random: ``~`` rather than ``<-``.
        parents: The right side.
        line: Where it stands, for messages.
        column: Where it stands, for messages.
    """

    name: str
    framewise: bool
    random: bool
    parents: tuple[Reference, ...]
    line: int = 0
    column: int = 0

    @property
    def key(self) -> str:
        """The left side as written: ``z_t`` or ``v``."""
        return f"{self.name}_t" if self.framewise else self.name

    def __str__(self) -> str:
        return f"{self.key} {'~' if self.random else '<-'} {', '.join(map(str, self.parents))}".rstrip()


_NAME = r"[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*?"
_REFERENCE = re.compile(rf"(?P<name>{_NAME})(?:_(?:\{{(?P<braced>[^{{}}]*)\}}|(?P<bare>t|T|\d+)))?")
_INDEX = re.compile(r"t(?:\s*[+-]\s*\d+)?|1|T")
_GRAMMAR = (
    "An index is 1, T, t, t-k, t+k (k a number), or a range a:b between two of them, in braces if it is "
    "longer than one character: z_{t-1}, x_{1:T}, x_{t:T}"
)


@dataclass(frozen=True)
class _Line:
    """A line of a block with its place, so that every complaint can point at it."""

    block: str
    text: str
    number: int

    def fail(self, message: str, position: int) -> NoReturn:
        raise SpecError(message, self.block, self.text, self.number, position + 1)


def _split(line: _Line, start: int, end: int) -> Iterable[tuple[str, int]]:
    """The comma-separated pieces between two positions, stripped, with where each begins."""
    position = start
    for piece in line.text[start:end].split(","):
        yield piece.strip(), position + len(piece) - len(piece.lstrip())
        position += len(piece) + 1


def _parse_index(line: _Line, text: str, position: int) -> Index:
    stripped = text.strip()
    position += len(text) - len(text.lstrip())
    if not _INDEX.fullmatch(stripped):
        line.fail(f"{stripped!r} is not an index of the grammar. {_GRAMMAR}", position)
    compact = re.sub(r"\s", "", stripped)
    return Index(compact[0], int(compact[1:] or 0))


def _parse_reference(line: _Line, text: str, position: int, *, left: bool = False) -> Reference:
    match = _REFERENCE.fullmatch(text)
    if match is None:
        bad = re.match(rf"{_NAME}_", text)
        if bad:
            line.fail(f"cannot read {text!r}. {_GRAMMAR}", position + bad.end())
        wanted = "the variable on the left, such as z_t" if left else "a variable, such as z_{t-1}"
        line.fail(f"expected {wanted}, found {text!r}" if text else f"expected {wanted}, found nothing", position)
    name, inside, offset = match["name"], match["braced"], match.start("braced")
    if inside is None:
        inside, offset = match["bare"], match.start("bare")
    if inside is None:
        return Reference(name, line=line.number, column=position + 1)
    ends = inside.split(":")
    if len(ends) > 2:
        line.fail(f"{inside!r} has more than one colon. {_GRAMMAR}", position + offset)
    first = _parse_index(line, ends[0], position + offset)
    last = _parse_index(line, ends[1], position + offset + len(ends[0]) + 1) if len(ends) == 2 else first
    order = ["1tT".index(end.anchor) for end in (first, last)]
    if order[0] > order[1] or (order[0] == order[1] and first.offset > last.offset):
        line.fail(f"the range {inside!r} runs backwards and would always be empty", position + offset)
    return Reference(name, first, last, line.number, position + 1)


def _parse_line(line: _Line) -> Statement | None:
    end = line.text.find("#")
    end = len(line.text) if end < 0 else end
    if not line.text[:end].strip():
        return None
    arrow = re.search(r"<-|~", line.text[:end])
    if arrow is None:
        start = len(line.text) - len(line.text.lstrip())
        line.fail("expected '<-' (deterministic) or '~' (random) after the variable", start)
    left_text = line.text[: arrow.start()]
    start = len(left_text) - len(left_text.lstrip())
    left = _parse_reference(line, left_text.strip(), start, left=True)
    if left.first not in (None, Index("t")) or left.first != left.last:
        line.fail(
            f"the left side is {left.name}_t (one per frame) or {left.name} (one per sequence), not {left}. "
            "Initial conditions need no line: parents outside 1..T drop out",
            start,
        )
    parents: tuple[Reference, ...] = ()
    if line.text[arrow.end() : end].strip():
        parents = tuple(_parse_reference(line, *piece) for piece in _split(line, arrow.end(), end))
    statement = Statement(left.name, left.first is not None, arrow.group() == "~", parents, line.number, left.column)
    if not parents and not statement.random:
        line.fail(f"{statement.key} is deterministic and has no parents: it would be a constant", start)
    for parent in parents:
        uses_t = any(end is not None and end.anchor == "t" for end in (parent.first, parent.last))
        if uses_t and not statement.framewise:
            line.fail(
                f"{parent} speaks of a frame t, but {statement.name} belongs to the whole sequence. "
                f"Write a range such as {parent.name}_{{1:T}}, or an end: {parent.name}_1, {parent.name}_T",
                parent.column - 1,
            )
    return statement


def parse_block(text: str, block: str) -> tuple[Statement, ...]:
    """Parse the lines of a generation or inference block.

    Arguments:
        text: The lines; blank lines and what follows a ``#`` are skipped.
        block: Its name, for messages.

    Returns:
        One statement a line, in the order written.

    Raises:
        SpecError: Where a line is not of the language, or defines a variable a second time.

    Example:
        >>> for statement in parse_block("h_t <- x_{t-1}, h_{t-1}  # (9.1)", "generation"):
        ...     print(statement)
        h_t <- x_{t-1}, h_{t-1}
    """
    statements: dict[str, Statement] = {}
    for number, raw in enumerate(text.removeprefix("\n").split("\n"), start=1):
        line = _Line(block, raw.rstrip(), number)
        statement = _parse_line(line)
        if statement is None:
            continue
        if statement.name in statements:
            line.fail(
                f"{statement.name} is already defined in line {statements[statement.name].line}",
                statement.column - 1,
            )
        statements[statement.name] = statement
    return tuple(statements.values())


def check_references(statements: Iterable[Statement], known: dict[str, bool], block: str, text: str) -> None:
    """Refuse right sides that name what nobody defines, or a variable with the wrong kind of index.

    Arguments:
        statements: The lines of the block.
        known: Whether each variable that may stand on a right side is framewise.
        block: Its name, for messages.
        text: Its source, for messages.

    Raises:
        SpecError: At the first reference that is unknown, lacks its index or has one too many.
    """
    lines = text.removeprefix("\n").split("\n")
    for statement in statements:
        for parent in statement.parents:
            line = _Line(block, lines[parent.line - 1].rstrip(), parent.line)
            if parent.name not in known:
                guess = difflib.get_close_matches(parent.name, known, n=1, cutoff=0.5)
                hint = f" Did you mean {guess[0]!r}?" if guess else ""
                line.fail(
                    f"unknown variable {parent.name!r}.{hint} Known here: {', '.join(sorted(known))}",
                    parent.column - 1,
                )
            if known[parent.name] and parent.first is None:
                line.fail(
                    f"{parent.name} has one value per frame and needs an index, such as {parent.name}_t",
                    parent.column - 1,
                )
            if not known[parent.name] and parent.first is not None:
                line.fail(f"{parent.name} belongs to the whole sequence and takes no index", parent.column - 1)
