"""打开检查点：残缺的、损坏的、不可信的、不配套的，一个个说清楚。"""

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folders import (
    edit_weights,
    write_checkpoint,
    write_old_checkpoint,
    write_vocabulary,
)
from transformers import BertForMaskedLM, BertTokenizer

from companion.checkpoints.loading import load_checkpoint, load_tokenizer
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.errors import ModelError

OPENABLE = [
    ("bert", "masked_lm"),
    ("roberta", "masked_lm"),
    ("albert", "masked_lm"),
    ("xlm", "masked_lm"),
    ("electra", "masked_lm"),
    ("modernbert", "masked_lm"),
    ("gpt2", "causal_lm"),
    ("bloom", "causal_lm"),
    ("qwen3", "causal_lm"),
]


class Malicious:
    """反序列化时会建一个文件的对象。"""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    """一份完好的 BERT；只读。"""
    return write_checkpoint(tmp_path_factory.mktemp("完好") / "bert", "bert")


# ---- 完好的 -------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "objective"), OPENABLE)
def test_a_complete_checkpoint_opens_without_remarks(kind, objective, tmp_path):
    """权重与存盘前相等，float32，评估模式，没有提醒。"""
    folder = write_checkpoint(tmp_path / kind, kind)
    checkpoint = load_checkpoint(str(folder), objective)
    assert checkpoint.notices == []
    assert checkpoint.missing_keys == ()
    assert not checkpoint.model.training
    saved = tiny_model(kind).state_dict()
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(weight, saved[name]), name


def test_half_precision_weights_open_in_full_precision(tmp_path):
    """存成 fp16 的检查点按 float32 打开：混合精度训练的主权重必须是 float32。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    edit_weights(folder, lambda w: {name: t.half() for name, t in w.items()})
    model = load_checkpoint(str(folder), "masked_lm").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_opening_prints_nothing(bert, capfd):
    """进度条与英文报告都不打。"""
    load_checkpoint(str(bert), "masked_lm")
    assert capfd.readouterr() == ("", "")


def test_extra_heads_and_old_buffers_are_fine(tmp_path):
    """多出池化层、下一句头与 position_ids 的老检查点照常打开，没有提醒。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    extra = {
        "bert.pooler.dense.weight": torch.zeros(32, 32),
        "cls.seq_relationship.weight": torch.zeros(2, 32),
        "bert.embeddings.position_ids": torch.arange(128)[None],
    }
    edit_weights(folder, lambda weights: weights | extra)
    assert load_checkpoint(str(folder), "masked_lm").notices == []


# ---- 残缺的 -------------------------------------------------------------------


def test_half_of_the_weights_missing_is_an_error_that_names_them(tmp_path):
    """缺一半张量：报错，列出键名与比例。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    edit_weights(folder, lambda w: dict(list(w.items())[::2]))
    with pytest.raises(ModelError, match=r"缺主干权重 \d+ 个.*\d+%：bert\.\w+"):
        load_checkpoint(str(folder), "masked_lm")


@settings(max_examples=15)
@given(data=st.data())
def test_no_missing_tensor_goes_unmentioned(data, tmp_path_factory):
    """随便缺哪几个张量：主干缺 1% 以上报错，否则逐个记在 missing_keys 里并提醒。"""
    folder = write_checkpoint(tmp_path_factory.mktemp("缺") / "bert", "bert")
    complete = dict(tiny_model("bert").named_parameters())
    lost = data.draw(st.sets(st.sampled_from(sorted(complete)), min_size=1, max_size=3))
    edit_weights(folder, lambda w: {k: t for k, t in w.items() if k not in lost})
    body = {name: t for name, t in complete.items() if name.startswith("bert.")}
    total = sum(t.numel() for t in body.values())
    gap = sum(t.numel() for name, t in body.items() if name in lost) / total
    if gap > 0.01:
        with pytest.raises(ModelError, match="缺主干权重"):
            load_checkpoint(str(folder), "masked_lm")
        return
    checkpoint = load_checkpoint(str(folder), "masked_lm")
    assert set(checkpoint.missing_keys) == lost
    assert checkpoint.notices


def test_a_missing_head_is_a_notice(tmp_path):
    """只有主干的检查点能打开，提醒输出头是随机的，并留下名单。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    edit_weights(
        folder, lambda w: {k: t for k, t in w.items() if not k.startswith("cls.")}
    )
    checkpoint = load_checkpoint(str(folder), "masked_lm")
    assert "cls.predictions.transform.dense.weight" in checkpoint.missing_keys
    assert "没有输出头" in "".join(checkpoint.notices)


def test_layers_that_the_config_does_not_know_are_mentioned(tmp_path):
    """权重有四层而配置只写两层：提醒。"""
    folder = write_checkpoint(tmp_path / "bert", "bert", num_hidden_layers=4)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    notices = load_checkpoint(str(folder), "masked_lm").notices
    assert re.search(r"没有用上.*层数（2）", "".join(notices))


def test_shapes_that_do_not_fit_the_config_are_an_error(tmp_path):
    """词嵌入的形状与 config.json 不符：报错，写明两边的形状。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 99}))
    with pytest.raises(ModelError, match=r"形状不符.*64.*99"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_truncated_weight_file_is_an_error(tmp_path):
    """下载到一半的 safetensors：报错，让重新下载。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(ModelError, match=r"读不出来.*重新下载"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_truncated_old_weight_file_is_an_error(tmp_path):
    """下载到一半的 .bin 同样。"""
    folder = write_old_checkpoint(tmp_path / "bert")
    with (folder / "pytorch_model.bin").open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(ModelError, match=r"读不出来|不是纯张量"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    """没装 git-lfs 就克隆得到的指针文件：一眼认出。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    pointer = "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "model.safetensors").write_text(pointer)
    with pytest.raises(ModelError, match="git lfs pull"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_missing_shard_is_named(tmp_path):
    """索引里有、文件夹里没有的分片：报出文件名。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"缺权重分片 model-00001-of-00002"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_folder_without_weights_is_an_error(tmp_path):
    """只有 config.json 与分词器：说没有权重，并列出有什么。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"没有 PyTorch 权重（有：config\.json"):
        load_checkpoint(str(folder), "masked_lm")


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "berd"}', "{}"])
def test_an_unreadable_config_is_an_error(content, tmp_path):
    """config.json 写坏、缺 model_type 或写错：一条中文消息。"""
    folder = write_checkpoint(tmp_path / "x", "bert")
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json 读不懂"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_folder_without_a_config_is_an_error(tmp_path):
    """给错了一层文件夹：说里面有什么。"""
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match=r"没有 config\.json（有：model）"):
        load_checkpoint(str(tmp_path), "masked_lm")


# ---- 不可信的 -----------------------------------------------------------------


def test_an_old_bin_opens_with_a_notice(tmp_path):
    """只有 pytorch_model.bin 与 vocab.txt 的老检查点（如 SikuBERT）：能开，有提醒。"""
    folder = write_old_checkpoint(tmp_path / "siku")
    checkpoint = load_checkpoint(str(folder), "masked_lm")
    assert "weights_only" in "".join(checkpoint.notices)
    assert len(checkpoint.tokenizer) == len(tiny_tokenizer("bert"))


def test_another_pickle_protocol_is_no_reason_to_warn(tmp_path, monkeypatch):
    """用 pickle 第 3 号协议存的 .bin：照常打开，不告警；别的警告照样看得见。"""
    folder = write_old_checkpoint(tmp_path / "siku")
    path = folder / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, pickle_protocol=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_checkpoint(str(folder), "masked_lm")
    assert not [each for each in caught if "pickle" in str(each.message)]
    real = BertForMaskedLM.from_pretrained

    def noisy(*args, **kwargs):
        warnings.warn("别的事", stacklevel=1)
        return real(*args, **kwargs)

    monkeypatch.setattr(BertForMaskedLM, "from_pretrained", noisy)
    with pytest.warns(UserWarning, match="别的事"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_pickle_too_new_to_be_read_safely_is_refused_for_that_reason(tmp_path):
    """第 4 号协议 torch 的安全读法读不懂：说的是协议，不冤枉它不是张量；也不告警。"""
    folder = write_old_checkpoint(tmp_path / "siku")
    path = folder / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, pickle_protocol=4)
    with pytest.raises(ModelError, match=r"较新的 pickle 协议.*没有执行它"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    """恶意的 .bin：报错，指明它想调用什么，而且没有执行。"""
    folder = write_old_checkpoint(tmp_path / "bert")
    trace = tmp_path / "executed"
    torch.save({"weight": Malicious(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"不是纯张量.*system.*没有执行"):
        load_checkpoint(str(folder), "masked_lm")
    assert not trace.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # 换一种读法它真会执行：上面的断言不是白给的


def test_safetensors_are_preferred_to_a_pickle(tmp_path):
    """两种权重都在时只读 safetensors，旁边的恶意 .bin 碰也不碰。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    trace = tmp_path / "executed"
    torch.save({"weight": Malicious(trace)}, folder / "pytorch_model.bin")
    assert load_checkpoint(str(folder), "masked_lm").notices == []
    assert not trace.exists()


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path):
    """要 trust_remote_code 的检查点：报错，不执行它的代码。"""
    folder = write_checkpoint(tmp_path / "custom", "bert")
    trace = tmp_path / "executed"
    (folder / "configuration_x.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = {"model_type": "x", "auto_map": {"AutoConfig": "configuration_x.X"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="不执行下载来的代码"):
        load_checkpoint(str(folder), "masked_lm")
    assert not trace.exists()


# ---- 不配套的 -----------------------------------------------------------------


def test_an_encoder_is_refused_for_causal_lm(bert):
    """BERT 做不了因果语言建模：说出合适的家族与可改用的目标。"""
    with pytest.raises(ModelError, match=r"编码器（model_type：bert）.*GPT.*masked_lm"):
        load_checkpoint(str(bert), "causal_lm")


def test_a_decoder_is_refused_for_masked_lm(tmp_path):
    """GPT-2 做不了掩码语言建模。"""
    folder = write_checkpoint(tmp_path / "gpt2", "gpt2")
    with pytest.raises(
        ModelError, match=r"解码器（model_type：gpt2）.*BERT.*causal_lm"
    ):
        load_checkpoint(str(folder), "masked_lm")


@pytest.mark.parametrize("objective", ["masked_lm", "causal_lm"])
def test_an_encoder_decoder_is_refused(objective, tmp_path):
    """BART 在库里也能装成掩码或因果模型，但那不是它。"""
    folder = write_checkpoint(tmp_path / "bart", "bart")
    with pytest.raises(ModelError, match="编码器–解码器"):
        load_checkpoint(str(folder), objective)


def test_bert_as_a_decoder_may_do_causal_lm(tmp_path):
    """设了 is_decoder 的 BERT 只看左边，可以做因果语言建模。"""
    folder = write_checkpoint(tmp_path / "bert", "bert", is_decoder=True)
    model = load_checkpoint(str(folder), "causal_lm").model
    assert type(model).__name__ == "BertLMHeadModel"


def test_ids_beyond_the_embedding_are_an_error(tmp_path):
    """添了新词而没扩词嵌入：训练中途才会越界，这里当场报错。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_tokens(["资治通鉴"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"编号 233，词嵌入只有 233 行.*resize"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_much_too_small_tokenizer_is_an_error(tmp_path):
    """没有任何词表文件时，BertTokenizer 静默得到 5 个词元：报错。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="个词元，词嵌入有 233 行"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_tokenizer_without_a_mask_is_refused_for_masked_lm(tmp_path):
    """分词器没有掩码词元：掩码语言建模无从遮起。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    tiny_tokenizer("bloom").save_pretrained(folder)
    model = tiny_model("bert", tiny_tokenizer("bloom"))
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="没有掩码词元"):
        load_checkpoint(str(folder), "masked_lm")


def test_a_broken_tokenizer_file_is_an_error(tmp_path):
    """tokenizer.json 写坏：一条中文消息。"""
    folder = write_checkpoint(tmp_path / "bert", "bert")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="分词器打不开"):
        load_checkpoint(str(folder), "masked_lm")


@pytest.mark.parametrize("kind", ["albert", "bart", "roberta", "gpt2", "t5"])
def test_a_lone_bert_vocabulary_is_read_as_one(kind, tmp_path):
    """中文检查点常只有 vocab.txt；自动选的分词器只有 1–104 个词元，这里得全部。"""
    tokenizer = tiny_tokenizer("bert")
    tiny_model(kind, tokenizer).config.save_pretrained(tmp_path)
    write_vocabulary(tmp_path, tokenizer)
    found = load_tokenizer(str(tmp_path))
    assert type(found) is BertTokenizer
    assert found.get_vocab() == tokenizer.get_vocab()
    assert found("良弓藏。")["input_ids"] == tokenizer("良弓藏。")["input_ids"]


@pytest.mark.parametrize(
    ("kind", "objective"), [("albert", "masked_lm"), ("gpt2", "causal_lm")]
)
def test_a_replaced_tokenizer_is_mentioned(kind, objective, tmp_path):
    """换了分词器要说一声。"""
    folder = write_old_checkpoint(tmp_path / kind, kind)
    notices = load_checkpoint(str(folder), objective).notices
    assert "已改用 BertTokenizer" in "".join(notices)


# ---- 名字 ---------------------------------------------------------------------


def test_a_misspelt_folder_gets_a_suggestion(bert):
    """路径差一个字母：猜同一处的邻居。"""
    with pytest.raises(ModelError, match=rf"是不是想写 {re.escape(str(bert))}"):
        load_checkpoint(str(bert.parent / "bret"), "masked_lm")


def test_a_file_is_not_a_checkpoint(bert):
    """给了文件：让改给所在的文件夹。"""
    with pytest.raises(ModelError, match="是一个文件"):
        load_checkpoint(str(bert / "config.json"), "masked_lm")


def test_an_unknown_starter_is_an_error():
    """写错起步模型的名字。"""
    with pytest.raises(ModelError, match="没有起步模型 'starter:brt'"):
        load_checkpoint("starter:brt", "masked_lm")


def test_a_hub_name_without_a_network_explains_the_ways_out():
    """离线时打开仓库编号：说出本地文件夹、缓存与镜像三条路，并猜拼写。"""
    with pytest.raises(ModelError) as caught:
        load_checkpoint("SIKU-BERT/sikubret", "masked_lm")
    for expected in ("SIKU-BERT/sikubert", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME"):
        assert expected in str(caught.value)


def test_a_name_of_no_known_form_is_an_error():
    """带空格的名字既不是路径也不是仓库编号。"""
    with pytest.raises(ModelError, match="没有文件夹 bert base chinese!"):
        load_checkpoint("bert base chinese!", "masked_lm")


# ---- LoRA 适配器 --------------------------------------------------------------

# peft 0.21 还在读 transformers 5.23 已弃用的属性，见 peft/peft_model.py 的 __init__
# （huggingface/peft 的事，与我们的代码无关）
PEFT_WARNS = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture
def adapter(tmp_path) -> Path:
    """挂在 tmp_path/base 上、权重不为零的 LoRA 适配器。"""
    peft = pytest.importorskip("peft", reason="适配器的测试要装 peft")
    base = write_checkpoint(tmp_path / "base", "gpt2")
    model = load_checkpoint(str(base), "causal_lm").model
    settings = peft.LoraConfig(
        r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    wrapped = peft.get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@PEFT_WARNS
def test_an_adapter_is_merged_into_its_base(adapter):
    """适配器并进底座，得到普通的 GPT-2，输出与挂着适配器时相同。"""
    from peft import PeftModel

    checkpoint = load_checkpoint(str(adapter), "causal_lm")
    base = load_checkpoint(str(adapter.parent / "base"), "causal_lm").model
    ids = torch.arange(8)[None]
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
        merged = checkpoint.model(ids).logits
    assert type(checkpoint.model).__name__ == "GPT2LMHeadModel"
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert (merged - plain).abs().max() > 1e-3
    assert "并入底座" in checkpoint.notices[-1]


@PEFT_WARNS
def test_an_adapter_trained_after_extending_the_vocabulary_opens(tmp_path):
    """适配器连扩过的词嵌入一起存着：底座照它扩，装得上，分词器认得新词，并说出来。"""
    from peft import LoraConfig, get_peft_model

    tokenizer = tiny_tokenizer("gpt2")
    model = tiny_model("gpt2", tokenizer)
    save_checkpoint(model, tokenizer, tmp_path / "base")
    tokenizer.add_tokens(["继续预训练"])
    model.resize_token_embeddings(len(tokenizer))
    model.name_or_path = str(tmp_path / "base")
    recipe = LoraConfig(
        r=2,
        target_modules=["c_attn"],
        modules_to_save=["wte"],
        fan_in_fan_out=True,
    )
    trained = get_peft_model(model, recipe)
    trained.get_input_embeddings().weight.data[-1] = 0.5
    trained.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    checkpoint = load_checkpoint(str(tmp_path / "adapter"), "causal_lm")
    words = checkpoint.model.get_input_embeddings().weight
    assert words.shape[0] == len(checkpoint.tokenizer) == len(tokenizer)
    assert (words[-1] == 0.5).all()
    assert any("扩过词表" in notice for notice in checkpoint.notices)


@PEFT_WARNS
def test_an_adapter_of_another_shape_says_which_tensor(adapter):
    """形状不符：说出是哪个张量、各是什么形状，不是只说哪个类装不上。"""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"size mismatch for \S+lora_A"):
        load_checkpoint(str(adapter), "causal_lm")


@pytest.mark.parametrize("prefix", ["module.", "model.encoder."])
def test_a_foreign_prefix_is_named_not_called_incomplete(tmp_path, prefix):
    """DDP 存下的名字多了 module.：权重没有缺，说出前缀与办法。"""
    from safetensors.torch import load_file, save_file

    tokenizer = tiny_tokenizer("bert")
    save_checkpoint(tiny_model("bert", tokenizer), tokenizer, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    renamed = {prefix + name: tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_checkpoint(str(tmp_path / "m"), "masked_lm")
    assert f"都多了前缀 {prefix}（" in caught.value.found
    assert "权重没有缺" in caught.value.remedy


def test_a_vocabulary_beside_the_tokenizer_that_disagrees_is_said(tmp_path):
    """手改 vocab.txt 毫无作用（transformers 只读 tokenizer.json）：说出差在哪里。"""
    tokenizer = tiny_tokenizer("bert")
    save_checkpoint(tiny_model("bert", tokenizer), tokenizer, tmp_path / "m")
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    file = tmp_path / "m" / "vocab.txt"
    file.write_text("\n".join(words) + "\n", encoding="utf-8")
    assert load_checkpoint(str(tmp_path / "m"), "masked_lm").notices == []
    words[words.index("良")] = "鑫"
    file.write_text("\n".join(words) + "\n", encoding="utf-8")
    (notice,) = load_checkpoint(str(tmp_path / "m"), "masked_lm").notices
    assert "vocab.txt 与 tokenizer.json 有 1 处不符（如 鑫" in notice


@pytest.mark.parametrize(("written", "code"), [(None, "zh_CN"), ("ja_XX", "ja_XX")])
def test_the_language_of_every_row_is_said(tmp_path, written, code):
    """MBART 每行末尾有语言代码：没有写的不用英语，用中文；写了的照写的；都说出来。"""
    tokenizer = tiny_tokenizer("mbart")
    save_checkpoint(tiny_model("mbart", tokenizer), tokenizer, tmp_path / "m")
    file = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["src_lang"] = written
    file.write_text(json.dumps(settings), encoding="utf-8")
    opened = load_checkpoint(str(tmp_path / "m"), "text_infilling")
    assert opened.tokenizer.src_lang == code
    last = opened.tokenizer("天下")["input_ids"][-1]
    assert opened.tokenizer.convert_ids_to_tokens(last) == code
    (notice,) = [each for each in opened.notices if "语言代码" in each]
    assert code in notice


@PEFT_WARNS
def test_an_adapter_without_its_base_is_an_error(adapter):
    """底座不见了：按底座的名字报错。"""
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "./不见了"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="不见了"):
        load_checkpoint(str(adapter), "causal_lm")


@PEFT_WARNS
def test_an_adapter_that_lacks_weights_is_an_error(adapter):
    """适配器缺张量时 peft 只给警告，这里报错。"""
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file(dict(list(load_file(path).items())[1:]), path)
    with pytest.raises(ModelError, match="有缺"):
        load_checkpoint(str(adapter), "causal_lm")


@PEFT_WARNS
def test_an_adapter_pickle_that_would_run_code_is_not_run(adapter):
    """适配器的恶意 .bin 也不执行。"""
    (adapter / "adapter_model.safetensors").unlink()
    trace = adapter / "executed"
    torch.save({"weight": Malicious(trace)}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="装不上底座"):
        load_checkpoint(str(adapter), "causal_lm")
    assert not trace.exists()
