"""Conventions are found by measurement; the table has what is found."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.families import measure
from treekv.attention.convention import Convention
from treekv.attention.rotary import Rotary
from treekv.attention.rotary_families import CONVENTIONS


@pytest.mark.parametrize("family", ["llama", "glm", "nanochat", "cohere2", "smollm3"])
def test_the_table_has_what_is_measured(family):
    assert measure.measured(family) == CONVENTIONS[family]


@pytest.mark.parametrize(
    "family, reason",
    [
        ("hunyuan_v1_dense", "no convention turns its keys"),
        ("deepseek_v3", "its cache keeps something else"),
        ("opt", "its code has no rotary embedding"),
        ("bloom", "does not go through transformers' attention interface"),
        ("bart", "encoder-decoder"),
        ("xlstm", "no attention"),
    ],
)
def test_families_without_a_convention_say_why(family, reason):
    assert reason in str(measure.measured(family))
    assert family not in CONVENTIONS


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("part", ["first", "last"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_convention_is_told_from_all_others(pairs, part, sign, monkeypatch):
    """Vectors that are turned by the formula, number by number."""
    frequencies = torch.tensor([1.0, 0.3, 0.05])
    vector, head = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), 16
    turned = []
    for place in measure.PLACES:
        own = vector.clone()
        for m, frequency in enumerate(frequencies.tolist()):
            i, j = (m, m + 3) if pairs == "half" else (2 * m, 2 * m + 1)
            i, j = (i, j) if part == "first" else (head - 6 + i, head - 6 + j)
            angle = torch.tensor(sign * place * frequency)
            own[:, i] = vector[:, i] * angle.cos() - vector[:, j] * angle.sin()
            own[:, j] = vector[:, j] * angle.cos() + vector[:, i] * angle.sin()
        turned.append(own)
    seen = {0: measure.Seen(torch.stack(turned), torch.stack(turned))}

    def rotaries(convention: Convention, config: object) -> list[Rotary]:
        return [Rotary(convention.sign * frequencies, head, convention.pairs, convention.part)]

    monkeypatch.setattr(measure.model_rotary, "rotaries_by", rotaries)
    ways = itertools.product(("half", "interleaved"), ("first", "last"), (1, -1))
    assert [way for way in ways if measure.fits(Convention(*way), None, seen)] == [(pairs, part, sign)]


def test_the_page_is_the_table():
    made: dict[str, object] = {}
    exec(compile(measure.page(dict(CONVENTIONS)), "page", "exec"), made)
    assert made["CONVENTIONS"] == CONVENTIONS
