"""书里点了名的模型，一个一个地走完全程。

现成的检查点 → 自己的目标、梯度累积 → 损失与梯度和手算相等，损失在降 → 原样的检查点
→ 推理。
"""

import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from by_hand import accumulated, losses_by_hand, objective_by_hand
from continued import ACCUMULATION, RARE, ids
from model_support import NAMED_MODELS, NamedModel

from companion.checkpoints.electra_pair import DISCRIMINATORS, ElectraPair
from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.running import adapt_batch, fitted_objective
from companion.inference import complete, fill, infill
from companion.preflight.visibility import can_pack
from companion.training.data import prepare_data, read_corpora

every_model = pytest.mark.parametrize("named", NAMED_MODELS, ids=ids)
SECOND = {"sentence_order": "order_loss", "replaced_token": "detection_loss"}
"""日志里第二份损失的名字。"""


def opened(folder, auto_class):
    """不经本包，由 transformers 的 Auto 类打开；缺、多、不合的张量都没有。"""
    auto = getattr(transformers, auto_class)
    model, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys"))
    assert not report["mismatched_keys"]
    return model.eval()


def stock(folder, goal):
    """现成的检查点；一对的两个文件夹各自打开，再照论文共用嵌入。"""
    if goal.key != "replaced_token":
        return opened(folder, goal.auto_class)
    generator = opened(folder / "generator", "AutoModelForMaskedLM")
    kind = generator.config.model_type
    return ElectraPair(
        generator, opened(folder / "discriminator", DISCRIMINATORS[kind])
    )


@every_model
def test_the_loss_equals_a_loss_by_hand_and_falls(named: NamedModel, continued):
    """第一步（几个微批量累积）的各份损失与梯度，等于教科书写法算出的；此后在降。

    词元的一份降了至少 0.5 奈特。梯度的范数相等，各份的权重与除数才都对。
    """
    run = continued(named)
    checkpoint = load_checkpoint(str(run.start), named.objective)
    goal = fitted_objective(checkpoint.model, named.objective)
    model = stock(run.start, goal)
    config = run.result.config
    data = prepare_data(
        config,
        read_corpora(config),
        goal,
        checkpoint.model,
        checkpoint.tokenizer,
        packed=goal.packable and can_pack(checkpoint.model, config.block_size).ok,
        cache_dir=run.start.parent,
    )
    assert len(data.plan.batches) == config.max_steps * ACCUMULATION
    batches = [
        adapt_batch(model, data.collator([data.rows[key] for key in keys]))
        for keys in data.plan.batches[:ACCUMULATION]
    ]
    losses = accumulated(
        [losses_by_hand(model, batch, causal=goal.causal) for batch in batches]
    )
    objective_by_hand(losses).backward()
    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
    names = ["loss", *([SECOND[named.objective]] if named.objective in SECOND else [])]
    for name, loss in zip(names, losses, strict=True):
        assert run.log[0][name] == pytest.approx(loss.mean.item(), rel=1e-4)
    assert run.log[0]["grad_norm"] == pytest.approx(
        float(torch.stack(norms).norm()), rel=1e-3
    )
    assert run.fallen("loss") > 0.5
    if named.objective == "replaced_token":
        assert run.fallen("detection_loss") > 0.1


@every_model
def test_the_result_is_a_stock_checkpoint_that_works(named: NamedModel, continued):
    """训练好的由 Auto 类打开，不缺一个张量；照它的用法填空、续写或填补。"""
    run = continued(named)
    checkpoint = load_checkpoint(str(run.model), named.objective)
    goal = fitted_objective(checkpoint.model, named.objective)
    model = stock(run.model, goal)
    assert checkpoint.notices == []
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, checkpoint.model.state_dict()[name]), name
    if goal.usage == "fill":
        mask = checkpoint.tokenizer.mask_token
        ((best, *_),) = fill(checkpoint, f"天下大{mask}，分久必合", top_k=3)
        assert 0 < best.score <= 1
    elif goal.usage == "complete":
        (written,) = complete(checkpoint, "天下大势，", 4, objective=named.objective)
        assert written.text
    else:
        text = "天下[MASK]，分久必合"
        answer = infill(checkpoint, text, 4, objective=named.objective)
        assert answer.text.startswith("天下")


def test_every_model_that_the_book_names_is_in_the_list():
    """四个家族点了名的都在，用自己的目标：一个也不能悄悄少了。"""
    names = {named.name for named in NAMED_MODELS}
    assert names >= {
        "GPT-2", "BLOOM", "Llama", "Qwen3", "BERT", "ERNIE", "ALBERT", "RoBERTa",
        "DistilBERT", "ConvBERT", "XLM", "XLM-RoBERTa", "FlauBERT", "ELECTRA",
        "Funnel", "ModernBERT", "SikuBERT", "T5", "mT5", "BART", "MASS", "UniLM",
        "GLM",
    }  # fmt: skip
    assert len(set(NAMED_MODELS)) == len(NAMED_MODELS)
    rows = {(named.name, named.objective) for named in NAMED_MODELS}
    assert rows >= {
        ("ALBERT", "sentence_order"), ("XLM", "translation_lm"),
        ("ELECTRA", "replaced_token"), ("ConvBERT", "replaced_token"),
        ("Funnel", "replaced_token"),
    }  # fmt: skip


def test_an_extended_vocabulary_opens_from_an_old_bin(continued):
    """SikuBERT 一类：只有 .bin 与扩过的 vocab.txt；新字各有编号，一个也不是 [UNK]。"""
    (named,) = (each for each in NAMED_MODELS if each.name == "SikuBERT")
    run = continued(named)
    assert not list(run.start.glob("*.safetensors"))
    tokenizer = load_checkpoint(str(run.start), "masked_lm").tokenizer
    new = tokenizer(RARE, add_special_tokens=False)["input_ids"]
    assert len(set(new)) == len(RARE)
    assert tokenizer.unk_token_id not in new
    assert list(run.model.glob("*.safetensors"))


def test_a_loss_by_hand_is_not_a_tautology():
    """手算的损失自己也对得上公式：两个词元一样可能时是 ln 2。"""
    logits = torch.tensor([[[0.0, 0.0, -1e9]] * 3])
    model = SimpleNamespace(forward=lambda input_ids: None)
    call = type("Model", (), {
        "forward": model.forward,
        "__call__": lambda self, **_: SimpleNamespace(logits=logits),
    })()  # fmt: skip
    labels = torch.tensor([[0, 1, -100]])
    batch = {"input_ids": labels, "labels": labels}
    for causal, targets in ((False, 2), (True, 1)):
        (loss,) = losses_by_hand(call, batch, causal=causal)
        assert loss.count == targets
        assert float(loss.total) == pytest.approx(targets * math.log(2))
