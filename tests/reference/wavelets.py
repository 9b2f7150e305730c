"""Slow transcription of the band amplitudes: each band reconstructed by PyWavelets, all others zero."""

import numpy as np
import pywt


def components(signal, wavelet, level):
    """[level + 1, n] for a signal of n samples, lowest band first."""
    bands = pywt.wavedec(signal, wavelet, mode="symmetric", level=level)
    result = []
    for kept in range(level + 1):
        alone = [band if number == kept else np.zeros_like(band) for number, band in enumerate(bands)]
        result.append(pywt.waverec(alone, wavelet, mode="symmetric")[: len(signal)])
    return np.stack(result)


def amplitude(contributions, wavelet, level):
    """Mean over channels of |component|, [level + 1, n], for contributions [n, channels]."""
    parts = [np.abs(components(channel, wavelet, level)) for channel in contributions.T]
    return np.mean(parts, axis=0)
