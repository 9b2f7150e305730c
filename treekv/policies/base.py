"""The base class of all policies."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from treekv.errors import TreeKVError
from treekv.policies.contest import AVERAGE, DRAW, LAST, NOTHING, Contest, run_contest
from treekv.policies.scores import Evictions, Prompt, Scores, Selection
from treekv.policies.settings import OPTIONS, Settings
from treekv.policies.variants import PUBLISHED, Defaults, Variant, half_of_the_cache


class Policy(ABC):
    """Which tokens a cache evicts; stateless, so one object serves every cache.

    A policy that evicts while decoding defines `contest`, which is run compiled in simulations, or overrides `evict`,
    which may do anything. A policy that reduces prompts defines `select_prompt`.

    Attributes:
        name: the value of `TreeKVConfig.policy`.
        title: its name for readers; by default `name`.
        options: the settings among `treekv.policies.OPTIONS` that it uses; others must keep their defaults.
        variants: other defaults by the name that `TreeKVConfig.variant` gives them, beside "published", its own; a
            policy that has any lists "variant" in its options.
        by: what tokens are compared by: NOTHING, AVERAGE, SUM, LAST or DRAW.
        default_positions: what `TreeKVConfig.positions` is by default; None leaves it to the model.
        evicts_prompt: whether a prompt is reduced.
        evicts_decoding: whether the capacity also holds while decoding; if not, new tokens are all kept.
        budgets_per_layer: whether `TreeKVConfig.budgets` may give each layer a capacity,
        budgets_per_head: and each KV head.
        observes_whole_prompt: whether all queries of a prompt score it, or those of the observation window.
        depends_on_layer: whether layers are treated differently.
        takes_layers_together: whether rows of several layers may be given at once all the same.
        reads_contents: whether it looks at keys and values, and at `last_queries`.
    """

    name: str
    title: str = ""
    options: tuple[str, ...] = ()
    variants: ClassVar[Mapping[str, Variant]] = {}
    by: int = AVERAGE
    default_positions: str | None = None
    evicts_prompt: bool = True
    evicts_decoding: bool = True
    budgets_per_layer: bool = True
    budgets_per_head: bool = True
    observes_whole_prompt: bool = False
    depends_on_layer: bool = False
    takes_layers_together: bool = False
    reads_contents: bool = False

    @property
    def uses_attention(self) -> bool:
        """Whether scores are needed; without them attention weights are not collected."""
        return self.by not in (NOTHING, DRAW)

    @property
    def accumulates(self) -> bool:
        """Whether scores are sums over queries, or only what the last query saw."""
        return self.by != LAST

    @property
    def has_contest(self) -> bool:
        """Whether `contest` says everything about evictions while decoding: `evict` is not overridden."""
        return type(self).evict is Policy.evict

    @property
    def defines_contest(self) -> bool:
        """Whether there is a `contest`."""
        return type(self).contest is not Policy.contest

    @property
    def changes_weights(self) -> bool:
        """Whether `observe` is overridden."""
        return type(self).observe is not Policy.observe

    def acting(self, settings: Settings) -> Policy:
        """The policy that runs under these settings: this one, unless an option makes it another."""
        return self

    def heeded(self, settings: Settings) -> tuple[str, ...]:
        """Those of `options` that make a difference beside the other settings; the rest must keep their defaults."""
        return self.options

    def evicts_after(self, settings: Settings) -> bool:
        """Whether the capacity also holds while decoding, under these settings."""
        return self.evicts_decoding and settings.after_prompt == "evict"

    def future_by(self, settings: Settings) -> str | None:
        """How it is estimated what queries from the places after a prompt see of it, MOVED or EXPECTED, if a prompt is
        scored by that."""
        return None

    def scores_future(self, settings: Settings) -> bool:
        """Whether a prompt that is reduced is also scored by queries from the places that follow it."""
        return self.future_by(settings) is not None

    def capacity(self, settings: Settings) -> int:
        """The most tokens that are held while decoding: `cache_size`, or fewer."""
        return settings.cache_size

    def cursor_wrap(self, settings: Settings, capacity: int) -> int | None:
        """Where the cursor of a layer that keeps `capacity` tokens starts again; None if no rule moves it."""
        return self.contest(settings, capacity).wrap if self.defines_contest else None

    def eviction_count(self, settings: Settings, excess: int) -> int:
        """How many tokens are evicted when `excess` more than the capacity are held."""
        return excess + settings.interval - 1

    def observe(self, weights: Tensor) -> Tensor:
        """What adds to the scores of tokens: the weights themselves, unless this is overridden.

        Args:
            weights: float32 [batch, kv_heads, ..., n] of n tokens, oldest first: of one query, or summed over the
                observation window of a prompt.
        """
        return weights

    def decay(self, settings: Settings) -> float:
        """The factor by which a sum of weights shrinks with each query."""
        return 1.0

    def counts_by_query(self, settings: Settings) -> bool:
        """Whether what each query of a block saw is needed, not only their sum."""
        return bool(settings.delay) or self.changes_weights or self.decay(settings) < 1

    def nearest(self, settings: Settings) -> dict[str, Any]:
        """What has to change in another policy's settings, whose derived sizes are kept, so that they fit this one."""
        return {}

    def last_queries(self, settings: Settings) -> int:
        """How many of the last queries a policy that `reads_contents` looks at; they are cached too."""
        return 0

    def default_interval(self, cache_size: int) -> int:
        """How many tokens are evicted at once when the cache is full, for a policy with the option "interval"."""
        return OPTIONS["interval"]

    def default_sink_size(self) -> int:
        """The paper's 4."""
        return 4

    def default_recent_size(self, cache_size: int, sink_size: int) -> int:
        """Half of the cache, sinks included (the paper: 1,024 = 4 + 508 + 512)."""
        return half_of_the_cache(cache_size, sink_size)

    def default_window_size(self, block_size: int) -> int:
        """The paper's: one block."""
        return block_size

    def defaults(self, variant: str = PUBLISHED) -> Defaults:
        """What sizes and options are by default in a variant.

        Raises:
            TreeKVError: the policy has no such variant.
        """
        own = Defaults(self.default_sink_size, self.default_recent_size, self.default_window_size)
        if variant == PUBLISHED:
            return own
        if not isinstance(variant, str) or variant not in self.variants:
            known = " or ".join(map(repr, (PUBLISHED, *self.variants)))
            raise TreeKVError(f"variant must be {known} for policy {self.name!r}, got {variant!r}")
        return dataclasses.replace(own, **self.variants[variant].changes)

    def scoring_queries(self, settings: Settings, length: int) -> int:
        """How many queries at the end of a prompt of `length` tokens score it."""
        if not self.accumulates:
            return 1
        return length if self.observes_whole_prompt else min(settings.window_size, length)

    def check(self, settings: Settings) -> None:
        """Raise a `TreeKVError` if the sizes do not fit this policy."""
        if settings.region_size < 1:
            raise TreeKVError(
                f"cache_size {settings.cache_size} minus sink_size {settings.sink_size} minus recent_size "
                f"{settings.recent_size} leaves {settings.region_size} tokens for policy {self.name!r} to choose; at "
                "least 1 is needed, so raise cache_size or lower sink_size or recent_size"
            )

    def fits_blocks(self, settings: Settings, block_size: int) -> bool:
        """Whether `block_size` is sensible as a default for these settings."""
        return True

    def check_blocks(self, settings: Settings) -> None:  # noqa: B027  most policies do not use blocks
        """Raise a `TreeKVError` if `settings.block_size` cannot be used with prefill "once"."""

    def contest(self, settings: Settings, capacity: int) -> Contest:
        """The rule of evictions while decoding, for a layer that keeps `capacity` tokens."""
        raise NotImplementedError(f"policy {self.name!r} defines no contest")

    def evict(self, settings: Settings, scores: Scores, count: int) -> Evictions:
        """Choose between 1 and `count` of the next evictions; the caller asks again for the rest.

        Runs `contest`. Override it for a rule that is no contest; simulations then run this very code.

        Args:
            settings: the layer's settings.
            scores: what is cached now, by rank; all tensors are [batch, kv_heads, ...].
            count: how many evictions are left to make.
        """
        return run_contest(self.contest(settings, scores.capacity), scores, count)

    def competing(self, settings: Settings, prompt: Prompt) -> Tensor | None:
        """By what the tokens of a prompt that are not protected are kept, for a policy with the option "share_heads":
        float32 [batch, kv_heads, n], attention, so that heads can be compared."""
        return None

    def prompt_slots(self, settings: Settings, prompt: Prompt) -> int:
        """How many tokens of a prompt are kept beside the protected ones."""
        return settings.region_size if prompt.slots is None else prompt.slots

    @abstractmethod
    def select_prompt(self, settings: Settings, prompt: Prompt) -> Selection:
        """Which tokens of a prompt longer than the cache are kept, for prefill "once"; for a policy with the option
        "share_heads" `prompt_slots` of them beside the protected ones.

        Args:
            settings: the layer's settings.
            prompt: its length T and, for a policy that uses attention, scores [batch, kv_heads, T].
        """
