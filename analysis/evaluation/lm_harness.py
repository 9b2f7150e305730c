"""A model for lm-evaluation-harness whose scores go through a compressed cache.

The harness computes log-likelihoods in one forward pass without a cache, so that a model with a compressed cache scores
as one without. Here a context is read into the cache, which reduces it by its settings, and what follows is scored
token by token from what the cache keeps, evicting as in generation.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from treekv import TreeKVCache, TreeKVConfig, load_model
from treekv.errors import TreeKVError
from treekv.resize import changed

NAME = "treekv"


def continuation_scores(
    model: nn.Module,
    config: TreeKVConfig,
    context: Sequence[int],
    continuations: Sequence[Sequence[int]],
    chunk: int = 1,
) -> list[Tensor]:
    """What a model with a compressed cache gives each token of some continuations of one context.

    The context but for its last token is read in one go, as a prompt; then its last token and the continuation follow,
    `chunk` tokens a forward pass, each continuation from a copy of the cache. So every scored token is predicted from
    what the cache keeps.

    Args:
        model: a causal language model with the attention implementation "treekv".
        config: the settings.
        context: at least one token id.
        continuations: token ids.
        chunk: 1 decodes as generation does; more is faster, and evicts block by block.

    Returns:
        float32 [tokens, 2] on the CPU for each continuation: the log-likelihood of each token in nats, and 1 where it
        is the most likely one.

    Raises:
        TreeKVError: the context is empty, or a chunk below 1.
    """
    if not context:
        raise TreeKVError("a continuation needs at least one token before it")
    if type(chunk) is not int or chunk < 1:
        raise TreeKVError(f"chunk must be a whole number of at least 1, got {chunk!r}")
    device = next(model.parameters()).device
    network: Any = model
    cache = TreeKVCache(config, network.config)
    with torch.inference_mode():
        if len(context) > 1:  # without the output head: the logits of a long context take gigabytes
            network.base_model(input_ids=_row(context[:-1], device), past_key_values=cache, use_cache=True)
        found = []
        for number, targets in enumerate(continuations):
            own = cache if number == len(continuations) - 1 else copy.deepcopy(cache)
            given, parts = [context[-1], *targets[:-1]], []
            for first in range(0, len(targets), chunk):
                piece = _row(given[first : first + chunk], device)
                logits = network(input_ids=piece, past_key_values=own, use_cache=True).logits[0].float()
                right = torch.tensor(targets[first : first + chunk], device=device)[:, None]
                likelihood = logits.log_softmax(-1).gather(1, right)
                parts.append(torch.cat([likelihood, (logits.argmax(-1, keepdim=True) == right).float()], dim=1).cpu())
            found.append(torch.cat(parts) if parts else torch.empty(0, 2))
    return found


def last_tokens(context: Sequence[int], continuation: Sequence[int], most: int) -> Sequence[int]:
    """The end of a context that leaves room for a continuation in `most` tokens of input, as the harness cuts it; the
    last token of the continuation is no input.

    Raises:
        TreeKVError: a continuation that leaves no room.
    """
    room = most + 1 - len(continuation)
    if room < 1:
        raise TreeKVError(f"a continuation of {len(continuation)} tokens does not fit into the {most} of the model")
    return context[-room:]


def _row(ids: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([list(ids)], device=device)


@functools.cache
def register() -> Any:
    """Make the model "treekv" known to the harness, and return its class.

    Its arguments are `pretrained` (what `treekv.load_model` takes), `settings` (a file, or the name of settings that
    come with TreeKV), any field of `TreeKVConfig` in place of the file's, `chunk` (see `continuation_scores`), `dtype`,
    `device`, and those of the harness's own class for transformers.

    Raises:
        TreeKVError: the harness is not installed.
    """
    try:
        from lm_eval.api.registry import register_model
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise TreeKVError(f"lm-evaluation-harness is not installed ({error}): pip install 'treekv[lm-eval]'") from error

    @register_model(NAME)
    class TreeKVLM(HFLM):
        """See `register`."""

        def __init__(
            self,
            pretrained: str,
            settings: str | None = None,
            chunk: int = 1,
            dtype: str | None = None,
            device: str | None = None,
            **options: Any,
        ) -> None:
            names = {field.name for field in dataclasses.fields(TreeKVConfig)}
            changes = {name: options.pop(name) for name in names & options.keys()}
            known = inspect.signature(HFLM.__init__).parameters.keys() - {"self", "kwargs", "tokenizer", "backend"}
            for name in options.keys() - known:  # the harness's own class would ignore it
                raise TreeKVError(
                    f"the model 'treekv' has no argument {name!r}; it has settings, the fields of the settings, chunk, "
                    f"and {', '.join(sorted(known))}"
                )
            config = TreeKVConfig() if settings is None else TreeKVConfig.load(settings)
            self.cache_config, self.chunk = changed(config, **changes), chunk
            if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
                device = None  # the harness asks for "cuda:0" unless it is told; its own class falls back likewise
            model, tokenizer = load_model(pretrained, dtype=dtype, device=device)
            TreeKVCache(self.cache_config, model.config)  # refuses a model that cannot be compressed so
            super().__init__(pretrained=model, tokenizer=tokenizer, backend="causal", **options)

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            from tqdm import tqdm

            by_context: dict[tuple[int, ...], list[int]] = {}
            for number, (_, context, continuation) in enumerate(requests):
                cut = last_tokens(context, continuation, self.max_length)
                by_context.setdefault(tuple(cut), []).append(number)
            answers: dict[int, tuple[float, bool]] = {}
            for context, numbers in tqdm(by_context.items(), disable=disable_tqdm, desc="Reading contexts"):
                continuations = [requests[number][2] for number in numbers]
                scores = continuation_scores(self.model, self.cache_config, context, continuations, self.chunk)
                for number, score in zip(numbers, scores, strict=True):
                    answers[number] = float(score[:, 0].double().sum()), bool(score[:, 1].all())
                    if requests[number][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[number][0], answers[number])
            return [answers[number] for number in range(len(requests))]

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
            cache = TreeKVCache(self.cache_config, self.model.config)
            return super()._model_generate(context, max_length, stop, past_key_values=cache, **options)

    return TreeKVLM
