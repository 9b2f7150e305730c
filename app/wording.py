"""Words that the command, the report and the dashboard share."""

from __future__ import annotations

from typing import Final

POLICY_TITLES: Final = {"full": "full cache", "streaming": "StreamingLLM", "tree": "TreeKV"}

SINKS_APART: Final = (
    "The first {count} tokens were taken out before the transform, since an attention sink leaks into the low bands. "
    "Left in, claim 2 can come out differently: docs/wavelets.md shows both."
)

# One sentence under each picture: how to read it.
READ_SPECTRUM: Final = (
    "Each line is one band, from slow changes along the text (dark) to differences between neighbours "
    "(bright); lines that rise to the right, the bright ones most, mean that near tokens differ more from "
    "their neighbours than far ones do, so the far context can be kept coarsely."
)
READ_COEFFICIENTS: Final = (
    "Each row is one band and each column a place in the text; bright cells are where neighbouring stretches "
    "of that length contribute differently to the output, and dark ones are where one token can stand for "
    "several."
)
READ_EVICTION_MAP: Final = (
    "Read downwards as time: each row shows which tokens (columns) are still held after that many have been "
    "read; TreeKV thins the past gradually from right to left, a window would cut it off along a diagonal."
)
READ_DENSITY: Final = (
    "To the left are the newest tokens, to the right the oldest: a window drops to nothing at its edge, while a "
    "tree's line falls in steps, so that less and less, but always something, is kept of what is further back."
)
READ_TEXT: Final = (
    "The text as it stood at that moment: on dark ground are the tokens that most heads still hold, on white ground "
    "those that all have forgotten; move the slider, or let it play, to watch the past thin out."
)
READ_TREE: Final = (
    "Each vertical line is the life of one token, upwards in time; where it ends, a horizontal line leads to the "
    "neighbour that won the comparison and stands for both from then on."
)


def band_width(band: str, level: int) -> str:
    """Over how many tokens a band's half wave runs; the lowest band takes all that is slower."""
    return f"{2**level} and more" if band.startswith("A") else str(2 ** (level - 1))


def number(value: float | None, form: str) -> str:
    """A number in the given format, a dash where there is none."""
    return "-" if value is None or value != value else format(value, form)


def size(number: float) -> str:
    """Bytes for people, in powers of ten: 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
