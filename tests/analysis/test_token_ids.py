"""Texts as token ids."""

import pytest

from analysis.token_ids import encode
from treekv import TreeKVError


def test_a_text_that_is_none_is_refused_before_the_tokenizer_sees_it():
    with pytest.raises(TreeKVError, match=r"the text has half of a surrogate pair, '.udc80', at character 1"):
        encode(None, "a\udc80")
    assert encode(None, "") == []
