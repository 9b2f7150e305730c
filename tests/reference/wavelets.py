"""Slow transcription of the band amplitudes: each band reconstructed by PyWavelets, all others zero."""

import numpy as np
import pywt


def components(signal, wavelet, level, mode="symmetric"):
    """[level + 1, n] for a signal of n samples, lowest band first."""
    bands = pywt.wavedec(signal, wavelet, mode=mode, level=level)
    result = []
    for kept in range(level + 1):
        alone = [band if number == kept else np.zeros_like(band) for number, band in enumerate(bands)]
        result.append(pywt.waverec(alone, wavelet, mode=mode)[: len(signal)])
    return np.stack(result)


def packet_components(signal, wavelet, level, mode="symmetric"):
    """[2^level, n], each leaf of PyWavelets' packet tree reconstructed with all others zero, by frequency.

    PyWavelets' own tree does not cut odd lengths on the way up, which in mode "periodization" wraps the sample
    too many into the signal; here every node is cut to its length.
    """
    tree = pywt.WaveletPacket(signal, wavelet, mode=mode, maxlevel=level)
    leaves = tree.get_level(level, order="freq")

    def rebuild(path, kept):
        node = tree[path] if path else tree
        if len(path) == level:
            return node.data if path == kept else np.zeros_like(node.data)
        whole = pywt.idwt(rebuild(path + "a", kept), rebuild(path + "d", kept), wavelet, mode)
        return whole[: len(node.data)]

    return np.stack([rebuild("", leaf.path) for leaf in leaves])


def stationary_components(signal, wavelet, level, mode="symmetric"):
    """[level + 1, n]: PyWavelets' multiresolution analysis of the signal continued far beyond both ends."""
    step, n = 2**level, len(signal)
    reach = step * pywt.Wavelet(wavelet).dec_len
    longer = pywt.pad(signal, (reach, reach + -n % step), mode)[: n + 2 * reach + -n % step]
    parts = pywt.mra(longer, wavelet, level=level, transform="swt")
    return np.stack([part[reach : reach + n] for part in parts])


KINDS = {"dwt": components, "packet": packet_components, "swt": stationary_components}


def amplitude(contributions, wavelet, level, mode="symmetric", transform="dwt"):
    """Mean over channels of |component|, [bands, n], for contributions [n, channels]."""
    parts = [np.abs(KINDS[transform](channel, wavelet, level, mode)) for channel in contributions.T]
    return np.mean(parts, axis=0)


def energy(contributions, wavelet, level, mode="symmetric", transform="dwt"):
    """Sum over samples of the mean over channels of component^2, [bands]."""
    parts = [KINDS[transform](channel, wavelet, level, mode) ** 2 for channel in contributions.T]
    return np.mean(parts, axis=0).sum(-1)
