"""Names under which a session and its address keep what the user chooses."""

from __future__ import annotations

SETTINGS = ("settings", "compare")  # chosen, and side by side, in the session and in the address


VIEW = ("layer", "head", "positions")  # what the sidebar chooses, in the session and in the address
