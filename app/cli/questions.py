"""treekv generate --context and --cache: a text that was read and compressed once, and is asked several questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from app.cli.console import err, out, print_json, stage
from app.text.wording import size, size_beside

if TYPE_CHECKING:
    from app.generation import Generation
    from treekv import TreeKVCache, TreeKVConfig

SEPARATOR = "\n\n"  # between context and question
_PLACE = "<<the context>>"  # stands for a context where only what follows it is wanted


@dataclass(frozen=True)
class Asked:
    """A context that one setting has read.

    Attributes:
        name: the policy.
        config: its settings.
        cache: what it keeps of the context.
        seconds: how long reading took.
        nbytes: of keys and values after reading.
        verb: "read", or "loaded" from a file.
    """

    name: str
    config: TreeKVConfig
    cache: TreeKVCache
    seconds: float
    nbytes: int
    verb: str = "read"


def read_with_each(network: Any, ids: Any, configs: dict[str, TreeKVConfig]) -> list[Asked]:
    """Read a context, ids [1, tokens], once with each of the settings, not knowing the questions."""
    from app.generation import read_context

    read = []
    for name, config in configs.items():
        with stage(f"Reading {ids.shape[1]:,} tokens with {name}"):
            cache, seconds = read_context(network, ids, config)
        read.append(Asked(name, cache.config, cache, seconds, cache.nbytes))
    return read


def answer_questions(
    network: Any,
    tokenizer: Any,
    before: Any,
    questions: list[str],
    tails: list[Any],
    read: list[Asked],
    *,
    tokens: int,
    temperature: float,
    as_json: bool,
) -> bool:
    """Answer questions one by one, each from a copy of what was read of the tokens `before` [1, n]; `tails` are those
    of each question. Prints answers or JSON; False if it was stopped."""
    from app.generation import generate

    if not as_json:
        for one in read:
            err().print(f"[dim]{escape(_summary(one))}[/]", soft_wrap=True)
    answers: list[dict[str, Any]] = []
    stopped = False
    for question, tail in zip(questions, tails, strict=True):
        if not as_json:
            out().print(f"\n[bold]{escape(question)}[/]", soft_wrap=True)
        found: dict[str, Generation] = {}
        for one in read:
            ids = _joined(before, tail)
            found[one.name], _ = generate(
                network, tokenizer, ids, one.config, tokens, temperature=temperature, read=one.cache
            )
            if not as_json:
                lead = f"[dim]{escape(one.name)}:[/] " if len(read) > 1 else ""
                out().print(f"{lead}{escape(found[one.name].text.strip())}", soft_wrap=True)
                err().print(f"[dim]{escape(_pace(found[one.name]))}[/]", soft_wrap=True)
            stopped = found[one.name].stopped
            if stopped:
                break
        answers.append({"question": question, **{name: result.to_dict() for name, result in found.items()}})
        if stopped:
            break
    if as_json:
        contexts = {
            one.name: {"seconds": one.seconds, "bytes": one.nbytes, "settings": one.config.to_dict()} for one in read
        }
        print_json({"context_tokens": before.shape[1], "read": contexts, "answers": answers, "stopped": stopped})
    return not stopped


def context_ids(tokenizer: Any, context: str, chat: bool) -> Any:
    """Token ids [1, n] of what comes before every question: the context or, in a user message, all up to its end."""
    if not chat:
        return tokenizer(context, verbose=False, return_tensors="pt")["input_ids"]
    return _encoded(tokenizer, _message_around(tokenizer, context, "")[0])


def question_ids(tokenizer: Any, questions: list[str], chat: bool) -> list[Any]:
    """Token ids [1, n] of each question with what follows it; they do not depend on the context."""
    if not chat:
        return [_encoded(tokenizer, f"{SEPARATOR}Question: {question}\nAnswer:") for question in questions]
    return [_encoded(tokenizer, _message_around(tokenizer, _PLACE, f"{SEPARATOR}{q}")[1]) for q in questions]


def _message_around(tokenizer: Any, context: str, rest: str) -> tuple[str, str]:
    """A user message, cut at the end of the context that it starts with."""
    from treekv import TreeKVError

    check_chat(tokenizer)
    message = [{"role": "user", "content": f"{context}{rest}"}]
    rendered = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    start = rendered.find(context)
    if start < 0:
        raise TreeKVError(
            "this model's chat template changes the context, so it cannot be read first; leave out --chat"
        )
    return rendered[: start + len(context)], rendered[start + len(context) :]


def check_chat(tokenizer: Any) -> None:
    """Raise a `TreeKVError` for a model that has no chat template."""
    if tokenizer.chat_template is None:
        from treekv import TreeKVError

        raise TreeKVError("this model has no chat template; use it without --chat")


def _encoded(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False, verbose=False, return_tensors="pt")["input_ids"]


def _joined(before: Any, tail: Any) -> Any:
    import torch

    return torch.cat((before, tail), dim=1)


def _summary(read: Asked) -> str:
    return (
        f"{read.name}: {read.verb} in {read.seconds:.1f} s, {size_beside(read.nbytes, read.cache.full_nbytes)}, "
        f"{read.cache.kept_tokens:,} tokens kept"
    )


def _pace(result: Generation) -> str:
    rate = "" if result.tokens_per_second is None else f", {result.tokens_per_second:.1f} tokens/s"
    return f"{len(result.token_ids):,} tokens{rate}, cache {size(result.cache_bytes)}"
