"""The job behind the page Generate: one generation with the active configuration, and one with the full cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
import xarray as xr

import analysis
from app.dashboard.session import jobs, loaded_model
from app.generation import Generation, Pace, generate, parting
from treekv import TreeKVConfig, TreeKVError
from treekv.attention.model_use import model_use

OURS: Final = "active configuration"
FULL: Final = "full cache"
SHOWN_AFTER: Final = 24  # tokens shown from the first difference of two texts on
# The prompt to start with is this many times as long as the cache, so that tokens have to be evicted, but no longer
# than a reader wants to wait for.
PROMPT_PER_CACHE, MOST_PROMPT_TOKENS = 3, 768
MOST_PROMPT: Final = 200_000  # characters


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: str
    prompt: str
    config: TreeKVConfig
    tokens: int
    temperature: float
    beside: bool  # generate with the full cache too
    simulate: bool  # simulate the same text, to compare with the real run


@dataclass
class Outcome:
    """What a generation gave, without the caches themselves.

    Attributes:
        results: the generations by the names `OURS` and `FULL`, if they reached a first token.
        equal: how many tokens the two texts have in common before they differ; None if they are equal or there is
            only one.
        continuations: the next tokens of each from there on, as text.
        real, simulated: retention records of the run with the active configuration, and of its simulation.
        positions: those of the tokens in the cache with the active configuration, and why they are not "rank" if that
            was not chosen; empty for the full cache.
        note: one sentence on why something is missing.
    """

    request: Request
    results: dict[str, Generation] = field(default_factory=dict)
    equal: int | None = None
    continuations: dict[str, str] = field(default_factory=dict)
    real: xr.Dataset | None = None
    simulated: xr.Dataset | None = None
    positions: str = ""
    note: str = ""


def first_prompt_tokens(config: TreeKVConfig) -> int:
    """How long the prompt is that the pages suggest: longer than the cache, where that is not too long to wait for."""
    return max(min(PROMPT_PER_CACHE * config.cache_size, MOST_PROMPT_TOKENS), config.cache_size * 9 // 8)


def evicted_nothing(result: Generation) -> bool:
    """Whether the cache still has every token it was given; the last generated one was never processed."""
    return result.kept_tokens >= result.prompt_tokens + len(result.token_ids) - 1


def work(job: jobs.Job[Outcome], request: Request) -> Outcome:
    """Generate. `job.events` gets (name, piece of text) and, after each token, (name, Pace).

    A job that is stopped returns what it has so far.

    Raises:
        TreeKVError: a model that cannot be loaded, or an empty prompt.
    """
    if not request.prompt.strip():
        raise TreeKVError("the prompt is empty; give a text to continue")
    job.report(0, 0, "loading the model")
    model, tokenizer = loaded_model.get(request.model)
    ids = tokenizer(request.prompt, verbose=False, return_tensors="pt")["input_ids"].to(model.device)
    outcome = Outcome(request)
    runs = {OURS: request.config.replace(trace=True)}
    if request.beside:
        runs[FULL] = request.config.for_policy("full").replace(trace=False)
    for number, (name, config) in enumerate(runs.items()):
        if number and job.stopped():
            break
        _one(job, outcome, name, config, number, len(runs), (model, tokenizer, ids))
    if len(outcome.results) == 2:
        _compare(outcome, tokenizer)
    return outcome


def _one(
    job: jobs.Job[Outcome],
    outcome: Outcome,
    name: str,
    config: TreeKVConfig,
    number: int,
    generations: int,
    loaded: tuple[Any, Any, torch.Tensor],
) -> None:
    model, tokenizer, ids = loaded
    request = outcome.request
    total, before = generations * request.tokens, number * request.tokens
    job.report(before, total, f"{name}, reading {ids.shape[1]:,} tokens")

    def report(pace: Pace) -> None:
        job.events.append((name, pace))
        job.report(min(before + pace.tokens, total), total, name)

    def check() -> None:
        if job.stopped():
            raise KeyboardInterrupt  # `generate` then returns what it has so far

    result, cache = generate(
        model,
        tokenizer,
        ids,
        config,
        request.tokens,
        lambda text: job.events.append((name, text)),
        request.temperature,
        on_token=report,
        check=check,
    )
    if result.stopped and not result.token_ids:
        outcome.note = f"Stopped while reading the prompt ({name})."
        return
    outcome.results[name] = result
    if name == OURS and config.policy != "full":
        outcome.positions = _positions(config, str(cache.config.positions), model)
    if config.trace and result.token_ids:
        every = [*ids[0].tolist(), *result.token_ids]
        _record(job, outcome, config, cache, (model, tokenizer), every)


def _positions(asked: TreeKVConfig, used: str, model: Any) -> str:
    reason = model_use(model.config).reason if asked.positions is None else None
    return f"{used}, since {reason}" if reason else used


def _record(
    job: jobs.Job[Outcome], outcome: Outcome, config: TreeKVConfig, cache: Any, loaded: tuple[Any, Any], ids: list[int]
) -> None:
    """The retention record of the run, and the simulation of the same tokens."""
    model, tokenizer = loaded
    try:
        texts = [tokenizer.decode([i]) for i in ids]
        outcome.real = analysis.retention_from_cache(
            cache, name=f"{config.policy} (real run)", tokens=texts, model=model
        )
    except TreeKVError as error:
        outcome.note = str(error)  # the job was stopped between two layers
        return
    if not outcome.request.simulate or job.stopped():
        return
    try:
        job.report(0, 0, "simulating the same text")
        steps, prompt = outcome.real.sizes["position"], outcome.results[OURS].prompt_tokens
        captured = analysis.capture(model, tokenizer, ids[:steps], max_tokens=steps, queries=1)
        outcome.simulated = analysis.simulate(
            captured, {f"{config.policy} (simulated)": config}, prompt=min(prompt, steps), progress=job.step
        )
    except TreeKVError as error:
        outcome.note = f"no simulation: {error}"
    except jobs.Stopped:
        outcome.note = "no simulation: it was stopped"


def _compare(outcome: Outcome, tokenizer: Any) -> None:
    ours, full = outcome.results[OURS].token_ids, outcome.results[FULL].token_ids
    outcome.equal = parting(ours, full)
    if outcome.equal is not None:
        place = outcome.equal
        outcome.continuations = {
            name: tokenizer.decode(ids[place : place + SHOWN_AFTER]) for name, ids in ((OURS, ours), (FULL, full))
        }
