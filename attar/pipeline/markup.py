"""What the report's page is made of: rows, tables and lists in HTML, and figures as people read them."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from attar.pipeline.style import CSS

if TYPE_CHECKING:
    from attar.pipeline.report import Interval


def safe(text: object) -> str:
    """The text with nothing left in it that HTML would take for markup."""
    return escape(str(text), quote=True)


def page(title: str, body: str) -> str:
    """A whole page that makes no request."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def heading(texts: Iterable[str], numbers: Iterable[str]) -> str:
    """The row above a table: names of columns of texts, then of columns of numbers."""
    names = [f'<th class="text">{text}</th>' for text in texts] + [f"<th>{text}</th>" for text in numbers]
    return "<tr>" + "".join(names) + "</tr>"


def cells(first: Sequence[str], figures: Sequence[str], kind: str = "") -> str:
    """A row of a table: its first cells as they are, then figures; `kind` is its class."""
    opening = f'<tr class="{kind}">' if kind else "<tr>"
    return opening + "".join(first) + "".join(f"<td>{safe(figure)}</td>" for figure in figures) + "</tr>"


def table(head: str, rows: Sequence[str]) -> str:
    """A table that scrolls by itself where the page is too narrow for it."""
    body = "\n".join(rows)
    whole = f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    # A region that scrolls must be reachable by keyboard.
    return f'<div class="scroll" tabindex="0">\n{whole}\n</div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and their values."""
    rows = (f"<dt>{safe(name)}</dt><dd>{safe(value)}</dd>" for name, value in pairs)
    return "<dl>\n" + "\n".join(rows) + "\n</dl>"


def decimal(value: float | None, decimals: int) -> str:
    """The number with this many decimals; a dash where there is none."""
    return "–" if value is None else f"{value:,.{decimals}f}"


def megabytes(size: float) -> str:
    """A size in MB."""
    return f"{size:,.1f} MB"


def millions(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:,.1f} M"


def interval(value: "Interval") -> str:
    """The bounds of an interval."""
    return f"{value['low']:.2f}–{value['high']:.2f}"


def duration(seconds: float) -> str:
    """A time in the unit in which it is easily read."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
