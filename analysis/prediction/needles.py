"""What settings still find in the user's own text: numbers are put into it, and each is asked for.

found = analysis.find_needles(model, tokenizer, captured, {"tree": TreeKVConfig(cache_size=128)}, prompt=1024)
found["found"].mean("depth")    # (policy, question)
"""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any, Final

import numpy as np
import torch
import xarray as xr

from analysis import netcdf
from analysis.captures.data import Capture
from analysis.evaluation.tasks import haystack
from analysis.evaluation.tasks.answering import check_window, greedy_tokens
from analysis.evaluation.tasks.prompt_cache import PromptCache, attended_in_full, next_logits
from analysis.evaluation.tasks.tokens import encode_prompt, end_tokens
from analysis.named_settings import Settings, by_name
from analysis.prediction.computing import computing_in
from analysis.prediction.loss_table import FULL, check_configs
from analysis.progress import Progress
from treekv import TreeKVCache
from treekv.config import TreeKVConfig
from treekv.errors import TreeKVError
from treekv.model_identity import model_name

FORMAT: Final = "treekv-needles"
QUESTIONS: Final = ("given", "withheld")
DIGITS: Final = 4
ANSWER_TOKENS: Final = 8  # room for a number of 4 digits and a word before it
LEAST_TOKENS: Final = 256  # of a prompt: eight sentences of a dozen tokens, the question, and text around them
_INTRO: Final = "The text below says the secret numbers of some things. Remember them.\n\n"


@torch.inference_mode()
def find_needles(
    model: Any,
    tokenizer: Any,
    text: Capture | str,
    configs: Settings,
    *,
    prompt: int,
    numbers: int = 8,
    seed: int = 0,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Hide numbers in a text, let each setting read it as a prompt, and ask for each of them.

    "The secret number of the brave kettle is 4821." stands between sentences, evenly over the text. Each question is
    asked twice: as the end of the prompt ("given"), and after the prompt was compressed without it ("withheld"), as
    when a text is read once and asked several times. The answer is the most likely one. The full cache comes first.

    Args:
        model, tokenizer: as `treekv.load_model` returns them.
        text: a captured text, or the text itself; its beginning is used, again and again if it is short.
        configs: as of `analysis.simulate`.
        prompt: tokens of text and question together.
        numbers: how many are hidden.
        seed: of names and numbers.
        dtype: as of `replay`.
        progress: called with (done, total), in answers.

    Returns:
        Dataset with `found`, bool (policy, question, depth); `depth` is the share of the text before each number, in
        per cent. attrs["asked"] has names, numbers and answers as JSON.

    Raises:
        TreeKVError: no settings, a prompt that is too short or too long for the model, or settings that the model
            cannot be used with.
    """
    configs = by_name(configs)
    check_configs(configs)
    if type(numbers) is not int or numbers < 1:
        raise TreeKVError(f"numbers must be a whole number of at least 1, got {numbers!r}")
    check_prompt(prompt)
    rows = {FULL: TreeKVConfig(policy=FULL), **configs}
    rows = {name: config.for_model(model.config) for name, config in rows.items()}
    for config in rows.values():  # all of them before the first one runs
        TreeKVCache(config, model.config)
        check_window(model, config, prompt, ANSWER_TOKENS)
    words = text if isinstance(text, str) else tokenizer.decode(text.token_ids, skip_special_tokens=True)
    hay = haystack.sentences_of(words)
    if not hay:
        raise TreeKVError("the text has no words")
    draw = random.Random(f"needles {seed}")
    names, values = haystack.draw_names(draw, numbers), haystack.draw_numbers(draw, numbers, DIGITS)
    context, questions = _prompt(tokenizer, hay, names, values, prompt)
    depths = [100 * (number + 0.5) / numbers for number in range(numbers)]
    answers: dict[tuple[str, str, int], str] = {}
    total = len(rows) * len(QUESTIONS) * numbers

    def answered(name: str, question: str, number: int, cache: TreeKVCache, logits: torch.Tensor) -> None:
        new = greedy_tokens(computing, cache, logits, ANSWER_TOKENS, end_tokens(computing))
        answers[name, question, number] = tokenizer.decode(new, skip_special_tokens=True)
        if progress is not None:
            progress(len(answers), total)

    # The model reads each prompt once for all settings that attend to it in full; the others, which come last, anew.
    shared = PromptCache()
    in_order = sorted(rows.items(), key=lambda row: not attended_in_full(row[1]))
    with computing_in(model, dtype) as computing:
        for number, asked in enumerate(questions):
            for name, config in in_order:
                cache = TreeKVCache(config, computing.config)
                answered(name, "given", number, cache, shared.read(computing, [*context, *asked], cache))
        for name, config in in_order:
            read = TreeKVCache(config, computing.config)
            shared.read(computing, context, read)
            for number, asked in enumerate(questions):
                cache = copy.deepcopy(read)
                answered(name, "withheld", number, cache, next_logits(computing, asked, cache))
        computed = str(next(computing.parameters()).dtype).removeprefix("torch.")
    found = [
        [
            [values[number] in re.findall(r"\d+", answers[name, question, number]) for number in range(numbers)]
            for question in QUESTIONS
        ]
        for name in rows
    ]
    asked_for = [
        {"name": names[number], "number": values[number]}
        | {"answers": {name: {question: answers[name, question, number] for question in QUESTIONS} for name in rows}}
        for number in range(numbers)
    ]
    return xr.Dataset(
        {"found": (("policy", "question", "depth"), np.array(found, dtype=bool))},
        coords={"policy": list(rows), "question": list(QUESTIONS), "depth": depths},
        attrs={
            "format": FORMAT,
            "format_version": netcdf.FORMAT_VERSION,
            "model": model_name(model.config),
            "prompt": prompt,
            "seed": seed,
            "dtype": computed,
            "configs": json.dumps({name: config.to_dict() for name, config in rows.items()}),
            "asked": json.dumps(asked_for),
            **netcdf.versions(),
        },
    )


def check_prompt(prompt: int) -> None:
    """Raise a `TreeKVError` for a prompt that is too short to hide numbers in."""
    if type(prompt) is not int or prompt < LEAST_TOKENS:
        raise TreeKVError(
            f"prompt must be at least {LEAST_TOKENS} tokens, so that hidden numbers have text around them, got "
            f"{prompt!r}"
        )


def _prompt(
    tokenizer: Any, hay: list[str], names: list[str], values: list[str], prompt: int
) -> tuple[list[int], list[list[int]]]:
    """Token ids of the text with the numbers in it, and of each question with the beginning of its answer."""
    things = [f"The secret number of the {name} is {value}." for name, value in zip(names, values, strict=True)]
    asked = [
        (f"\n\nQuestion: What is the secret number of the {name}?", f"\nAnswer: The secret number of the {name} is")
        for name in names
    ]
    questions = [encode_prompt(tokenizer, "", *parts)[1] for parts in asked]
    before = len(encode_prompt(tokenizer, "", "")[0])
    room = prompt - before - max(map(len, questions))
    depths = [100 * (number + 0.5) / len(names) for number in range(len(names))]
    hidden = haystack.hide(tokenizer, hay, things, depths, room, _INTRO)
    return encode_prompt(tokenizer, _INTRO + hidden.text, "")[0], questions
