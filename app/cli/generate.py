"""treekv generate: continue a prompt with a chosen cache."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import DEFAULT_MODEL
from app.cli.console import check_files, one_sentence, print_json, stage
from app.cli.generated import divergence, run, show_divergence


class Engine(str, Enum):
    """What generates."""

    transformers = "transformers"
    openvino = "openvino"


if TYPE_CHECKING:
    from app.generation import Generation


@one_sentence
def generate(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue.")] = None,
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the prompt from a file; - reads standard input.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Read and compress this text once, then answer each --question from a copy."),
    ] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="A question about the --context or --cache; repeatable.")
    ] = None,
    save_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what was read of the --context in this file, for --cache.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer each --question from a context that --save-cache kept."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file, or settings that come with TreeKV, such as smollm2-128."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="The eviction policy, such as tree, streaming, h2o or full; an unknown name lists all."),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Whose default sizes the policy has: published, or paper for h2o and tova."),
    ] = None,
    cache_size: Annotated[int | None, typer.Option(help="The budget: tokens to keep, per layer and KV head.")] = None,
    sink_size: Annotated[int | None, typer.Option(help="How many first tokens are never evicted.")] = None,
    recent_size: Annotated[int | None, typer.Option(help="How many last tokens are never evicted.")] = None,
    max_height: Annotated[
        int | None, typer.Option(help="How often the far past is thinned at most, for policy tree and tree_left.")
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(help="When the prompt is reduced: once (at its end), stream (block by block) or none (never)."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Where kept tokens are seen: rank (renumbered), original (where they were) or compressed (far "
            "distances by their logarithm)."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, such as prompt_score=future; repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="An alias, a model folder, a .gguf file or a hub id; by default the one named in the --cache.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Generate at most this many tokens.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Give the prompt to the model as a user message.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sample at this temperature; 0 is greedy.")] = 0.0,
    engine: Annotated[
        Engine, typer.Option(help="What generates: transformers with a TreeKV cache, or OpenVINO GenAI.")
    ] = Engine.transformers,
    compare: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Run this policy too, such as full, and show where the texts diverge."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the text and its numbers as JSON.")] = False,
) -> None:
    """Continue a prompt with a compressed cache; tokens are printed as they are generated.

    Options given here override the settings file. Ctrl-C stops and keeps the text so far.

    OpenVINO evicts by its own rule, policy openvino; other settings run as the nearest of it. With --compare openvino
    the same settings also run here.

    Example: [bold]treekv generate --prompt-file novel.txt --settings treekv-runs/demo/settings.json[/]
    """
    check_files(prompt_file, context)
    changes = {
        "policy": policy,
        "variant": variant,
        "cache_size": cache_size,
        "sink_size": sink_size,
        "recent_size": recent_size,
        "max_height": max_height,
        "prefill": prefill,
        "positions": positions,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    changes |= _further(setting or [], changes)
    _check_temperature(temperature)
    if engine is Engine.openvino:
        from app.cli.engine import check

        check(
            _config(settings, **changes),
            model or DEFAULT_MODEL,
            asks=any((context, cache, question, save_cache)),
            compares=compare is not None,
            temperature=temperature,
        )
    if context is not None or cache is not None or question or save_cache is not None:
        from app.cli.kept_context import ask, check_options

        given = {"settings": settings, "set": setting or None, "compare": compare, "save_cache": save_cache, **changes}
        check_options(context, cache, question, given, prompted=prompt is not None or prompt_file is not None)
        finished = ask(
            context,
            cache,
            question or [],
            lambda: _configs(_config(settings, **changes), compare),
            save_cache=save_cache,
            model=model,
            chat=chat,
            tokens=tokens,
            temperature=temperature,
            as_json=as_json,
        )
        raise typer.Exit(0 if finished else 130)
    content, config = _prompt(prompt, prompt_file), _config(settings, **changes)
    other = None if compare is None else _other(config, compare, engine)
    name = model or DEFAULT_MODEL
    with stage(f"Loading {name}"):
        from treekv import load_model

        network, tokenizer = load_model(name)
    config = config.for_model(network.config)
    other = None if other is None else other.for_model(network.config)
    ids = _tokens(tokenizer, content, chat)
    if engine is Engine.openvino:
        from app.cli.engine import continue_in_openvino

        stopped = continue_in_openvino(
            name, network, tokenizer, ids, config, other, tokens=tokens, temperature=temperature, as_json=as_json
        )
        raise typer.Exit(130 if stopped else 0)
    results = [run(network, tokenizer, ids, config, tokens, temperature, quiet=as_json)]
    if other is not None and not results[0].stopped:
        results.append(run(network, tokenizer, ids, other, tokens, temperature, quiet=as_json))
    if as_json:
        print_json(_as_json(results, config, other))
    elif len(results) > 1:
        show_divergence(tokenizer, results[0], results[1], names=(config.policy, str(compare)))
    if results[-1].stopped:
        raise typer.Exit(130)


def _as_json(results: list[Generation], config: Any, other: Any) -> dict[str, Any]:
    content: dict[str, Any] = results[0].to_dict() | {"settings": config.to_dict()}
    if len(results) > 1:
        content["compared"] = results[1].to_dict() | {"settings": other.to_dict()}
        content["equal_tokens"] = divergence(*results)
    return content


def _prompt(prompt: str | None, file: str | None) -> str:
    from app.text.inputs import read_text
    from treekv import TreeKVError

    if (prompt is None) == (file is None):
        raise TreeKVError("give a prompt, either as an argument or with --prompt-file, and not both")
    if file is not None:
        return read_text(file)
    assert prompt is not None
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise TreeKVError("the prompt is not UTF-8 text; pass it in UTF-8, or in a file with --prompt-file") from error
    if not prompt.strip():
        raise TreeKVError("the prompt is empty; give a text to continue")
    return prompt


def _configs(config: Any, compare: str | None) -> dict[str, Any]:
    """The settings that a context is read with, by their policy."""
    from treekv import TreeKVError

    if compare == config.policy:
        raise TreeKVError(f"--compare {compare} is the policy of the settings; name another one, such as full")
    return {config.policy: config} | ({} if compare is None else {compare: config.for_policy(compare)})


def _other(config: Any, compare: str, engine: Engine) -> Any:
    """The settings to compare with."""
    if engine is Engine.openvino:
        from app.cli.engine import compared

        return compared(config, compare)
    return config.for_policy(compare)


def _further(settings: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """The settings given as NAME=VALUE, each of them once."""
    from app.cli.named_values import named_values
    from treekv import TreeKVError

    found = named_values(settings)
    twice = next((name for name in found if name in given), None)
    if twice is not None:
        raise TreeKVError(f"{twice} is given twice, by --{twice.replace('_', '-')} and by --set")
    return found


def _config(file: Path | None, **changes: Any) -> Any:
    from treekv import TreeKVConfig
    from treekv.resize import changed

    return changed(TreeKVConfig() if file is None else TreeKVConfig.load(file), **changes)


def _check_temperature(temperature: float) -> None:
    from app.generation import check_temperature

    check_temperature(temperature)


def _tokens(tokenizer: Any, content: str, chat: bool) -> Any:
    if not chat:
        return tokenizer(content, verbose=False, return_tensors="pt")["input_ids"]
    from app.cli.questions import check_chat

    check_chat(tokenizer)
    message = [{"role": "user", "content": content}]
    rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False, verbose=False, return_tensors="pt")["input_ids"]
