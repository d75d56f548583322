"""GGUF：写出去、读回来，logits 与词元都相同；认不准的不写。"""

import pytest
import torch

from companion.checkpoints import (
    load_checkpoint,
    load_tokenizer,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
    write_gguf,
)
from companion.checkpoints.gguf import SPLITS, split_name, split_rule, unpack_gguf
from companion.errors import ConfigError, ModelError

gguf = pytest.importorskip("gguf")

TEXT = "臣光曰：臣闻天子之职莫大于礼，abc 123。"
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """解好的放在临时的缓存里。"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def logits_of(model, tokenizer):
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        return model(ids).logits


def rounded(model):
    """参数舍入到 float16；缓冲区（旋转位置的频率）不动。"""
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    return model


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("llama", GROUPED),
        ("qwen3", {**GROUPED, "head_dim": 12}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
    ids=["llama", "qwen3-narrow-heads", "qwen3-untied"],
)
def test_what_was_written_is_read_back(tmp_path, kind, overrides):
    """float32 写出、读回：每个位置的 logits 只差 float16 的舍入，分词逐个相同。"""
    tokenizer = tiny_tokenizer("gpt2")
    model = tiny_model(kind, tokenizer, **overrides)
    file = write_gguf(model, tokenizer, tmp_path / "model.gguf", "f32")
    opened = load_checkpoint(str(file), "causal_lm")
    assert opened.tokenizer(TEXT).input_ids == tokenizer(TEXT).input_ids
    expected = logits_of(rounded(model), tokenizer)
    torch.testing.assert_close(logits_of(opened.model, tokenizer), expected)
    assert "F32" in opened.notices[0]
    save_checkpoint(opened.model, opened.tokenizer, tmp_path / "again")
    again = load_checkpoint(str(tmp_path / "again"), "causal_lm")
    torch.testing.assert_close(logits_of(again.model, tokenizer), expected)


@pytest.mark.parametrize("name", SPLITS)
def test_the_split_survives(tmp_path, name):
    """四种切词的规则各写出、读回：数字、撇号、空白切得一样；名字也认得回来。"""
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = split_rule(name)
    assert split_name(tokenizer.backend_tokenizer.pre_tokenizer) == name
    model = tiny_model("llama", tokenizer)
    file = write_gguf(model, tokenizer, tmp_path / "model.gguf", "f16")
    rule = load_tokenizer(str(file)).backend_tokenizer.pre_tokenizer
    text = "don't  12345\n\n天下2024年，abc!"
    expected = split_rule(name).pre_tokenize_str(text)
    assert rule.pre_tokenize_str(text) == expected
    others = [
        split_rule(each).pre_tokenize_str(text) for each in SPLITS if each != name
    ]
    assert expected not in others


def test_eight_bits_are_close_and_said(tmp_path):
    """q8_0：每 32 个数共一个尺度，误差约为尺度的一半；打开时说出来。"""
    tokenizer = tiny_tokenizer("gpt2")
    model = tiny_model("llama", tokenizer)
    file = write_gguf(model, tokenizer, tmp_path / "model.gguf", "q8_0")
    opened = load_checkpoint(str(file), "causal_lm")
    assert "Q8_0" in opened.notices[0]
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = (m.state_dict()[name] for m in (model, opened.model))
    scale = before.reshape(-1, 32).abs().amax(-1) / 127
    error = (before - after).reshape(-1, 32).abs().amax(-1)
    assert (error <= 0.6 * scale).all()  # 尺度自己也舍入到 float16
    assert error.max() > 0


def test_the_same_file_is_unpacked_once(tmp_path):
    """第二次打开用缓存里的；文件换了就另解一份。"""
    tokenizer = tiny_tokenizer("gpt2")
    file = tmp_path / "model.gguf"
    write_gguf(tiny_model("llama", tokenizer), tokenizer, file, "f16")
    folder = unpack_gguf(file)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert unpack_gguf(file) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    file.unlink()
    write_gguf(tiny_model("llama", tokenizer, seed=1), tokenizer, file, "f16")
    assert unpack_gguf(file) != folder


@pytest.mark.parametrize(
    ("kind", "tokens", "words"),
    [("bloom", "bloom", "架构 bloom"), ("llama", "t5", "分词器是 Unigram")],
)
def test_what_is_not_known_exactly_is_not_written(tmp_path, kind, tokens, words):
    """认不准的架构与分词器：说出是哪一样，指向 llama.cpp 的转换脚本。"""
    tokenizer = tiny_tokenizer(tokens)
    with pytest.raises(ModelError, match=words) as caught:
        write_gguf(tiny_model(kind, tokenizer), tokenizer, tmp_path / "m.gguf", "f16")
    assert "convert_hf_to_gguf.py" in str(caught.value)
    assert not list(tmp_path.glob("*gguf*"))


SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": SCALED}, "缩放 linear"),
        ({"attention_bias": True}, "带偏置"),
    ],
)
def test_what_would_be_lost_is_not_written(tmp_path, changes, words):
    """位置的缩放（长上文的 Llama 3）与 Llama 的偏置：写丢了就全错，所以不写。"""
    tokenizer = tiny_tokenizer("gpt2")
    model = tiny_model("llama", tokenizer, **changes)
    with pytest.raises(ModelError, match=words):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", "f16")


def test_an_unknown_split_is_not_written(tmp_path):
    """切词的规则没有名字：llama.cpp 会另切一样，所以不写。"""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[，。]"), "isolated"),
            pre_tokenizers.ByteLevel(use_regex=False),
        ]
    )
    model = tiny_model("llama", tokenizer)
    with pytest.raises(ModelError, match="切词的规则"):
        write_gguf(model, tokenizer, tmp_path / "m.gguf", "f16")


def test_a_broken_file_and_an_existing_one(tmp_path):
    """截短的文件读不出来，说是哪一个；已有的文件不覆盖。"""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\3\0\0\0")
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        load_checkpoint(str(tmp_path / "bad.gguf"), "causal_lm")
    tokenizer = tiny_tokenizer("gpt2")
    with pytest.raises(ConfigError, match="已经存在"):
        write_gguf(
            tiny_model("llama", tokenizer), tokenizer, tmp_path / "bad.gguf", "f16"
        )
