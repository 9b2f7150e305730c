"""A file whose checksum is right can still say anything: what no ledger can be is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from treekv import TreeKVCache, TreeKVConfig, TreeKVError
from treekv.cache import cache_file

State = tuple[dict[str, torch.Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def state(llama, tmp_path_factory) -> State:
    """The tensors and the JSON of a file with an unfinished block and a trace."""
    config = TreeKVConfig(cache_size=12, sink_size=1, prefill="stream", block_size=8, trace=True)
    with torch.inference_mode():
        cache = TreeKVCache(config, llama.config)
        llama(tiny.tokens(30), past_key_values=cache)
    path = tmp_path_factory.mktemp("caches") / "x"
    cache.save(path)
    file = cache_file.CacheFile(path)
    about = {key: value for key, value in file.about.items() if key not in ("format", "version", "checksum")}
    return file.tensors({}), about


def numbers(about: dict[str, Any]) -> dict[str, Any]:
    return about["layers"][1]["parts"][0]


def put(name: str, value: Any) -> Callable[..., Any]:
    return lambda tensors, about: numbers(about).update({name: value})


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    return lambda tensors, about: tensors.update({name: change(tensors[name])})


def tensors_of(*names: Any) -> Callable[..., Any]:
    *names, change = names
    return lambda tensors, about: tensors.update({name: change(tensors[name]).clone() for name in names})


WRONG: list[tuple[Callable[..., Any], str]] = [
    (lambda tensors, about: tensors.pop("1.0.keys"), "keys or values 1.0 are missing"),
    (lambda tensors, about: tensors.pop("1.0.sums"), "1.0.sums is missing"),
    (lambda tensors, about: tensors.pop("1.0.undone"), "has lost what it evicted"),
    (lambda tensors, about: tensors.pop("1.0.log"), "its trace does not fit"),
    (lambda tensors, about: tensors.update(more=torch.zeros(1)), "no layer needs"),
    (tensor("1.0.keys", lambda t: t[:, :1]), "values"),
    (tensor("1.0.keys", lambda t: t.long()), "of the kind"),
    (tensor("1.0.order", lambda t: t.clone().fill_(0)), "order of its slots is none"),
    (tensor("1.0.order", lambda t: t + 2**40), "order of its slots is none"),
    (tensor("1.0.undone", lambda t: t - 1), "order of its slots is none"),
    (tensor("1.0.order", lambda t: t[..., :5]), "shapes"),
    (tensor("1.0.order", lambda t: t.int()), "kinds"),
    (tensor("1.0.position", lambda t: t - 100), "impossible"),
    (tensor("1.0.position", lambda t: t + 100), "not seen"),
    (tensor("1.0.sums", lambda t: t.clone().fill_(float("nan"))), "impossible"),
    (tensor("1.0.log", lambda t: t.long()), "its trace does not fit"),
    (tensor("1.0.log", lambda t: t[..., :7]), "ends too early"),
    (tensor("1.0.log", lambda t: t + 30), "were not seen"),
    (put("held", [10**6]), "tokens stand in 1000000"),
    (put("held", [-1]), "no list of whole numbers"),
    (put("held", [True]), "no list of whole numbers"),
    (put("held", [1, 2]), "for each of its 1 rows"),
    (put("held", None), "for each of its 1 rows"),
    (put("capacity", [None]), "do not fit together"),
    (put("capacity", [3]), "do not fit together"),
    (put("cursor", [500]), "outside the cache"),
    (put("used_slots", [500]), "tokens stand in 500"),
    (put("open", [[1, 2]]), "unfinished blocks"),
    (put("open", [[6, 500, 0, True, None]]), "unfinished blocks"),
    (put("open", [[6, 12, 0, True, "mark"]]), "unfinished block"),
    (put("open", [[8, 12, 0, True, None]]), "unfinished block of its row 1"),
    (put("open", [[6, 12, 10**12, True, None]]), "unfinished block of its row 1"),
    (put("open", [[6, 12, 0, True, [10**9, []]]]), "unfinished block of its row 1"),
    (tensor("1.0.position", lambda t: t * 0), "twice, or in another order"),
    (tensors_of("1.0.keys", "1.0.values", lambda t: t[:, :, :3]), "have 3 slots, but tokens stand in"),
    (put("trace", None), "its trace does not fit"),
    (put("trace", [[30, 5, []]]), "lost evictions"),
    (put("trace", [[30, 18, [[0, 1, 2**50, 1]]]]), "lost evictions"),
    (put("trace", [[30, 18, [[5, 1, 2, 1]]]]), "no runs"),
    (lambda tensors, about: about["layers"].pop(), "number of layers"),
    (lambda tensors, about: about.update(layers=[[], []]), "other parts"),
    (lambda tensors, about: about.update(layers=[{"parts": ["a"]}] * 2), "for each of its"),
    (lambda tensors, about: about["layers"][1].update(more=1), "has other numbers"),
    (lambda tensors, about: tensors.update({"1.more": tensors["1.0.keys"].clone()}), "does not need"),
    (lambda tensors, about: about.update(rows=7), "have the shape"),
    (lambda tensors, about: about.update(tokens="many"), "does not say what it holds"),
    (lambda tensors, about: about.update(settings=None), "is not a TreeKV settings file"),
    (lambda tensors, about: about["settings"].update(cache_size=16), "do not fit together"),
    (lambda tensors, about: about["settings"].update(policy="mine"), "mine"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=[f"{n} {words}" for n, (_, words) in enumerate(WRONG)])
def test_an_impossible_state_is_refused(llama, state: State, change, sentence, tmp_path: Path):
    tensors, about = dict(state[0]), copy.deepcopy(state[1])
    cache_file.write(tmp_path / "x", tensors, about)
    TreeKVCache.load(tmp_path / "x", llama)
    change(tensors, about)
    cache_file.write(tmp_path / "x", tensors, about)
    with pytest.raises(TreeKVError, match=sentence) as raised:
        TreeKVCache.load(tmp_path / "x", llama)
    assert "\n" not in str(raised.value)


def test_a_full_cache_that_claims_more_tokens_than_it_has_is_refused(llama, tmp_path: Path):
    cache = TreeKVCache(TreeKVConfig(policy="full"), llama.config)
    llama(tiny.tokens(10), past_key_values=cache)
    cache.save(tmp_path / "x")
    file = cache_file.CacheFile(tmp_path / "x")
    about = {key: value for key, value in file.about.items() if key not in ("format", "version", "checksum")}
    numbers(about).update(held=[10**11], seen=[10**11])
    cache_file.write(tmp_path / "x", file.tensors({}), about)
    with pytest.raises(TreeKVError, match="slots, but tokens stand in 100000000000"):
        TreeKVCache.load(tmp_path / "x", llama)


def test_rows_without_bytes_are_refused_before_anything_is_made_for_them(state: State, llama, tmp_path: Path):
    tensors, about = dict(state[0]), copy.deepcopy(state[1])
    for name, held in tensors.items():
        if name.endswith(("keys", "values")):
            tensors[name] = held.new_empty((2_000_000, 2, 0, held.shape[3]))
    about["rows"] = 2_000_000
    cache_file.write(tmp_path / "x", tensors, about)
    with pytest.raises(TreeKVError, match="it has no held for each of its 2000000 rows"):
        TreeKVCache.load(tmp_path / "x", llama)
