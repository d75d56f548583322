"""`show` 与 `objectives`：编码器–解码器与前缀语言模型的表、JSON、图，每一项设置。"""

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
    "mlm_probability": ("0.2", "0.6"),
    "granularity": ("token", "whole_word"),
    "preset": ("spanbert", "modernbert"),
    "span_boundary": ("false", "true"),
    "fine_tuning": ("false", "true"),
    "target_mask_probability": ("0.05", "0.95"),
    "sentence_probability": ("0", "0.9"),
    "document_probability": ("0", "1"),
    "fim_rate": ("0", "1"),
}
"""每一项设置的两个值，写法照命令行的。"""
DICTIONARIES = ("user_dictionary", "names", "similar_words")
"""值是文件的几项，另有测试。"""
TOKEN_LEVEL = ("sentence_probability=0", "document_probability=0")
BESIDES: dict[tuple[str, str], tuple[str, ...]] = {
    ("masked_lm", "span_boundary"): ("granularity=span",),
    ("unified_lm", "target_mask_probability"): ("fine_tuning=true",),
    ("blank_infilling", "noise_density"): TOKEN_LEVEL,
    ("blank_infilling", "poisson_lambda"): TOKEN_LEVEL,
    ("blank_infilling", "sentence_probability"): TOKEN_LEVEL[1:],
    ("blank_infilling", "document_probability"): TOKEN_LEVEL[:1],
}
"""看得出某一项的差别，要先把别的几项这样设。"""
KINDS = {
    "AutoModelForCausalLM": "gpt2",
    "AutoModelForMaskedLM": "bert",
    "AutoModelForPreTraining": "bert",
    "AutoModelForSeq2SeqLM": "t5",
    "text_infilling": "bart",
    "blank_infilling": "glm",
}
"""用哪个检查点：先看目标，再看它要哪一类模型。"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """一个文件夹，里面有随机权重的检查点；glm 的词表里有写空用的词元。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_model, tiny_tokenizer

    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("t5", "bart", "bert", "gpt2", "glm", "glm_two_row"):
        tokenizer = tiny_tokenizer("glm_two_row" if kind == "glm" else kind)
        save_checkpoint(tiny_model(kind, tokenizer), tokenizer, folder / kind)
    return folder


def rows_of(result: Any) -> list[dict[str, Any]]:
    """JSON 里的各行。"""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["rows"]


def kind_of(objective: str) -> str:
    """用哪个检查点。"""
    return KINDS.get(objective) or KINDS[OBJECTIVES[objective].auto_class]


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
        for name in goal.options
        if name not in ("seed", *DICTIONARIES)
    ],
)
def test_every_setting_of_the_objective_can_be_set(
    objective: str, setting: str, run: Callable[..., Any], pairs: Path
) -> None:
    """名册里的每一项都能用 `--set` 改，改了样本就不同。"""
    texts = (TEXT * 2,) * (1 + OBJECTIVES[objective].pairs_required)
    words = ("show", objective, *texts, "--json", "--seed", 2)
    words += ("--model", pairs / kind_of(objective))
    for besides in BESIDES.get((objective, setting), ()):
        words += ("--set", besides)
    found = [
        rows_of(run(*words, "--set", f"{setting}={value}"))
        for value in SETTINGS[setting]
    ]
    assert found[0] != found[1]


def test_the_stages_of_ernie_follow_the_epochs(
    run: Callable[..., Any],
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """第 0、1、2 轮是三个阶段：逐字，词典里的短语，专名；各自整个选中或整个不选。"""
    from companion.corpus import words

    monkeypatch.setattr(  # 载入 jieba 的词库要一秒
        words,
        "jieba_segmenter",
        lambda path: words.dictionary_segmenter(words.read_word_list(path)),
    )
    phrase, name = "莫大于礼", "天子之职莫大于"
    (tmp_path / "短语.txt").write_text(phrase, encoding="utf-8")
    (tmp_path / "专名.txt").write_text(name, encoding="utf-8")
    typed = ("show", "masked_lm", TEXT, "--json", "--model", pairs / "bert")
    typed += ("--set", "preset=ernie", "--set", f"names={tmp_path / '专名.txt'}")
    typed += ("--set", f"user_dictionary={tmp_path / '短语.txt'}")
    split: list[set[str]] = []
    for epoch in range(3):
        split.append(set())
        for seed in range(12):
            [row] = rows_of(run(*typed, "--epoch", epoch, "--seed", seed))
            for each in (phrase, name):
                at = TEXT.index(each) + 1  # [CLS]
                labels = row["labels"][at : at + len(each)]
                if len({label is None for label in labels}) == 2:
                    split[-1].add(each)
    assert split == [{phrase, name}, {name}, {phrase}]


def test_macbert_shows_no_mask_token(
    run: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    """近义词由词嵌入去找，或照给的表：选中的都有标签，输入里没有 [MASK]。"""
    table = tmp_path / "近义词.txt"
    table.write_text("天子 诸侯\n\n莫大 无过", encoding="utf-8")
    words = ("show", "masked_lm", TEXT, "--json", "--model", pairs / "bert")
    words += ("--set", "preset=macbert")
    for besides in ((), ("--set", f"similar_words={table}")):
        [row] = rows_of(run(*words, *besides))
        assert "macbert" in row["title"]
        assert any(row["labels"])
        assert "[MASK]" not in row["inputs"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("preset=bert-wmw",), "是不是想写 bert-wwm"),
        (("preset=albert", "granularity=token"), "去掉 granularity"),
        (("preset=modernbert", "mlm_probability=0.15"), "去掉 mlm_probability"),
        (("preset=ernie",), "没有专名表"),
        (("preset=ernie", "names=没有这个.txt"), "没有这个.txt"),
        (("names=没有这个.txt",), "preset=ernie"),
        (("granularity=span", "user_dictionary=没有这个.txt"), "没有这个.txt"),
        (("similar_words=没有这个.txt",), "preset=macbert"),
        (("preset=macbert", "similar_words=没有这个.txt"), "没有这个.txt"),
    ],
)
def test_a_wrong_way_of_masking_is_named(
    settings: tuple[str, ...], said: str, run: Callable[..., Any], pairs: Path
) -> None:
    """没有的选法、相左的设置、缺了或用不上的词典：退出码 1，说得出是哪一项。"""
    words = [word for each in settings for word in ("--set", each)]
    result = run("show", "masked_lm", TEXT, "--model", pairs / "bert", *words)
    assert result.exit_code == 1
    assert said in result.stderr


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


def test_the_same_key_follows_the_model(run: Callable[..., Any], pairs: Path) -> None:
    """`prefix_lm` 配 GPT-2 是一行与四维掩码，配 T5、BART 是编码器与解码器两行。"""
    words = ("show", "prefix_lm", TEXT, "--json", "--seed", 2, "--model")
    [single] = rows_of(run(*words, pairs / "gpt2"))
    first = next(at for at, label in enumerate(single["labels"]) if label is not None)
    size = len(single["input_ids"])
    assert 0 < first < size
    assert single["attention"] == [
        [int(j < first or j <= i) for j in range(size)] for i in range(size)
    ]
    for kind in ("t5", "bart"):
        [double] = rows_of(run(*words, pairs / kind))
        assert "attention" not in double
        written = [t for t, at in zip(double["labels"], double["origin"], strict=True)
                   if at is not None]  # fmt: skip
        assert written == double["tokens"][-len(written) - 1 : -1]


def test_as_many_rows_of_positions_as_the_model_has(
    run: Callable[..., Any], pairs: Path
) -> None:
    """原版的 GLM 收两行位置，transformers 自带的只收一行；别的一样。"""
    words = ("show", "blank_infilling", TEXT, "--json", "--model")
    [one], [two] = (rows_of(run(*words, pairs / k)) for k in ("glm", "glm_two_row"))
    first, second = two.pop("position_ids")
    assert first == one.pop("position_ids")
    assert one == two
    parts = [at > 0 for at in second]
    assert [at for at, part in enumerate(parts) if part] == two["decoder_columns"]


@pytest.mark.parametrize("objective", ["prefix_lm", "unified_lm", "blank_infilling"])
def test_the_explicit_mask_is_drawn(
    objective: str, run: Callable[..., Any], pairs: Path
) -> None:
    """一段文字也画可见矩阵，JSON 里是同一个矩阵。"""
    words = ("show", objective, TEXT, "--model", pairs / kind_of(objective))
    [row] = rows_of(run(*words, "--json"))
    assert len(row["attention"]) == len(row["input_ids"])
    printed = [
        line.split()[1 : len(row["attention"]) + 1]
        for line in run(*words).stdout.splitlines()
        if "■" in line and "看得见" not in line
    ]
    assert printed == [
        ["■" if seen else "·" for seen in line] for line in row["attention"]
    ]


def test_the_picture_of_a_blank_has_two_files(
    run: Callable[..., Any], pairs: Path, tmp_path: Path
) -> None:
    """GLM 的一行：标签图与注意力图各一张，不必 `--packed`。"""
    picture = tmp_path / "图.png"
    words = ("show", "blank_infilling", "狡兔死，走狗烹", "--png", picture)
    assert run(*words, "--model", pairs / "glm").exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"图.png", "图-attention.png"}


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
        assert f"companion {each['usage']}" in shown
        for name in each["options"]:
            assert name == "seed" or name in shown


def test_a_pair_of_texts_is_one_row(run: Callable[..., Any], pairs: Path) -> None:
    """句对：两段一行，后一句的位置重数；单数的几段与 --packed 点名拒绝。"""
    words = ("show", "translation_lm", "--model", pairs / "bert", "--json")
    found = json.loads(run(*words, "走狗烹", "良弓藏", "狡兔死", "飞鸟尽").stdout)
    assert len(found["rows"]) == 2
    for row in found["rows"]:
        assert row["position_ids"] == [*range(5), *range(5)]
        assert row["token_type_ids"] == [0] * 5 + [1] * 5
    for wrong in (("走狗烹",), ("走狗烹", "良弓藏", "--packed")):
        result = run(*words, *wrong)
        assert result.exit_code == 1
        assert "一行一个句对" in result.stderr


def test_the_order_is_told(run: Callable[..., Any], pairs: Path) -> None:
    """句序：标题说是原来的次序还是对调；换几个种子，两种都有；一句的说不计。"""
    words = ("show", "sentence_order", "--model", pairs / "bert", "--json")
    text = "王使人告于诸侯。诸侯皆来会。"
    titles = {
        json.loads(run(*words, text, "--seed", seed).stdout)["rows"][0]["title"]
        for seed in range(6)
    }
    assert titles == {"句序判断（原来的次序）", "句序判断（对调）"}
    alone = json.loads(run(*words, "王使人告于诸侯。").stdout)["rows"][0]
    assert alone["title"] == "句序判断（只有一句，不计）"
