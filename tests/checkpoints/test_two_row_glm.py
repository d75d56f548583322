"""两行位置的 GLM：与手算的前向相同，两行都起作用，掩码照办，存得下也打得开。"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.running import position_table
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.checkpoints.two_row_glm import TwoRowGlmForCausalLM, TwoRowGlmModel
from companion.errors import ModelError
from companion.objectives.blank_infilling import BlankInfillingCollator

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
TEXTS = (
    "狡兔死，走狗烹；飞鸟尽，良弓藏。",
    "勿以善小而不为，勿以恶小而为之。今天星期日。",
)


def model_of(implementation: str = "sdpa", **overrides) -> TwoRowGlmForCausalLM:
    """极小模型，每个参数都加一点噪声：偏置本来是零，漏加也看不出。"""
    model = tiny_model("glm_two_row", attn_implementation=implementation, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def batch_of(count: int = 2, **options) -> dict[str, torch.Tensor]:
    """真的填空批量：两行位置、四维掩码、有填充。"""
    tokenizer = tiny_tokenizer("glm_two_row")
    features = [
        {"input_ids": tokenizer(text)["input_ids"], "example_id": number}
        for number, text in enumerate(TEXTS[:count])
    ]
    return BlankInfillingCollator(tokenizer, **options)(features)


def by_hand(model: TwoRowGlmForCausalLM, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """论文 §2.2 的前向，用 numpy 逐步写出，float64。"""
    weights = {
        name: value.double().numpy() for name, value in model.state_dict().items()
    }

    def norm(name: str, states: np.ndarray) -> np.ndarray:
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, states: np.ndarray) -> np.ndarray:
        return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    ids, positions = batch["input_ids"].numpy(), batch["position_ids"].numpy()
    words = weights["model.word_embeddings.weight"]
    hidden = (
        words[ids]
        + weights["model.position_embeddings.weight"][positions[:, 0]]
        + weights["model.block_position_embeddings.weight"][positions[:, 1]]
    )
    heads = model.config.num_attention_heads
    rows, length, width = hidden.shape
    for number in range(model.config.num_hidden_layers):
        layer = f"model.layers.{number}"
        read = norm(f"{layer}.attention_norm", hidden)
        query, key, value = (
            linear(f"{layer}.attention.{name}", read)
            .reshape(rows, length, heads, -1)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
        scores = scores + batch["attention_mask"].double().numpy()
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances = chances / chances.sum(-1, keepdims=True)
        mixed = (chances @ value).transpose(0, 2, 1, 3).reshape(rows, length, width)
        hidden = hidden + linear(f"{layer}.attention.dense", mixed)
        read = norm(f"{layer}.inner_norm", hidden)
        inner = gelu(linear(f"{layer}.inner", read))
        hidden = hidden + linear(f"{layer}.outer", inner)
    return norm("model.final_norm", hidden) @ words.T


@IMPLEMENTATIONS
def test_the_forward_pass_is_that_of_the_paper(implementation):
    """与 numpy 逐步写出的前向相同：先归一化再注意力，两张位置表，输出与词嵌入共用。"""
    model, batch = model_of(implementation), batch_of()
    labels = batch.pop("labels")
    assert (labels != -100).any()
    with torch.no_grad():
        logits = model(**batch).logits
    np.testing.assert_allclose(logits.numpy(), by_hand(model, batch), atol=2e-4)


def test_both_rows_of_positions_matter():
    """改动任一行的位置，输出都变；(B, L) 的位置等于第二行全是 0。"""
    model, batch = model_of(), batch_of()
    del batch["labels"]
    positions = batch.pop("position_ids")
    with torch.no_grad():
        whole = model(**batch, position_ids=positions).logits
        for row in (0, 1):
            changed = positions.clone()
            changed[:, row, -3:] += 1
            other = model(**batch, position_ids=changed).logits
            assert (other - whole)[:, -3:].abs().max() > 1e-2
        flat = torch.stack([positions[:, 0], torch.zeros_like(positions[:, 0])], 1)
        assert torch.equal(
            model(**batch, position_ids=positions[:, 0]).logits,
            model(**batch, position_ids=flat).logits,
        )
        length = positions.shape[2]
        assert torch.equal(
            model(**batch).logits,
            model(**batch, position_ids=torch.arange(length)[None]).logits,
        )


@IMPLEMENTATIONS
def test_repeated_positions_do_not_isolate_anything(implementation):
    """位置重复时，别的模型会以为几个文档装在一行；这里不给掩码就是因果，照样看得见左边。"""
    model = model_of(implementation)
    ids = torch.arange(5, 11)[None]
    positions = torch.tensor([[[0, 1, 2, 1, 1, 1], [0, 0, 0, 1, 2, 3]]])
    with torch.no_grad():
        before = model(ids, position_ids=positions).logits
        ids[0, 0] = 20
        after = model(ids, position_ids=positions).logits
    assert (before - after)[0].abs().amax(1).min() > 1e-4


@IMPLEMENTATIONS
def test_part_a_never_sees_part_b(implementation):
    """改动 B 部分的一个词元：A 部分与它左边的 B 一点不变，它自己与右边都变。"""
    model, batch = model_of(implementation), batch_of(1, sentence_probability=0)
    del batch["labels"]
    place = int((batch["position_ids"][0, 1] == 2).nonzero()[0])
    with torch.no_grad():
        before = model(**batch).logits[0]
        batch["input_ids"][0, place] = 20
        change = (model(**batch).logits[0] - before).abs().amax(1)
    assert (change[:place] == 0).all()
    assert (change[place:] > 0).all()


@IMPLEMENTATIONS
def test_cached_steps_equal_one_full_pass(implementation):
    """先双向地读 A 部分，再带着缓存逐个地读 B 部分：logits 与一次读完相同。"""
    model, batch = model_of(implementation), batch_of(1)
    ids, positions = batch["input_ids"], batch["position_ids"]
    split = int((positions[0, 1] > 0).nonzero()[0])
    with torch.no_grad():
        whole = model(
            ids, attention_mask=batch["attention_mask"], position_ids=positions
        ).logits
        outputs = model(
            ids[:, :split],
            attention_mask=torch.zeros(1, 1, split, split),
            position_ids=positions[..., :split],
            use_cache=True,
        )
        parts = [outputs.logits]
        for place in range(split, ids.shape[1]):
            at = slice(place, place + 1)
            outputs = model(
                ids[:, at],
                position_ids=positions[..., at],
                past_key_values=outputs.past_key_values,
                use_cache=True,
            )
            parts.append(outputs.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_positions_run_on_after_the_cache():
    """不给位置时，从缓存之后接着数：逐个读与一次读完相同，几个一起读也相同。"""
    model = model_of()
    ids = torch.arange(5, 12)[None]
    with torch.no_grad():
        whole = model(ids).logits
        cache = model(ids[:, :3], use_cache=True).past_key_values
        rest = model(ids[:, 3:], past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 3:], atol=1e-5, rtol=0)


def test_padding_on_the_left_changes_nothing():
    """二维掩码遮住的填充看不见；位置补上之后，输出与没有填充时相同。"""
    model = model_of()
    ids = torch.arange(5, 11)[None]
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.int64), ids], 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(ids).logits
        shifted = model(padded, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(shifted[:, 2:], plain, atol=1e-5, rtol=0)


def test_labels_are_shifted_and_shift_labels_are_not():
    """`labels` 移一位，`shift_labels` 不移；给了后者就不看前者。"""
    model = model_of()
    ids = torch.arange(5, 11)[None]
    with torch.no_grad():
        outputs = model(ids, labels=ids)
        logits = outputs.logits[0]
        shifted = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
        aligned = torch.nn.functional.cross_entropy(logits, ids[0])
        torch.testing.assert_close(outputs.loss, shifted)
        torch.testing.assert_close(model(ids, shift_labels=ids).loss, aligned)
        both = model(ids, labels=ids, shift_labels=ids).loss
        torch.testing.assert_close(both, aligned)


def test_gradients_are_the_same_with_and_without_checkpointing():
    """梯度检查点只省显存，梯度不变；每个参数都有梯度。"""
    found = []
    for checkpointing in (False, True):
        model = model_of(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable()
        batch = batch_of()
        model(**batch, shift_labels=batch["labels"], use_cache=False).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_one_batch_of_two_equals_two_batches_of_one():
    """各自除以整步的目标数（`num_items_in_batch`）再累积，梯度与一批两行相同。"""
    model, whole = model_of(), batch_of()
    count = int((whole["labels"] != -100).sum())

    def accumulate(*batches: dict[str, torch.Tensor]) -> torch.Tensor:
        model.zero_grad()
        for batch in batches:
            model(
                **batch, shift_labels=batch["labels"], num_items_in_batch=count
            ).loss.backward()
        return model.model.word_embeddings.weight.grad.clone()

    parts = [{name: value[row : row + 1] for name, value in whole.items()}
             for row in (0, 1)]  # fmt: skip
    torch.testing.assert_close(accumulate(whole), accumulate(*parts))


def test_a_saved_checkpoint_opens_with_nothing_missing(tmp_path):
    """存成 safetensors，由 Auto 类打开：一个键不缺，权重相同，输出层仍与词嵌入共用。"""
    model, tokenizer = model_of(), tiny_tokenizer("glm_two_row")
    save_checkpoint(model, tokenizer, tmp_path / "glm")
    assert (tmp_path / "glm" / "model.safetensors").is_file()
    again, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "glm", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(again) is TwoRowGlmForCausalLM
    assert again.lm_head.weight is again.model.word_embeddings.weight
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert again.config.position_rows == 2
    assert type(AutoModel.from_pretrained(tmp_path / "glm")) is TwoRowGlmModel
    ours = load_checkpoint(str(tmp_path / "glm"), "blank_infilling")
    assert ours.missing_keys == ()
    assert ours.notices == []


def test_a_new_process_opens_it(tmp_path, root: Path):
    """`load_checkpoint` 与 `load_tokenizer` 自己会载入这种架构。

    `import companion.checkpoints.two_row_glm` 之后，transformers 自己也打得开。三个进程
    从装好 torch 的一个分出，哪一个也没有先载入本包。
    """
    model, tokenizer = tiny_model("glm_two_row"), tiny_tokenizer("glm_two_row")
    save_checkpoint(model, tokenizer, tmp_path)
    program = f"""
import os, transformers.modeling_utils

def ours():
    from companion import load_checkpoint
    return load_checkpoint({str(tmp_path)!r}, "causal_lm").model

def our_tokenizer():
    from companion import load_tokenizer
    return load_tokenizer({str(tmp_path)!r})

def theirs():
    import companion.checkpoints.two_row_glm
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})

for open_it in (ours, our_tokenizer, theirs):
    if os.fork():
        assert os.wait()[1] == 0
    else:
        print(type(open_it()).__name__, flush=True)
        break
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [TwoRowGlmForCausalLM, type(tokenizer), TwoRowGlmForCausalLM]
    assert done.stdout.split() == [each.__name__ for each in names]


def test_generate_continues_a_text_as_a_causal_model():
    """`generate` 可用：贪心的每一步，与整段重算时概率最大的词元相同。"""
    model = model_of()
    ids = torch.arange(9, 15)[None]
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.no_grad():
        best = model(written).logits[0].argmax(-1)
    assert written[0, 6:].tolist() == best[5:-1].tolist()


def test_attentions_and_hidden_states_can_be_read():
    """画图用：eager 给出每层的注意力，每行之和为 1；隐藏状态比层数多一。"""
    model = model_of("eager")
    outputs = model(
        torch.arange(5, 11)[None], output_attentions=True, output_hidden_states=True
    )
    assert len(outputs.attentions) == 2
    assert len(outputs.hidden_states) == 3
    torch.testing.assert_close(
        outputs.attentions[0].sum(-1), torch.ones(1, 4, 6), atol=1e-5, rtol=0
    )


def test_a_new_model_starts_small_where_branches_join():
    """初始化：两个汇入残差的矩阵的标准差是 0.02 / √(2·层数)，其余 0.02。"""
    config = AutoConfig.for_model(
        "glm_two_row", vocab_size=50, hidden_size=128, num_hidden_layers=8,
        num_attention_heads=4, intermediate_size=256, max_position_embeddings=32,
    )  # fmt: skip
    layer = AutoModelForCausalLM.from_config(config).model.layers[3]
    for linear, wanted in ((layer.inner, 0.02), (layer.outer, 0.005),
                           (layer.attention.query, 0.02),
                           (layer.attention.dense, 0.005)):  # fmt: skip
        assert float(linear.weight.detach().std()) == pytest.approx(wanted, rel=0.05)


def test_bfloat16_takes_the_float32_mask_of_the_collator():
    """半精度的模型收得下整理器的 float32 掩码，输出有限。"""
    batch = batch_of()
    for implementation in ("eager", "sdpa"):
        model = model_of(implementation).to(torch.bfloat16)
        with torch.no_grad():
            assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize("shape", [(1, 3, 6), (1, 2, 5), (6,)])
def test_positions_of_another_shape_are_refused(shape):
    """位置的形状不对：说出收到的与要的形状。"""
    model = model_of()
    with pytest.raises(ModelError, match="position_ids 的形状"):
        model(torch.arange(6)[None], position_ids=torch.zeros(shape, dtype=torch.int64))


def test_the_position_table_is_known():
    """一行至多多少词元，由第一张位置表定。"""
    assert position_table(tiny_model("glm_two_row")) == 128
