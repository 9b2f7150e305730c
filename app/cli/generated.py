"""Generated texts on the terminal: while they are made, what they took, and where two of them diverge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli.console import err
from app.text.wording import size_beside

if TYPE_CHECKING:
    from app.generation import Generation


def run(
    network: Any, tokenizer: Any, ids: Any, config: Any, tokens: int, temperature: float, quiet: bool
) -> Generation:
    """Generate and, unless it is to be quiet, print the text and what it took."""
    from app.generation import generate

    def show(text: str) -> None:
        if not quiet:
            print(text, end="", flush=True)

    result, _ = generate(network, tokenizer, ids, config, tokens, show, temperature)
    if not quiet:
        print()
        err().print(f"[dim]{summary(result, config.policy)}[/]", soft_wrap=True)
    return result


def summary(result: Generation, policy: str) -> str:
    """What a generation took, in one line."""
    parts = [f"{policy}: {result.prompt_tokens:,} + {len(result.token_ids):,} tokens"]
    if result.prompt_seconds is not None:
        parts.append(f"prompt {result.prompt_seconds:.1f} s")
    if result.tokens_per_second is not None:
        parts.append(f"{result.tokens_per_second:.1f} new tokens/s")
    in_dtype = f" in {result.dtype}" if result.dtype else ""
    parts.append(f"cache {size_beside(result.cache_bytes, result.full_bytes)}{in_dtype}")
    parts.append(f"{result.kept_tokens:,} tokens kept")
    if result.stopped:
        parts.append("stopped")
    return ", ".join(parts)


def show_divergence(tokenizer: Any, one: Generation, other: Generation, names: tuple[str, str]) -> None:
    """Print where two texts go different ways."""
    place = divergence(one, other)
    if place is None and other.stopped:
        read = len(other.token_ids)
        err().print(f"{names[1]} was stopped after {read} tokens, all equal to those of {names[0]}", soft_wrap=True)
        return
    if place is None:
        err().print(f"{names[0]} and {names[1]} gave the same {len(one.token_ids)} tokens", soft_wrap=True)
        return
    err().print(f"the texts diverge after {place} equal tokens:", soft_wrap=True)
    for name, result in zip(names, (one, other), strict=True):
        before = tokenizer.decode(result.token_ids[max(place - 8, 0) : place])
        after = tokenizer.decode(result.token_ids[place : place + 12])
        err().print(f"  {name}: …{before} | {after}…", soft_wrap=True, markup=False)


def divergence(one: Generation, other: Generation) -> int | None:
    """The first index at which the texts differ; None if they do not. Being stopped is no difference."""
    from app.generation import parting

    first = one.token_ids[: len(other.token_ids)] if other.stopped else one.token_ids
    return parting(first, other.token_ids)
