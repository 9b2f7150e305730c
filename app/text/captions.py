"""The caption under each figure: one sentence on how to read it."""

from __future__ import annotations

from typing import Final

SPECTRUM: Final = (
    "Each line is one band, from slow changes along the text (violet) to differences between "
    "neighbours (green); lines that rise to the right, the green ones most, mean that near tokens differ more from "
    "their neighbours than far ones do, so the far context can be kept coarsely."
)
COEFFICIENTS: Final = (
    "Each row is one band and each column a place in the text; bright cells are where neighbouring stretches "
    "of that length contribute differently to the output, and dark ones are where one token can stand for "
    "several."
)
SINKS: Final = (
    "Each bar is one of the first tokens, which soak up attention whatever they say; compare with the dashed line, "
    "what the strongest band reaches elsewhere, to see why they are drawn, and kept in a cache, apart."
)
GROWTH: Final = (
    "Each cell is one head: yellow and brown ones contribute more towards the end in this band, blue less, grey the "
    "same; where rows or columns stand out, layers or heads want budgets of their own."
)
TRENDS: Final = (
    "Each mark is one band with its 95 % interval; a mark whose whisker lies wholly to the right of the grey bar has "
    "grown by more than chance would, a hollow mark is not decided."
)
EVICTION_MAP: Final = (
    "Read downwards as time: each row shows which tokens (columns) are still held after that many have been "
    "read; TreeKV thins the past gradually from right to left, a window would cut it off along a diagonal."
)
DENSITY: Final = (
    "The further to the right, the older: a window drops to nothing at its edge, while a tree's line falls in steps, "
    "so that less and less is kept of what is further back."
)
TEXT: Final = (
    "The text as it stood at that moment: on dark ground are the tokens that most heads still hold, on the palest "
    "those that all have forgotten; move the slider, or let it play, to watch the past thin out."
)
TREE: Final = (
    "Each vertical line is the life of one token, upwards in time; where it ends, a horizontal line leads to the "
    "neighbour that won the comparison and stands for both from then on."
)
MAPS: Final = (
    "One map a setting, all on one scale: read each downwards as time, and compare how the dark ground of what is "
    "forgotten spreads, gradually for a tree, along a sharp edge for a window."
)
AGREEMENT: Final = (
    "Each cell says how many of the tokens that either of two settings holds at the end are held by both: bright "
    "cells are settings that could stand for each other, dark ones forget different things."
)
BIAS: Final = (
    "Left, how far the kept tokens lie from where an ideal tree would have them, short bars for a tree; right, how "
    "unevenly the tenths of the text are kept, 0 when all alike and 0.9 when only one is: a tree's bar ends at its "
    "diamond."
)
MASS: Final = (
    "How much of the attention that the full cache pays still finds its token, layer by layer: higher is better, "
    "and a layer that drops shows where a setting forgets what is looked at."
)
ERROR: Final = (
    "How far the attention output moves away from that of the full cache, layer by layer: lower is better; "
    "differences of a few per cent of these numbers say nothing about real texts."
)
MEMORY: Final = (
    "A full cache grows in a straight line with the context; a bounded one turns flat where it is full, and what lies "
    "between the two at your length is what you save."
)
RECOMMENDATION: Final = (
    "Every setting that was tried, by its simulated error: the filled diamonds were chosen, and a circle that lies "
    "just as far left was not better by enough to be believed."
)
DIFFERENCE: Final = (
    "White where simulation and real run hold the same tokens; blue what only the simulation kept, yellow what only "
    "the real run kept: a pale map means that the simulation can be trusted."
)
QUALITY: Final = (
    "Each line is one policy: the higher its line stays (or the lower, where less is better) towards small "
    "budgets, the less it loses; where bars overlap widely, look at the paired difference in the table."
)
RANKING: Final = (
    "Each dot is one policy, the best on top: bars overlap widely where documents differ much, so for who is better "
    "look at the paired difference in the table."
)
LOSS: Final = (
    "Each line is one cache along the text, measured from the dashed line: how high it lies is what forgetting costs "
    "there, and one that rises to the right degrades with length."
)
NEEDLES: Final = (
    "Each small grid is one cache: a dark cell is a length and depth at which what was hidden there is not found; the "
    "full cache's grid says what the model can do at all."
)
