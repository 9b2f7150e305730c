"""What a sweep measures: models x policies x budgets x tasks x seeds, read from YAML and checked."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from treekv import TreeKVConfig, policies
from treekv.budgets import shortened
from treekv.errors import TreeKVError
from treekv.resize import resized

DEFAULTS: Final[dict[str, list[Any]]] = {
    "models": ["smollm2"],
    "policies": ["full", "streaming", "tree"],
    "budgets": [128],
    "seeds": [0],
}
KEYS: Final = (*DEFAULTS, "tasks", "settings", "batch")
_BUDGET: Final = "{budget}"  # in the name of a settings file: one file for each budget
_UNIT: Final = 16  # shares of a document are rounded to a multiple of it, so that prompts divide into blocks
_SETTINGS: Final = tuple(
    field.name for field in dataclasses.fields(TreeKVConfig) if field.name not in ("seed", "trace")
)


@dataclass(frozen=True)
class ModelSpec:
    """A model, as arguments for `treekv.load_model`."""

    name: str
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class SettingsSpec:
    """Named settings without budget and seed; if `by_budget`, others of the same name have other cache sizes."""

    name: str
    fields: dict[str, Any]
    by_budget: bool = False

    @property
    def identity(self) -> str:
        """What tells settings of a sweep apart."""
        return f"{self.name} {self.fields['cache_size']}" if self.by_budget else self.name

    @property
    def compresses(self) -> bool:
        """Whether these are not the full cache."""
        return bool(self.fields["policy"] != "full")

    def budgets(self, wanted: list[int | str]) -> list[int | str | None]:
        """The budgets of the grid, unless these settings fix their own cache size or need none."""
        if not self.compresses:
            return [None]
        return [self.fields["cache_size"]] if "cache_size" in self.fields else list(wanted)

    def config(self, cache_size: int, seed: int) -> TreeKVConfig | None:
        """The settings at one cache size, None for the full cache. Raises TreeKVError if they do not fit it."""
        if not self.compresses:
            return None
        return TreeKVConfig(**{**self.fields, "cache_size": cache_size, "seed": seed})


@dataclass(frozen=True)
class TaskSpec:
    """A task's name and options, as arguments for `analysis.evaluation.create`."""

    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A sweep: every model with all settings at every budget on every task with every seed.

    `batch` documents of one length run in one pass if the task supports it; the scores do not change.
    """

    models: list[ModelSpec]
    settings: list[SettingsSpec]
    budgets: list[int | str]
    tasks: list[TaskSpec]
    seeds: list[int]
    batch: int = 1


def read_grid(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a YAML file, for `parse_grid`.

    Raises:
        TreeKVError: no such file, or not a YAML mapping.
    """
    name = str(Path(path))
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TreeKVError(f"cannot read the sweep {name!r}: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TreeKVError(f"the sweep {name!r} is not YAML: {_where(error)}") from error
    if not isinstance(content, dict):
        raise TreeKVError(f"the sweep {name!r} must be a mapping with the keys {', '.join(KEYS)}")
    return content


def read_item(text: str) -> Any:
    """One list entry as written in the file: `tree`, or `{policy: tree, stride: 2}`.

    Raises:
        TreeKVError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TreeKVError(f"{shortened(text)} is not YAML: {_where(error)}") from error


def parse_grid(content: Mapping[str, Any]) -> Grid:
    """Check a sweep and fill in the defaults.

    Args:
        content: lists under `models` (names, or mappings with name, dtype, device), `policies` (names, or mappings
            with fields of TreeKVConfig and a name, or with `file`, a settings file, or one for each budget as in
            `smollm2-{budget}`, and the fields that are to differ from it; `policy` as `TreeKVConfig.for_policy`,
            `cache_size` with budgets in proportion),
            `budgets` (tokens, or shares of the document such as "6.25%"), `tasks` (names, or mappings with task and
            its options) and `seeds`; and `settings`, a mapping of fields for every policy that does not set them
            itself; and `batch`.

    Raises:
        TreeKVError: names the wrong key or value and what is accepted.
    """
    for key in content:
        if key not in KEYS:
            raise TreeKVError(f"unknown key {key!r} in the sweep; known keys are {', '.join(KEYS)}")
    common = content.get("settings") or {}
    if not isinstance(common, dict):
        raise TreeKVError(f"settings must be a mapping of setting to value, got {common!r}")
    _check_fields(common, "settings")
    budgets = [_budget(item) for item in _list(content, "budgets")]
    made = Grid(
        models=[_model(item) for item in _list(content, "models")],
        settings=[one for item in _list(content, "policies") for one in _settings(item, common, budgets)],
        budgets=budgets,
        tasks=[_task(item) for item in _list(content, "tasks")],
        seeds=[_seed(item) for item in _list(content, "seeds")],
        batch=_batch(content.get("batch", 1)),
    )
    for what, values in (
        ("policies", [setting.identity for setting in made.settings]),
        ("models", [model.name for model in made.models]),
        ("budgets", made.budgets),
        ("seeds", made.seeds),
    ):
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if twice:
            hint = "; give the settings different names" if what == "policies" else ""
            raise TreeKVError(f"{what} has {twice[0]!r} twice{hint}")
    for setting in made.settings:
        for budget in setting.budgets(made.budgets):
            if isinstance(budget, int):
                try:
                    setting.config(budget, made.seeds[0])
                except TreeKVError as error:
                    raise TreeKVError(f"settings {setting.name!r} do not fit a budget of {budget}: {error}") from error
    return made


def budget_in_tokens(budget: int | str | None, tokens: int | None) -> int:
    """A budget in tokens; a share of a document of `tokens` tokens is rounded to a multiple of 16, at least 16.

    Raises:
        TreeKVError: a share, and the task does not state the length of its documents.
    """
    if budget is None:
        return 1  # the full cache ignores it
    if isinstance(budget, int):
        return budget
    if tokens is None:
        raise TreeKVError(f"a budget of {budget} needs documents of known length; give a number of tokens instead")
    share = float(budget.rstrip("%")) / 100
    return max(round(share * tokens / _UNIT), 1) * _UNIT


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key, DEFAULTS.get(key))
    if not isinstance(value, list):
        value = [value] if value is not None else []
    if not value:
        raise TreeKVError(f"the sweep needs at least one entry under {key!r}")
    return value


def _model(item: Any) -> ModelSpec:
    if isinstance(item, str) and item:
        return ModelSpec(item)
    fields = _mapping(item, "models", "a name or a mapping with a name")
    for key, value in fields.items():
        if key not in ("name", "dtype", "device"):
            raise TreeKVError(f"unknown key {key!r} in models; known keys are name, dtype, device")
        if not isinstance(value, str):
            raise TreeKVError(f"{key} of a model must be text, got {value!r}")
    if not fields.get("name"):
        raise TreeKVError(f"models has an entry without a name: {item!r}")
    return ModelSpec(**fields)


def _settings(item: Any, common: dict[str, Any], budgets: list[int | str]) -> list[SettingsSpec]:
    """The settings of an entry: one, or one for each budget if it names a family of files, as in `smollm2-{budget}`.

    Raises:
        TreeKVError: a budget is a share of the text, or the file of a budget has another cache size.
    """
    pattern = item.get("file") if isinstance(item, dict) else None
    if not isinstance(pattern, str) or _BUDGET not in pattern:
        return [_setting(item, common)]
    named = {"name": Path(pattern.replace(_BUDGET, "")).stem.strip("-_. "), **item}
    made = []
    for budget in budgets:
        if isinstance(budget, str):
            raise TreeKVError(f"the settings {pattern!r} need budgets in tokens, got {budget!r}")
        file = pattern.replace(_BUDGET, str(budget))
        setting = _setting({**named, "file": file}, common)
        size = setting.fields["cache_size"]
        if size != budget:
            raise TreeKVError(f"the settings {file!r} are for {size} tokens, not for {budget}")
        made.append(setting)
    return made


def _setting(item: Any, common: dict[str, Any]) -> SettingsSpec:
    if isinstance(item, str):
        item = {"policy": item}
    own = dict(_mapping(item, "policies", "a policy's name or a mapping of settings"))
    name, file = own.pop("name", None), own.pop("file", None)
    if file is not None:
        _check_fields(own, "policies")
        config = TreeKVConfig.load(file)
        config = config.for_policy(own.pop("policy", config.policy))
        config = resized(config, own.pop("cache_size", config.cache_size)).replace(**own)
        fields = {key: getattr(config, key) for key in _SETTINGS}
        return SettingsSpec(_name(name if name is not None else Path(file).stem), fields, by_budget=True)
    _check_fields(own, "policies")
    # A common option is dropped for policies that do not have it; what an entry sets itself must fit.
    policy = own.get("policy", common.get("policy", "tree"))
    known = policies.get(policy)
    shared = {key: value for key, value in common.items() if key not in policies.OPTIONS or key in known.options}
    if shared.get("variant") not in known.variants:
        shared.pop("variant", None)
    fields = {"policy": policy, **shared, **own}
    variant = fields.get("variant", policies.PUBLISHED)
    usual = policy if variant == policies.PUBLISHED else f"{policy} {variant}"
    return SettingsSpec(_name(name if name is not None else usual), fields)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TreeKVError(f"the name of settings must be text, got {value!r}")
    return value


def _check_fields(fields: Mapping[str, Any], where: str) -> None:
    for key in fields:
        if key not in _SETTINGS:
            hint = "; seeds are a list of their own" if key == "seed" else f"; known keys are {', '.join(_SETTINGS)}"
            raise TreeKVError(f"unknown setting {key!r} in {where}{hint}")


def _budget(item: Any) -> int | str:
    if isinstance(item, int) and not isinstance(item, bool) and item >= 1:
        return item
    if isinstance(item, str) and re.fullmatch(r"\d+(\.\d+)?\s*%", item.strip()):
        share = float(item.strip().rstrip("% "))
        if 0 < share <= 100:
            return f"{share:g}%"
    raise TreeKVError(f"a budget must be a number of tokens or a share such as 6.25%, got {item!r}")


def _task(item: Any) -> TaskSpec:
    if isinstance(item, str) and item:
        return TaskSpec(item, {})
    options = dict(_mapping(item, "tasks", "a task's name or a mapping with task and its options"))
    name = options.pop("task", None)
    if not isinstance(name, str) or not name:
        raise TreeKVError(f"tasks has an entry without the key 'task': {item!r}")
    return TaskSpec(name, options)


def _seed(item: Any) -> int:
    if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63:
        return item
    raise TreeKVError(f"a seed must be a whole number of at least 0, got {item!r}")


def _batch(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise TreeKVError(f"batch must be a number of documents of at least 1, got {value!r}")


def _mapping(item: Any, key: str, right: str) -> dict[str, Any]:
    if not isinstance(item, dict) or not all(isinstance(name, str) for name in item):
        raise TreeKVError(f"an entry of {key} must be {right}, got {item!r}")
    return item


def _where(error: Exception) -> str:
    """What is wrong, and where; of numbers of thousands of digits and of deep nesting the parser does not say where."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read"
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else str(problem)
