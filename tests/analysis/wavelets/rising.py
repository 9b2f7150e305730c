"""Made-up amplitudes with a known growth, for the tests of trends to the last token."""

import numpy as np

import analysis

LENGTH = 2048


POSITION = np.arange(LENGTH) / LENGTH


def rising(rates):
    """Bands [len(rates), LENGTH] that grow by the factor e^rate from the first position to the last."""
    return np.exp(np.outer(rates, POSITION))


def trends_of(spectrum, resamples=99):
    return analysis.trends(spectrum, resamples=resamples, protocol="to the last token")
