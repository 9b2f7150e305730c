"""Task "turns": a conversation of several turns, each of which brings a new part of a text."""

from __future__ import annotations

import dataclasses
import weakref
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import torch

from analysis.evaluation.tasks import options, texts
from analysis.evaluation.tasks.base import Document, Measurement
from analysis.evaluation.tasks.perplexity import PerplexityTask
from analysis.evaluation.tasks.prompt_cache import next_logits
from analysis.evaluation.tasks.tokens import context_window, end_tokens
from analysis.progress import Progress
from analysis.token_ids import encode
from treekv import TreeKVCache, TreeKVConfig
from treekv.errors import TreeKVError

REQUEST: Final = "Here is part {number} of a text:\n\n{part}\n\nSay in one sentence what happens in it."
Exchanges = list[tuple[list[int], list[int]]]  # for each turn, the ids before the answer, and the answer's
_MARK: Final = "<answer of the assistant>"


@dataclass(kw_only=True)
class Turns:
    """Turns of a chat, each with the next part of a text and a request to say what happens in it.

    The answers are those that the model gives greedily with the full cache. They are read token by token as if the
    cache under test had given them, so all settings are asked the same and pay for losing what the answers speak of.
    They are made anew by each process, and are in the detail of a record: in half precision another machine or number
    of threads may give others, so measure all settings in one place.

    Scores: `loss` of the answers' tokens, in nats per token; `loss_turn_1`, `loss_turn_2` and so on; `agreement`, the
    share in per cent of these tokens that the cache under test would have chosen too; `cache_bytes` at the end.

    Args:
        files: texts (.txt, .md), folders of them or patterns.
        turns: number of turns.
        part: tokens of the text in each turn.
        new_tokens: the most tokens of an answer.
        count: the most conversations: the first stretch of every text, then the second, and so on.
        skip: number of first tokens of each text to leave out.
    """

    files: list[str] = field(default_factory=list)
    turns: int = 5
    part: int = 300
    new_tokens: int = 40
    count: int = 8
    skip: int = 0
    name: ClassVar[str] = "turns"

    def __post_init__(self) -> None:
        self.files = options.require_texts("files", self.files)
        for option in ("turns", "new_tokens", "count"):
            options.require_int(option, getattr(self, option), 1)
        options.require_int("part", self.part, 2)
        options.require_int("skip", self.skip, 0)
        self._answered: tuple[Any, str, Exchanges] | None = None  # the last model and document, and what was said

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"files": texts.names(self.files)}

    def documents(self, tokenizer: Any) -> list[Document]:
        """The conversations, without the answers.

        Raises:
            TreeKVError: no text can be read or none is long enough, or the tokenizer has no chat template.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise TreeKVError("this tokenizer has no chat template, which the task 'turns' needs")
        size = self.turns * self.part
        stretches = PerplexityTask(files=self.files, lengths=[size], count=self.count, skip=self.skip)
        found = []
        for document in stretches.documents(tokenizer):
            data = {name: value for name, value in document.data.items() if name not in ("ids", "length")}
            if "ids" in document.data:
                own = document.data["ids"]
                parts = [own[at : at + self.part] for at in range(0, size, self.part)]
                data["parts"] = [tokenizer.decode(part, skip_special_tokens=True) for part in parts]
            found.append(Document(document.key, data))
        return found

    def run(
        self,
        model: Any,
        tokenizer: Any,
        config: TreeKVConfig | None,
        document: Document,
        progress: Progress | None = None,
    ) -> Measurement:
        """Measure one conversation; see `Task.run`."""
        if document.data.get("error"):
            raise TreeKVError(document.data["error"])
        turns = self._exchanges(model, tokenizer, document)
        cache = TreeKVCache(config or TreeKVConfig(policy="full"), model.config)
        losses: list[torch.Tensor] = []
        chosen = []
        with torch.inference_mode():
            for number, (asked, answer) in enumerate(turns):
                logits = [next_logits(model, asked, cache)]
                logits += [next_logits(model, [token], cache) for token in answer[:-1]]
                scores = torch.stack(logits).float().log_softmax(-1)
                target = torch.tensor(answer, device=scores.device)
                losses.append(-scores.gather(1, target[:, None])[:, 0].double().cpu())
                chosen.append((scores.argmax(-1) == target).double().cpu())
                next_logits(model, answer[-1:], cache)
                if progress is not None:
                    progress(number + 1, len(turns))
        scores_of = {f"loss_turn_{number}": own.mean().item() for number, own in enumerate(losses, start=1)}
        agreement = 100 * torch.cat(chosen).mean().item()
        every = {"loss": torch.cat(losses).mean().item(), **scores_of, "agreement": agreement}
        detail = {"answers": [tokenizer.decode(answer, skip_special_tokens=True) for _, answer in turns]}
        return Measurement({**every, "cache_bytes": float(cache.nbytes)}, detail)

    def _exchanges(self, model: Any, tokenizer: Any, document: Document) -> Exchanges:
        """The turns of a document, made once for all settings that follow each other on it."""
        last = self._answered
        if last is not None and last[0]() is model and last[1] == document.key:
            return last[2]
        turns = self._answers(model, tokenizer, document.data["parts"])
        self._answered = weakref.ref(model), document.key, turns
        return turns

    def _answers(self, model: Any, tokenizer: Any, parts: list[str]) -> Exchanges:
        """For every turn the ids that come before the answer, and those of the full cache's answer."""
        asked = [encode(tokenizer, text) for text in requests(tokenizer, parts)]
        total, window = sum(map(len, asked)) + len(asked) * self.new_tokens, context_window(model)
        if window is not None and total > window:
            raise TreeKVError(f"{len(parts)} turns take up to {total} tokens; the model's window has {window}")
        ends = end_tokens(model)
        cache, found = TreeKVCache(TreeKVConfig(policy="full"), model.config), []
        with torch.inference_mode():
            for ids in asked:
                answer: list[int] = []
                logits = next_logits(model, ids, cache)
                while len(answer) < self.new_tokens:
                    token = int(logits.argmax())
                    if token in ends and answer:
                        break  # the template of the next turn closes the answer
                    answer.append(token)
                    logits = next_logits(model, [token], cache)
                found.append((ids, answer))
        return found


def requests(tokenizer: Any, parts: list[str]) -> list[str]:
    """What stands before each answer: the template of the conversation, cut where the answers are.

    Raises:
        TreeKVError: the template changes the answers, so that they cannot be found.
    """
    messages = []
    for number, part in enumerate(parts, start=1):
        messages.append({"role": "user", "content": REQUEST.format(number=number, part=part)})
        messages.append({"role": "assistant", "content": _MARK})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    pieces = whole.split(_MARK)
    if len(pieces) != len(parts) + 1:
        raise TreeKVError("the chat template changes the answers of the assistant, so the turns cannot be separated")
    return list(pieces[:-1])
