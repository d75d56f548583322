"""只算有目标的位置：损失与梯度等于整块 logits 的交叉熵，内存只有一块大小。"""

import copy
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from strategies import starts_of, tokenizer_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from companion.batch import IGNORE_INDEX
from companion.checkpoints.running import output_head
from companion.checkpoints.tiny import TINY_KINDS, TINY_TEXT, tiny_model
from companion.errors import ModelError
from companion.losses import target_head
from companion.losses.target_head import (
    HeadPlan,
    LinearCrossEntropy,
    head_plan,
    target_losses,
    target_positions,
)
from companion.objectives.causal_lm import CausalLMCollator
from companion.objectives.masked_lm import MaskedLMCollator

KINDS = [kind for kind, spec in TINY_KINDS.items() if "Seq2Seq" not in spec.auto_class]
EVERY = pytest.mark.parametrize("kind", KINDS)


def is_causal(kind: str) -> bool:
    return TINY_KINDS[kind].auto_class == "AutoModelForCausalLM"


def model_of(kind: str, **overrides):
    """极小模型；偏置与归一化的缩放各加一点噪声，否则输出头的偏置都是零，漏加也看不出。"""
    model = tiny_model(kind, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def batch_of(kind: str, texts=TINY_TEXT[:6], **more):
    """几句话的批量，长短不一，有填充；目标几十个，不是一块的整数倍。"""
    tokenizer = tokenizer_of(kind)
    features = [
        {"input_ids": tokenizer(text)["input_ids"], "example_id": n, **more}
        for n, text in enumerate(texts)
    ]
    if is_causal(kind):
        return CausalLMCollator(tokenizer)(features)
    return MaskedLMCollator(tokenizer, mlm_probability=0.4)(features)


def full_losses(model, batch, *, causal: bool):
    """对照：算出整块 logits，逐位置求交叉熵。"""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits, labels = model(**inputs).logits.float(), batch["labels"]
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    chosen = labels != IGNORE_INDEX
    nats = F.cross_entropy(logits[chosen], labels[chosen], reduction="none")
    return nats, logits[chosen].argmax(-1) == labels[chosen]


def gradients(model, total) -> dict[str, torch.Tensor]:
    model.zero_grad()
    total.backward()
    return {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def assert_same_as_full(model, batch, *, causal: bool) -> None:
    """损失、对错、梯度都与整块 logits 的做法相同；损失乘以常数，梯度也乘。"""
    nats, correct = full_losses(model, batch, causal=causal)
    expected = gradients(model, nats.sum() / 7)
    ours = target_losses(model, batch, causal=causal)
    found = gradients(model, ours.total_nats / 7)
    torch.testing.assert_close(ours.nats, nats.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.total_nats, nats.sum(), rtol=1e-5, atol=1e-4)
    assert ours.nats.dtype == ours.total_nats.dtype == torch.float32
    assert not ours.nats.requires_grad
    assert torch.equal(ours.correct, correct)
    unused = expected.keys() ^ found.keys()  # 整块时用不到的参数，梯度可以为零或没有
    both = expected | found
    assert all(not both[name].any() for name in unused)
    for name in expected.keys() & found.keys():
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name
        )


def traces(model) -> list[tuple]:
    """模型上看得见的一切改动：各模块实例里的属性名与钩子数。"""
    return [
        (name, sorted(vars(module)), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


@pytest.fixture
def small_chunks(monkeypatch):
    """一块只有 16 行，几十个目标就要好几块，最后一块不满。"""
    monkeypatch.setattr(target_head, "CHUNK_LOGITS", {"cpu": 1, "cuda": 1})


@EVERY
@pytest.mark.usefixtures("small_chunks")
def test_losses_and_gradients_equal_those_of_the_full_logits(kind):
    """每种架构：逐目标损失、对错、全部参数的梯度，与整块 logits 的交叉熵相同。"""
    batch = batch_of(kind)
    assert (batch["labels"] != IGNORE_INDEX).sum() > 32
    assert_same_as_full(model_of(kind), batch, causal=is_causal(kind))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_packed_rows_score_like_the_full_logits(kind):
    """四维掩码、几篇一行的批量也一样；梯度不跨过文档的首个词元。"""
    tokenizer = tokenizer_of(kind)
    documents = [tokenizer(text)["input_ids"] for text in TINY_TEXT[:3]]
    feature = {
        "input_ids": [*chain(*documents)],
        "document_starts": starts_of([len(ids) for ids in documents]),
        "example_id": 0,
    }
    causal = is_causal(kind)
    collator = (CausalLMCollator if causal else MaskedLMCollator)(tokenizer)
    batch = collator([feature, {"input_ids": [9, 10, 11], "example_id": 1}])
    assert batch["attention_mask"].dim() == 4
    assert_same_as_full(model_of(kind), batch, causal=causal)


@EVERY
def test_the_model_is_left_without_a_trace(kind):
    """用过之后没有钩子，没有换过的 forward，整行的 logits 与从前逐位相同。"""
    model, batch = tiny_model(kind), batch_of(kind)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        before, state = model(**inputs).logits, traces(model)
        target_losses(model, batch, causal=is_causal(kind))
        assert traces(model) == state
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("kind", ["bert", "llama", "distilbert"])
def test_an_error_in_the_forward_leaves_no_trace_either(kind):
    """前向半途出错，钩子与 forward 也都还原。"""
    model, batch = tiny_model(kind), batch_of(kind)
    state = traces(model)
    broken = batch | {"input_ids": batch["input_ids"] + 10**6}
    with pytest.raises(IndexError):
        target_losses(model, broken, causal=is_causal(kind))
    assert traces(model) == state


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_an_error_in_the_head_leaves_no_trace_either(kind):
    """输出头里出错（目标超出词表）也一样。"""
    model, batch = tiny_model(kind), batch_of(kind)
    state = traces(model)
    labels = batch["labels"]
    broken = batch | {"labels": labels.masked_fill(labels != IGNORE_INDEX, 10**6)}
    with pytest.raises((IndexError, RuntimeError)):
        target_losses(model, broken, causal=is_causal(kind))
    assert traces(model) == state


def test_a_patched_linear_is_used_as_it_is():
    """别人换过线性层的 forward（如 accelerate 的卸载），就照它的算，也不去碰它。"""
    model, batch = tiny_model("gpt2"), batch_of("gpt2")
    head = model.lm_head
    head.forward = lambda hidden: 2 * F.linear(hidden, head.weight)
    patched = head.forward
    assert_same_as_full(model, batch, causal=True)
    assert head.forward is patched


@pytest.mark.parametrize("kind", ["bert", "bloom", "funnel"])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_targets_costs_nothing(kind, training):
    """没有目标：总损失为 0，不是 NaN，梯度处处为零，N 为 0。"""
    model, batch = tiny_model(kind), batch_of(kind)
    batch["labels"] = torch.full_like(batch["labels"], IGNORE_INDEX)
    with torch.set_grad_enabled(training):
        losses = target_losses(model, batch, causal=is_causal(kind))
    assert losses.total_nats == 0
    assert losses.nats.shape == losses.correct.shape == (0,)
    if training:
        grads = gradients(model, losses.total_nats)
        assert all(not grad.any() for grad in grads.values())


def test_the_first_column_of_a_causal_batch_has_no_context():
    """因果模型第 0 列的标签不算；掩码模型的第 0 列算。"""
    labels = torch.tensor([[5, IGNORE_INDEX, 6]])
    assert target_positions(labels, causal=True).tolist() == [[False, False, True]]
    assert target_positions(labels, causal=False).tolist() == [[True, False, True]]
    assert labels.tolist() == [[5, IGNORE_INDEX, 6]]


def test_losses_come_row_by_row():
    """目标的次序是逐行逐位置：一批的结果就是各行的结果首尾相接。"""
    model = tiny_model("llama")
    texts = TINY_TEXT[:3]
    with torch.no_grad():
        together = target_losses(model, batch_of("llama", texts), causal=True).nats
        alone = [
            target_losses(model, batch_of("llama", [text]), causal=True).nats
            for text in texts
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def peft_model(kind: str, **settings):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, init_lora_weights=False, **settings)
    torch.manual_seed(0)
    return peft.get_peft_model(model_of(kind), config).eval()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"target_modules": ["query", "value"]}),
        ("llama", {"target_modules": ["q_proj", "v_proj"]}),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    ],
)
@pytest.mark.usefixtures("small_chunks")
# peft 0.21 还读 transformers 5.23 已改名的属性：
# https://github.com/huggingface/peft/blob/v0.21.2/src/peft/peft_model.py#L184
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_models_score_like_the_full_logits(kind, settings):
    """外面包着 peft、输出头上的 LoRA、另存的输出头，损失与梯度都一样。"""
    model = peft_model(kind, **settings)
    state = traces(model)
    assert_same_as_full(model, batch_of(kind), causal=is_causal(kind))
    assert traces(model) == state


def test_only_trained_parameters_get_a_gradient():
    """冻结输出头的权重、只训偏置（BitFit）：偏置的梯度对，权重没有梯度。"""
    model = model_of("bert", tie_word_embeddings=False)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.endswith("bias"))
    model.bert.requires_grad_(False)
    model.cls.predictions.transform.requires_grad_(False)
    assert_same_as_full(model, batch_of("bert"), causal=False)
    assert model.get_output_embeddings().weight.grad is None
    assert model.get_output_embeddings().bias.grad.any()


def test_whatever_is_done_to_the_logits_after_the_head_is_respected():
    """线性层之后还要压平 logits 的模型，设置里没有写也看得出；结果仍然相同。

    压平的界比随机权重的 logits 大得多，损失看不出差别，穿过模型的记号看得出。
    """

    class Squashed(type(tiny_model("gpt2"))):
        def forward(self, *args, **kwargs):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = torch.tanh(outputs.logits / 30) * 30
            return outputs

    model = tiny_model("gpt2")
    model.__class__ = Squashed
    assert head_plan(model) == HeadPlan("lm_head", fused=False)
    with torch.no_grad():
        model.lm_head.weight *= 100
    assert_same_as_full(model, batch_of("gpt2"), causal=True)


@pytest.mark.parametrize("model_type", ["gemma2", "cohere", "granite"])
def test_architectures_that_rescale_their_logits_score_alike(model_type):
    """真有这种设置的架构：Gemma 2 压平，Cohere 与 Granite 缩放。"""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tokenizer_of("llama")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
    }
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **sizes)
    config.final_logit_softcapping = 0.1 if model_type == "gemma2" else None
    config.logit_scale, config.logits_scaling = 5.0, 3.0
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert_same_as_full(model, batch_of("llama"), causal=True)


def test_half_precision_states_meet_full_precision_weights():
    """隐藏状态 bf16、权重 fp32：损失与梯度同全 fp32 的只差舍入。"""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    bias = torch.randn(50, generator=generator)
    targets = torch.randint(50, (40,), generator=generator)

    def run(dtype):
        states = hidden.clone().to(dtype).detach().requires_grad_()
        matrix = weight.clone().requires_grad_()
        offset = bias.clone().requires_grad_()
        total, nats, _ = LinearCrossEntropy.apply(states, matrix, offset, targets, True)
        total.backward()
        return nats, states.grad, matrix.grad, offset.grad

    exact, rounded = run(torch.float32), run(torch.bfloat16)
    kinds = [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert [value.dtype for value in rounded] == kinds
    for one, other in zip(exact, rounded, strict=True):
        torch.testing.assert_close(other.float(), one, rtol=0.05, atol=0.08)


def test_the_plan_is_the_same_under_autocast():
    """自动混合精度裹着 forward（如 accelerate）：舍入不当作不等，仍然合并计算。"""
    model = tiny_model("gpt2")
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    assert head_plan(model).fused


def test_autocast_changes_only_the_rounding():
    """在 bf16 自动混合精度之下前向与反向，损失与 fp32 的相近，梯度是 fp32。"""
    model, batch = tiny_model("gpt2"), batch_of("gpt2")
    exact = target_losses(model, batch, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = target_losses(model, batch, causal=True)
    torch.testing.assert_close(rounded.nats, exact.nats, rtol=0.02, atol=0.02)
    grads = gradients(model, rounded.total_nats)
    assert all(grad.dtype == torch.float32 for grad in grads.values())


def test_the_gradient_is_that_of_finite_differences():
    """与交叉熵的实现无关的核对：沿随机方向的差商等于梯度的投影。"""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 6, generator=generator, requires_grad=True)
    weight = torch.randn(9, 6, generator=generator, requires_grad=True)
    targets = torch.randint(9, (20,), generator=generator)

    def total(h, w):
        return LinearCrossEntropy.apply(h, w, None, targets, True)[0]

    total(hidden, weight).backward()
    step = 1e-2
    for parameter in (hidden, weight):
        direction = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            ends = []
            for sign in (step, -step):
                parameter += sign * direction
                ends.append(float(total(hidden, weight)))
                parameter -= sign * direction
        projected = float((parameter.grad * direction).sum())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert slope == pytest.approx(projected, rel=1e-2)


def test_huge_logits_do_not_overflow():
    """上千的 logits 也没有 inf 与 NaN。"""
    hidden = torch.tensor([[1e3, 0.0], [0.0, -1e3]], requires_grad=True)
    weight = torch.eye(2) * 10
    total, nats, correct = LinearCrossEntropy.apply(
        hidden, weight, None, torch.tensor([0, 0]), True
    )
    total.backward()
    assert nats.tolist() == [0.0, 0.0]
    assert correct.tolist() == [True, True]
    assert hidden.grad.isfinite().all()


class Allocations(TorchDispatchMode):
    """记下前向与反向里每个算子产出的最大张量，以元素个数计。"""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        self.sizes += [tensor.numel() for tensor in tensors]
        return result


def largest_allocation(vocabulary: int, count: int, *, training: bool) -> int:
    hidden = torch.zeros(count, 2, requires_grad=True)
    weight = torch.zeros(vocabulary, 2, requires_grad=True)
    targets = torch.arange(count)
    with Allocations() as seen, torch.set_grad_enabled(training):
        total, _, _ = LinearCrossEntropy.apply(hidden, weight, None, targets, training)
        if training:
            total.backward()
    return max(seen.sizes)


def test_the_full_logits_never_exist():
    """BLOOM 的 250,880 词：一块 16 行，目标多四倍，最大的张量也不变大。"""
    few = largest_allocation(250_880, 17, training=True)
    many = largest_allocation(250_880, 65, training=True)
    assert few == many == 16 * 250_880


@pytest.mark.parametrize("training", [True, False])
def test_a_chunk_stays_within_its_limit(training):
    """2,048 个目标、8,192 词：整块 logits 有 1,678 万，张量至多约 210 万。"""
    limit = target_head.CHUNK_LOGITS["cpu"]
    assert 7 * limit < 2048 * 8192
    assert largest_allocation(8192, 2048, training=training) == limit


def test_evaluation_computes_no_gradients(monkeypatch):
    """torch.no_grad 之下不求梯度：每块只有一次矩阵乘，没有 (V, D) 的累加。"""
    model, batch = tiny_model("gpt2"), batch_of("gpt2")
    head_plan(model)
    seen = []
    original = torch.zeros_like
    monkeypatch.setattr(
        target_head.torch,
        "zeros_like",
        lambda *args, **kwargs: seen.append(1) or original(*args, **kwargs),
    )
    with torch.no_grad():
        losses = target_losses(model, batch, causal=True)
    assert not losses.total_nats.requires_grad
    quiet = len(seen)
    target_losses(model, batch, causal=True)
    assert len(seen) == 2 * quiet + 2  # 训练时多出隐藏状态与权重的两个缓冲


def test_the_model_of_a_data_parallel_wrapper_is_found():
    """外面包着 DDP（有 `module` 属性）也一样。"""

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    model, batch = tiny_model("gpt2"), batch_of("gpt2")
    bare = target_losses(model, batch, causal=True)
    wrapped = target_losses(Wrapper(model), batch, causal=True)
    assert torch.equal(bare.nats, wrapped.nats)


def test_accumulated_batches_equal_one_batch():
    """四个小批各自反向，梯度之和等于一个大批的；每批目标数不同也不例外。"""
    model = tiny_model("bloom")
    texts = TINY_TEXT[:4]
    whole = gradients(
        model, target_losses(model, batch_of("bloom", texts), causal=True).total_nats
    )
    model.zero_grad()
    for text in texts:
        batch = batch_of("bloom", [text])
        target_losses(model, batch, causal=True).total_nats.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, whole[name], rtol=1e-4, atol=1e-4)


def test_the_batch_is_left_as_it_was():
    """批量里的张量一个也没改，`labels` 也还在。"""
    batch = batch_of("bert")
    before = copy.deepcopy(batch)
    target_losses(tiny_model("bert"), batch, causal=False)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_a_model_without_a_known_head_is_refused_by_name():
    """没有认得的输出头：点名模型的类，并说该用哪些类打开。"""
    with pytest.raises(ModelError, match=r"BertModel.*AutoModelForMaskedLM"):
        output_head(tiny_model("bert").bert)
    with pytest.raises(ModelError, match="SimpleNamespace"):
        output_head(SimpleNamespace())
