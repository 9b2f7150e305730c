"""A grid is read from YAML and checked before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.evaluation.sweep.grid import budget_in_tokens, parse_grid, read_grid, read_item
from analysis.evaluation.sweep.records import Results
from tests.analysis.evaluation.sweep.running import GRID, ran
from treekv import TreeKVConfig, TreeKVError
from treekv.resize import resized


def test_shares_of_a_document_become_tokens(tmp_path: Path) -> None:
    ran(tmp_path / "r", GRID | {"policies": ["tree"], "budgets": ["12.5%"]})
    sizes = {r.of.document: (r.of.budget, r.of.config["cache_size"]) for r in Results(tmp_path / "r").read()}
    assert sizes == {f"d{i}": ("12.5%", size) for i, size in enumerate((16, 32, 64, 80))}
    assert budget_in_tokens("6.25%", 2048) == 128
    assert budget_in_tokens("1%", 100) == 16
    assert budget_in_tokens(77, None) == 77
    with pytest.raises(TreeKVError, match="a budget of 5% needs documents of known length"):
        budget_in_tokens("5%", None)


def test_a_grid_is_read_from_yaml(tmp_path: Path) -> None:
    TreeKVConfig(cache_size=64, stride=2).save(tmp_path / "mine.json")
    (tmp_path / "grid.yaml").write_text(f"""
models: [smollm2, {{name: other, device: cuda}}]
settings: {{prefill: stream, scope: 4}}
policies:
  - full
  - h2o
  - {{name: strided, policy: tree, stride: 2}}
  - {{file: {tmp_path / "mine.json"}}}
budgets: [128, 6.25%]
tasks:
  - ppl
  - {{task: needle, lengths: [512]}}
seeds: [0, 1]
""")
    made = parse_grid(read_grid(tmp_path / "grid.yaml"))
    assert [(model.name, model.device) for model in made.models] == [("smollm2", None), ("other", "cuda")]
    assert [setting.name for setting in made.settings] == ["full", "h2o", "strided", "mine"]
    assert [setting.budgets(made.budgets) for setting in made.settings] == [[None], *[[128, "6.25%"]] * 2, [64]]
    assert made.settings[0].config(128, 0) is None
    assert made.settings[1].config(128, 0) == TreeKVConfig("h2o", 128, prefill="stream")
    assert made.settings[2].config(128, 7) == TreeKVConfig("tree", 128, prefill="stream", scope=4, stride=2, seed=7)
    assert made.settings[3].config(64, 7) == TreeKVConfig("tree", 64, stride=2, seed=7)
    assert [(task.name, task.options) for task in made.tasks] == [("ppl", {}), ("needle", {"lengths": [512]})]
    assert made.seeds == [0, 1]


def test_settings_of_a_file_can_be_changed_and_handed_to_another_policy() -> None:
    shipped = TreeKVConfig.load("smollm2-128")
    entries = [
        {"name": "near", "file": "smollm2-{budget}", "scope": 4},
        {"name": "h2o with these budgets", "file": "smollm2-128", "policy": "h2o", "sink_size": 4},
    ]
    near, h2o = parse_grid({"tasks": "ppl", "policies": entries, "budgets": [128]}).settings
    assert TreeKVConfig(**near.fields) == shipped.replace(scope=4)
    assert TreeKVConfig(**h2o.fields) == shipped.for_policy("h2o").replace(sink_size=4)
    assert h2o.fields["budgets"] == shipped.budgets
    larger = [{"name": "recommended", "file": "smollm2-128", "cache_size": size} for size in (256, 512)]
    made = parse_grid({"tasks": "ppl", "policies": larger, "budgets": [512]}).settings
    assert [TreeKVConfig(**one.fields) for one in made] == [resized(shipped, size) for size in (256, 512)]


def test_one_name_stands_for_a_file_of_each_budget(tmp_path: Path) -> None:
    for size in (32, 64):
        TreeKVConfig(cache_size=size, scope=8).save(tmp_path / f"own-{size}.json")
    entry = {"file": str(tmp_path / "own-{budget}.json")}
    made = parse_grid({"tasks": "ppl", "policies": [entry], "budgets": [32, 64]})
    assert [(setting.name, setting.budgets(made.budgets)) for setting in made.settings] == [
        ("own", [32]),
        ("own", [64]),
    ]
    made = parse_grid({"tasks": "ppl", "policies": [entry | {"name": "best"}], "budgets": [64]})
    assert [setting.name for setting in made.settings] == ["best"]
    with pytest.raises(TreeKVError, match=r"policies has 'own 32' twice"):
        parse_grid({"tasks": "ppl", "policies": [entry, entry], "budgets": [32]})
    with pytest.raises(TreeKVError, match=r"need budgets in tokens, got '12.5%'"):
        parse_grid({"tasks": "ppl", "policies": [entry], "budgets": [32, "12.5%"]})
    with pytest.raises(TreeKVError, match=r"own-48.json"):
        parse_grid({"tasks": "ppl", "policies": [entry], "budgets": [48]})
    TreeKVConfig(cache_size=80).save(tmp_path / "own-96.json")
    with pytest.raises(TreeKVError, match=r"own-96.json' are for 80 tokens, not for 96"):
        parse_grid({"tasks": "ppl", "policies": [entry], "budgets": [96]})


def test_variants_have_names_of_their_own_and_apply_where_there_are_any() -> None:
    made = parse_grid({"tasks": "ppl", "policies": ["h2o", {"policy": "h2o", "variant": "paper"}]})
    sinks = {setting.name: setting.config(64, 0).sink_size for setting in made.settings}
    assert sinks == {"h2o": 0, "h2o paper": 4}
    made = parse_grid({"tasks": "ppl", "settings": {"variant": "paper"}, "policies": ["tree", "tova", "snapkv"]})
    assert [setting.name for setting in made.settings] == ["tree", "tova paper", "snapkv"]
    assert [setting.config(64, 0).variant for setting in made.settings] == ["published", "paper", "published"]


def test_what_is_left_out_has_defaults() -> None:
    made = parse_grid({"tasks": "ppl"})
    assert [setting.name for setting in made.settings] == ["full", "streaming", "tree"]
    assert (made.models[0].name, made.budgets, made.seeds) == ("smollm2", [128], [0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": ["m"]}, "unknown key 'model' in the sweep; known keys are models, policies, budgets"),
        ({"tasks": []}, "the sweep needs at least one entry under 'tasks'"),
        ({"tasks": [{"lengths": 3}]}, "tasks has an entry without the key 'task'"),
        ({"tasks": [3]}, "an entry of tasks must be a task's name or a mapping"),
        ({"models": [{"name": "m", "dtyp": "x"}]}, "unknown key 'dtyp' in models; known keys are name, dtype, device"),
        ({"models": [{"dtype": "float16"}]}, "models has an entry without a name"),
        ({"models": ["m", "m"]}, "models has 'm' twice"),
        ({"policies": ["tre"]}, "'tre'"),
        (
            {"policies": ["tree", {"policy": "tree", "stride": 2}]},
            "'tree' twice; give the settings different names",
        ),
        ({"policies": [{"policy": "tree", "strid": 2}]}, "unknown setting 'strid' in policies; known keys are policy"),
        ({"policies": [{"policy": "tree", "seed": 2}]}, "unknown setting 'seed' in policies; seeds are a list of"),
        ({"policies": [{"policy": "tree", "stride": 5}]}, "settings 'tree' do not fit a budget of 16: stride must be"),
        ({"policies": [{"file": "smollm2-128", "strides": 2}]}, "unknown setting 'strides' in policies"),
        ({"policies": [{"policy": "tree", "name": 3}]}, "the name of settings must be text, got 3"),
        ({"settings": {"strid": 2}}, "unknown setting 'strid' in settings"),
        ({"settings": ["stride"]}, "settings must be a mapping"),
        ({"budgets": [0]}, "a budget must be a number of tokens or a share such as 6.25%, got 0"),
        ({"budgets": ["110%"]}, "got '110%'"),
        ({"budgets": [0.06]}, "got 0.06"),
        ({"budgets": [True]}, "got True"),
        ({"batch": 0}, "batch must be a number of documents of at least 1, got 0"),
        ({"seeds": [-1]}, "a seed must be a whole number of at least 0, got -1"),
        ({"tasks": ["fak"]}, "there is no task 'fak'"),
        ({"tasks": [{"task": "fake", "lenth": 3}]}, "unknown option 'lenth' of task 'fake'"),
    ],
)
def test_what_is_wrong_in_a_grid_is_named_before_any_work(change: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TreeKVError) as raised:
        ran(tmp_path / "r", GRID | change)
    assert sentence in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_files_that_are_no_grid_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    with pytest.raises(TreeKVError, match=r"cannot read the sweep .*No such file"):
        read_grid(file)
    file.write_text("tasks: [ppl\nmodels: x")
    with pytest.raises(TreeKVError, match=r"is not YAML: .*line 2"):
        read_grid(file)
    file.write_text("- tasks")
    with pytest.raises(TreeKVError, match="must be a mapping with the keys models"):
        read_grid(file)
    with pytest.raises(TreeKVError, match=r"'\{task' is not YAML"):
        read_item("{task")
    assert read_item("{task: needle, lengths: [1]}") == {"task": "needle", "lengths": [1]}
