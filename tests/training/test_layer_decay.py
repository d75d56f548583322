"""逐层递减的学习率：每种起步模型的每个参数在第几层；分不出层的按名拒绝。"""

import re

import pytest

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.tiny import tiny_model
from companion.errors import ConfigError
from companion.training import train
from companion.training.arguments import add_lora
from companion.training.optimizing import layer_factors, make_optimizer

STARTERS = {
    "bert": ("masked_lm", r"encoder\.layer\.(\d+)"),
    "bloom": ("causal_lm", r"\bh\.(\d+)"),
    "t5": ("span_corruption", r"block\.(\d+)"),
    "bart": ("text_infilling", r"layers\.(\d+)"),
    "glm": ("blank_infilling", r"layers\.(\d+)"),
    "electra": ("replaced_token", r"encoder\.layer\.(\d+)"),
}
"""起步模型 → 目标，与参数名里层号的写法。"""


@pytest.mark.parametrize("kind", STARTERS)
def test_every_parameter_of_a_starter_has_its_depth(kind):
    """末层乘一次，往下一层多一次，词嵌入最多；输出头与末尾的归一化是峰值。"""
    goal, layer = STARTERS[kind]
    model = load_checkpoint(f"starter:{kind}", goal).model
    factors = layer_factors(model, 0.5)
    depths: dict[str, int] = {}  # 哪一串 → 几层
    for name, _ in model.named_parameters():
        if found := re.search(layer, name):
            stack = name[: found.start()]
            depths[stack] = max(depths.get(stack, 0), int(found[1]) + 1)
    powers = set()
    owners = [
        {id(weight) for weight in each.parameters()}
        for each in getattr(model, "parts", {"": model}).values()
    ]
    for name, weight in model.named_parameters():
        part = name.partition(".")[0] if len(owners) > 1 else ""
        if all(id(weight) in each for each in owners):  # 一对共用的，取深的一边
            part = ""
        mine = [depth for stack, depth in depths.items() if stack.startswith(part)]
        bottom = max(mine) + 1
        power = bottom if "emb" in name or "shared" in name else 0
        if found := re.search(layer, name):
            power = depths[name[: found.start()]] - int(found[1])
        assert factors.get(id(weight), 1.0) == 0.5**power, name
        powers.add(power)
    assert {1, bottom} <= powers


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_groups_have_the_rates_of_their_layers(tmp_path, configure, optimizer):
    """AdamW 与 Muon 的各组：学习率是峰值乘倍数；另给了词嵌入的，照另给的。"""
    model = tiny_model("bert")
    config = configure(
        tmp_path,
        optimizer=optimizer,
        layer_learning_rate_decay=0.5,
        embedding_learning_rate=1e-5,
    )
    made = make_optimizer(model, config, 1e-3, set())
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen = {
        names[id(weight)]: group["lr"]
        for group in made.param_groups
        for weight in group["params"]
    }
    assert set(seen) == set(names.values())
    assert seen["bert.embeddings.word_embeddings.weight"] == 1e-5
    depth = model.config.num_hidden_layers
    for name, rate in seen.items():
        if found := re.search(r"layer\.(\d+)", name):
            assert rate == pytest.approx(1e-3 * 0.5 ** (depth - int(found[1]))), name
    assert seen["cls.predictions.transform.dense.weight"] == 1e-3


def test_an_adapter_has_the_rate_of_its_layer(tmp_path, configure):
    """LoRA 的矩阵随它所在的层。"""
    pytest.importorskip("peft")
    config = configure(tmp_path, lora_rank=2, layer_learning_rate_decay=0.5)
    model = add_lora(tiny_model("bloom"), config)
    factors = layer_factors(model, 0.5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            number = int(re.search(r"\bh\.(\d+)", name)[1])
            assert factors[id(weight)] == 0.5 ** (model.config.n_layer - number)


def test_the_log_shows_the_peak_of_the_curve(tmp_path, configure, no_curve):
    """日志里的学习率是峰值乘曲线，不是哪一组的。"""
    config = configure(
        tmp_path / "输出",
        layer_learning_rate_decay=0.5,
        lr_scheduler_type="constant",
        warmup_steps=0,
        max_steps=2,
    )
    result = train(config, quiet=True)
    assert {row["learning_rate"] for row in result.log} == {1e-3}


def test_layers_that_share_their_weights_are_refused(
    tmp_path, configure, tmp_path_factory
):
    """ALBERT 各层共用一份权重：按名拒绝，什么也没写。"""
    from companion.checkpoints.saving import save_checkpoint
    from companion.checkpoints.tiny import tiny_tokenizer

    folder = tmp_path_factory.mktemp("检查点") / "albert"
    tokenizer = tiny_tokenizer("albert")
    save_checkpoint(tiny_model("albert", tokenizer), tokenizer, folder)
    config = configure(
        tmp_path / "输出", model=str(folder), layer_learning_rate_decay=0.9
    )
    with pytest.raises(ConfigError, match="albert 的 2 层分不出来"):
        train(config, quiet=True)
    assert not (tmp_path / "输出").exists()


@pytest.mark.parametrize("decay", [0, 1, 1.5])
def test_the_decay_lies_between_zero_and_one(tmp_path, configure, decay):
    """零与一都没有意义。"""
    with pytest.raises(ConfigError, match="在 0 与 1 之间"):
        configure(tmp_path, layer_learning_rate_decay=decay)
