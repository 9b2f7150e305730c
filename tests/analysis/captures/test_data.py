"""How a capture shows itself."""

import dataclasses

import analysis


def test_one_line_says_what_a_capture_is(run):
    # 2 layers of 4 query heads and 2 + 2 KV heads of 8 channels, 301 tokens, 4 bytes each
    assert 2 * (4 + 2 + 2) * 8 * 301 * 4 == 154_112
    assert repr(run) == "Capture(llama, 301 tokens, 2 layers, 154.1 kB)"
    one = dataclasses.replace(run, q=run.q[:1], k=run.k[:1], v=run.v[:1], scaling=run.scaling[:1], layers=[0])
    assert repr(one) == "Capture(llama, 301 tokens, 1 layer, 77.1 kB)"


def test_a_notebook_shows_a_small_table(run):
    shown = dataclasses.replace(run, model="<b>")._repr_html_()
    assert shown.count("<tr>") == 6 and "&lt;b&gt;" in shown and "<b>" not in shown
    assert "<td>2, from 0 to 1</td>" in shown and "4 query heads, 2 KV heads" in shown
    assert "154.1 kB, float32 on cpu" in shown


def test_a_capture_from_a_file_looks_the_same_but_for_its_size(run, tmp_path):
    assert repr(analysis.open(run.save(tmp_path / "a.nc"))) == "Capture(llama, 301 tokens, 2 layers, 77.1 kB)"
