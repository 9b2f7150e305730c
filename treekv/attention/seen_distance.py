"""Compressed positions: at which distance a kept token is seen, by how far back it stands in the text.

A distance d of up to w = 128 tokens stays what it is. Beyond it grows with the logarithm, w (1 + 2 ln(d / w)), rounded
to a whole number: 838 at 2,048 tokens, 2,423 at a million. Whole numbers, so that a step looks angles up in the table
that ranks use instead of computing a cosine for each token and channel.
"""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor

#: w, the tokens that are seen where they stand.
NEAR: Final = 128
#: At which a token is seen 2**31 tokens later; no text is longer.
FARTHEST: Final = NEAR + round(2 * NEAR * math.log(2**31 / NEAR))


def compressed(distance: Tensor) -> Tensor:
    """The distances at which tokens are seen, of LongTensor `distance`, true ones of at most 2**31.

    Negative distances, of tokens after the reference, stay. In float64 no distance is near enough to the middle between
    two whole numbers to be rounded to another than by exact arithmetic (tested up to ten million).
    """
    wide = distance.cpu() if distance.device.type == "mps" else distance  # there are no float64 numbers on MPS
    beyond = wide.clamp(min=NEAR).double().div_(NEAR).log_().mul_(2 * NEAR).round_().long()
    return distance.clamp(max=NEAR) + beyond.to(distance.device)
