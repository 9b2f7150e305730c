"""treekv generate --engine openvino: the settings in the real engine, beside the same settings here."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.cli.console import err, print_json, stage
from app.cli.generated import divergence, run, show_divergence, summary

if TYPE_CHECKING:
    from app.engines.openvino_engine import EngineUsage
    from app.generation import Generation
    from treekv import TreeKVConfig

NAME = "OpenVINO GenAI"


def check(config: TreeKVConfig, model: str, *, asks: bool, compares: bool, temperature: float) -> None:
    """Raise a `TreeKVError` for what the engine cannot do, before anything is loaded."""
    from app.engines.gguf_copy import check_model
    from app.engines.openvino_engine import check_block, check_installed
    from treekv import TreeKVError

    if asks:
        raise TreeKVError("--engine openvino continues one prompt; leave out --context, --question and cache files")
    if compares and temperature:
        raise TreeKVError(
            "--compare holds the engine's tokens against the most probable ones, which needs --temperature 0, got "
            f"{temperature:g}"
        )
    check_installed()
    check_block(config)
    check_model(model)


def compared(config: TreeKVConfig, policy: str) -> TreeKVConfig:
    """The settings that run here beside the engine: with policy "openvino" exactly those that the engine runs."""
    from app.export.other_engines import engine_config

    runs = policy == "openvino" and config.policy != "full"
    return engine_config(config) if runs else config.for_policy(policy)


def continue_in_openvino(
    model: str,
    network: Any,
    tokenizer: Any,
    ids: Any,
    config: TreeKVConfig,
    other: TreeKVConfig | None,
    *,
    tokens: int,
    temperature: float,
    as_json: bool,
) -> bool:
    """Generate in the engine, and here with the settings `other`; prints text or JSON, and returns whether it was
    stopped."""
    from app.engines.gguf_copy import engine_file
    from app.engines.openvino_engine import generate

    def show(text: str) -> None:
        if not as_json:
            print(text, end="", flush=True)

    with contextlib.ExitStack() as files:
        with stage("Reading the model as the engine does"):
            file = files.enter_context(engine_file(model))
        result, usage = generate(
            file, tokenizer, ids[0].tolist(), config, tokens, show, temperature, _stop_ids(network, tokenizer)
        )
    if not as_json:
        print()
        err().print(f"[dim]{summary(result, f'{NAME} {usage.version}')}[/]", soft_wrap=True)
        err().print(f"[dim]{_usage(usage)}[/]", soft_wrap=True)
    results = [result]
    if other is not None and not result.stopped:
        results.append(run(network, tokenizer, ids, other, tokens, temperature, quiet=as_json))
        if not as_json:
            show_divergence(tokenizer, results[0], results[1], names=(NAME, other.policy))
        told = _agreement(network, ids, other, result, usage)
        if not as_json:
            err().print(f"[dim]{_in_words(told, other.policy)}[/]", soft_wrap=True)
    if as_json:
        content = result.to_dict() | {"settings": config.to_dict(), "engine": {"name": NAME, **asdict(usage)}}
        if len(results) > 1 and other is not None:
            content["compared"] = results[1].to_dict() | {"settings": other.to_dict()}
            content |= {"equal_tokens": divergence(*results), "agreement": told}
        print_json(content)
    return results[-1].stopped


def _agreement(
    network: Any, ids: Any, config: TreeKVConfig, result: Generation, usage: EngineUsage
) -> dict[str, float]:
    """Of the engine's tokens, as the settings here see them: how many they would choose too, by how much they prefer
    another at most, how far log probabilities differ, and the mean loss in nats that both give them."""
    from app.generation import follow

    found = follow(network, ids, result.token_ids, config)
    apart = [abs(ours - theirs) for ours, theirs in zip(found.log_probs, usage.log_probs, strict=True)]
    return {
        "tokens": len(result.token_ids),
        "same_choice": found.equal,
        "largest_logit_gap": max(found.gaps, default=0.0),
        "largest_log_prob_difference": max(apart, default=0.0),
        "mean_log_prob_difference": _mean(apart),
        "engine_loss": -_mean(usage.log_probs),
        "loss": -_mean(found.log_probs),
    }


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0


def _in_words(told: dict[str, float], policy: str) -> str:
    return (
        f"given the engine's tokens, {policy} would choose {told['same_choice']} of the {told['tokens']} too, and "
        f"prefers others by at most {told['largest_logit_gap']:.3f} in logits; the logarithms of probabilities differ "
        f"by {told['mean_log_prob_difference']:.4f} on average, {told['largest_log_prob_difference']:.4f} at most; "
        f"the loss of these tokens is {told['engine_loss']:.4f} nats a token in the engine, {told['loss']:.4f} here"
    )


def _usage(usage: EngineUsage) -> str:
    """The engine's settings and how many blocks it used."""
    if usage.eviction is None:
        what = "no eviction"
    else:
        shown = ("start_size", "recent_size", "max_cache_size", "aggregation_mode")
        what = ", ".join(f"{name} {usage.eviction[name]}" for name in shown)
    return (
        f"{what}; blocks of {usage.block_size} tokens held by a layer: at most {usage.prompt_blocks} with the prompt, "
        f"{usage.blocks} afterwards"
    )


def _stop_ids(network: Any, tokenizer: Any) -> list[int]:
    """Where generation ends here too."""
    found = network.generation_config.eos_token_id
    found = tokenizer.eos_token_id if found is None else found
    return list(found) if isinstance(found, (list, tuple)) else [] if found is None else [int(found)]
