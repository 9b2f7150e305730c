"""Numbers that are not finite never become a spectrum, a mean of spectra or a verdict."""

import dataclasses

import numpy as np
import pytest

import analysis
from tests.analysis.wavelets.rising import rising
from treekv import TreeKVError


@pytest.mark.parametrize("name", ["amplitude", "query_amplitude"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_spectrum_that_is_not_finite_is_refused(made_spectrum, name, bad):
    spectrum = made_spectrum(rising(np.linspace(1, 4, 8)))
    spectrum[name][..., 3, 7] = bad
    with pytest.raises(TreeKVError, match="the spectrum has amplitudes that are not finite numbers"):
        analysis.trends(spectrum, resamples=99)
    with pytest.raises(TreeKVError, match="spectrum 0 has amplitudes"):
        analysis.mean_spectrum([spectrum, spectrum])


def test_contributions_that_are_not_finite_are_refused(captured):
    values = [v.clone() for v in captured.v]
    values[1][0, 5] = float("nan")
    with pytest.raises(TreeKVError, match="the contributions of layer 1 are not finite numbers"):
        analysis.spectrum(dataclasses.replace(captured, v=values))
