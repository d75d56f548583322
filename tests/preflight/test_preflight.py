"""体检：每一项都有该报的时候，也有不该报的时候。"""

import json
from dataclasses import replace

import pytest
import torch
from model_folders import write_checkpoint

from companion.checkpoints.loading import Checkpoint, load_checkpoint
from companion.checkpoints.running import model_options
from companion.checkpoints.tiny import TINY_TEXT, tiny_model, tiny_tokenizer
from companion.errors import ModelError
from companion.objectives import collate, get_objective
from companion.preflight import model_checks
from companion.preflight.checking import (
    CHEAP,
    CHECKS,
    check_checkpoint,
    require_trainable,
)
from companion.preflight.device import Device, training_memory
from companion.preflight.findings import Finding
from companion.preflight.visibility import Verdict

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
    """掩码目标配了没有掩码词元的分词器：报错，要试读的几项随之从略。"""
    tokenizer = tiny_tokenizer("bloom")
    checkpoint = Checkpoint(tiny_model("gpt2", tokenizer), tokenizer, "x")
    findings = examine(checkpoint, "masked_lm")
    assert findings["needed_tokens"].severity == "error"
    assert "掩码词元" in findings["needed_tokens"].message
    assert {findings[code].severity for code in ("head", "padding")} == {"notice"}


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
def test_padding_that_an_architecture_sees_is_a_notice(kind):
    """Funnel 的池化与 ConvBERT 的卷积看得见填充：架构如此，不说检查点坏了。"""
    finding = examine(opened(kind), "masked_lm")["padding"]
    assert finding.severity == "notice"
    assert "各份检查点都如此" in finding.cause


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "xlm"])
def test_padding_that_does_not_leak_passes(kind):
    """其余编码器的填充不影响输出。"""
    assert examine(opened(kind), "masked_lm")["padding"].severity == "ok"


def test_a_model_that_cannot_pack_is_a_notice():
    """XLM 不能打包：知道即可，另有办法。"""
    finding = examine(opened("xlm"), "masked_lm")["packing"]
    assert finding.severity == "notice"
    assert "二维掩码" in finding.cause


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


def test_the_packed_batches_of_the_objective_are_audited():
    """合格的话里有两个数：模型的，与目标自己的批量的。关了打包就不试。"""
    finding = examine(opened("bert"), "masked_lm")["packing"]
    assert finding.severity == "ok"
    assert "masked_lm 的批量亦然" in finding.message
    off = examine(opened("bert"), "masked_lm", packing=False)["packing"]
    assert off.message == "设置里关了打包，一行一篇，无从泄漏"


@pytest.mark.parametrize(
    ("kind", "goal"),
    [("bert", "masked_lm"), ("gpt2", "causal_lm"), ("t5", "span_corruption")],
)
def test_a_batch_that_leaks_is_an_error(kind, goal, monkeypatch):
    """整理器的掩码处处可见：模型本身过关，批量仍查得出，远超容差。"""

    def everything(documents, *, causal):
        seen = torch.ones(*documents.shape, documents.shape[1], dtype=torch.bool)
        return seen.tril() if causal else seen

    verdict = Verdict(True, "试过", 0.0)
    monkeypatch.setattr(model_checks, "can_pack", lambda *_: verdict)
    monkeypatch.setattr(collate, "visible_within_documents", everything)
    finding = examine(opened(kind), goal, block_size=48)["packing"]
    assert finding.severity == "error"
    assert "packing=false" in finding.remedy


def test_the_cheap_checks_never_run_the_model():
    """便宜的几项不跑模型：前向换成报错也照样做完，提醒都交出来。"""
    checkpoint = replace(
        opened("bert"),
        notices=["权重是旧式的", "检查点没有输出头"],
        weight_notices=("检查点没有输出头",),
    )
    checkpoint.model.forward = None
    found = check_checkpoint(
        checkpoint, "masked_lm", block_size=64, device=CPU, checks=CHEAP
    )
    assert [(each.code, each.message) for each in found if each.severity != "ok"] == [
        ("weights", "检查点没有输出头"),
        ("loading", "权重是旧式的"),
    ]


def test_training_says_when_the_head_falls_back():
    """压平 logits 的模型合并计算不得：开训之前说一句，不当作错误。"""
    checkpoint = opened("gpt2")

    class Squashed(type(checkpoint.model)):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = torch.tanh(outputs.logits / 30) * 30
            return outputs

    checkpoint.model.__class__ = Squashed
    told = require_trainable(
        checkpoint, "causal_lm", corpus_texts=TINY_TEXT, block_size=64, device=CPU
    )
    [said] = [each for each in told if each.code == "scoring"]
    assert (said.severity, "退一步" in said.message) == ("notice", True)


def test_a_model_that_only_evaluates_is_refused_before_training():
    """训练模式下前向不了（Reformer 的行长要恰好是一个数）：开训之前就点名。"""
    checkpoint = opened("bert")

    class Choosy(type(checkpoint.model)):
        def forward(self, *args, **kwargs):
            if self.training:
                raise ValueError("If training, factors must multiply to 512")
            return super().forward(*args, **kwargs)

    checkpoint.model.__class__ = Choosy
    with pytest.raises(ModelError, match=r"训练模式下却前向不了.*multiply to 512"):
        require_trainable(
            checkpoint, "masked_lm", corpus_texts=TINY_TEXT, block_size=64, device=CPU
        )
    assert not checkpoint.model.training


def test_a_model_that_reads_no_text_is_refused_before_training():
    """只给文字就前向不了的模型：点名，并附上它自己的话。"""
    checkpoint = opened("bert")

    def forward(input_ids=None, attention_mask=None, labels=None):
        raise ValueError("You must specify exactly one of input_features")

    checkpoint.model.forward = forward
    with pytest.raises(ModelError, match=r"BertForMaskedLM 读不了.*input_features"):
        require_trainable(
            checkpoint, "masked_lm", corpus_texts=TINY_TEXT, block_size=64, device=CPU
        )


def test_an_error_stops_the_training():
    """语料的字大半认不得：开训之前就说，三件事俱全。"""
    with pytest.raises(ModelError, match=r"unknown.*龘.*SikuBERT"):
        require_trainable(
            opened("bert"),
            "masked_lm",
            corpus_texts=["龘靐齉"],
            block_size=64,
            device=CPU,
        )


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


def test_the_memory_estimate_knows_the_teacher():
    """教师每个参数 4 字节，激活只有正在算的一层：三层的学生有教师，如同四层。"""
    student = tiny_model("bert", num_hidden_layers=3)
    teacher = tiny_model("bert", num_hidden_layers=5)
    frozen = 4 * sum(weight.numel() for weight in teacher.parameters())
    found = [
        training_memory(student, CPU, tokens, 512, teacher)
        - training_memory(student, CPU, tokens, 512)
        for tokens in (0, 100)
    ]
    assert found == [frozen, frozen + 34 * 100 * 32 * 2]


@pytest.mark.parametrize(
    ("size", "severity", "said"),
    [(24, "ok", "词表与学生的相同"), (64, "error", "至多读 48 个")],
)
def test_the_teacher_reads_the_same_rows(size, severity, said):
    """有教师就多一条：读得了一行的合格；太长的是错误，说出它的上限。"""
    from companion.losses.distillation import Teacher

    teacher = Teacher(tiny_model("bert", max_position_embeddings=48), "教师", True)
    findings = check_checkpoint(
        opened("bert"), "masked_lm", device=CPU, block_size=size, teacher=teacher
    )
    finding = next(f for f in findings if f.code == "teacher")
    assert finding.severity == severity
    assert said in finding.message
    without = check_checkpoint(opened("bert"), "masked_lm", device=CPU)
    assert "teacher" not in {f.code for f in without}


def test_the_remarks_of_loading_are_passed_on():
    """打开时的提醒列在最后。"""
    checkpoint = replace(opened("bert"), notices=["权重是旧式的"])
    last = check_checkpoint(checkpoint, "masked_lm", device=CPU)[-1]
    assert (last.severity, last.code, last.message) == (
        "notice",
        "loading",
        "权重是旧式的",
    )


# ── 编码器–解码器 ───────────────────────────────────────────────────────

PAIRS = [
    ("t5", "span_corruption"),
    ("t5", "masked_seq2seq"),
    ("mt5", "mixture_of_denoisers"),
    ("bart", "text_infilling"),
    ("bart-chinese", "masked_seq2seq"),
    ("pegasus", "gap_sentences"),
    ("mbart", "text_infilling"),
]


@pytest.mark.parametrize(("kind", "goal"), PAIRS)
def test_encoder_decoders_can_be_examined(kind, goal):
    """各家编码器–解码器都检得完：没有 error，填充不渗，随机的输出头看得出。"""
    findings = examine(opened(kind), goal, block_size=48)
    assert all(finding.severity != "error" for finding in findings.values())
    assert findings["padding"].severity == "ok"
    assert findings["head"].severity == "warning"
    packs = kind in ("t5", "mt5")
    assert findings["packing"].severity == ("ok" if packs else "notice")


@pytest.mark.parametrize(("kind", "goal"), PAIRS[:4:3])
def test_an_encoder_decoder_that_learnt_something_passes(kind, goal):
    """照目标学过几十步：试读走的是同一条路，看得出比瞎猜强。"""
    checkpoint = opened(kind)
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    objective = get_objective(goal)
    collator = objective.make_collator(tokenizer, **model_options(model, objective))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = [tokenizer(text)["input_ids"] for text in TINY_TEXT]
    for epoch in range(20):
        batch = collator(
            [
                {"input_ids": ids, "example_id": n, "epoch": epoch}
                for n, ids in enumerate(rows)
            ]
        )
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert examine(checkpoint, goal, block_size=48)["head"].severity == "ok"


@pytest.mark.parametrize(
    ("kind", "goal", "block_size", "said"),
    [
        ("bart", "span_corruption", 48, "没有哨兵"),
        ("t5", "text_infilling", 48, "没有掩码词元"),
        ("t5", "span_corruption", 512, "哨兵"),
        ("t5", "mixture_of_denoisers", 512, "哨兵"),
    ],
)
def test_marks_that_are_missing_or_too_few_are_named(kind, goal, block_size, said):
    """词表里没有哨兵、没有掩码，或哨兵不够一行用：报错，说出缺什么、怎么办。"""
    finding = examine(opened(kind), goal, block_size=block_size)["needed_tokens"]
    assert finding.severity == "error"
    assert said in finding.message
    assert finding.cause.startswith("应当：")
    assert finding.remedy


@pytest.mark.parametrize(("kind", "goal"), PAIRS[:4:3])
def test_a_missing_start_of_the_decoder_is_named(kind, goal):
    """设置里没有 decoder_start_token_id：不猜，报错。"""
    checkpoint = opened(kind)
    checkpoint.model.config.decoder_start_token_id = None
    findings = examine(checkpoint, goal, block_size=48)
    assert findings["needed_tokens"].severity == "error"
    assert "decoder_start_token_id" in findings["needed_tokens"].message
    assert "config.json" in findings["needed_tokens"].remedy


def test_text_that_spells_a_registered_sentinel_is_plain_text():
    """语料里照字面写着 <extra_id_0>：训练时拆开成普通的字，体检也这样切，不算毛病。"""
    texts = ["良弓藏，<extra_id_0>走狗烹。"]
    finding = examine(
        opened("t5"), "span_corruption", block_size=48, corpus_texts=texts
    )["needed_tokens"]
    assert finding.severity == "ok"


@pytest.mark.parametrize(
    ("kind", "precision", "severity"),
    [
        ("t5", torch.float16, "error"),
        ("mt5", torch.float16, "error"),
        ("t5", torch.bfloat16, "ok"),
        ("t5", torch.float32, "ok"),
        ("bart", torch.float16, "ok"),
    ],
)
def test_architectures_that_overflow_in_fp16_are_told(kind, precision, severity):
    """T5 一族在 fp16 下会溢出：报错，给出 bf16 与 fp32；BART 无妨。"""
    goal = "text_infilling" if kind == "bart" else "span_corruption"
    device = replace(CPU, dtype=precision)
    findings = check_checkpoint(opened(kind), goal, block_size=48, device=device)
    finding = next(each for each in findings if each.code == "precision")
    assert finding.severity == severity
    if severity == "error":
        assert "precision=bf16" in finding.remedy
        assert "precision=fp32" in finding.remedy


@pytest.mark.parametrize(("kind", "size", "severity"), [
    ("bart", 128, "ok"), ("bart", 129, "error"), ("pegasus", 129, "error"),
    ("t5", 100_000, "ok"),
])  # fmt: skip
def test_rows_longer_than_the_positions_of_a_decoder_are_reported(kind, size, severity):
    """BART 与 Pegasus 的位置表有尽头，T5 的相对位置没有。"""
    finding = examine(opened(kind), "masked_seq2seq", block_size=size)["block_size"]
    assert finding.severity == severity


def test_a_head_of_its_own_is_no_broken_tie(tmp_path):
    """真的 mT5：输出头与词嵌入本是两份，读进来之后不再提醒。"""
    checkpoint = load_checkpoint(
        str(write_checkpoint(tmp_path, "mt5")), "gap_sentences"
    )
    finding = examine(checkpoint, "gap_sentences")["tied_weights"]
    assert finding.severity == "ok"
    assert "各是各的" in finding.message


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_both_stacks_are_counted_in_the_memory(kind):
    """编码器每层 34 × 宽度，解码器每层 47 × 宽度；注意力矩阵只有 eager 才存。"""
    model = tiny_model(kind, attn_implementation="sdpa")
    none, some = (training_memory(model, CPU, tokens, 512) for tokens in (0, 100))
    assert some - none == (34 * 2 + 47 * 2) * 32 * 100 * 2
    eager = tiny_model(kind, attn_implementation="eager")
    matrices = 5 * 512 * (2 + 2 * 2) * 4 * 100 * 2
    assert training_memory(eager, CPU, 100, 512) - some == matrices


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "fnet"])
def test_the_memory_of_a_model_without_attention_heads_is_estimated(kind):
    """Mamba、RWKV、FNet 没有注意力头：没有注意力矩阵要存，照样估得出。"""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        kind, vocab_size=50, hidden_size=32, num_hidden_layers=2
    )
    model = AutoModel.from_config(config)
    none, some = (training_memory(model, CPU, tokens, 512) for tokens in (0, 100))
    assert none == 16 * sum(each.numel() for each in model.parameters())
    assert some - none == 100 * 34 * 2 * 32 * (2 if CPU.precision == "fp32" else 1)
