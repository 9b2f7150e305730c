"""treekv generate: continue a prompt with a chosen cache."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.console import err, one_sentence, print_json, stage
from app.wording import size


@one_sentence
def generate(
    prompt: Annotated[str | None, typer.Argument(help="The text to continue.")] = None,
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Read the prompt from a file; - reads standard input.")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A settings file, such as a run folder's settings.json."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="tree, streaming or full.")] = None,
    cache_size: Annotated[int | None, typer.Option(help="Tokens to hold, per layer and head.")] = None,
    sink_size: Annotated[int | None, typer.Option(help="First tokens, never evicted.")] = None,
    recent_size: Annotated[int | None, typer.Option(help="Last tokens, never evicted.")] = None,
    prefill: Annotated[str | None, typer.Option(help="What happens to the prompt: tree, stream or none.")] = None,
    model: Annotated[str, typer.Option(help="Alias, model folder, .gguf file or hub id.")] = "smollm2",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to generate at most.")] = 64,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt to the model as a user's message.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the text and its figures as JSON.")] = False,
) -> None:
    """Continue a prompt greedily, with the cache that the settings describe.

    Options given here replace those of the settings file.

    Example: [bold]treekv generate --prompt-file novel.txt --settings treekv-runs/demo/settings.json[/]
    """
    content = _prompt(prompt, prompt_file)
    config = _config(
        settings,
        policy=policy,
        cache_size=cache_size,
        sink_size=sink_size,
        recent_size=recent_size,
        prefill=prefill,
    )
    with stage(f"Loading {model}"):
        from treekv import TreeKVCache, load_model

        network, tokenizer = load_model(model)
    ids = _tokens(tokenizer, content, chat)
    cache = TreeKVCache(config, network.config)
    result = _generate(network, tokenizer, ids, cache, tokens, shown=not as_json)
    if as_json:
        print_json(result | {"settings": config.to_dict()})
    else:
        err().print(
            f"[dim]{result['prompt_tokens']:,} + {result['new_tokens']} tokens, "
            f"{result['tokens_per_second']:.1f} new tokens/s, cache {size(result['cache_bytes'])}[/]"
        )


def _prompt(prompt: str | None, file: str | None) -> str:
    from app.reading import read_text
    from treekv import TreeKVError

    if (prompt is None) == (file is None):
        raise TreeKVError("give a prompt, either as an argument or with --prompt-file, and not both")
    if file is not None:
        return read_text(file)
    assert prompt is not None
    if not prompt.strip():
        raise TreeKVError("the prompt is empty; give a text to continue")
    return prompt


def _config(file: Path | None, **changes: Any) -> Any:
    from treekv import TreeKVConfig

    config = TreeKVConfig() if file is None else TreeKVConfig.load(file)
    return config.replace(**{name: value for name, value in changes.items() if value is not None})


def _tokens(tokenizer: Any, content: str, chat: bool) -> Any:
    if not chat:
        return tokenizer(content, verbose=False, return_tensors="pt")["input_ids"]
    if tokenizer.chat_template is None:
        from treekv import TreeKVError

        raise TreeKVError("this model has no chat template; leave --chat out")
    message = [{"role": "user", "content": content}]
    rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False, verbose=False, return_tensors="pt")["input_ids"]


def _generate(network: Any, tokenizer: Any, ids: Any, cache: Any, tokens: int, shown: bool) -> dict[str, Any]:
    import torch
    from transformers import TextStreamer

    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if shown else None
    start = time.perf_counter()
    with torch.inference_mode():
        output = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            do_sample=False,
            max_new_tokens=tokens,
            streamer=streamer,
            pad_token_id=tokenizer.eos_token_id,
        )
    seconds = time.perf_counter() - start
    new = output[0, ids.shape[1] :]
    return {
        "text": tokenizer.decode(new, skip_special_tokens=True),
        "prompt_tokens": ids.shape[1],
        "new_tokens": len(new),
        "tokens_per_second": len(new) / seconds,
        "cache_bytes": cache.nbytes,
    }
