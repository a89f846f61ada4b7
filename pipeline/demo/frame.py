"""What all reports have around them: one self-contained HTML page, in light and dark, and tiles of figures."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files


def framed(title: str, body: str, footer: str) -> str:
    """Return a whole page; body and footer are HTML."""
    style = (files("pipeline.demo") / "report.css").read_text()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><main>{body}<footer>{footer}</footer></main></body></html>\n"
    )


def tile(figures: Iterable[tuple[str, str]], head: str = "") -> str:
    """Return a card of figures, each (HTML, what it is)."""
    inner = "".join(
        f"<div><b>{figure}</b><div class=meter></div><span>{what}</span></div>" for figure, what in figures
    )
    return f'<div class="card tile">{head}<div class=figures>{inner}</div></div>'
