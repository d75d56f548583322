"""`show` 与 `objectives` 对编码器–解码器：表、JSON、图，以及每一项设置。"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from companion.objectives import OBJECTIVES

TEXT = "臣光曰：臣闻天子之职莫大于礼。礼莫大于分！分莫大于名？"
SETTINGS: dict[str, tuple[Any, Any]] = {
    "noise_density": ("0.4", "0.6"),
    "mean_noise_span_length": ("2", "1"),
    "final_sentinel": ("false", "true"),
    "span_placement": ("unbiased", "reference"),
    "noise": ("token_masking", "token_deletion"),
    "poisson_lambda": ("1", "5"),
    "permute_sentences": ("true", "false"),
    "rotate": ("false", "true"),
    "strategy": ("lead", "random"),
}
"""每一项设置的两个值，写法照命令行的。"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点 t5 与 bart。"""
    from companion.models.saving import save_checkpoint
    from companion.models.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("t5", "bart"):
        tokenizer = tiny_tokenizer(kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind)
    return folder


def rows_of(result: Any) -> list[dict[str, Any]]:
    """JSON 里的各行。"""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["rows"]


def kind_of(objective: str) -> str:
    """用哪个检查点。"""
    return "bart" if objective == "text_infilling" else "t5"


def test_the_tables_tell_both_sides(run: Callable[..., Any], pairs: Path) -> None:
    """先三行字，再编码器与解码器两张表；遮住的、哨兵、考不考都写成字。"""
    result = run("show", "span_corruption", TEXT, "--model", pairs / "t5")
    assert result.exit_code == 0
    for title in ("片段破坏：编码器", "片段破坏：解码器", "<extra_id_0>", "【", "〃"):
        assert title in result.stdout
    for note in ("遮住，要写出来", "计损失，评估也考", "计损失，原文没有，不考"):
        assert note in result.stdout


@pytest.mark.parametrize(
    "objective", [key for key, goal in OBJECTIVES.items() if goal.seq2seq]
)
def test_json_holds_the_same_facts(
    objective: str, run: Callable[..., Any], pairs: Path
) -> None:
    """JSON 里有三条行、对齐、出处与要考的；三条行的编号各与文字等长。"""
    words = ("show", objective, TEXT, "--json", "--model", pairs / kind_of(objective))
    [row] = rows_of(run(*words, "--seed", 3))
    for target in range(len(row["labels"])):
        source = row["origin"][target]
        if row["targets"][target] == "scored":
            assert row["scored"][target]
            assert row["hidden"][source]
            assert row["labels"][target] == row["tokens"][source]
    covered = sorted(at for span in row["spans"] for at in span["inputs"])
    assert covered == [*range(len(row["input_ids"]))]
    assert len(row["decoder_input_ids"]) == len(row["label_ids"])


def test_seed_and_epoch_decide_the_noise(run: Callable[..., Any], pairs: Path) -> None:
    """种子与轮次相同样本相同，变了一个噪声就不同。"""
    words = ("show", "text_infilling", TEXT, "--json", "--model", pairs / "bart")
    first = rows_of(run(*words, "--seed", 3))
    assert first == rows_of(run(*words, "--seed", 3, "--epoch", 0))
    assert first != rows_of(run(*words, "--seed", 3, "--epoch", 1))
    assert first != rows_of(run(*words, "--seed", 4))


@pytest.mark.parametrize(
    ("objective", "setting"),
    [
        (key, name)
        for key, goal in OBJECTIVES.items()
        if goal.seq2seq
        for name in goal.options
        if name != "seed"
    ],
)
def test_every_setting_of_the_objective_can_be_set(
    objective: str, setting: str, run: Callable[..., Any], pairs: Path
) -> None:
    """名册里的每一项都能用 `--set` 改，改了样本就不同。"""
    words = ("show", objective, TEXT * 2, "--json", "--seed", 1)
    words += ("--model", pairs / kind_of(objective))
    found = [
        rows_of(run(*words, "--set", f"{setting}={value}"))
        for value in SETTINGS[setting]
    ]
    assert found[0] != found[1]


def test_the_decoder_starts_with_what_the_config_says(
    run: Callable[..., Any], pairs: Path
) -> None:
    """解码器的第一个输入抄自 config.json，不是填充词元；没有写就点名报错。"""
    words = ("show", "text_infilling", "狡兔死", "--json", "--model", pairs / "bart")
    file = pairs / "bart" / "config.json"
    kept = file.read_text(encoding="utf-8")
    config = json.loads(kept)
    try:
        for start in (config["eos_token_id"], 9):
            file.write_text(json.dumps({**config, "decoder_start_token_id": start}))
            assert rows_of(run(*words))[0]["decoder_input_ids"][0] == start
        file.write_text(json.dumps({**config, "decoder_start_token_id": None}))
        result = run(*words)
    finally:
        file.write_text(kept, encoding="utf-8")
    assert result.exit_code == 1
    assert "没有 decoder_start_token_id" in result.stderr


def test_packed_texts_show_three_masks(
    run: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    """`--packed`：编码器、解码器、交叉注意力三个矩阵，都不越过文档；图有两张。"""
    picture = tmp_path / "图.png"
    words = ("show", "span_corruption", "狡兔死，走狗烹", "飞鸟尽，良弓藏", "--packed",
             "--model", pairs / "t5")  # fmt: skip
    result = run(*words, "--json", "--png", picture)
    [row] = rows_of(result)
    encoder, decoder = row["input_document"], row["decoder_document"]
    assert set(encoder) == set(decoder) == {0, 1}
    assert row["attention"] == [[int(a == b) for b in encoder] for a in encoder]
    assert row["cross_attention"] == [[int(a == b) for b in encoder] for a in decoder]
    assert row["decoder_attention"] == [
        [int(a == b and j <= i) for j, b in enumerate(decoder)]
        for i, a in enumerate(decoder)
    ]
    files = [Path(path) for path in json.loads(result.stdout)["files"]]
    assert files == [picture, tmp_path / "图-attention.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    printed = run(*words).stdout
    for title in ("编码器自注意力", "解码器自注意力", "交叉注意力"):
        assert f"{title}" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "noise_density=多"), "noise_density 是一个数"),
        (("--set", "noise_density=1.5"), "noise_density 在 0 与 1 之间"),
        (("--set", "span_placement=unbaised"), "是不是想写 unbiased"),
        (("--set", "final_sentinel=1"), "true 或 false"),
        (("--set", "rotate=true"), "span_corruption 没有参数 rotate"),
        (("--set", "nosie=1"), "noise_density、mean_noise_span_length"),
        (("--set", "noise_density"), "名字=值"),
        (("--set", "seed=3"), "只写 --seed"),
        (("--granularity", "token"), "没有参数 granularity"),
        (("--set", "mean_noise_span_length=0.5"), "至少一个词元"),
    ],
)
def test_wrong_settings_are_named(
    words: tuple[str, ...], said: str, run: Callable[..., Any], pairs: Path
) -> None:
    """值不对、名字不对、给了两次：退出码 1，说中要害。"""
    result = run("show", "span_corruption", TEXT, "--model", pairs / "t5", *words)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stdout == ""


def test_a_setting_is_given_once(run: Callable[..., Any], checkpoints: Path) -> None:
    """选项与 `--set` 给了同一项就拒绝；只给一处时两种写法结果相同。"""
    words = ("show", "masked_lm", TEXT, "--model", checkpoints / "bert", "--json")
    flag, setting = ("--mlm-probability", 0.5), ("--set", "mlm_probability=0.5")
    assert rows_of(run(*words, *flag)) == rows_of(run(*words, *setting))
    result = run(*words, *flag, *setting)
    assert result.exit_code == 1
    assert "只写 --mlm-probability" in result.stderr


def test_a_model_of_another_family_is_refused(
    run: Callable[..., Any], checkpoints: Path
) -> None:
    """拿编码器看片段破坏：说它是编码器，应当是编码器–解码器。"""
    result = run("show", "span_corruption", TEXT, "--model", checkpoints / "bert")
    assert result.exit_code == 1
    assert "编码器–解码器" in result.stderr


def test_objectives_list_what_can_be_set(run: Callable[..., Any]) -> None:
    """名册写出每个目标可设的各项，名字不拆到两行；JSON 里一样全。"""
    shown = run("objectives").stdout
    listed = json.loads(run("objectives", "--json").stdout)["objectives"]
    for each in listed:
        assert each["options"] == list(OBJECTIVES[each["key"]].options)
        for name in each["options"]:
            assert name == "seed" or name in shown
