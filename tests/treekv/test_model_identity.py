"""A fingerprint identifies a model by its configuration and parameters."""

from tests import tiny
from treekv.model_identity import model_fingerprint


def test_a_fingerprint_depends_only_on_what_the_model_is(llama):
    known = model_fingerprint(llama)
    assert len(known) == 16 and known == model_fingerprint(tiny.llama("eager"))
    llama = tiny.llama()
    for changes in ({"_name_or_path": "/somewhere/else"}, {"use_cache": False}):
        llama.config.update(changes)
        assert model_fingerprint(llama) == known
    half = llama.bfloat16()
    assert model_fingerprint(half) == model_fingerprint(half.float())
    assert model_fingerprint(tiny.llama(window=256)) != known
