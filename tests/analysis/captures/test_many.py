"""Several texts: captured one after another, kept one file each, resumed after an interruption."""

import pytest
import torch

import analysis
from tests import tiny
from treekv import TreeKVError


@pytest.fixture
def texts():
    return {
        name: tiny.tokens(length, seed=seed)[0] for seed, (name, length) in enumerate([("b", 60), ("a", 70), ("c", 50)])
    }


def same(one, other):
    assert one.token_text == other.token_text
    for mine, theirs in zip(one.q + one.k + one.v, other.q + other.k + other.v, strict=True):
        assert torch.equal(mine.half(), theirs.half())


def test_a_list_in_memory(llama, texts):
    seen = []
    captures = analysis.capture_many(llama, None, list(texts.values()), queries=3, progress=lambda *a: seen.append(a))
    assert isinstance(captures, list)
    for captured, text in zip(captures, texts.values(), strict=True):
        same(captured, analysis.capture(llama, None, text, queries=3))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_one_file_each_in_a_folder(llama, texts, tmp_path):
    captures = analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path / "new" / "captures")
    assert (len(captures), captures.names) == (3, ["b", "a", "c"])
    for captured, text in zip(captures, texts.values(), strict=True):
        same(captured, analysis.capture(llama, None, text, queries=3))
    again = analysis.open_captures(tmp_path / "new" / "captures")
    assert again.names == ["a", "b", "c"]
    same(again[1], captures[0])
    assert again[1:].names == ["b", "c"]
    assert [captured.tokens for captured in again[-2:]] == [60, 50]


def test_texts_without_names_are_numbered(llama, texts, tmp_path):
    captures = analysis.capture_many(llama, None, list(texts.values()), queries=3, folder=tmp_path)
    assert captures.names == ["text-000", "text-001", "text-002"]


def test_interrupted_and_resumed(llama, texts, tmp_path):
    def interrupt(done, total):
        if done == 4:  # in the last layer of the second text
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["b.nc"]
    written = (tmp_path / "b.nc").stat().st_mtime_ns
    seen, passes = [], []
    hook = llama.model.register_forward_hook(lambda *_: passes.append(1))
    captures = analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path, progress=lambda *a: seen.append(a))
    hook.remove()
    assert len(passes) == 2, "the text that was done must not run again"
    assert seen == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert (tmp_path / "b.nc").stat().st_mtime_ns == written
    for captured, text in zip(captures, texts.values(), strict=True):
        same(captured, analysis.capture(llama, None, text, queries=3))


@pytest.mark.parametrize("changes", [{"queries": 4}, {"max_tokens": 50}, {"layers": [1]}])
def test_a_file_with_other_settings_is_refused(llama, texts, tmp_path, changes):
    analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path)
    with pytest.raises(TreeKVError, match=r"b\.nc' contains another text"):
        analysis.capture_many(llama, None, texts, **{"queries": 3, **changes}, folder=tmp_path)


@pytest.mark.parametrize("capture_texts", [analysis.capture_many, analysis.capture_spectra])
def test_a_file_of_another_checkpoint_is_refused(texts, tmp_path, capture_texts):
    def checkpoint(place, change=0.0, **config):
        model = tiny.llama(**config)
        model.model.layers[1].self_attn.q_proj.weight.data += change
        model.save_pretrained(tmp_path / place / "checkpoint-500")
        model = type(model).from_pretrained(tmp_path / place / "checkpoint-500", attn_implementation="treekv")
        assert analysis.capture(model, None, texts["a"], queries=3).model == "checkpoint-500"
        return model

    settings = dict(queries=3, max_tokens=50, folder=tmp_path / "captures")
    capture_texts(checkpoint("a"), None, texts, **settings)
    capture_texts(checkpoint("moved"), None, texts, **settings)  # the same model elsewhere
    for other in (checkpoint("b", 0.01), checkpoint("c", rms_norm_eps=1e-3)):
        with pytest.raises(TreeKVError, match=r"b\.nc' is of another model that is also called 'checkpoint-500'"):
            capture_texts(other, None, texts, **settings)


def test_a_file_without_a_model_fingerprint_is_compared_by_name(llama, texts, tmp_path):
    captured = analysis.capture(llama, None, texts["b"], queries=3)
    del captured.attrs["model_fingerprint"]
    captured.save(tmp_path / "b.nc")
    assert len(analysis.capture_many(llama, None, {"b": texts["b"]}, queries=3, folder=tmp_path)) == 1


def test_a_file_of_another_text_or_kind_is_refused(llama, texts, tmp_path):
    analysis.capture_many(llama, None, {"b": texts["a"]}, queries=3, folder=tmp_path)
    with pytest.raises(TreeKVError, match=r"b\.nc' contains another text"):
        analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path)
    with pytest.raises(TreeKVError, match="is a capture; expected a spectrum"):
        analysis.capture_spectra(llama, None, {"b": texts["a"]}, queries=3, folder=tmp_path)
    (tmp_path / "b.nc").write_bytes(b"nonsense")
    with pytest.raises(TreeKVError, match="not a readable netCDF file"):
        analysis.capture_many(llama, None, texts, queries=3, folder=tmp_path)


def test_bad_texts_are_named_before_the_model_runs(llama, texts, tmp_path):
    passes = []
    hook = llama.model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(TreeKVError, match="text 'short': the text has 3 tokens"):
        analysis.capture_many(llama, None, {**texts, "short": [1, 2, 3]}, queries=3)
    for bad, words in (("one text", "not one string"), ([], "no text"), ({"a/b": [1]}, "'a/b' cannot be a file name")):
        with pytest.raises(TreeKVError, match=words):
            analysis.capture_many(llama, None, bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(TreeKVError, match="cannot make the folder"):
        analysis.capture_many(llama, None, texts, folder=tmp_path / "file")
    hook.remove()
    assert not passes


def test_folders_without_captures_are_refused(tmp_path):
    with pytest.raises(TreeKVError, match="no folder"):
        analysis.open_captures(tmp_path / "absent")
    with pytest.raises(TreeKVError, match="contains no capture"):
        analysis.open_captures(tmp_path)


def test_with_gradients(texts, tmp_path):
    with torch.inference_mode(False):
        model = tiny.llama()
    seen = []
    settings = dict(queries=3, sensitivity=True, folder=tmp_path)
    captures = analysis.capture_many(model, None, texts, **settings, progress=lambda *call: seen.append(call))
    assert seen == [(i, 12) for i in range(1, 13)]
    for captured, text in zip(captures, texts.values(), strict=True):
        alone = analysis.capture(model, None, text, queries=3, sensitivity=True)
        torch.testing.assert_close(captured.gradient(1), alone.gradient(1))
    seen.clear()
    analysis.capture_many(model, None, texts, **settings, progress=lambda *call: seen.append(call))
    assert seen == [(4, 12), (8, 12), (12, 12)]
    with pytest.raises(TreeKVError, match=r"b\.nc' contains another text, model or other settings"):
        analysis.capture_many(model, None, texts, queries=3, folder=tmp_path)
