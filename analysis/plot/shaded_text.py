"""Text as HTML, each token on a background of its own: that of the page for nothing, a stronger colour for more.

Every colour is one for light pages and one for dark ones (CSS `light-dark`); the `color-scheme` of what surrounds the
text decides between them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from plotly.colors import sample_colorscale

from analysis.plot import theme

MOST_TOKENS = 8192  # a longer page is neither readable nor small
_NOTHING = ("#f2f3f5", "#1a202a")  # on a light page, on a dark one
INK, QUIET = (theme.INK, "#e6e9f0"), (theme.QUIET, "#aab2c0")  # on a light page, on a dark one
# The strongest colour on a dark page, by the scale that a light one has.
_STRONGEST = {"Blues": (43, 108, 176), "Oranges": (171, 78, 12)}


def shaded_text(
    tokens: Sequence[str],
    shares: np.ndarray,
    titles: Sequence[str],
    caption: str,
    alt: str,
    legend: Sequence[tuple[float, str]],
    colours: str = "Blues",
) -> str:
    """A `<figure>` element with a legend and inline styles; token text is escaped.

    Args:
        tokens: the text of each token.
        shares: of each token, 0 (nothing) to 1 (the darkest).
        titles: of each token, shown on hover.
        caption: a line above the text.
        alt: the text alternative.
        legend: shares with their words.
        colours: "Blues" or "Oranges", from the colour of the page to a strong one.
    """
    grounds = _grounds(colours)
    spans = [
        f'<span style="background:{ground};color:{ink}" title="{html.escape(title)}">{_escape_token(token)}</span>'
        for token, title, (ground, ink) in zip(
            tokens, titles, (grounds[round(100 * float(share))] for share in shares), strict=True
        )
    ]
    return (
        f'<figure style="margin:0;font-family:system-ui,sans-serif;color:{either(*INK)}" role="group" '
        f'aria-label="{html.escape(alt)}">'
        f'<figcaption style="font-size:14px;color:{either(*QUIET)};margin-bottom:8px">'
        f"{html.escape(caption)} {_legend(grounds, legend)}"
        '</figcaption><div style="font-size:15px;line-height:1.75;white-space:pre-wrap;overflow-wrap:anywhere">'
        f"{''.join(spans)}</div></figure>"
    )


def _grounds(scale: str) -> list[tuple[str, str]]:
    """Background and text colour for 0 to 100 per cent."""
    # One hue from that of the page to a strong one: scales of two hues stand out where there is hardly anything.
    shares = np.linspace(0.1, 1.0, 100)
    grounds = [(either(*_NOTHING), either(*QUIET))]
    page = np.array([int(_NOTHING[1][at : at + 2], 16) for at in (1, 3, 5)])
    for share, colour in zip(shares, sample_colorscale(scale, shares.tolist()), strict=True):
        red, green, blue = (int(part) for part in colour[4:-1].split(","))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 130
        strong = np.rint(page + share * (np.array(_STRONGEST[scale]) - page)).astype(int)
        ground = either(f"#{red:02x}{green:02x}{blue:02x}", "#{:02x}{:02x}{:02x}".format(*strong))
        grounds.append((ground, either("#fff" if dark else theme.INK, "#fff")))
    return grounds


def either(light: str, dark: str) -> str:
    return f"light-dark({light},{dark})"


def _legend(grounds: list[tuple[str, str]], legend: Sequence[tuple[float, str]]) -> str:
    boxes = "".join(
        f'<span style="background:{grounds[round(100 * share)][0]};color:{grounds[round(100 * share)][1]};'
        f'padding:1px 6px">{html.escape(words)}</span>'
        for share, words in legend
    )
    return f'<span style="white-space:nowrap;margin-left:12px">{boxes}</span>'


def _escape_token(token: str) -> str:
    """The token with line breaks marked and control characters as symbols."""
    token = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in token)
    return html.escape(token).replace("\n", "\u23ce<br>")
