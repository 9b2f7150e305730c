"""When a phrase was forgotten, step by step, and where a text has it, character by character."""

from __future__ import annotations


def places(tokens: list[str], phrase: str) -> list[tuple[int, int]]:
    """First and last token of each place of a phrase without spaces; whole words, or else parts of words."""
    owner = [number for number, token in enumerate(tokens) for _ in token]
    text, phrase = "".join(tokens).lower(), phrase.lower()

    def is_word(place: int) -> bool:
        return 0 <= place < len(text) and (text[place].isalnum() or text[place] == "_")

    found = []
    for whole in (True, False):
        place = 0
        while place + len(phrase) <= len(text):
            end = place + len(phrase)
            fits = text[place:end] == phrase
            if whole and (is_word(place - 1) or is_word(end)):
                fits = False
            if fits:
                found.append((owner[place], owner[end - 1]))
            place = end if fits else place + 1
        if found:
            break
    return found


def steps(evicted_at: list[int], first: int, last: int, count: int) -> tuple[int, int]:
    """The first step after which one of the tokens first ... last is missing, and all are; -1 if that never comes."""

    def held(token: int, step: int) -> bool:
        return token <= step and (evicted_at[token] == -1 or step < evicted_at[token])

    broken = forgotten = -1
    for step in range(count):
        read = [token for token in range(first, last + 1) if token <= step]
        missing = [token for token in read if not held(token, step)]
        if missing and broken == -1:
            broken = step
        if len(missing) == last - first + 1 and forgotten == -1:
            forgotten = step
    return broken, forgotten


def family(evicted_at: list[int], survivor: list[int], position: int, step: int) -> set[tuple[int, int, int, int]]:
    """(level, position, winner, step) of every token whose chain of winners leads to `position`."""
    found = set()
    for token in range(step + 1):
        chain = [token]
        while evicted_at[chain[-1]] != -1 and evicted_at[chain[-1]] <= step and survivor[chain[-1]] != -1:
            chain.append(survivor[chain[-1]])
            if chain[-1] == position:
                found.add((len(chain) - 1, token, chain[1], evicted_at[token]))
                break
    return found
