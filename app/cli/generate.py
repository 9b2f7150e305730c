"""treekv generate: continue a prompt with a chosen cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import DEFAULT_MODEL
from app.cli.console import err, one_sentence, print_json, stage
from app.text.wording import size_beside

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
    question: Annotated[list[str] | None, typer.Option(help="A question about the --context; repeatable.")] = None,
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
    model: Annotated[str, typer.Option(help="An alias, a model folder, a .gguf file or a hub id.")] = DEFAULT_MODEL,
    tokens: Annotated[int, typer.Option(min=1, help="Generate at most this many tokens.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Give the prompt to the model as a user message.")] = False,
    temperature: Annotated[float, typer.Option(min=0.0, help="Sample at this temperature; 0 is greedy.")] = 0.0,
    compare: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Run this policy too, such as full, and show where the texts diverge."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the text and its numbers as JSON.")] = False,
) -> None:
    """Continue a prompt with a compressed cache; tokens are printed as they are generated.

    Options given here override the settings file. Ctrl-C stops and keeps the text so far.

    Example: [bold]treekv generate --prompt-file novel.txt --settings treekv-runs/demo/settings.json[/]
    """
    if context is None and question:
        from treekv import TreeKVError

        raise TreeKVError("--question needs the text that it is about; give it with --context")
    content = _prompt(prompt, prompt_file) if context is None else _context(context, question, prompt, prompt_file)
    config = _config(
        settings,
        policy=policy,
        variant=variant,
        cache_size=cache_size,
        sink_size=sink_size,
        recent_size=recent_size,
        max_height=max_height,
        prefill=prefill,
        positions=positions,
    )
    other = None if compare is None else config.for_policy(compare)
    if context is not None and compare == config.policy:
        from treekv import TreeKVError

        raise TreeKVError(f"--compare {compare} is the policy of the settings; name another one, such as full")
    _check_temperature(temperature)
    with stage(f"Loading {model}"):
        from treekv import load_model

        network, tokenizer = load_model(model)
    if context is not None:
        from app.cli.questions import answer_questions

        configs = {config.policy: config} | ({} if other is None else {str(compare): other})
        finished = answer_questions(
            network,
            tokenizer,
            content,
            question or [],
            configs,
            tokens=tokens,
            temperature=temperature,
            chat=chat,
            as_json=as_json,
        )
        raise typer.Exit(0 if finished else 130)
    ids = _tokens(tokenizer, content, chat)
    results = [_run(network, tokenizer, ids, config, tokens, temperature, quiet=as_json)]
    if other is not None and not results[0].stopped:
        results.append(_run(network, tokenizer, ids, other, tokens, temperature, quiet=as_json))
    if as_json:
        print_json(_as_json(results, config, other))
    elif len(results) > 1:
        _show_divergence(tokenizer, results[0], results[1], names=(config.policy, str(compare)))
    if results[-1].stopped:
        raise typer.Exit(130)


def _run(
    network: Any, tokenizer: Any, ids: Any, config: Any, tokens: int, temperature: float, quiet: bool
) -> Generation:
    from app.generation import generate as run

    def show(text: str) -> None:
        if not quiet:
            print(text, end="", flush=True)

    result, _ = run(network, tokenizer, ids, config, tokens, show, temperature)
    if not quiet:
        print()
        err().print(f"[dim]{_summary(result, config.policy)}[/]", soft_wrap=True)
    return result


def _summary(result: Generation, policy: str) -> str:
    parts = [f"{policy}: {result.prompt_tokens:,} + {len(result.token_ids):,} tokens"]
    if result.prompt_seconds is not None:
        parts.append(f"prompt {result.prompt_seconds:.1f} s")
    if result.tokens_per_second is not None:
        parts.append(f"{result.tokens_per_second:.1f} new tokens/s")
    parts.append(f"cache {size_beside(result.cache_bytes, result.full_bytes)}")
    parts.append(f"{result.kept_tokens:,} tokens kept")
    if result.stopped:
        parts.append("stopped")
    return ", ".join(parts)


def _show_divergence(tokenizer: Any, one: Generation, other: Generation, names: tuple[str, str]) -> None:
    place = _divergence(one, other)
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


def _divergence(one: Generation, other: Generation) -> int | None:
    """The first index at which the texts differ; None if they do not. Being stopped is no difference."""
    from app.generation import parting

    first = one.token_ids[: len(other.token_ids)] if other.stopped else one.token_ids
    return parting(first, other.token_ids)


def _as_json(results: list[Generation], config: Any, other: Any) -> dict[str, Any]:
    content: dict[str, Any] = results[0].to_dict() | {"settings": config.to_dict()}
    if len(results) > 1:
        content["compared"] = results[1].to_dict() | {"settings": other.to_dict()}
        content["equal_tokens"] = _divergence(*results)
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


def _context(file: str, questions: list[str] | None, prompt: str | None, prompt_file: str | None) -> str:
    from app.text.inputs import read_text
    from treekv import TreeKVError

    if prompt is not None or prompt_file is not None:
        raise TreeKVError("give either a prompt to continue or a --context with questions, and not both")
    if not questions or not all(question.strip() for question in questions):
        raise TreeKVError("a --context needs a question about it; give one or more with --question")
    return read_text(file)


def _config(file: Path | None, **changes: Any) -> Any:
    from treekv import TreeKVConfig

    config = TreeKVConfig() if file is None else TreeKVConfig.load(file)
    return config.replace(**{name: value for name, value in changes.items() if value is not None})


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
