"""One generation with the chosen settings, beside the full cache if wanted: the work of the page Generate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
import xarray as xr

import analysis
from app.dashboard.session import jobs
from app.dashboard.session import model as models
from app.generation import Generation, Pace, generate, parting
from treekv import TreeKVConfig, TreeKVError
from treekv.models import ALIASES

OURS: Final = "chosen settings"
FULL: Final = "full cache"
AROUND: Final = 24  # tokens shown after the place where two texts part
MOST_PROMPT: Final = 200_000  # characters


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: str
    prompt: str
    config: TreeKVConfig
    tokens: int
    temperature: float
    beside: bool  # run the full cache too
    simulate: bool  # and simulate the same text, to lay over the real run


@dataclass
class Outcome:
    """What came of it, without the caches themselves.

    Attributes:
        results: the generations by the names `OURS` and `FULL`, those that came to a first token.
        equal: tokens that the two texts have in common; None where they are the same or there is one.
        parts: what each says from there on.
        real, simulated: the records of the run with the chosen settings, and of its simulation.
        note: why something is missing, in one sentence.
    """

    request: Request
    results: dict[str, Generation] = field(default_factory=dict)
    equal: int | None = None
    parts: dict[str, str] = field(default_factory=dict)
    real: xr.Dataset | None = None
    simulated: xr.Dataset | None = None
    note: str = ""


def model_of(name: str) -> str:
    """What to load for the model that a run names: its alias where it has one."""
    return next((alias for alias, entry in ALIASES.items() if entry.title == name), name)


def nothing_went(result: Generation) -> bool:
    """Whether the cache still holds all that it has seen; the last token has not been fed back."""
    return result.kept_tokens >= result.prompt_tokens + len(result.token_ids) - 1


def work(job: jobs.Job[Outcome], request: Request) -> Outcome:
    """Generate; what comes is appended to `job.events` as (name, piece of text) and, after each token, (name, Pace).
    Stopping ends it with what there is.

    Raises:
        TreeKVError: a model that cannot be loaded, or an empty prompt.
    """
    if not request.prompt.strip():
        raise TreeKVError("the prompt is empty; give a text to continue")
    job.report(0, 0, "loading the model")
    model, tokenizer = models.held_model(request.model)
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
    count: int,
    loaded: tuple[Any, Any, torch.Tensor],
) -> None:
    model, tokenizer, ids = loaded
    request = outcome.request
    total, made = count * request.tokens, number * request.tokens
    job.report(made, total, f"{name}, reading {ids.shape[1]:,} tokens")

    def show_pace(pace: Pace) -> None:
        job.events.append((name, pace))
        job.report(min(made + pace.tokens, total), total, name)

    def check() -> None:
        if job.stopped():
            raise KeyboardInterrupt  # how `generate` is told to end with what there is

    result, cache = generate(
        model, tokenizer, ids, config, request.tokens, lambda text: job.events.append((name, text)),
        request.temperature, on_token=show_pace, check=check,
    )  # fmt: skip
    if result.stopped and not result.token_ids:
        outcome.note = f"Stopped while the prompt was read ({name})."
        return
    outcome.results[name] = result
    if config.trace and result.token_ids:
        every = [*ids[0].tolist(), *result.token_ids]
        _record(job, outcome, config, cache, (model, tokenizer), every)


def _record(
    job: jobs.Job[Outcome], outcome: Outcome, config: TreeKVConfig, cache: Any, loaded: tuple[Any, Any], ids: list[int]
) -> None:
    """The record of the run, and what the simulation says of the same tokens."""
    model, tokenizer = loaded
    try:
        texts = [tokenizer.decode([i]) for i in ids]
        outcome.real = analysis.retention_from_cache(
            cache, name=f"{config.policy} (real run)", tokens=texts, model=model
        )
    except TreeKVError as error:
        outcome.note = str(error)  # stopped between two layers
        return
    if not outcome.request.simulate or job.stopped():
        return
    try:
        job.report(0, 0, "simulating the same text")
        steps, prompt = outcome.real.sizes["position"], outcome.results[OURS].prompt_tokens
        run = analysis.capture(model, tokenizer, ids[:steps], max_tokens=steps, queries=1)
        outcome.simulated = analysis.simulate(
            run, {f"{config.policy} (simulated)": config}, prompt=min(prompt, steps), progress=job.step
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
        outcome.parts = {
            name: tokenizer.decode(ids[place : place + AROUND]) for name, ids in ((OURS, ours), (FULL, full))
        }
