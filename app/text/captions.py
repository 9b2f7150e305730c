"""The caption under each figure: how to read it."""

from __future__ import annotations

from typing import Final

SPECTRUM: Final = (
    "Each line is one band, from slow changes along the text (violet) to differences between neighbours (green). "
    "Lines that rise to the right, the green ones most, mean that near tokens differ more from their neighbours than "
    "distant ones do, so the distant context can be kept coarsely."
)
COEFFICIENTS: Final = (
    "Each row is one band and each column a position in the text. In bright cells neighbouring stretches of that "
    "length contribute differently to the output; in dark ones a single token can represent several."
)
SINKS: Final = (
    "Each bar is one of the first tokens, which attract attention whatever they say. The dashed line, the maximum of "
    "the strongest band elsewhere, shows why they are drawn separately and never evicted."
)
GROWTH: Final = (
    "Each cell is one head. Yellow and brown heads contribute more in this band towards the end of the text, blue "
    "ones less, grey ones the same. Where rows or columns stand out, layers or heads benefit from budgets of their "
    "own."
)
TRENDS: Final = (
    "Each mark is one band with its 95 % interval; grey is what chance reaches in 95 of 100 tries. A filled mark: "
    "claim (i) holds in this band, since the whole interval of its growth is above 1.1 and it rises along the text, "
    "both by more than chance. A hollow mark is undecided, also where a band is too coarse to be tested."
)
EVICTION_MAP: Final = (
    "Time runs downwards: each row shows which tokens (columns) are still kept after that many tokens. TreeKV thins "
    "out the past gradually from right to left; a window cuts it off along a diagonal."
)
DENSITY: Final = (
    "Tokens get older to the right. A window drops to zero at its edge; the line of a tree falls in steps, so less "
    "and less is kept of the older text."
)
TEXT: Final = (
    "The text at that step. Most heads still keep the tokens on strong blue, and none keeps those without colour. Move "
    "the slider or press Play to watch the past thin out."
)
TEXT_AT_END: Final = (
    "The end of the text once it is read. Most heads still keep the tokens on strong blue, and none keeps those "
    "without colour."
)
TREE: Final = (
    "Each vertical line is the lifetime of one token, with time running upwards. Where it ends, a horizontal line "
    "leads to the neighbour that won the comparison and represents both from then on."
)
HOVER: Final = "Point at a token here, or at a place in a figure, and the others mark it."
CLICK: Final = "Click on a cell to select its layer and head for all figures."
HEAD_MAPS: Final = (
    "One small map for each layer and KV head, with time running downwards: bright is kept, dark is evicted. Heads "
    "whose maps differ from the others keep other parts of the text."
)
FORGOTTEN: Final = (
    "Each cell is one layer and KV head. The brighter, the longer it held one of the tokens of the phrase; the "
    "brightest still do."
)
MAPS: Final = (
    "One map per setting, all on the same scale, with time running downwards. Compare how the dark area of evicted "
    "tokens spreads: gradually for a tree, along a sharp edge for a window."
)
AGREEMENT: Final = (
    "Each cell shows how many of the tokens that either of two settings keeps at the end are kept by both. Settings "
    "with bright cells can replace each other; those with dark cells evict different tokens."
)
BIAS: Final = (
    "Left: how far the kept tokens are from where an ideal tree has them; bars of a tree are short. Right: how "
    "unevenly the tenths of the text are kept, from 0 when all are kept alike to 0.9 when only one is; the bar of a "
    "tree ends at its diamond."
)
MASS: Final = (
    "How much of the full cache's attention goes to tokens that are still kept, layer by layer. Higher is better, and "
    "a drop marks a layer where a setting evicts what attention needs."
)
ERROR: Final = (
    "How far the attention output deviates from that of the full cache, layer by layer. Lower is better; differences "
    "of a few per cent of these numbers say nothing about real texts."
)
BUDGET_CURVE: Final = (
    "Each line is one policy on this text. The lower it stays towards small budgets, the less the policy loses; where "
    "it flattens, more tokens buy little."
)
MEMORY: Final = (
    "A full cache grows in proportion to the context, and a bounded one stops growing once it is full. The distance "
    "between the two at your context length is what you save."
)
TEXT_LOSS: Final = (
    "Each token by how much harder it is to predict than with the full cache: the stronger the colour, the more loss. "
    "Tokens without colour are predicted as well or better. Point at a token for both losses."
)
NEED: Final = (
    "Tokens of each KV head in proportion to what it needs: the finest band of its contributions along the gradient of "
    "the loss, over tokens at least 64 before the query. A tree keeps one of several neighbours, so heads whose "
    "neighbours differ need more. No policy is simulated here."
)
RECOMMENDATION: Final = (
    "Tokens of each KV head. Heads whose far context the loss depends on, at the finest scale, get more; the total is "
    "that of equal budgets."
)
DIFFERENCE: Final = (
    "Only differences are drawn. Blue: more heads keep the token in the simulation; yellow: more do in the real run. "
    "An almost empty map means that the simulation can be trusted."
)
QUALITY: Final = (
    "Each line is one policy. The higher it stays towards small budgets (or the lower, where less is better), the "
    "less the policy loses. Where bars overlap widely, use the paired difference in the table."
)
PAIRED: Final = (
    "Each mark is one cache, minus the baseline on the same documents. A bar that does not reach zero is more than "
    "chance; the table has the values themselves."
)
RANKING: Final = (
    "Each dot is one policy, the best at the top. Bars overlap widely where documents differ much, so compare "
    "policies by the paired difference in the table."
)
LOSS: Final = (
    "Each line is one cache along the text, relative to the dashed line. Its height is the cost of eviction at that "
    "position, and a line that rises to the right degrades with length."
)
LOSS_BY_LENGTH: Final = (
    "Above, the mean loss of all tokens up to each length, the logarithm of their perplexity; below, how far it is "
    "from the baseline's on the same documents. A band that excludes zero is more than chance."
)
NEEDLES: Final = (
    "Each small grid is one cache. A dark cell is a length and depth at which the hidden fact is not found; the grid "
    "of the full cache shows what the model itself can do."
)
WORKED_EXAMPLE: Final = (
    "Boxes are the words in the cache. The two above the bracket are neighbours and are compared by importance, the "
    "mean attention that a word got from itself and the words after it; the crossed-out one goes. In the tree, a "
    "horizontal line leads from a word to the one that won against it; columns with a diamond are still cached."
)
PAPER_FIGURE_1: Final = (
    "Each map is one policy: positions from the first token (left) to the last, one row for each layer, bright where "
    "heads keep a token. H2O and TOVA pile up in regions and leave gaps in the paper; TreeKV is smooth."
)
PAPER_FIGURE_2: Final = (
    "Each line is one frequency band, from neighbour against neighbour (D1) to 16 tokens against 16 (D5). Look at the "
    "middle: between the grey margins all lines rise towards the end in the paper, D1 most. The margins are the first "
    "and the last tokens, which a cache protects anyway."
)
