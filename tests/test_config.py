"""训练设置：建立时自检，写成 YAML 再读回不变，从不执行文件里的代码。"""

import dataclasses
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from companion.config import TrainingConfig, read_yaml, setting_docs
from companion.errors import ConfigError

NEEDED = {
    "objective": "masked_lm",
    "model": "starter:bert",
    "corpus": "sample:classical",
    "output": "out",
}


def config(**changes) -> TrainingConfig:
    return TrainingConfig(**{**NEEDED, **changes})


def refused(**changes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_sources(None, {**NEEDED, **changes})
    return caught.value


def test_every_setting_explains_itself():
    """每个字段有一句说明，帮助与 config.yaml 都用它。"""
    docs = setting_docs()
    assert list(docs) == [spec.name for spec in dataclasses.fields(TrainingConfig)]
    assert all(doc and not doc.endswith("。") for doc in docs.values())


def test_the_configuration_cannot_be_changed():
    """设置是冻结的；只能按关键字给。"""
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 1
    with pytest.raises(TypeError):
        TrainingConfig("masked_lm", "m", "c", "o")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rat", "learning_rate"),
        ("epochs", "num_train_epochs"),
        ("lora-rank", "lora_rank"),
        ("maxsteps", "max_steps"),
    ],
)
def test_an_unknown_setting_suggests_the_nearest(name, meant):
    """不认识的名字：说出它，猜最接近的，并列出全部。"""
    error = refused(**{name: 1})
    assert name in error.found
    assert meant in error.remedy
    assert all(known in error.expected for known in setting_docs())


def test_a_name_like_nothing_gets_no_guess():
    """谁也不像的名字不乱猜。"""
    assert "是不是" not in refused(甲乙丙丁=1).remedy


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("lr_scheduler_type", "cosin", "cosine"),
        ("precision", "fp61", "fp16"),
        ("granularity", "whole-word", "whole_word"),
    ],
)
def test_an_unknown_choice_suggests_the_nearest(name, value, meant):
    """选项写错：列出全部选项，猜最接近的。"""
    error = refused(**{name: value})
    assert name in error.found
    assert meant in error.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", "ten"),
        ("max_steps", 1.5),
        ("max_steps", True),
        ("seed", None),
        ("seed", ""),
        ("learning_rate", "nan"),
        ("learning_rate", float("inf")),
        ("learning_rate", 10**400),
        ("tokens_per_batch", "1e999"),
        ("packing", "maybe"),
        ("eval", 1),
        ("eval", None),
        ("model", 7),
        ("model", ""),
        ("corpus", None),
        ("replay", ["a", "b"]),
        ("valid", {"a": 1}),
        ("precision", ["fp32"]),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(name, value):
    """类型不对：说出是哪一项、应当是什么。"""
    error = refused(**{name: value})
    assert name in error.found
    assert error.expected
    assert error.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("max_steps", -2),
        ("num_train_epochs", 0),
        ("num_train_epochs", -1),
        ("replay_ratio", 0),
        ("replay_ratio", 1),
        ("replay_ratio", 1.5),
        ("mlm_probability", 0),
        ("mlm_probability", 1.2),
        ("learning_rate", 0),
        ("learning_rate", -1e-4),
        ("learning_rate", 5),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("adam_beta2", 1),
        ("max_grad_norm", 0),
        ("block_size", 0),
        ("tokens_per_batch", -4096),
        ("gradient_accumulation_steps", 0),
        ("eval_max_chars", 0),
        ("save_steps", 0),
        ("save_total_limit", 0),
        ("logging_steps", 0),
        ("dataloader_num_workers", -1),
        ("lora_rank", -8),
        ("seed", -1),
        ("seed", 2**32),
        ("report_to", "comet"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    """越界：说出是哪一项、现在多少、该在哪里。"""
    error = refused(**{name: value})
    assert name in error.found
    assert str(value) in error.found


def test_a_teacher_forbids_growing_the_vocabulary():
    """教师与学生要同一个词表，扩充词表因此被拒。"""
    error = refused(teacher="starter:bert", new_words=3)
    assert "teacher = starter:bert" in error.found
    assert "new_words" in error.remedy


def test_a_row_must_fit_into_a_batch():
    """一行比一个微批量还长：互相矛盾，立刻拒绝。"""
    error = refused(block_size=512, tokens_per_batch=256)
    assert "512" in error.found
    assert "tokens_per_batch=512" in error.remedy
    assert config(block_size=256, tokens_per_batch=256).block_size == 256


def test_missing_settings_are_named_together():
    """四项必给的，缺哪几项一次说全。"""
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_sources(None, {"objective": "masked_lm"})
    assert "model、corpus、output" in caught.value.found


def test_strings_from_the_command_line_become_values():
    """命令行来的字符串变成字段的类型。"""
    made = TrainingConfig.from_sources(
        None,
        {
            **NEEDED,
            "max_steps": "1e3",
            "learning_rate": "2e-4",
            "packing": "False",
            "block_size": "none",
            "valid": "null",
            "seed": "7",
        },
    )
    assert (made.max_steps, made.learning_rate, made.packing) == (1000, 2e-4, False)
    assert (made.block_size, made.valid, made.seed) == (None, None, 7)
    assert isinstance(made.max_steps, int)


def test_paths_are_kept_as_text(tmp_path):
    """给 Path 也行，存下的是文字。"""
    assert config(output=tmp_path).output == str(tmp_path)


def test_large_integers_lose_no_digit():
    """整数不经浮点数：2³² − 1 一位不差，大到浮点数装不下的也照实说。"""
    assert config(seed=2**32 - 1).seed == 4294967295
    assert str(2**53 + 1) in refused(seed=2**53 + 1).found


SAFE_TEXT = st.text(
    string.ascii_letters + string.digits + " :#'\"[]{}%&*!|>-/文言\n\t\\", min_size=1
).filter(lambda text: text.lower() not in ("none", "null"))


@given(
    st.fixed_dictionaries(
        {
            "model": SAFE_TEXT,
            "corpus": SAFE_TEXT,
            "valid": st.none() | SAFE_TEXT,
            "seed": st.integers(0, 2**32 - 1),
            "learning_rate": st.none() | st.floats(1e-8, 0.5),
            "num_train_epochs": st.floats(0.01, 100),
            "block_size": st.none() | st.integers(1, 4096),
            "packing": st.booleans(),
            "precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
        }
    )
)
def test_what_is_saved_is_read_back(tmp_path_factory, changes):
    """写成 YAML 再读回，逐项相同，哪怕文字里有 YAML 的记号。"""
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    made = config(**changes)
    made.save(path)
    assert TrainingConfig.from_sources(path, {}) == made
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == made.as_dict()


def test_the_saved_file_explains_every_setting(tmp_path):
    """config.yaml 里每一项上面都有它的说明；写盘不留半份。"""
    path = tmp_path / "config.yaml"
    config().save(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, doc in setting_docs().items():
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1] == f"# {doc}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_settings_given_later_win_over_the_file(tmp_path):
    """YAML 打底，命令行覆盖。"""
    path = tmp_path / "config.yaml"
    config(seed=1, max_steps=10).save(path)
    made = TrainingConfig.from_sources(path, {"seed": "2"})
    assert (made.seed, made.max_steps) == (2, 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: [1", "第"),
        ("seed: 1\n\tbad: 2", "第 2 行"),
        ("- a\n- b", "list"),
        ("只是一句话", "str"),
        ("", "NoneType"),
        ("sed: 1", "sed"),
        ("corpus: 2023-02-30", "day"),
        (f"seed: {'9' * 5000}", "4300"),
        (f"seed: {'[' * 800}", "recursion"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, content, said):
    """语法错、不是映射、名字写错：说清哪里。"""
    path = tmp_path / "c.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_sources(path, {})
    assert said in caught.value.found


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """不存在的、不是 UTF-8 的文件：说出路径。"""
    with pytest.raises(ConfigError, match="没有这个"):
        read_yaml(tmp_path / "没有这个.yaml")
    (tmp_path / "国标.yaml").write_bytes("说明: 通鉴".encode("gb18030"))
    with pytest.raises(ConfigError, match="国标"):
        read_yaml(tmp_path / "国标.yaml")


@pytest.mark.parametrize(
    "attack",
    [
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path"
        " [{target}]]",
        "!!python/object/apply:os.system ['touch {target}']",
        "!!python/object/new:subprocess.check_output [[touch, {target}]]",
        "!!python/name:os.system",
    ],
)
def test_code_in_a_file_is_never_run(tmp_path, attack):
    """想构造 Python 对象的标签：拒绝，什么也没有执行。"""
    target: Path = tmp_path / "中招"
    path = tmp_path / "恶意.yaml"
    path.write_text(f"model: {attack.format(target=target)}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="标签一律不执行"):
        read_yaml(path)
    assert not target.exists()


def test_nested_aliases_do_not_blow_up_the_message(tmp_path):
    """“十亿笑”：别名套别名的列表展开有 10⁹ 项，消息却很短。"""
    lines = ["a0: &a0 [x]"]
    for n in range(1, 10):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    path = tmp_path / "笑.yaml"
    path.write_text("\n".join([*lines, "model: *a9"]), encoding="utf-8")
    content = read_yaml(path)
    with pytest.raises(ConfigError) as caught:
        config(model=content["model"])
    assert "model" in caught.value.found
    assert len(str(caught.value)) < 300
