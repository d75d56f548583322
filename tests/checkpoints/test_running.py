"""喂给模型之前问的几件事：位置上限，套着的设置。"""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.running import over_limit, position_limit, text_config
from companion.checkpoints.saving import save_checkpoint
from companion.checkpoints.tiny import tiny_model, tiny_tokenizer
from companion.preflight import check_checkpoint
from companion.preflight.device import Device


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("bert", 128), ("roberta", 128), ("llama", 128), ("bloom", None)],
)
def test_a_row_fits_up_to_the_limit(kind, limit):
    """恰好到上限放得下，多一个就放不下；没有上限的都放得下。"""
    model = tiny_model(kind)
    assert position_limit(model) == limit
    assert over_limit(model, 128) is None
    assert over_limit(model, 129) == limit


def test_a_model_that_sees_pictures_is_read_by_its_text_settings(tmp_path):
    """Gemma 3 的设置套了两层：位置上限、宽度、窗口都取读文字的一份，体检走得完。"""
    import torch

    tokenizer = tiny_tokenizer("llama")
    text = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64,
        "max_position_embeddings": 96, "vocab_size": len(tokenizer),
        "pad_token_id": 0, "sliding_window": 32,
    }  # fmt: skip
    picture = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=picture)
    save_checkpoint(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "g")
    checkpoint = load_checkpoint(str(tmp_path / "g"), "causal_lm")
    assert text_config(checkpoint.model).hidden_size == 32
    assert over_limit(checkpoint.model, 97) == 96
    cpu = Device("cpu", "CPU", torch.float32, 2**40, "")
    findings = check_checkpoint(checkpoint, "causal_lm", block_size=64, device=cpu)
    said = {each.code: each.message for each in findings}
    assert said["block_size"] == "一行至多 96 个词元"
    assert not [each for each in findings if each.severity == "error"]
