"""Policy "full": nothing is ever evicted."""

from __future__ import annotations

from treekv.policies.base import Policy
from treekv.policies.contest import NOTHING
from treekv.policies.scores import Prompt, Selection
from treekv.policies.settings import Settings


class Full(Policy):
    """The uncompressed cache, as the reference the others are compared with. Acts in no stage."""

    name = "full"
    title = "full cache"
    by = NOTHING
    evicts_prompt = False
    evicts_decoding = False
    budgets_per_layer = False

    def check(self, settings: Settings) -> None:
        """Every size is as good as another: none of them is used."""

    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        raise RuntimeError("policy 'full' is never asked to select from a prompt")
