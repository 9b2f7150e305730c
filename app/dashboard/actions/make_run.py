"""Making a run on the page Start: the request, its checks, and the job."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import streamlit as st
import torch

from analysis.captures.request import check_ids
from analysis.memory_plan import ModelSizes, capture_bytes, model_sizes
from app.dashboard.session.jobs import Job
from app.dashboard.session.texts import TOGETHER
from app.report.run_report import write_report
from app.runs import folder as run_folder
from app.runs import pipeline
from app.runs.folder import RunFolder
from app.text import wording
from app.text.inputs import read_layers
from treekv import TreeKVConfig, TreeKVError, policies
from treekv.models import ALIASES, alias_states, load_config

MOST_TOKENS: Final = 16_384  # for more, use the command
# Per cent of a run's time that its stages take, from loading to writing: SmolLM2, and its first four layers, 512 to
# 2,048 tokens. Testing the claims, on stretches beyond these tokens, takes most.
SHARES: Final = (2, 28, 7, 56, 2, 5)
# Multiplications that fit into a run's time, for each weight and token: measured 9 to 20, with SmolLM2 and with its
# first four layers, 512 to 2,048 tokens, one core.
WORK: Final = 18


@dataclass(frozen=True)
class RunRequest:
    """What the user wants.

    Attributes:
        name: the name of the run, which is a folder among the runs.
        model: an alias, a local folder, a GGUF file or a hub id.
        title, text: the title of the text, and the text.
        tokens: how many of its tokens to use, at most.
        layers: "" for all, or as "0,5,10-12".
        cache_size: how many tokens each policy keeps.
        policies: the policies to simulate.
        sensitivity: whether to capture the gradient of the loss, as of `pipeline.analyse`.
        together: the same for runs that are asked for together; "" for one alone.
    """

    name: str
    model: str
    title: str
    text: str
    tokens: int
    layers: str
    cache_size: int
    policies: Sequence[str]
    sensitivity: bool | None = None
    together: str = ""


def policy_names() -> list[str]:
    """The policies that can be simulated on a text that is read in blocks: those that evict while decoding."""
    return [name for name in policies.names() if policies.get(name).evicts_decoding]


def model_names() -> list[str]:
    """Models that need no download: installed aliases, and models in the cache of the hub."""
    names = [state.name for state in alias_states() if state.installed or state.converted]
    return names + _cached_models()


def model_title(name: str) -> str:
    return f"{name} ({ALIASES[name].title})" if name in ALIASES else name


def trained_window(name: str) -> int | None:
    """How many positions a model was trained with, where a file on this machine says so without loading it."""
    copies = {state.name: state.converted for state in alias_states()}
    folder = copies.get(name) or Path(name)
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def free_name(root: Path, model: str, title: str, tokens: int, taken: Collection[str] = ()) -> str:
    """A name for the run that is not in use, nor among those `taken`."""
    words = f"{Path(model).name or 'model'}-{title}-{tokens}".lower()
    name = re.sub(r"[^a-z0-9.]+", "-", words).strip("-.")[:60] or "run"
    number, tried = 2, name
    while (root / tried).exists() or tried in taken:
        tried, number = f"{name}-{number}", number + 1
    return tried


def configs(request: RunRequest) -> dict[str, TreeKVConfig]:
    """The settings to simulate, by policy. Raises TreeKVError for an impossible budget."""
    if not request.policies:
        raise TreeKVError("no policy is chosen; choose at least one")
    tree = TreeKVConfig(cache_size=request.cache_size, prefill="stream")
    # A policy that holds prompts whole would be another one if it read them in blocks.
    asked = [policy for policy in policies.names() if policy in request.policies]  # in the order of all tables
    prefills = {policy: "stream" if policies.get(policy).evicts_prompt else "once" for policy in asked}
    return {policy: tree.replace(policy=policy, prefill=prefill) for policy, prefill in prefills.items()}


def check(request: RunRequest, root: Path) -> None:
    """Check a request before any work.

    Raises:
        TreeKVError: in one sentence, what is wrong.
    """
    if not request.model.strip():
        raise TreeKVError("no model is chosen; choose one, or type a folder or a hub id")
    if not request.text.strip():
        raise TreeKVError("the text is empty; paste or upload one, or take the sample")
    window = trained_window(request.model)
    if window is not None and request.tokens > window:
        raise TreeKVError(
            f"{model_title(request.model)} was trained with texts of {window:,} tokens, got {request.tokens:,}; use at "
            f"most {window:,}"
        )
    if not pipeline.LEAST_TOKENS <= request.tokens <= MOST_TOKENS:
        raise TreeKVError(
            f"tokens must be between {pipeline.LEAST_TOKENS} and {MOST_TOKENS:,} here, got {request.tokens:,}"
        )
    if not request.cache_size < request.tokens:
        raise TreeKVError(
            f"a cache of {request.cache_size:,} tokens evicts nothing from {request.tokens:,}; make it smaller"
        )
    try:
        configs(request)
    except TreeKVError as error:
        raise TreeKVError(wording.by_control(str(error))) from None
    read_layers(request.layers)
    place = run_folder.place_below(root, request.name)
    if request.name.startswith("."):
        raise TreeKVError(f"the run's name {request.name[:80]!r} starts with a dot; choose another")
    if place.exists():
        raise TreeKVError(f"there is already a run {request.name!r}; choose another name")


def estimate(request: RunRequest, runs: Sequence[RunFolder], texts: int = 1) -> str:
    """What a run of each text will take, in one sentence: time and disk in proportion to the last run of the same model
    on this machine, memory, and all of them where there was none, from the sizes of the model; empty if nothing is
    known."""
    parts = []
    source = ""
    for run in runs:
        tokens, seconds = run.manifest.get("text", {}).get("tokens", 0), run.manifest.get("seconds")
        if run.manifest.get("load") != request.model or not tokens or not isinstance(seconds, (int, float)):
            continue
        share = request.tokens / tokens
        parts = [
            wording.duration(texts * seconds * share),
            f"{wording.size(texts * run_folder.size(run) * share)} of disk",
        ]
        source = f", as far as the run {run.path.name!r} says"
        break
    sizes = sizes_here(request.model)
    if sizes is not None and request.tokens > 0:
        few = sizes.parameters <= pipeline.MOST_PARAMETERS
        gradients = few if request.sensitivity is None else request.sensitivity
        peak, kept = capture_bytes(sizes, request.tokens, gradients=gradients)
        if not parts:
            seconds = texts * WORK * sizes.parameters * request.tokens / multiplications_a_second()
            parts = [wording.duration(seconds), f"{wording.size(texts * kept)} of disk"]
            source = ", as far as the size of the model says"
        parts.insert(-1, f"{wording.size(peak)} of memory")
    about = f"All {texts} texts: about" if texts > 1 else "About"
    return f"{about} {wording.listed(parts)}{source}; a shorter text takes less." if parts else ""


@st.cache_resource(show_spinner=False)
def multiplications_a_second() -> float:
    """How many float32 numbers this machine multiplies and adds, by products of matrices as a small model has them."""
    left, right = torch.ones(512, 576), torch.ones(576, 1536)
    took = []
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        took.append(time.perf_counter() - start)
    return 512 * 576 * 1536 / min(took)


@st.cache_data(max_entries=32, ttl=60, show_spinner=False)
def sizes_here(model: str) -> ModelSizes | None:
    """The sizes of a model on this machine; None for others, which are not looked for here."""
    if model not in model_names() and not Path(model).is_dir():
        return None
    try:
        return model_sizes(load_config(model))
    except TreeKVError:
        return None


def check_all(requests: Sequence[RunRequest], root: Path) -> None:
    """Check several requests before any work.

    Raises:
        TreeKVError: what is wrong with the first wrong one, with its title if there are several.
    """
    for request in requests:
        try:
            check(request, root)
        except TreeKVError as error:
            raise _of(request, error) if len(requests) > 1 else error from None


def make_all(
    requests: Sequence[RunRequest], root: Path, load_model: Callable[[str], tuple[Any, Any]], job: Job[list[str]]
) -> list[str]:
    """The work of the job: one run after the other. Returns their names.

    Raises:
        TreeKVError: what only shows during the work, such as a missing model or a text that is too short. The runs of
            other texts are made all the same.
    """
    failed = []
    for place, request in enumerate(requests):
        try:
            make(request, root, load_model, job, (place, len(requests)))
        except TreeKVError as error:
            if len(requests) == 1:
                raise
            failed.append(_of(request, error))
    if failed:
        made = len(requests) - len(failed)
        raise TreeKVError(f"{'; '.join(map(str, failed))}; {made} of the {len(requests)} runs were made")
    return [request.name for request in requests]


def _of(request: RunRequest, error: TreeKVError) -> TreeKVError:
    return TreeKVError(f"{request.title}: {error}")


def make(
    request: RunRequest,
    root: Path,
    load_model: Callable[[str], tuple[Any, Any]],
    job: Job[Any],
    place: tuple[int, int] = (0, 1),
) -> None:
    """One run: capture, spectrum, trends and simulation; `place` is its number among how many.

    The run is written completely or not at all.
    """
    check(request, root)  # again: another session may have taken the name meanwhile
    start = time.monotonic()
    number, before, whole = 0, 100 * place[0], 100 * place[1]
    which = f", text {place[0] + 1} of {place[1]}" if place[1] > 1 else ""

    @contextlib.contextmanager
    def stage(title: str) -> Iterator[Callable[[int, int], None]]:
        nonlocal number
        first, share = before + sum(SHARES[:number]), SHARES[number]
        number += 1
        text = f"{title} ({number} of {len(SHARES)}{which})"
        job.step(first, whole, text)
        yield lambda done, total: job.step(first + share * done / max(total, 1), whole, text)

    with stage(f"Loading {request.model}"):
        model, tokenizer = load_model(request.model)
    more = pipeline.token_ids(tokenizer, request.text, max(request.tokens, pipeline.SAMPLES * pipeline.WINDOW))
    check_ids(more[: request.tokens].tolist(), model.config)
    settings = configs(request)
    layers = read_layers(request.layers)
    found = pipeline.analyse(
        model, tokenizer, more[: request.tokens], settings, stage, layers, more, request.sensitivity
    )
    with stage("Writing the run"), run_folder.new_run(run_folder.place_below(root, request.name)) as folder:
        config = next(iter(settings.values()))
        pipeline.save(folder, found, config)
        entries = pipeline.manifest_entries(request.title, found)
        entries |= {"load": request.model, "seconds": round(time.monotonic() - start, 1)}
        if request.together:
            entries[TOGETHER] = request.together
        write_report(
            folder / run_folder.REPORT,
            entries,
            settings=json.dumps(config.to_dict(), indent=2),
            spectrum=found.spectrum,
            retention=found.retention,
        )
        run_folder.write_manifest(folder, entries)
        job.step(before + 100, whole)


@st.cache_data(ttl=60, show_spinner=False)
def _cached_models() -> list[str]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except (CacheNotFound, OSError):
        return []
