"""The settings object that travels the whole way: analysis, dashboard, file, generation."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from treekv import budgets, files, options, policies, shipped
from treekv.errors import TreeKVError
from treekv.policies.contest import MOST_HEIGHT, check_contest
from treekv.policies.settings import DERIVED, OPTIONS, Settings

FORMAT: Final = "treekv-settings"
VERSION: Final = 2  # version 1 says prefill "tree" for "once", and has options that its policy ignores

LARGEST_DEFAULT_BLOCK: Final = 64


@dataclass(frozen=True)
class TreeKVConfig(Settings):
    """What a cache keeps and how. All sizes are tokens, per layer, per KV head, per batch row.

    Args:
        policy: the eviction rule, one of `treekv.policy_names()`.
        cache_size: capacity c, the most tokens that are kept after a step. More are kept by policy "full", with prefill
            "none" for a longer prompt, where `budgets` gives more, and, for what follows a prompt, by "snapkv",
            "pyramidkv" and with after_prompt "keep".
        sink_size: the first tokens, never evicted. Default: 4, but 0 for the published policies without sinks
            ("h2o", "tova", "snapkv", "pyramidkv", "keydiff", "rkv", "snapkv_decode") and 32, a block, for "openvino".
        recent_size: the last tokens, never evicted. Default: half of the cache, sinks included, which is the
            paper's setting (1,024 = 4 sinks + 508 recent + 512 tree); policy "streaming" keeps nothing but sinks and
            recent tokens. "quarter" means a quarter of each capacity, at least 16, "eighth" an eighth, 16 to 32; a
            table like that of `budgets` gives each KV head its own. These are kept as `recent_budgets`, and
            `recent_size` is then what a head of `cache_size` tokens gets.
        stride: how far the cursor moves at each eviction, 1 (the paper's prose) or 2; an option of "tree" and
            "tree_left".
        positions: "rank" renumbers kept tokens, so that positions stay within the capacity while decoding (in a block
            of b tokens up to b - 1 beyond it); "original" keeps the true positions, for use inside the model's window;
            "compressed" keeps true distances up to 128 tokens, and beyond lets them grow with the logarithm only.
            Default: "rank" for a model whose positions can be changed exactly, else "original", which a line on stderr
            says; the `config` of a cache says which it uses. "rank" and "compressed" are refused where they are not
            possible. "original" for "openvino", "keydiff" and "expected".
        prefill: what happens to a prompt. "once": attended in full, then reduced once by the scores of its
            observation window (for policy "tree" block by block, as in the paper); "stream": processed in blocks of
            `block_size`, evicting after each, with bounded memory; "none": kept whole, each new token then evicts one.
            Only the first call is the prompt: with transformers' chunked prefill use "stream", in chunks of two tokens
            or more, since a call of one token is a decoding step. "tree", the former name of "once", is accepted.
        block_size: tokens of a prompt that are treated together. Default: the largest power of two up to 64
            that divides `cache_size` and leaves a tree region of at least two blocks.
        window_size: the last tokens of a prompt, whose attention scores it. Default: `block_size` (the published
            32 for "snapkv" and "pyramidkv", and with prompt_score "future"); "h2o" always uses the whole prompt, "tova"
            its last token.
        trace: record every eviction (see `TreeKVCache.trace`).
        seed: of whatever is drawn at random: evictions by policy "random", places by prompt_score "future", and tokens
            where generation samples.
        scope: how many neighbours compete; 2 is the paper's. An option of "tree".
        scope_end: where the cursor turns back if more than two compete. "inside": where fewer than `scope` neighbours
            are left in the tree region; "clipped": at the end of the region, where those that are left compete, at
            least two. An option of "tree".
        importance: what is compared: "attention" (the paper's weights), "contribution" (weight times the norm of
            the token's value), "late" (the weights of queries at least min(32, half of the recent tokens) after the
            token) or "similarity" (how much the token's key differs from those beside it); an option of "tree".
        budgets: a capacity for each layer instead of the same for all, with the same total: a list with one
            number per compressed layer, or "rising" (linear from half to one and a half of `cache_size`, first to
            last layer) or "falling"; or a capacity for each KV head, a table with one row per compressed layer. Heads
            of equal capacity decode together, over all layers, so a few different capacities are faster than many.
            `recent_size` is scaled in proportion.
        max_height: how often the oldest part of the tree region is thinned before it is left alone, at least 1; with
            more text than that has room for, only as often as the text doubles (see docs/method.md). None thins it
            for ever, as the paper does. An option of "tree" and "tree_left", with stride 1.
        kernel_size, pooling: how scores are smoothed, over an odd number of positions by "average" or "max", or by
            "forward", over any number of positions up to a token's own; options of "snapkv", "pyramidkv" and of "tree"
            with prompt_score "future". Default: 5 and "average", 12 for "forward", the default with "future".
        variant: which defaults a method has that is used with several: "published", its own, or for "h2o" and "tova"
            "paper", the sinks and recent tokens that the TreeKV paper compares them with, as "tree" has them; for
            "snapkv" and "pyramidkv" "longbench", see `SNAPKV_PRESETS`. Sizes that are given win.
        after_prompt: "evict" holds the capacity while decoding too; "keep" keeps all tokens that follow a prompt, with
            prefill "once": for short answers to long prompts, or several questions about one.
        recent_budgets: None, "quarter", "eighth" or a table; see `recent_size`.
        prompt_score: how a prompt is reduced by policy "tree" with prefill "once": "window", block by block as in the
            paper, or "future", token by token: a share of the slots by the observation window, the rest by the tree
            over what queries from after the prompt would see (see docs/prompts.md). Options that begin with
            "future", prompt_scope and window_share are used with "future" only.
        prompt_scope: how many neighbours compete there.
        future_window: how far after the prompt those queries are, at most.
        future_reduction: what a token is worth to them: "sum", the weights that every 8th query gives it, or "energy",
            the squares of those of more queries, 4 for each token that the head keeps, where what few queries want
            much counts more than what many want a little.
        interval: how many tokens are evicted at once when the cache is full; `cache_size` is the most that is kept. An
            option of the policies that act so; the default is their papers', at most an eighth of the cache, and the
            engine's 32 for "openvino", which evicts whole blocks of so many tokens.
        aggregation: how policy "openvino" adds up what queries see, "norm_sum" or "sum" (the engine's names).
        window_share: the share of the slots between sinks and recent tokens that goes by the observation window, from 0
            to less than 1.
        share_heads: whether a layer's KV heads share what is kept of a prompt, as in Ada-KV: a fifth of an equal share
            each, the rest to the highest scores of all; their mean is the layer's capacity. An option of "snapkv",
            "pyramidkv", "expected" and, with after_prompt "keep", of "h2o" and "tree" with prompt_score "future".

    Raises:
        TreeKVError: a value is impossible or does not fit the others.

    Example:
        >>> config = TreeKVConfig(policy="tree", cache_size=1024)
        >>> config.sink_size, config.recent_size, config.region_size, config.block_size
        (4, 508, 512, 64)
        >>> TreeKVConfig(policy="streaming", cache_size=128).recent_size
        124
    """

    def __post_init__(self) -> None:
        policy = policies.get(self.policy)  # raises for an unknown name
        if self.prefill == "tree":  # its name in the first version
            self._set("prefill", "once")
        self._require_int("cache_size", 1)
        defaults = policy.defaults(self.variant)  # raises for an unknown variant
        if self.positions is None:
            self._set("positions", policy.default_positions)
        self._derive("sink_size", defaults.sink_size)
        self._require_int("sink_size", 0)
        self._require_int("stride", 1, 2)
        self._require_int("seed", 0, 2**63 - 1)
        self._require_int("scope", 2)
        for option, default in options.defaults_of(self).items():
            if getattr(self, option) is DERIVED:
                self._set(option, default)
        for option, least in (("kernel_size", 1), ("prompt_scope", 2), ("future_window", 1), ("interval", 1)):
            self._require_int(option, least)
        if self.max_height is not None:
            self._require_int("max_height", 1, MOST_HEIGHT)
        if not isinstance(self.trace, bool):
            raise TreeKVError(f"trace must be true or false, got {self.trace!r}")
        options.check_options(self)
        self._set("budgets", budgets.checked_budgets(self.budgets, self.policy, self.cache_size))
        self._take_recent_budgets()
        self._derive("recent_size", lambda: defaults.recent_size(self.cache_size, self.sink_size))
        self._require_int("recent_size", 0)
        policy.check(self)
        options.check_prompt(self)
        if policy.evicts_decoding and policy.has_contest:
            check_contest(policy.contest(self, self.cache_size), self.cache_size, self.policy)
        self._derive("block_size", self._default_block_size)
        self._require_int("block_size", 1)
        if self.block_size > self.cache_size and policy.evicts_prompt:
            raise TreeKVError(f"block_size must be at most cache_size ({self.cache_size}), got {self.block_size}")
        self._derive("window_size", lambda: options.default_window(self))
        self._require_int("window_size", 1)
        if self.prefill == "once":
            policy.check_blocks(self)
        if budgets.is_table(self.budgets):
            for size, recent in budgets.possible_sizes(self):
                self._with_size(size, recent, "a head")

    @property
    def title(self) -> str:
        """The policy's name for readers, with its variant if the sizes are as in that ("H2O, paper's allocation"), and
        whether heads differ."""
        defaults = policies.get(self.policy).defaults(self.variant)
        sizes = defaults.sink_size(), defaults.recent_size(self.cache_size, self.sink_size)
        as_named = (self.sink_size, self.recent_size) == sizes
        title = policies.title(self.policy, self.variant if as_named else policies.PUBLISHED)
        return f"{title}, {'heads share' if self.share_heads else 'budgets by head'}" if self.splits_heads else title

    def replace(self, **changes: Any) -> TreeKVConfig:
        """The same settings with some fields changed, validated anew.

        Sizes that have the value they would have by default (`sink_size`, `recent_size`, `block_size`,
        `window_size`), and options whose default a variant changes, are derived again from the changed fields, so
        `config.replace(cache_size=64)`, `config.replace(policy=...)` and `config.replace(variant=...)` mean what they
        say. Other sizes stay, and may then not fit. With the same `cache_size`, `block_size` changes only if it does
        not fit: up to a block more is held while it is read, so settings are compared fairly only with equal blocks.
        """
        _check_fields(changes)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = policies.get(self.policy).defaults(self.variant)
        usual: dict[str, Any] = {
            "sink_size": defaults.sink_size(),
            "recent_size": defaults.recent_size(self.cache_size, self.sink_size),
            "window_size": options.default_window(self),
            **{name: options.defaults_of(self)[name] for name in options.DERIVED_OPTIONS},
        }
        fields |= {field: DERIVED for field, value in usual.items() if fields[field] == value}
        if self.positions == policies.get(self.policy).default_positions:
            fields["positions"] = None
        if self.recent_budgets is not None or "recent_budgets" in changes:
            fields["recent_size"] = DERIVED
        if "recent_size" in changes:
            fields["recent_budgets"] = None
        if self.block_size == self._default_block_size():
            fields["block_size"] = DERIVED
        new = TreeKVConfig(**(fields | changes))
        if not changes.keys() & {"cache_size", "block_size"} and new._can_use(self.block_size):
            return TreeKVConfig(**(fields | {"block_size": self.block_size} | changes))
        return new

    def for_policy(self, policy: str) -> TreeKVConfig:
        """The same budget under another policy, for comparison.

        Options that the other policy does not use go back to their defaults, sizes that were derived are derived
        again, and a policy that acts on whole prompts gets prefill "once".
        """
        if policy == self.policy:
            return self
        current, other = policies.get(self.policy), policies.get(policy)
        changes: dict[str, Any] = {"policy": policy}
        heeded = other.heeded(self)
        changes |= {option: default for option, default in OPTIONS.items() if option not in heeded}
        if self.variant not in other.variants:
            changes["variant"] = policies.PUBLISHED
        if not isinstance(other, type(current)):
            changes["recent_size"] = DERIVED
        if not budgets.fit(self, other):
            changes["budgets"] = None
        if changes.get("recent_size") is DERIVED or (changes.get("budgets", True) is None and self.recent_budgets):
            changes["recent_size"], changes["recent_budgets"] = DERIVED, None
        if not (other.evicts_prompt and other.evicts_decoding):
            changes["after_prompt"] = "evict"
        if not other.evicts_decoding:
            changes |= {"prefill": "once", "sink_size": DERIVED, "window_size": DERIVED}
        elif changes.get("after_prompt", self.after_prompt) == "evict":
            changes["share_heads"] = False
        return self.replace(**(changes | other.nearest(self)))

    def for_model(self, model_config: Any) -> TreeKVConfig:
        """The same settings with the positions that a cache for a model with this configuration uses, if they were not
        given: "rank" where they can be changed exactly, else "original", which a line on stderr says once.

        Raises:
            TreeKVError: `positions` are given and not possible for this model.
        """
        if self.policy == "full":  # keeps everything where it is
            used = self.positions or "original"
        else:
            from treekv.attention.model_rotary import usable_positions  # here, since it loads transformers

            used = usable_positions(model_config.get_text_config(decoder=True), self.positions)
        return self if self.positions is not None else dataclasses.replace(self, positions=used)

    def per_layer(self, layers: int) -> list[TreeKVConfig]:
        """The settings of each of a model's `layers` compressed layers: all the same without `budgets`.

        Raises:
            TreeKVError: `budgets` has another length or differs by head, or a layer's share does not fit the other
                settings.
        """
        if self.budgets is None:
            return [self] * layers
        if self.differs_by_head:
            raise TreeKVError("budgets differ by KV head, so a layer has no settings of its own; use per_head")
        configs = []
        for layer, size in enumerate(budgets.layer_sizes(self, layers)):
            configs.append(self._with_size(size, budgets.scaled_recent(self, size), f"layer {layer}"))
        return configs

    def per_head(self, layers: int, heads: int) -> list[list[TreeKVConfig]]:
        """The settings of each of the `heads` KV heads of each of a model's `layers` compressed layers.

        Raises:
            TreeKVError: `budgets` is for another number of layers or heads, or a share does not fit the other settings.
        """
        if not self.differs_by_head:
            return [[config] * heads for config in self.per_layer(layers)]
        made: dict[tuple[int, int], TreeKVConfig] = {}
        for row in budgets.head_sizes(self, layers, heads):
            for size, recent in row:
                if (size, recent) not in made:
                    made[size, recent] = self._with_size(size, recent, "a head")
        return [[made[pair] for pair in row] for row in budgets.head_sizes(self, layers, heads)]

    @property
    def differs_by_head(self) -> bool:
        """Whether `budgets` is a table, with a capacity for each KV head."""
        return budgets.is_table(self.budgets)

    @property
    def splits_heads(self) -> bool:
        """Whether heads of a layer may keep different numbers of tokens."""
        return self.share_heads or self.differs_by_head

    @property
    def why_heads_differ(self) -> str:
        """The beginning of a sentence about settings that split heads."""
        return "heads share what they keep" if self.share_heads else "budgets differ by KV head"

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the format's name and version, ready for JSON."""
        fields = dataclasses.asdict(self)
        for name in ("budgets", "recent_budgets"):
            if isinstance(fields[name], tuple):
                fields[name] = [list(row) if isinstance(row, tuple) else row for row in fields[name]]
        return {"format": FORMAT, "version": VERSION, **fields}

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str = "settings") -> TreeKVConfig:
        """The inverse of `to_dict`; `source` names the origin in error messages.

        Raises:
            TreeKVError: a foreign or newer format, an unknown key, or an impossible value.
        """
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise TreeKVError(f'{source} is not a TreeKV settings file: it has no "format": "{FORMAT}"')
        version = settings.get("version")
        if not isinstance(version, int) or version < 1:
            raise TreeKVError(f"{source} has the version {budgets.shortened(version)}; it should be {VERSION}")
        if version > VERSION:
            raise TreeKVError(
                f"{source} was written by a newer TreeKV (settings version {version}, this one reads up to "
                f"{VERSION}); update TreeKV to read it"
            )
        fields = {key: value for key, value in settings.items() if key not in ("format", "version", "provenance")}
        _check_fields(fields, source)
        if version == 1:
            # Options that its policy ignored were kept in the file and had no effect.
            used = policies.get(fields.get("policy", cls.policy)).heeded(Settings())
            fields = {key: value for key, value in fields.items() if key not in OPTIONS or key in used}
        return cls(**fields)

    def save(self, path: str | os.PathLike[str], provenance: Mapping[str, Any] | None = None) -> None:
        """Write JSON; the file appears whole or not at all. `provenance`, how the settings were found, is kept in the
        file for readers, under that key, and ignored by `load`."""
        content = self.to_dict() | ({} if provenance is None else {"provenance": dict(provenance)})
        with files.atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TreeKVConfig:
        """Read what `save` wrote, or shipped settings by their name, such as "smollm2-128".

        Raises:
            TreeKVError: no such file or shipped settings, not JSON, or anything that `from_dict` refuses.
        """
        return cls.from_dict(files.read_json(shipped.find(path), "settings"), source=repr(str(path)))

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _derive(self, field: str, default: Callable[[], int]) -> None:
        value = getattr(self, field)
        if value is DERIVED or value is None:
            self._set(field, default())

    def _take_recent_budgets(self) -> None:
        """Keep a `recent_size` for several capacities as `recent_budgets`, and derive the number for `cache_size`."""
        given = self.recent_size
        if isinstance(given, (str, list, tuple)):
            self._set("recent_budgets", given)
            self._set("recent_size", DERIVED)
        recents = self.recent_budgets
        if recents is None:
            return
        kept, nominal = budgets.checked_recents(recents, self)
        self._set("recent_budgets", kept)
        if not (self.recent_size is DERIVED or self.recent_size is None) and self.recent_size != nominal:
            raise TreeKVError(f"recent_size {self.recent_size!r} contradicts recent_budgets, which make it {nominal}")
        self._set("recent_size", nominal)

    def _require_int(self, field: str, least: int, most: int = budgets.MOST_TOKENS) -> None:
        self._set(field, budgets.checked_int(field, getattr(self, field), least, most))

    def _default_block_size(self) -> int:
        """The largest power of two up to 64 that divides the cache and that the policy can use (1 always can)."""
        block = LARGEST_DEFAULT_BLOCK
        while block > 1 and not self._can_use(block):
            block //= 2
        return block

    def _can_use(self, block: int) -> bool:
        """Whether blocks of this size divide the cache, of every layer and head, and suit the policy."""
        policy = policies.get(self.policy)
        variants: list[Settings] = [self]
        if self.budgets is not None:
            variants = [self._resized(*pair) for pair in budgets.possible_sizes(self)]
        return all(c.cache_size % block == 0 and policy.fits_blocks(c, block) for c in variants)

    def _resized(self, size: int, recent: int) -> TreeKVConfig:
        """A copy with another capacity and one-token blocks, to ask a policy about."""
        window = self.window_size if isinstance(self.window_size, int) else 1
        whose = "a head" if self.differs_by_head else "a layer"
        return self._with_size(size, recent, whose, block_size=1, window_size=min(window or 1, max(size - 1, 1)))

    def _with_size(self, size: int, recent: int, whose: str, **changes: Any) -> TreeKVConfig:
        """A copy with the capacity of a layer or head."""
        sizes = {"cache_size": size, "recent_size": recent, "budgets": None, "recent_budgets": None}
        sizes |= {"interval": DERIVED} if self.interval == options.defaults_of(self)["interval"] else {}
        try:
            return dataclasses.replace(self, **(sizes | changes))
        except TreeKVError as error:
            given = budgets.shortened(self.budgets)
            raise TreeKVError(f"budgets {given} give {whose} {size} tokens: {error}") from error


def _check_fields(fields: dict[str, Any], source: str = "settings") -> None:
    known = [field.name for field in dataclasses.fields(TreeKVConfig)]
    for key in fields:
        if key not in known:
            raise TreeKVError(f"unknown key {key!r} in {source}; known keys are {', '.join(known)}")
