"""Lines for a terminal: names beside texts, columns, bars. Click drops the colours where nobody would see them."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

import click

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_BAR_WIDTH = 28


def safe(text: str) -> str:
    """A text from a file or a model, without characters that would steer the terminal."""
    return "".join(each if each.isprintable() else "�" for each in text)


def dim(text: str) -> str:
    """What matters less."""
    return click.style(text, dim=True)


def facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print names in bold, each beside its text, wrapped to the terminal."""
    width = max((_width(name) for name, _ in rows), default=0) + 2
    columns = max(60, shutil.get_terminal_size().columns) - width
    for name, text in rows:
        lines = _wrapped(text, columns)
        click.echo(_padded(click.style(name, bold=True), width) + lines[0])
        for line in lines[1:]:
            click.echo(" " * width + line)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print columns side by side, as wide as they need."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())


def bar(share: float) -> str:
    """A bar for -1..1, in eighths of a character; red where it is negative."""
    eighths = round(min(1.0, abs(share)) * _BAR_WIDTH * 8)
    blocks = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return click.style(blocks, fg="red" if share < 0 else "cyan")


def _wrapped(text: str, columns: int) -> list[str]:
    if _width(text) <= columns:
        return [text]
    # A colour must not be cut in two, and does not count: texts that are too long go without.
    return textwrap.wrap(_ESCAPES.sub("", text), columns) or [""]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    return len(_ESCAPES.sub("", text))
