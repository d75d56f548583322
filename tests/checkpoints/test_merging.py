"""合并：承接 + 比例 ×（续训 − 底座），逐个张量；对不上的按名拒绝。"""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from companion.checkpoints import (
    merge_checkpoints,
    merging,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)
from companion.errors import ConfigError, ModelError

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"


def shifted(model, seed, size=0.1):
    """每个浮点参数各加一点，种子定方向。"""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += size * torch.randn(weight.shape, generator=generator)
    return model


def weights_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """底座；续训过的；由底座而来的对话模型，多两个词元与一份对话模板。"""
    folder = tmp_path_factory.mktemp("family")
    tokenizer = tiny_tokenizer("bloom")
    for name, seed in (("base", None), ("tuned", 1), ("chat", 2)):
        model = tiny_model("bloom", tokenizer)
        if seed:
            shifted(model, seed)
        if name == "chat":
            tokenizer = tiny_tokenizer("bloom")
            tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
            tokenizer.chat_template = TEMPLATE
            model.resize_token_embeddings(len(tokenizer))
        save_checkpoint(model, tokenizer, folder / name)
    return folder


def merged(family, output, onto="chat", **options):
    host = None if onto is None else str(family / onto)
    base, tuned = str(family / "base"), str(family / "tuned")
    return merge_checkpoints(base, tuned, output, onto=host, **options)


def test_the_difference_is_added_onto_the_chat_model(family, tmp_path):
    """每个张量都是 对话 + 0.7 ×（续训 − 底座）；多出的两个词元原样，模板还在。"""
    found = merged(family, tmp_path / "out", ratio=0.7)
    base, tuned, chat, out = (
        weights_of(f) for f in (*(family / n for n in ("base", "tuned", "chat")),
                                tmp_path / "out")
    )  # fmt: skip
    for name, mine in chat.items():
        rows = len(base[name]) if base[name].ndim else None
        expected = mine.clone()
        expected[:rows] += 0.7 * (tuned[name] - base[name])
        torch.testing.assert_close(out[name], expected, rtol=0, atol=1e-6)
    assert found.kept_rows == 2
    assert found.changed == found.tensors
    opened = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert opened.chat_template == TEMPLATE
    record = json.loads((tmp_path / "out/merge.json").read_text(encoding="utf-8"))
    assert record["ratio"] == 0.7
    assert record["onto"] == str(family / "chat")


@pytest.mark.parametrize(("ratio", "same"), [(0.0, "base"), (1.0, "tuned")])
def test_without_a_host_it_interpolates(family, tmp_path, ratio, same):
    """不给承接：0 是底座，1 是续训，一半是平均。"""
    merged(family, tmp_path / "end", onto=None, ratio=ratio)
    merged(family, tmp_path / "half", onto=None, ratio=0.5)
    base, tuned = weights_of(family / "base"), weights_of(family / "tuned")
    end, half = weights_of(tmp_path / "end"), weights_of(tmp_path / "half")
    for name, expected in weights_of(family / same).items():
        torch.testing.assert_close(end[name], expected, rtol=0, atol=1e-6)
        mean = (base[name] + tuned[name]) / 2
        torch.testing.assert_close(half[name], mean, rtol=0, atol=1e-6)


def test_shards_hold_what_one_file_holds(family, tmp_path, monkeypatch):
    """分片写出的与一个文件的逐位相同，标准的类直接打开。"""
    merged(family, tmp_path / "whole")
    monkeypatch.setattr(merging, "SHARD_BYTES", 20_000)
    merged(family, tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*-of-*.safetensors"))) > 1
    whole, shards = weights_of(tmp_path / "whole"), weights_of(tmp_path / "shards")
    assert all(torch.equal(whole[name], shards[name]) for name in whole)


def test_the_precision_is_that_of_the_host(family, tmp_path):
    """承接是 bf16，合并的也是；差仍以 float32 计算，只舍入一次。"""
    chat = AutoModelForCausalLM.from_pretrained(family / "chat").bfloat16()
    save_checkpoint(
        chat, AutoTokenizer.from_pretrained(family / "chat"), tmp_path / "chat"
    )
    merge_checkpoints(
        str(family / "base"), str(family / "tuned"), tmp_path / "out",
        onto=str(tmp_path / "chat"),
    )  # fmt: skip
    base, tuned, out = (
        weights_of(f) for f in (family / "base", family / "tuned", tmp_path / "out")
    )
    name = "transformer.h.0.mlp.dense_h_to_4h.weight"
    expected = chat.state_dict()[name].float() + (tuned[name] - base[name])
    assert out[name].dtype == torch.bfloat16
    assert torch.equal(out[name], expected.bfloat16())


def test_what_does_not_fit_is_refused(family, tmp_path):
    """别的架构、扩充过词表的续训、编号错开的词表、旧式权重：说出是哪一样。"""
    tokenizer = tiny_tokenizer("gpt2")
    save_checkpoint(tiny_model("gpt2", tokenizer), tokenizer, tmp_path / "gpt2")
    tokenizer = tiny_tokenizer("bloom")
    model = tiny_model("bloom", tokenizer)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    words = vocabulary["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    save_checkpoint(model, tokenizer, tmp_path / "swapped")
    (tmp_path / "swapped/tokenizer.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8"
    )
    save_checkpoint(model, tokenizer, tmp_path / "old")
    (tmp_path / "old/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "old/pytorch_model.bin")
    base = str(family / "base")
    for tuned, words in (
        (tmp_path / "gpt2", "的张量不同"),
        (family / "chat", "扩充过词表"),
        (tmp_path / "swapped", "编号对不上"),
        (tmp_path / "old", r"旧式的 \.bin"),
    ):
        with pytest.raises(ModelError, match=words):
            merge_checkpoints(base, str(tuned), tmp_path / "out", ratio=0.5)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("ratio", "onto"), [(1.5, None), (-0.1, None), (float("nan"), "chat")]
)
def test_a_ratio_without_meaning_is_refused(family, tmp_path, ratio, onto):
    """插值出了两端、不是数的比例。"""
    with pytest.raises(ConfigError, match="ratio"):
        merged(family, tmp_path / "out", onto=onto, ratio=ratio)


def test_nothing_is_overwritten(family, tmp_path):
    """输出文件夹里有东西就不写。"""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/笔记.txt").write_text("留着", encoding="utf-8")
    with pytest.raises(ConfigError, match="已有东西"):
        merged(family, tmp_path / "out")
