"""Names under which a session, and for the first three its address, keep what the user chooses and makes."""

from __future__ import annotations

from typing import Final

SETTINGS: Final = ("settings", "compare")  # the active configuration, and those compared side by side
VIEW: Final = ("layer", "head", "positions")  # what the sidebar selects
# The runs whose texts count too: on Wavelets, and in a recommendation.
TEXTS: Final = ("texts", "recommend_texts")
# The configurations that were active before, the last one last; why the active one is not in its run.
BEFORE: Final = "settings-before"
UNSAVED: Final = "settings-unsaved"
PROMPT_GIVEN: Final = "prompt-given"  # the user chose the prompt of Compare; until then it follows the settings
RUN_ERROR: Final = "run_error"  # why the run cannot be opened, None where it can
REAL_TRACE: Final = "real_trace"  # the retention record of the last generation
SIMULATED_TRACE: Final = "simulated_trace"  # that of its simulation
