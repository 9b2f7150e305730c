"""The settings object that travels the whole way: analysis, dashboard, file, generation."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from treekv import files, policies
from treekv.errors import TreeKVError

FORMAT: Final = "treekv-settings"
VERSION: Final = 1

CHOICES: Final = {
    "positions": ("rank", "original"),
    "prefill": ("tree", "stream", "none"),
    "importance": ("attention", "contribution"),
    "pooling": ("average", "max"),
}
SHAPES: Final = ("rising", "falling")
LARGEST_DEFAULT_BLOCK: Final = 64


@dataclass(frozen=True)
class TreeKVConfig:
    """What a cache keeps and how. All sizes are tokens, per layer, per KV head, per batch row.

    Args:
        policy: who is evicted; one of `treekv.policies.names()`.
        cache_size: capacity c; no more are held after a step, except by policy "full", by "snapkv" and "pyramidkv" for
            what comes after the prompt, with prefill "none" for a longer prompt, and in layers that `budgets` gives
            more.
        sink_size: the first tokens, never evicted. Default: 4, but 0 for the published policies without sinks
            ("h2o", "tova", "snapkv", "pyramidkv").
        recent_size: the last tokens, never evicted. Default: half of the cache, sinks included, which is the
            paper's setting (1,024 = 4 sinks + 508 recent + 512 tree); policy "streaming" keeps all but the
            sinks for recent tokens.
        stride: how far the cursor of policy "tree" moves at each eviction, 1 (the paper's prose) or 2.
        positions: "rank" renumbers kept tokens, so that positions stay within the capacity while decoding (in a block
            of b tokens up to b - 1 beyond it); "original" keeps the true positions, for use inside the model's window.
        prefill: what happens to a prompt. "tree": attended in full, then reduced in one go from the scores of
            its observation window (for policy "tree" block by block, as in the paper); "stream": processed in
            blocks of `block_size`, evicting as it goes, with bounded memory; "none": kept whole, each new
            token then evicts one. Only the first call is the prompt: with transformers' chunked prefill use "stream",
            in chunks of two tokens or more, for a call of one token is taken for a decoding step.
        block_size: tokens of a prompt that are treated together. Default: the largest power of two up to 64
            that divides `cache_size` and leaves a tree region of at least two blocks.
        window_size: the last tokens of a prompt, whose attention scores it. Default: `block_size` (the published
            32 for "snapkv" and "pyramidkv"); "h2o" always uses the whole prompt, "tova" its last token.
        trace: record every eviction (see `TreeKVCache.trace`).
        seed: for policies that draw at random.
        scope: how many neighbours compete in policy "tree"; 2 is the paper's.
        importance: what policy "tree" compares: "attention" (the paper's weights) or "contribution" (weight times
            the norm of the token's value).
        budgets: a capacity for each layer instead of the same for all, with the same total: a list with one
            number per compressed layer, or "rising" (linear from half to one and a half of `cache_size`, first to
            last layer) or "falling". `recent_size` is scaled along.
        kernel_size, pooling: how policies "snapkv" and "pyramidkv" smooth scores, an odd number of positions and
            "average" or "max".

    Raises:
        TreeKVError: a value is impossible or does not fit the others.

    Example:
        >>> config = TreeKVConfig(policy="tree", cache_size=1024)
        >>> config.sink_size, config.recent_size, config.region_size, config.block_size
        (4, 508, 512, 64)
        >>> TreeKVConfig(policy="streaming", cache_size=128).recent_size
        124
    """

    policy: str = "tree"
    cache_size: int = 1024
    sink_size: int = None  # type: ignore[assignment]  # resolved in __post_init__, always an int afterwards
    recent_size: int = None  # type: ignore[assignment]  # likewise
    stride: int = 1
    positions: str = "rank"
    prefill: str = "tree"
    block_size: int = None  # type: ignore[assignment]  # likewise
    window_size: int = None  # type: ignore[assignment]  # likewise
    trace: bool = False
    seed: int = 0
    scope: int = 2
    importance: str = "attention"
    budgets: tuple[int, ...] | str | None = None
    kernel_size: int = 5
    pooling: str = "average"

    def __post_init__(self) -> None:
        policy = policies.get(self.policy)  # raises for an unknown name
        self._require_int("cache_size", 1)
        if self.sink_size is None:
            self._resolve("sink_size", policy.default_sink_size())
        self._require_int("sink_size", 0)
        self._require_int("stride", 1, 2)
        self._require_int("seed", 0, 2**63 - 1)
        self._require_int("scope", 2)
        self._require_int("kernel_size", 1)
        if self.kernel_size % 2 == 0:
            raise TreeKVError(f"kernel_size must be odd, so that pooling is centred, got {self.kernel_size}")
        if not isinstance(self.trace, bool):
            raise TreeKVError(f"trace must be true or false, got {self.trace!r}")
        for field, choices in CHOICES.items():
            self._require_choice(field, choices)
        for field, default in (("scope", 2), ("importance", "attention")):
            if getattr(self, field) != default and self.policy != "tree":
                raise TreeKVError(
                    f"{field} is an option of policy 'tree' and must be {default!r} for policy {self.policy!r}, "
                    f"got {getattr(self, field)!r}"
                )
        if self.recent_size is None:
            self._resolve("recent_size", policy.default_recent_size(self.cache_size, self.sink_size))
        self._require_int("recent_size", 0)
        self._check_budgets()
        policy.check(self)
        if self.block_size is None:
            self._resolve("block_size", self._default_block_size())
        self._require_int("block_size", 1)
        if self.block_size > self.cache_size and policy.evicts_prompt:
            raise TreeKVError(f"block_size must be at most cache_size ({self.cache_size}), got {self.block_size}")
        if self.window_size is None:
            self._resolve("window_size", policy.default_window_size(self.block_size))
        self._require_int("window_size", 1)
        if self.prefill == "tree":
            policy.check_blocks(self)

    @property
    def region_size(self) -> int:
        """Ranks between the sinks and the recent tokens when the cache is full: where evictions happen."""
        return self.cache_size - self.sink_size - self.recent_size

    def replace(self, **changes: Any) -> TreeKVConfig:
        """The same settings with some fields changed, validated anew.

        Sizes that have the value they would have by default (`sink_size`, `recent_size`, `block_size`,
        `window_size`) are derived again from the changed fields, so `config.replace(cache_size=64)` and
        `config.replace(policy=...)` mean what they say. Other sizes stay, and may then not fit. With the same
        `cache_size`, `block_size` changes only if it no longer fits: up to a block more is held while it is read, so
        settings are compared fairly only with equal blocks.
        """
        _check_fields(changes)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        policy = policies.get(self.policy)
        if self.sink_size == policy.default_sink_size():
            fields["sink_size"] = None
        if self.recent_size == policy.default_recent_size(self.cache_size, self.sink_size):
            fields["recent_size"] = None
        if self.window_size == policy.default_window_size(self.block_size):
            fields["window_size"] = None
        if self.block_size == self._default_block_size():
            fields["block_size"] = None
        new = TreeKVConfig(**(fields | changes))
        if not changes.keys() & {"cache_size", "block_size"} and new._can_use(self.block_size):
            return TreeKVConfig(**(fields | {"block_size": self.block_size} | changes))
        return new

    def for_policy(self, policy: str) -> TreeKVConfig:
        """The same budget under another policy, for comparison.

        Options that only this policy has go back to their defaults, sizes that were derived are derived anew, and a
        policy that acts on whole prompts gets prefill "tree".
        """
        if policy == self.policy:
            return self
        current, other = policies.get(self.policy), policies.get(policy)
        changes: dict[str, Any] = {"policy": policy, "scope": 2, "importance": "attention"}
        if not isinstance(other, type(current)):
            changes["recent_size"] = None
        if not other.evicts_prompt or other.depends_on_layer:
            changes["budgets"] = None
        if not other.evicts_decoding:
            changes |= {"prefill": "tree", "sink_size": None, "window_size": None}
        return self.replace(**changes)

    def per_layer(self, layers: int) -> list[TreeKVConfig]:
        """The settings of each of a model's `layers` compressed layers: all the same without `budgets`.

        Raises:
            TreeKVError: `budgets` has another length, or a layer's share does not fit the other settings.
        """
        if self.budgets is None:
            return [self] * layers
        sizes = self._layer_sizes(layers)
        configs = []
        for layer, size in enumerate(sizes):
            recent = self._scaled_recent(size)
            try:
                configs.append(dataclasses.replace(self, cache_size=size, recent_size=recent, budgets=None))
            except TreeKVError as error:
                raise TreeKVError(f"budgets give layer {layer} {size} tokens: {error}") from error
        return configs

    def to_dict(self) -> dict[str, Any]:
        """Plain values with the format's name and version, ready for JSON."""
        fields = dataclasses.asdict(self)
        if isinstance(self.budgets, tuple):
            fields["budgets"] = list(self.budgets)
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
            raise TreeKVError(f"{source} has the version {version!r}; it should be {VERSION}")
        if version > VERSION:
            raise TreeKVError(
                f"{source} was written by a newer TreeKV (settings version {version}, this one reads up to "
                f"{VERSION}); update TreeKV to read it"
            )
        fields = {key: value for key, value in settings.items() if key not in ("format", "version")}
        _check_fields(fields, source)
        return cls(**fields)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON; the file appears whole or not at all."""
        with files.whole(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TreeKVConfig:
        """Read what `save` wrote.

        Raises:
            TreeKVError: no such file, not JSON, or anything that `from_dict` refuses.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise TreeKVError(f"cannot read settings from {str(path)!r}: {reason}") from error
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise TreeKVError(
                f"{str(path)!r} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            ) from error
        return cls.from_dict(settings, source=repr(str(path)))

    def _resolve(self, field: str, value: int) -> None:
        object.__setattr__(self, field, value)

    def _require_int(self, field: str, least: int, most: int | None = None) -> None:
        value = getattr(self, field)
        right = f"between {least} and {most}" if most is not None else f"of at least {least}"
        try:
            number = None if isinstance(value, bool) else operator.index(value)  # numpy's whole numbers too
        except TypeError:
            number = None
        if number is None or number < least or (most is not None and number > most):
            raise TreeKVError(f"{field} must be a whole number {right}, got {value!r}")
        self._resolve(field, number)

    def _require_choice(self, field: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if value not in choices:
            listed = ", ".join(repr(choice) for choice in choices)
            raise TreeKVError(f"{field} must be one of {listed}, got {value!r}")

    def _default_block_size(self) -> int:
        """The largest power of two up to 64 that divides the cache and that the policy can use (1 always can)."""
        block = LARGEST_DEFAULT_BLOCK
        while block > 1 and not self._can_use(block):
            block //= 2
        return block

    def _can_use(self, block: int) -> bool:
        """Whether blocks of this size divide the cache, of every layer, and suit the policy."""
        policy = policies.get(self.policy)
        sizes = [self.cache_size]
        if isinstance(self.budgets, tuple):
            sizes = sorted(set(self.budgets))
        elif self.budgets in SHAPES:
            sizes = [self.cache_size, self.cache_size // 2]
        variants = [self] if sizes == [self.cache_size] else [self._resized(size) for size in sizes]
        return all(c.cache_size % block == 0 and policy.fits_blocks(c, block) for c in variants)

    def _resized(self, size: int) -> TreeKVConfig:
        """A copy with another capacity and one-token blocks, to ask a policy about."""
        window = min(self.window_size or 1, max(size - 1, 1))
        recent = self._scaled_recent(size)
        try:
            return dataclasses.replace(
                self, cache_size=size, recent_size=recent, block_size=1, window_size=window, budgets=None
            )
        except TreeKVError as error:
            raise TreeKVError(f"budgets {self.budgets!r} give a layer {size} tokens: {error}") from error

    def _scaled_recent(self, size: int) -> int:
        """The recent tokens of a layer with another capacity."""
        policy = policies.get(self.policy)
        if self.recent_size == policy.default_recent_size(self.cache_size, self.sink_size):
            return policy.default_recent_size(size, self.sink_size)
        return self.recent_size * size // self.cache_size

    def _check_budgets(self) -> None:
        budgets = self.budgets
        if budgets is None:
            return
        policy = policies.get(self.policy)
        if not policy.evicts_prompt or self.policy == "pyramidkv":
            raise TreeKVError(f"budgets cannot be combined with policy {self.policy!r}; leave them out")
        if isinstance(budgets, str):
            if budgets not in SHAPES:
                raise TreeKVError(f"budgets must be a list of numbers, 'rising' or 'falling', got {budgets!r}")
            return
        if not isinstance(budgets, (list, tuple)) or not budgets or not all(type(b) is int for b in budgets):
            raise TreeKVError(f"budgets must be a list of whole numbers, 'rising' or 'falling', got {budgets!r}")
        object.__setattr__(self, "budgets", tuple(budgets))
        if sum(budgets) != self.cache_size * len(budgets):
            raise TreeKVError(
                f"budgets must add up to cache_size times their number ({self.cache_size} x {len(budgets)} = "
                f"{self.cache_size * len(budgets)}), got a sum of {sum(budgets)}"
            )

    def _layer_sizes(self, layers: int) -> list[int]:
        if isinstance(self.budgets, tuple):
            if len(self.budgets) != layers:
                raise TreeKVError(
                    f"budgets must have one number for each of the model's {layers} compressed layers, "
                    f"got {len(self.budgets)}"
                )
            return list(self.budgets)
        # Whole units, so that prompts divide into blocks; rounding the running total keeps the sum exact.
        unit = self.block_size if self.prefill == "tree" else 1
        total = 0.0
        sizes: list[int] = []
        for layer in range(layers):
            share = 0.5 + layer / (layers - 1) if layers > 1 else 1.0
            total += share * self.cache_size / unit
            sizes.append(round(total) * unit - sum(sizes))
        return sorted(sizes, reverse=self.budgets == "falling")


def _check_fields(fields: dict[str, Any], source: str = "settings") -> None:
    known = [field.name for field in dataclasses.fields(TreeKVConfig)]
    for key in fields:
        if key not in known:
            raise TreeKVError(f"unknown key {key!r} in {source}; known keys are {', '.join(known)}")
