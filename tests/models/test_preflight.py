"""体检：每一项都有该报的时候，也有不该报的时候。"""

import json
from dataclasses import replace

import pytest
import torch

from companion.models.device import Device
from companion.models.findings import Finding
from companion.models.loading import Checkpoint
from companion.models.model_checks import training_memory
from companion.models.preflight import CHECKS, check_checkpoint
from companion.models.tiny import tiny_model, tiny_tokenizer
from companion.models.tiny_tokenizers import TINY_TEXT

CPU = Device("cpu", "CPU", torch.float32, 8 * 2**30, "测试")


def opened(kind: str, **overrides) -> Checkpoint:
    """不落盘的极小检查点。"""
    tokenizer = tiny_tokenizer(kind)
    return Checkpoint(tiny_model(kind, tokenizer, **overrides), tokenizer, kind)


def examine(checkpoint: Checkpoint, objective: str, **options) -> dict[str, Finding]:
    """检查项 → 结果。"""
    findings = check_checkpoint(checkpoint, objective, device=CPU, **options)
    return {finding.code: finding for finding in findings}


def test_every_check_reports_once_in_order():
    """每项检查恰有一条结果；不合格的都有原因与办法；能写成 JSON。"""
    findings = check_checkpoint(opened("bert"), "masked_lm", device=CPU)
    assert [f"check_{finding.code}" for finding in findings] == [
        check.__name__ for check in CHECKS
    ]
    for finding in findings:
        assert finding.message
        if finding.severity != "ok":
            assert finding.cause
            assert finding.remedy
    assert (
        json.loads(json.dumps([f.as_dict() for f in findings]))[0]["severity"] == "ok"
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm", "albert", "funnel"])
def test_encoders_can_be_examined_for_masked_lm(kind):
    """各家编码器都检得完，没有 error。"""
    findings = examine(opened(kind), "masked_lm")
    assert all(finding.severity != "error" for finding in findings.values())


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "qwen3", "glm"])
def test_decoders_can_be_examined_for_causal_lm(kind):
    """各家解码器都检得完，没有 error。"""
    findings = examine(opened(kind), "causal_lm")
    assert all(finding.severity != "error" for finding in findings.values())


def test_the_examination_leaves_everything_as_it_was():
    """模型的模式、权重与全局随机状态都不变。"""
    checkpoint = opened("bert")
    checkpoint.model.train()
    weights = {k: w.clone() for k, w in checkpoint.model.state_dict().items()}
    torch.manual_seed(2)
    state = torch.get_rng_state()
    examine(checkpoint, "masked_lm")
    assert checkpoint.model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in checkpoint.model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_a_random_head_is_no_better_than_guessing():
    """随机权重的损失约等于 ln V：警告，并指出缺了什么。"""
    checkpoint = replace(opened("bert"), missing_keys=("cls.predictions.bias",))
    finding = examine(checkpoint, "masked_lm")["head"]
    assert finding.severity == "warning"
    assert "瞎猜是 5.45" in finding.message
    assert "cls.predictions.bias" in finding.cause


@pytest.mark.parametrize(
    ("kind", "goal"), [("bert", "masked_lm"), ("gpt2", "causal_lm")]
)
def test_a_head_that_learnt_something_passes(kind, goal):
    """学过几十步就比瞎猜强：合格。"""
    checkpoint = opened(kind)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    rows = [torch.tensor([ids]) for ids in tokenizer(list(TINY_TEXT))["input_ids"]]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for labels in rows * 6:
        inputs = labels.clone()
        if goal == "masked_lm":
            inputs[:, 1:-1] = tokenizer.mask_token_id
        model(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert examine(checkpoint, goal)["head"].severity == "ok"


def test_a_missing_pad_token_and_pad_that_is_eos_are_notices():
    """GPT-2 没有填充词元，GLM 的填充就是结尾：知道即可，我们不受影响。"""
    assert examine(opened("gpt2"), "causal_lm")["pad_token"].severity == "notice"
    finding = examine(opened("glm"), "causal_lm")["pad_token"]
    assert "同一个词元" in finding.message
    assert examine(opened("bloom"), "causal_lm")["pad_token"].severity == "ok"


def test_a_decoder_without_an_end_token_is_a_warning():
    """用 BERT 词表的 GPT-2 没有结尾词元。"""
    tokenizer = tiny_tokenizer("bert")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "中文 GPT-2")
    assert examine(checkpoint, "causal_lm")["end_token"].severity == "warning"


def test_a_missing_mask_token_is_an_error():
    """掩码目标配了没有掩码词元的分词器。"""
    tokenizer = tiny_tokenizer("bloom")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "x")
    assert examine(checkpoint, "masked_lm")["mask_token"].severity == "error"


def test_ids_beyond_the_embedding_are_an_error():
    """添了词而没扩词嵌入。"""
    checkpoint = opened("bert")
    checkpoint.tokenizer.add_tokens(["资治通鉴"])
    finding = examine(checkpoint, "masked_lm")["vocabulary"]
    assert finding.severity == "error"
    assert "233" in finding.message


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("狡兔死，走狗烹。", "ok"),
        ("龘狗烹飞鸟尽良弓藏", "warning"),
        ("龘靐齉", "error"),
    ],
)
def test_unknown_characters_are_counted_and_shown(text, severity):
    """认不得的字按字数计比例，并举例。"""
    finding = examine(opened("bert"), "masked_lm", corpus_texts=[text])["unknown"]
    assert finding.severity == severity
    if severity != "ok":
        assert "龘" in finding.message


def test_the_unknown_rate_counts_characters_not_tokens():
    """XLM-R 把连着的生字并成一个 <unk>，仍按字数计：4 个字里有 3 个。"""
    finding = examine(opened("xlm-roberta"), "masked_lm", corpus_texts=["弓龘靐齉"])
    assert "75.00%" in finding["unknown"].message


def test_many_tokens_per_character_is_a_warning():
    """生僻字被拆成三四个字节：每字的词元太多。"""
    checkpoint = opened("gpt2")
    common = examine(checkpoint, "causal_lm")["tokens_per_char"]
    rare = examine(checkpoint, "causal_lm", corpus_texts=["龘靐齉爩麤"])
    assert common.severity == "ok"
    assert rare["tokens_per_char"].severity == "warning"


def test_broken_ties_are_a_warning():
    """配置说共享、实际是两份词嵌入。"""
    checkpoint = opened("bert")
    head = checkpoint.model.cls.predictions.decoder
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    assert examine(checkpoint, "masked_lm")["tied_weights"].severity == "warning"
    assert examine(opened("bert"), "masked_lm")["tied_weights"].severity == "ok"
    assert examine(opened("qwen3"), "causal_lm")["tied_weights"].severity == "ok"


@pytest.mark.parametrize("kind", ["funnel", "convbert"])
def test_padding_that_leaks_is_a_warning(kind):
    """Funnel 的池化与 ConvBERT 的卷积看得见填充。"""
    assert examine(opened(kind), "masked_lm")["padding"].severity == "warning"


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "xlm"])
def test_padding_that_does_not_leak_passes(kind):
    """其余编码器的填充不影响输出。"""
    assert examine(opened(kind), "masked_lm")["padding"].severity == "ok"


def test_a_model_that_cannot_pack_is_a_notice():
    """BLOOM 不能打包：知道即可，另有办法。"""
    finding = examine(opened("bloom"), "causal_lm")["packing"]
    assert finding.severity == "notice"
    assert "ALiBi" in finding.cause


@pytest.mark.parametrize(
    ("kind", "goal", "size", "severity"),
    [
        ("bert", "masked_lm", 128, "ok"),
        ("bert", "masked_lm", 129, "error"),
        ("roberta", "masked_lm", 128, "ok"),
        ("roberta", "masked_lm", 129, "error"),
        ("qwen3", "causal_lm", 129, "warning"),
        ("bloom", "causal_lm", 100_000, "ok"),
    ],
)
def test_rows_longer_than_the_positions_are_reported(kind, goal, size, severity):
    """有位置表的到头就是错误，旋转位置只是没见过，ALiBi 没有上限。"""
    finding = examine(opened(kind), goal, block_size=size)["block_size"]
    assert finding.severity == severity


def test_too_little_memory_is_a_warning():
    """装不下：警告，给出省内存的办法。"""
    small = replace(CPU, memory_bytes=2**20)
    findings = check_checkpoint(opened("bert"), "masked_lm", device=small)
    finding = next(f for f in findings if f.code == "memory")
    assert finding.severity == "warning"
    assert "lora_rank" in finding.remedy


def test_the_memory_estimate_follows_its_formula():
    """每个参数 16 字节；激活与词元数成正比；半精度减半。"""
    model = tiny_model("bert")
    num_parameters = sum(p.numel() for p in model.parameters())
    none, some, more = (training_memory(model, CPU, n, 512) for n in (0, 100, 200))
    assert none == 16 * num_parameters
    assert more - some == some - none == 34 * 100 * 2 * 32 * 2
    half = replace(CPU, dtype=torch.bfloat16)
    assert training_memory(model, half, 100, 512) - none == (some - none) / 2


def test_the_remarks_of_loading_are_passed_on():
    """打开时的提醒列在最后。"""
    checkpoint = replace(opened("bert"), notices=["权重是旧式的"])
    last = check_checkpoint(checkpoint, "masked_lm", device=CPU)[-1]
    assert (last.severity, last.code, last.message) == (
        "notice",
        "loading",
        "权重是旧式的",
    )
