"""体检的本领：一份份故意弄坏的检查点，个个点得出名；完好的，一份也不冤枉。

坏的都由训练好的一份改一处而来，所以查出来的只能是那一处。
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from continued import CORPUS, ids
from model_folders import edit_weights, write_checkpoint
from model_support import NAMED_MODELS
from transformers import AutoTokenizer
from typer.testing import CliRunner

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.tiny import tiny_tokenizer
from companion.cli import app
from companion.errors import ModelError
from companion.preflight.checking import check_checkpoint
from companion.preflight.device import Device
from companion.preflight.findings import Finding

CPU = Device("cpu", "CPU", torch.float32, 8 * 2**30, "测试")
GOALS = {
    "bert": "masked_lm",
    "gpt2": "causal_lm",
    "t5": "span_corruption",
    "bart": "text_infilling",
}
Change = Callable[[Path], Any]


def diagnose(folder: Path, goal: str, **options: Any) -> dict[str, Finding]:
    """检查项 → 结果；打不开的只有 loading 一条。"""
    options = {"block_size": 48, "corpus_texts": CORPUS, **options}
    precision = options.pop("precision", "fp32")
    try:
        checkpoint = load_checkpoint(str(folder), goal)
    except ModelError as error:
        return {"loading": Finding.of("loading", error)}
    found = check_checkpoint(checkpoint, goal, device=CPU.at(precision), **options)
    return {finding.code: finding for finding in found}


def trained(continued: Any, kind: str) -> Path:
    """训练过的那一份。"""
    pair = (kind, GOALS[kind])
    named = next(n for n in NAMED_MODELS if (n.kind, n.objective) == pair)
    return continued(named).model


# ---- 弄坏的办法 -----------------------------------------------------------------


def setting(name: str, **changes: Any) -> Change:
    """改写一个 JSON 文件里的几项。"""

    def change(folder: Path) -> None:
        path = folder / name
        written = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(written | changes), encoding="utf-8")

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """改写权重；`change` 就地改，或返回另一份。"""

    def apply(folder: Path) -> None:
        def edited(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return change(weights) or weights

        edit_weights(folder, edited)

    return apply


def without(*beginnings: str) -> Change:
    """删去名字这样起头的张量。"""
    return tensors(
        lambda all_: {k: t for k, t in all_.items() if not k.startswith(beginnings)}
    )


def filled(name: str, value: float) -> Change:
    """一个张量整块填上同一个数。"""
    return tensors(lambda all_: all_ | {name: torch.full_like(all_[name], value)})


def one(name: str, value: float) -> Change:
    """一个张量里的一个数。"""

    def put(all_: dict[str, torch.Tensor]) -> None:
        all_[name].view(-1)[7] = value

    return tensors(put)


def untied(folder: Path) -> None:
    """输出头另存一份，与词嵌入不等。"""
    words = "bert.embeddings.word_embeddings.weight"
    tensors(lambda a: a | {"cls.predictions.decoder.weight": a[words] + 0.1})(folder)


def renamed(*pairs: tuple[str, str], files: str = "tokenizer*.json") -> Change:
    """分词器的文件里，换掉几个词。"""

    def change(folder: Path) -> None:
        for path in folder.glob(files):
            text = path.read_text(encoding="utf-8")
            for old, new in pairs:
                text = text.replace(old, new)
            path.write_text(text, encoding="utf-8")

    return change


def other_characters(folder: Path) -> None:
    """词表里的汉字都换成别的字：简体的词表，遇上另一种字体的语料。"""
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    written["model"]["vocab"] = {
        chr(0x4E00 + 0x9FFF - ord(word)) if "一" <= word <= "鿿" else word: number
        for word, number in vocabulary.items()
    }
    path.write_text(json.dumps(written), encoding="utf-8")


def shuffled_words(folder: Path) -> None:
    """词表里的编号错开一百个：分词器与权重不是一套。"""
    path = folder / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = written["model"]["vocab"]
    words = [word for word, number in vocabulary.items() if number >= 5]
    numbers = [vocabulary[word] for word in words]
    moved = numbers[100:] + numbers[:100]
    vocabulary.update(zip(words, moved, strict=True))
    path.write_text(json.dumps(written), encoding="utf-8")


def more_tokens(folder: Path) -> None:
    """添了词，没有扩词嵌入。"""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["资治通鉴"])
    tokenizer.save_pretrained(folder)


def another_tokenizer(kind: str) -> Change:
    """换上另一种架构的分词器。"""

    def change(folder: Path) -> None:
        for path in folder.glob("tokenizer*"):
            path.unlink()
        tiny_tokenizer(kind).save_pretrained(folder)

    return change


def no_end(folder: Path) -> None:
    """分词器忘了结尾词元。"""
    setting("tokenizer_config.json", eos_token=None)(folder)


def truncated(folder: Path) -> None:
    """下载到一半。"""
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(5000)


def pointer(folder: Path) -> None:
    """Git LFS 的指针。"""
    text = "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(text)


def lost_shard(folder: Path) -> None:
    """索引里有、文件夹里没有的分片。"""
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class _Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def pickled_code(folder: Path) -> None:
    """.bin 里藏着要执行的代码。"""
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Malice()}, folder / "pytorch_model.bin")


FIRST = "bert.encoder.layer.0."
QUERY = FIRST + "attention.self.query.weight"

BROKEN: dict[str, tuple[str, Change, str, str, str]] = {
    # 名字: (原来的检查点, 弄坏的办法, 检查项, 级别, 说的话)
    "no-head": ("bert", without("cls."), "weights", "warning", "没有输出头"),
    "lost-norm": (
        "bert", without(FIRST + "output.LayerNorm.weight"),
        "weights", "warning", "主干缺 bert.encoder.layer.0.output.LayerNorm",
    ),
    "lost-half": (
        "bert", without("bert.encoder.layer.1."), "loading", "error", "缺主干权重",
    ),
    "fewer-layers": (
        "bert", setting("config.json", num_hidden_layers=1),
        "weights", "warning", "没有用上",
    ),
    "nan": ("bert", one(QUERY, float("nan")), "weights", "error", "NaN"),
    "infinite": ("gpt2", one("transformer.h.0.mlp.c_fc.weight", float("inf")),
                 "weights", "error", "无穷大"),
    "flat": ("bert", filled(QUERY, 0.0), "weights", "warning", "整块是同一个数"),
    "untied": ("bert", untied, "tied_weights", "warning", "两份却不相等"),
    "pad-is-eos": (
        "gpt2", setting("tokenizer_config.json", pad_token="<|endoftext|>"),
        "pad_token", "notice", "同一个词元",
    ),
    "other-pad": (
        "bert", setting("config.json", pad_token_id=9),
        "pad_token", "warning", "模型当作填充的却是 9 号",
    ),
    "left-padding": (
        "bert", setting("tokenizer_config.json", padding_side="left"),
        "padding_side", "notice", "左侧",
    ),
    "no-end": ("gpt2", no_end, "end_token", "warning", "没有结尾词元"),
    "no-mask": (
        "bert", setting("tokenizer_config.json", mask_token=None),
        "loading", "error", "没有掩码词元",
    ),
    "mask-is-unknown": (
        "bert", setting("tokenizer_config.json", mask_token="[UNK]"),
        "mask_token", "error", "同一个编号",
    ),
    "no-mask-for-bart": (
        "bart", setting("tokenizer_config.json", mask_token=None),
        "needed_tokens", "error", "没有掩码词元",
    ),
    "no-sentinels": (
        "t5", renamed(("<extra_id_", "<another_")),
        "needed_tokens", "error", "没有哨兵",
    ),
    "sentinels-out-of-order": (
        "t5",
        renamed(
            ("<extra_id_2>", "<swap>"), ("<extra_id_5>", "<extra_id_2>"),
            ("<swap>", "<extra_id_5>"), files="tokenizer.json",
        ),
        "sentinels", "warning", "乱了序",
    ),
    "a-sentinel-lost": (
        "t5", renamed(("<extra_id_8>", "<gone_8>")),
        "sentinels", "warning", "没有 <extra_id_8>，它后面的 1 个",
    ),
    "no-decoder-start": (
        "t5", setting("config.json", decoder_start_token_id=None),
        "needed_tokens", "error", "decoder_start_token_id",
    ),
    "other-decoder-start": (
        "bart", setting("config.json", decoder_start_token_id=50),
        "decoder_start", "warning", "解码器从 50 号词元",
    ),
    "more-tokens": ("bert", more_tokens, "loading", "error", "词嵌入只有 233 行"),
    "wrong-tokenizer": (
        "bert", shuffled_words, "head", "warning", "和没学过一样",
    ),
    "wrong-script": ("bert", other_characters, "unknown", "error", "认不得的字占"),
    "tokenizer-of-another": (
        "bart", another_tokenizer("t5"), "loading", "error", "个词元，词嵌入有",
    ),
    "other-width": (
        "bert", setting("config.json", intermediate_size=99),
        "loading", "error", "形状不符",
    ),
    "truncated": ("bert", truncated, "loading", "error", "读不出来"),
    "pointer": ("bert", pointer, "loading", "error", "Git LFS"),
    "lost-shard": ("bert", lost_shard, "loading", "error", "缺权重分片"),
    "code": ("bert", pickled_code, "loading", "error", "不是纯张量"),
    "remote-code": (
        "bert",
        setting("config.json", model_type="x", auto_map={"AutoConfig": "x.X"}),
        "loading", "error", "自带的代码",
    ),
    "no-config": (
        "bert", lambda folder: (folder / "config.json").unlink(),
        "loading", "error", "没有 config.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_named(name, continued, tmp_path):
    """改坏一处：那一项报出来，级别、说法都对；有缘由，有办法。"""
    kind, change, code, severity, said = BROKEN[name]
    folder = tmp_path / name
    shutil.copytree(trained(continued, kind), folder)
    change(folder)
    finding = diagnose(folder, GOALS[kind])[code]
    assert finding.severity == severity
    assert said in finding.message
    assert finding.cause
    assert finding.remedy


def test_random_weights_are_named(tmp_path):
    """从没训练过的权重：与瞎猜一样。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    assert diagnose(folder, "masked_lm")["head"].severity == "warning"


@pytest.mark.parametrize(
    ("kind", "options", "code", "severity"),
    [
        ("bert", {"block_size": 129}, "block_size", "error"),
        ("t5", {"precision": "fp16"}, "precision", "error"),
        ("gpt2", {"corpus_texts": ["龘靐齉爩麤"]}, "tokens_per_char", "warning"),
        ("bert", {"corpus_texts": ["龘靐齉爩麤"]}, "unknown", "error"),
    ],
)
def test_a_good_checkpoint_in_a_bad_combination_is_named(
    kind, options, code, severity, continued
):
    """检查点是好的，行长、精度、语料却与它不合。"""
    found = diagnose(trained(continued, kind), GOALS[kind], **options)
    assert found[code].severity == severity


HEALTHY = [
    named
    for number, named in enumerate(NAMED_MODELS)
    if named.kind not in {each.kind for each in NAMED_MODELS[:number]}
]
"""每种架构一份。"""


@pytest.mark.parametrize("named", HEALTHY, ids=ids)
def test_a_healthy_checkpoint_is_not_called_broken(named, continued):
    """完好的：没有错误，也没有提醒；只有“知悉”。"""
    found = diagnose(continued(named).model, named.objective)
    wrong = {
        code: finding.message
        for code, finding in found.items()
        if finding.severity in ("warning", "error")
    }
    assert not wrong


def test_there_are_enough_of_both():
    """坏的不少于 20 份，好的不少于 12 种。"""
    assert len(BROKEN) >= 20
    assert len(HEALTHY) >= 12


def test_the_command_reports_a_checkpoint_that_does_not_open(tmp_path):
    """打不开的检查点：--json 仍是一个 JSON 对象，一条 loading 的错误，退出码 1。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    truncated(folder)
    words = ["check", "--model", str(folder), "--objective", "masked_lm", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert [each["code"] for each in found["findings"]] == ["loading"]
    assert found["findings"][0]["remedy"]
