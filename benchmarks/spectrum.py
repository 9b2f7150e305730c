"""Haar in torch against PyWavelets on the same array, layer by layer, one thread, in one run.

    python benchmarks/spectrum.py                     # 30 layers x 9 heads x 64 channels x 4,096 positions
    python benchmarks/spectrum.py --layers 3 --tokens 1024

Three questions, each a ratio measured side by side. PyWavelets gets every array twice, as contributions come
(channels last) and with the positions last, which suits it better; the ratio is to the faster of the two.
  forward     all coefficients: haar_wavedec against pywt.wavedec (wanted: at most 1)
  amplitudes  mean |component| of every band over channels: WaveletTransform.statistics against zeroing the other bands
              and pywt.waverec (wanted: at least 2 times faster)
  memory      peak of the statistics of all layers taken at once, the array included, over the array (wanted: at most 3)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata

import numpy as np
import pywt
import torch

from analysis.wavelets.bands import transform_of
from analysis.wavelets.haar import haar_wavedec


def pywt_amplitudes(array: np.ndarray, level: int, axis: int) -> np.ndarray:
    """[bands, heads, positions], positions along `axis` (1 or 2), as one writes it down with PyWavelets."""
    length = array.shape[axis]
    bands = pywt.wavedec(array, "haar", mode="symmetric", level=level, axis=axis)
    result = []
    for kept in range(level + 1):
        alone = [band if number == kept else np.zeros_like(band) for number, band in enumerate(bands)]
        component = pywt.waverec(alone, "haar", mode="symmetric", axis=axis)
        result.append(np.abs(component).mean(3 - axis)[:, :length])
    return np.stack(result)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_over_input(shape: tuple[int, int, int], level: int) -> float:
    """In a process of its own: how far the statistics raise its peak memory, plus the array, over the array."""
    array = torch.randn(*shape)
    transform = transform_of(shape[1], level=level)
    transform.statistics(array[:, :64])  # loads libraries and starts threads before the measurement
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    transform.statistics(array)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return 1 + grown / array.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 30), ("heads", 9), ("channels", 64), ("tokens", 4096), ("level", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = (arguments.heads, arguments.tokens, arguments.channels)
    if arguments.memory_only:
        print(peak_over_input((arguments.layers * shape[0], *shape[1:]), arguments.level))
        return
    transform = transform_of(arguments.tokens, level=arguments.level)
    generator = np.random.default_rng(0)
    ours, theirs = ("forward", "amplitudes"), ("pywt.wavedec", "pywt.waverec")
    times: dict[str, list[float]] = {name: [] for name in (*ours, *(f"{t} axis {a}" for t in theirs for a in (1, 2)))}
    for layer in range(arguments.layers + 1):
        array = generator.standard_normal(shape, dtype=np.float32)
        tensor, turned = torch.from_numpy(array), np.ascontiguousarray(array.swapaxes(1, 2))
        work: dict[str, Callable[[], object]] = {
            "forward": partial(haar_wavedec, tensor, arguments.level, dim=1),
            "amplitudes": partial(transform.statistics, tensor),
        }
        for axis, form in ((1, array), (2, turned)):
            name = f"axis {axis}"
            work[f"pywt.wavedec {name}"] = partial(pywt.wavedec, form, "haar", "symmetric", arguments.level, axis)
            work[f"pywt.waverec {name}"] = partial(pywt_amplitudes, form, arguments.level, axis)
        order = list(work) if layer % 2 else list(work)[::-1]  # the second one runs on a warmer machine
        for name in order:
            spent = seconds(work[name])
            if layer:  # the first round warms up
                times[name].append(spent)
        if not layer:
            found = transform.statistics(tensor).amplitude.numpy().swapaxes(0, 1)
            for axis, form in ((1, array), (2, turned)):
                np.testing.assert_allclose(found, pywt_amplitudes(form, arguments.level, axis), atol=1e-5)
    best = {t: np.minimum(times[f"{t} axis 1"], times[f"{t} axis 2"]) for t in theirs}
    forward = np.median(times["forward"] / best["pywt.wavedec"])
    faster = np.median(best["pywt.waverec"] / times["amplitudes"])
    # In a fresh process whose memory nothing else has raised.
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("layers", "heads", "channels", "tokens", "level")]
    child = subprocess.run(
        [sys.executable, __file__, *sizes, "--memory-only"], capture_output=True, text=True, check=True
    )
    result = {
        "array": [arguments.layers, *shape],
        "level": arguments.level,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(sum(values), 3) for name, values in times.items()},
        "forward over pywt.wavedec": round(float(forward), 3),
        "amplitudes faster than pywt.waverec": round(float(faster), 2),
        "peak memory over input": round(float(child.stdout), 2),
        "torch": torch.__version__,
        "PyWavelets": metadata.version("PyWavelets"),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
