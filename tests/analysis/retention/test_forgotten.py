"""When a phrase was forgotten: against a search step by step, in words, and in a picture."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import analysis
from analysis.retention.forgotten import find_phrase
from tests.reference import forgotten as reference
from treekv import TreeKVConfig, TreeKVError

TOKENS = ["The", " riv", "er", " runs", ".", "\n", "the", " River", " run", "ning", " RUN", "", " over", "run"]


@pytest.fixture(scope="module")
def retention(captured):
    configs = [TreeKVConfig(policy=name, cache_size=32) for name in ("tree", "streaming", "h2o")]
    record = analysis.simulate(captured, configs)
    return record.assign_coords(token=("position", [TOKENS[at % len(TOKENS)] for at in range(captured.tokens)]))


def record(*gone: list[int]) -> xr.Dataset:
    """One policy, a head for each list of steps at which the tokens "a b c ..." go."""
    values = np.array([[gone]], np.int32)
    return xr.Dataset(
        dict.fromkeys(("evicted_at", "survivor"), (("policy", "layer", "head", "position"), values)),
        coords={
            "policy": ["TreeKV"],
            "layer": [3],
            "head": range(len(gone)),
            "position": range(len(gone[0])),
            "token": ("position", [f" {letter}" for letter in "abcdefgh"[: len(gone[0])]]),
        },
        attrs={"steps": 3000},
    )


@pytest.mark.parametrize("phrase", ["river", "RUN", "run", "runs", "unn", "the", ".", "e"])
def test_places_and_steps_equal_a_search_token_by_token(retention, phrase):
    found = analysis.forgotten(retention, phrase)
    tokens = retention["token"].values.tolist()
    places = reference.places(tokens, phrase)
    assert list(zip(found["first"].values.tolist(), found["last"].values.tolist())) == places
    evicted_at = retention["evicted_at"]
    for occurrence in (0, len(places) // 2, len(places) - 1):
        for policy, layer, head in (("tree", 0, 1), ("streaming", 1, 0), ("h2o", 1, 1)):
            one = evicted_at.sel(policy=policy, layer=layer, head=head).values.tolist()
            got = found.sel(policy=policy, layer=layer, head=head, occurrence=occurrence)
            expected = reference.steps(one, *places[occurrence], len(tokens))
            assert (int(got["broken_at"]), int(got["forgotten_at"])) == expected


def test_spaces_and_case_do_not_matter_and_whole_words_come_first():
    assert find_phrase(TOKENS, "the  RIVER") == [(0, 2), (6, 7)]
    assert find_phrase(TOKENS, "runs. the") == [(3, 6)]
    assert find_phrase(TOKENS, "run") == [(10, 10)]
    assert find_phrase(TOKENS, "nning") == [(8, 9)]
    assert find_phrase(TOKENS, "(run") == []


def test_a_capture_is_simulated_with_the_settings_given(captured):
    config = TreeKVConfig(cache_size=32)
    word = captured.token_text[40].strip()
    found = analysis.forgotten(captured, word, config)
    assert found.identical(analysis.forgotten(analysis.simulate(captured, config), word))


@pytest.mark.parametrize(
    "gone, words",
    [
        ([[9, 640, 9]], "TreeKV forgot it at step 640"),
        ([[-1, -1, 9]], "TreeKV never forgot it"),
        ([[9, 640, 9], [9, 640, 9]], "TreeKV forgot it at step 640"),
        ([[9, 640, 9], [9, 1870, 9]], "TreeKV forgot it at step 640 in half of the heads and at 1,870 in all"),
        ([[9, 640, 9], [9, 1870, 9], [9, -1, 9]], "at step 1,870 in half of the heads (1 of 3 keep it)"),
        ([[9, 640, 9], [9, -1, 9], [9, -1, 9]], "forgot it in 1 of 3 heads from step 640 on"),
    ],
)
def test_one_sentence(gone, words):
    sentence = analysis.forgotten_in_words(analysis.forgotten(record(*gone), "B"))
    assert sentence.startswith("\u201cb\u201d at position 1: ") and sentence.endswith(f"{words}.")


def test_the_picture_has_every_head_and_can_be_clicked(retention):
    found = analysis.forgotten(retention, "river").isel(occurrence=[1])
    figure = analysis.plot.forgotten(found)
    grids, markers = ([trace for trace in figure.data if trace.type == kind] for kind in ("heatmap", "scatter"))
    assert len(grids) == len(markers) == 3
    gone = found["forgotten_at"].sel(policy="tree", occurrence=1)
    assert np.array(grids[0].z).T.tolist() == gone.where(gone >= 0, retention.attrs["steps"]).values.tolist()
    for (layer, head), words in zip(markers[0].customdata, markers[0].text):
        at = int(gone.sel(layer=layer, head=head))
        assert words == ("still kept" if at < 0 else f"forgotten at step {at:,}")
    assert "tree" in figure.layout.meta["alt"] and "River" in figure.layout.title.text


def test_bad_requests_are_one_sentence(captured, retention):
    with pytest.raises(TreeKVError, match="\u201cno such words\u201d is not in the text of 301 tokens"):
        analysis.forgotten(retention, "no such  words")
    with pytest.raises(TreeKVError, match="empty"):
        analysis.forgotten(retention, " ")
    with pytest.raises(TreeKVError, match="lacks the text"):
        analysis.forgotten(retention.drop_vars("token"), "the")
    with pytest.raises(TreeKVError, match="forgets nothing by itself"):
        analysis.forgotten(captured, "the")
    found = analysis.forgotten(retention, "the")
    with pytest.raises(TreeKVError, match=f"between 0 and {found.sizes['occurrence'] - 1}, got 999"):
        analysis.forgotten_in_words(found, 999)
