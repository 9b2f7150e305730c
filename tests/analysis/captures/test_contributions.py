"""Contributions with labels are those of the capture."""

import numpy as np
import pytest

import analysis
from treekv import TreeKVError


def test_contributions_with_labels(captured, sharp_llama):
    for model, channels in ((None, 8), (sharp_llama("treekv"), 32)):
        found = analysis.contributions(captured, 1, 40, model)
        assert found.dims == ("head", "position", "channel") and found.shape == (4, 41, channels)
        np.testing.assert_array_equal(found.values, captured.contributions(1, 40, model))
        assert found["token"].values.tolist() == captured.token_text[:41]
        assert found.attrs == {"layer": 1, "query": 40, "model": captured.model, "projected": int(model is not None)}
    with pytest.raises(TreeKVError, match="layer 2 was not captured"):
        analysis.contributions(captured, 2, 40)
