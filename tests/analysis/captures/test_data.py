"""A capture: its representation, its weights and its file."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import analysis
from treekv import TreeKVError


def test_one_line_says_what_a_capture_is(captured):
    # 2 layers of 4 query heads and 2 + 2 KV heads of 8 channels, 301 tokens, 4 bytes each
    assert 2 * (4 + 2 + 2) * 8 * 301 * 4 == 154_112
    assert repr(captured) == "Capture(llama, 301 tokens, 2 layers, 154.1 kB)"
    one = dataclasses.replace(
        captured, q=captured.q[:1], k=captured.k[:1], v=captured.v[:1], scaling=captured.scaling[:1], layers=[0]
    )
    assert repr(one) == "Capture(llama, 301 tokens, 1 layer, 77.1 kB)"


def test_a_notebook_shows_a_small_table(captured):
    shown = dataclasses.replace(captured, model="<b>")._repr_html_()
    assert shown.count("<tr>") == 6 and "&lt;b&gt;" in shown and "<b>" not in shown
    assert "<td>2, from 0 to 1</td>" in shown and "4 query heads, 2 KV heads" in shown
    assert "154.1 kB, float32 on cpu" in shown


def test_a_capture_from_a_file_looks_the_same_but_for_its_size(captured, tmp_path):
    assert repr(analysis.open(captured.save(tmp_path / "a.nc"))) == "Capture(llama, 301 tokens, 2 layers, 77.1 kB)"


def test_weights_of_several_queries(captured):
    weights = captured.weights(1, [3, 250, 40])
    assert weights.shape == (4, 3, 301)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    assert not weights[:, 0, 4:].any()
    torch.testing.assert_close(weights[:, 2], captured.weights(1, [40])[:, 0])


def test_saved_and_opened_again(captured, tmp_path):
    path = captured.save(tmp_path / "capture.nc")
    again = analysis.open(path)
    for kind in ("q", "k", "v"):
        for before, after in zip(getattr(captured, kind), getattr(again, kind), strict=True):
            assert after.dtype == torch.float16
            assert torch.equal(after, before.half())
    for name in ("scaling", "layers", "token_text", "query_positions", "model", "attrs"):
        assert getattr(again, name) == getattr(captured, name), name
    assert torch.equal(again.token_ids, captured.token_ids)
    second = analysis.open(again.save(tmp_path / "second.nc"))
    assert all(torch.equal(a, b) for a, b in zip(again.q, second.q, strict=True))
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["capture.nc", "second.nc"]


def test_numbers_beyond_half_precision_are_kept(captured, tmp_path):
    large = analysis.Capture(**{**vars(captured), "k": [k * 1e6 for k in captured.k]})
    again = analysis.open(large.save(tmp_path / "capture.nc"))
    assert again.k[0].dtype == torch.float32
    assert torch.equal(again.k[0], large.k[0])
    assert again.v[0].dtype == torch.float16


def test_what_is_not_in_the_capture_is_refused(captured):
    with pytest.raises(TreeKVError, match=r"layer 2 .*\[0, 1\]"):
        captured.weights(2, [10])
    for position in (-1, 301):
        with pytest.raises(TreeKVError, match=f"{position} .*0 to 300"):
            captured.contributions(0, position)
    with pytest.raises(TreeKVError, match="0 to 300"):
        captured.weights(0, [])


def with_gradients(captured):
    """The capture as if it had been made with its gradients: random ones, of a very different size in each layer."""
    generator = torch.Generator().manual_seed(0)
    g = [torch.randn(*x.shape[:2], v.shape[-1], generator=generator) for x, v in zip(captured.q, captured.v)]
    return dataclasses.replace(captured, g=[x.half() for x in g], g_scale=[2.0**-30, 4.0])


def test_gradients_are_kept_with_a_scale_of_their_own(captured, tmp_path):
    run = with_gradients(captured)
    again = analysis.open(run.save(tmp_path / "capture.nc"))
    assert run.has_sensitivity and again.has_sensitivity
    for layer in (0, 1):
        assert run.gradient(layer).dtype == torch.float32 and run.gradient(layer).shape == (4, 301, 8)
        assert torch.equal(again.gradient(layer), run.gradient(layer))
    assert 0 < run.gradient(0).abs().max() < 1e-8, "too small for float16 without its scale"
    assert "of the next-token losses" in run._repr_html_()
    assert repr(run) == "Capture(llama, 301 tokens, 2 layers, 192.6 kB)"  # 2 layers of 4 heads more, in two bytes
    with pytest.raises(TreeKVError, match="layer 2 was not captured"):
        run.gradient(2)


def test_a_capture_without_gradients_says_so(captured, tmp_path):
    for run in (captured, analysis.open(captured.save(tmp_path / "capture.nc"))):
        assert not run.has_sensitivity
        with pytest.raises(TreeKVError, match="no gradients of the loss; capture the text with sensitivity=True"):
            run.gradient(0)
