"""Try every family that transformers has, and write docs/models.md: `python -m tests.families`. With names of families
their verdicts are printed only.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import transformers

from tests.families.tiny_models import NAMES
from tests.families.verdicts import NOT_OF_ONE_LAYER, Verdict, verdict

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"

INTRODUCTION = """# Model families

`python -m tests.families` tried the {tried} families of transformers {version}, with tiny random models, and wrote this
page. {right} are compressed and right with default settings: {ranks} at rank positions, {original} at original ones.
Right means, in float32:

- with room for everything a cache generates what the plain model does, for rows of different lengths, two beams and
  both ways to read a prompt;
- under eviction every step equals the model's own eager attention over exactly the kept tokens, at original positions;
- at rank positions a model of one layer gives for the kept tokens what the plain model gives for them alone (not tried
  for {untried}, whose layers have states of all tokens).

Texts have some forty tokens. Where a family scales queries by their positions in long texts only, as Llama 4 and
Ministral 3 do, the scale stays that of the true position.

Layers with full attention are compressed; the last column says which others there are, that stay as transformers
builds them. [The method](method.md#which-models) says what is computed for each kind of attention."""


def page(verdicts: list[Verdict]) -> str:
    """docs/models.md."""
    right = [each for each in verdicts if each.positions is not None]
    refused = [each for each in verdicts if each.positions is None]
    ranks = sum(each.positions == "rank" for each in right)
    lines = [
        *INTRODUCTION.format(
            version=transformers.__version__,
            tried=len(verdicts),
            right=len(right),
            ranks=ranks,
            untried=", ".join(NOT_OF_ONE_LAYER),
            original=len(right) - ranks,
        ).splitlines(),
        "",
        "| family | positions | stays |",
        "|---|---|---|",
        *(f"| {each.family} | {each.positions} | {each.left} |" for each in right),
        "",
        "## Refused or not tried",
        "",
        "The constructor of the cache and captures refuse in these words, `load_model` too unless there is only",
        "nothing to gain.",
        "",
        "| family | |",
        "|---|---|",
        *(f"| {each.family} | {each.words.replace('|', chr(92) + '|')} |" for each in refused),
        "",
    ]
    return "\n".join(lines)


def main(names: list[str]) -> int:
    verdicts = []
    for each in _tried(names or NAMES):
        verdicts.append(each)
        said = f"WRONG: {each.words}" if each.wrong else each.words or f"right, {each.positions} positions"
        print(f"{each.family}: {' '.join(said.split())}", flush=True)
    wrong = [each.family for each in verdicts if each.wrong]
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    elif not names:
        PAGE.write_text(page(verdicts), encoding="utf-8")
    return 1 if wrong else 0


def _tried(names: Sequence[str]) -> Iterator[Verdict]:
    """Their verdicts in order, from as many processes as there are cores."""
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=start, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(verdict, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
