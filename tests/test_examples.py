"""`examples/` 的设置文件：都读得进，只写改了的，第一行说做什么、第二行是命令。"""

import dataclasses
import re
import shlex
from importlib import import_module

import pytest
import yaml

from companion.config import TrainingConfig, settings_by_group
from companion.objectives import OBJECTIVES, get_objective
from companion.training.data import refuse_others


@pytest.fixture(scope="module")
def examples(root):
    """全部设置文件。"""
    return sorted((root / "examples").glob("*.yaml"))


def test_every_example_is_a_valid_short_config(examples, root, tmp_path):
    """除了 output 都给齐了，没有别的目标的选项；至多十五行。"""
    assert len(examples) >= 5
    for path in examples:
        config = TrainingConfig.from_sources(path, {"output": str(tmp_path)})
        refuse_others(config, get_objective(config.objective))
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 15
        given = yaml.safe_load(text)
        defaults = {each.name: each.default for each in dataclasses.fields(config)}
        assert not [n for n in given if given[n] == defaults[n]], path.name


def test_every_example_names_its_command(examples):
    """第二行是可以照抄的命令，用的就是这个文件。"""
    for path in examples:
        comment = path.read_text(encoding="utf-8").splitlines()[1]
        words = shlex.split(comment.lstrip("# "))
        assert words[:4] == ["companion", "train", "--config", f"examples/{path.name}"]
        assert "--output" in words


def test_every_distributed_example_cuts_the_model_and_is_read_by_accelerate(root):
    """`examples/distributed/`：accelerate 读得进，切开用第二版，第二行是命令。"""
    config = pytest.importorskip("accelerate.commands.config.config_args")
    files = sorted((root / "examples" / "distributed").glob("*.yaml"))
    assert len(files) == 3
    for path in files:
        read = config.load_config_from_file(str(path))
        assert read.distributed_type == "FSDP"
        assert read.fsdp_config["fsdp_version"] == 2
        assert not read.use_cpu
        command = path.read_text(encoding="utf-8").splitlines()[1]
        assert f"--config_file examples/distributed/{path.name}" in command
        assert "-m companion train" in command


def test_the_overview_holds_every_setting_once():
    """一览里每项设置恰好一次，都有说明。"""
    listed = [row for rows in settings_by_group().values() for row in rows]
    names = [name for name, _, _ in listed]
    assert sorted(names) == sorted(f.name for f in dataclasses.fields(TrainingConfig))
    assert all(meaning for _, _, meaning in listed)


def test_every_option_of_a_collator_is_a_setting_or_told_to_be_python_only(root):
    """整理器的参数：是设置，由模型定，或在“设置”一页里列为只在 Python 里给。"""
    settings = {each.name for each in dataclasses.fields(TrainingConfig)}
    from_model = {"tokenizer", "similar_words", "keep_positions"}
    others: set[str] = set()
    for goal in OBJECTIVES.values():
        module, _, name = goal.collator.partition(":")
        fields = dataclasses.fields(getattr(import_module(module), name))
        given = {each.name for each in fields if each.init}
        others |= given - settings - from_model - set(goal.model_options)
    page = (root / "book" / "settings.md").read_text(encoding="utf-8")
    listed = "".join(line for line in page.splitlines() if line.startswith("- "))
    assert set(re.findall(r"`(\w+)`", listed)) == others
