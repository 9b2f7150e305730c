"""A folder as the Hugging Face hub has them, with TreeKV as a way to generate: `FOLDER`.

    model.generate(ids, custom_generate=str(treekv.hub.FOLDER), trust_remote_code=True, cache_settings="smollm2-128")

`import treekv.hub` first. Uploaded to the hub, the folder works by the name of its repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
