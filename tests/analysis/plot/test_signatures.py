"""All plots take the same arguments in the same order."""

from __future__ import annotations

import inspect

import pytest

from analysis import plot

# The order in which keywords appear, as the docstring of `analysis.plot` lists it.
ORDER = (
    "policy", "policies", "layer", "head", "band", "context", "step", "steps", "start", "stop", "spread", "by",
)  # fmt: skip
PLOTS = [name for name in plot.__all__ if callable(getattr(plot, name))]


@pytest.mark.parametrize("name", PLOTS)
def test_data_comes_first_and_all_else_is_keyword_only_in_one_order(name: str) -> None:
    data, *others = inspect.signature(getattr(plot, name)).parameters.values()
    assert (data.name, data.kind, data.default) == ("data", data.POSITIONAL_OR_KEYWORD, data.empty)
    assert all(other.kind is other.KEYWORD_ONLY for other in others)
    names = [other.name for other in others]
    assert names == [keyword for keyword in ORDER if keyword in names]
    assert len(names) == len(set(names) & set(ORDER)), "a new keyword is listed here and in the docstring"


@pytest.mark.parametrize("name", PLOTS)
def test_an_argument_that_is_left_out_selects_everything(name: str) -> None:
    _, *others = inspect.signature(getattr(plot, name)).parameters.values()
    assert {other.name: other.default for other in others if other.default is not None} in (
        {}, {"spread": False}, {"by": "heads"},
    )  # fmt: skip


def test_the_docstring_lists_the_keywords_in_this_order() -> None:
    table = [line.split("  ")[2:] for line in (plot.__doc__ or "").splitlines() if line.startswith("    ")]
    listed = [word for cells in table for word in cells[0].split(", ")]
    assert listed == list(ORDER)
