"""T5 v1.1 与 mT5：输出头自成一份，读进来、存出去都丢不了。"""

import json

import pytest
import torch
from model_folders import write_checkpoint

from companion.checkpoints.loading import load_checkpoint
from companion.checkpoints.saving import save_checkpoint

V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}


@pytest.fixture(params=["mt5", "t5-v1.1"])
def folder(request, tmp_path):
    """仓库里的样子：设置写着不共享，权重里有 lm_head。"""
    if request.param == "mt5":
        path = write_checkpoint(tmp_path / "原来", "mt5")
    else:
        path = write_checkpoint(tmp_path / "原来", "t5", **V1_1)
        _separate_head(path)
    config = json.loads((path / "config.json").read_text())
    config["tie_word_embeddings"] = False
    config.pop("scale_decoder_outputs", None)
    (path / "config.json").write_text(json.dumps(config))
    return path


def _separate_head(path) -> None:
    """随机造出的 T5 总是共享；另给它一份输出头。"""
    from model_folders import edit_weights

    def add(weights):
        generator = torch.Generator().manual_seed(0)
        shape = weights["shared.weight"].shape
        head = 0.05 * torch.randn(shape, generator=generator)
        return weights | {"lm_head.weight": head}

    edit_weights(path, add)


def logits(model) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=ids).logits


def test_the_head_survives_another_tying(folder):
    """读进来之后，谁再调 tie_weights()（扩词表、读分片时都会），输出头也还在。"""
    model = load_checkpoint(str(folder), "span_corruption").model
    before = logits(model)
    model.tie_weights()
    assert torch.equal(logits(model), before)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    assert torch.allclose(logits(model)[..., : before.shape[-1]], before, atol=1e-6)


def test_the_head_survives_saving_and_a_stock_reading(folder, tmp_path):
    """存下来由 AutoModel 读回：逐位相同，设置照旧写着不共享（第 4 版也读得对）。"""
    from transformers import AutoModelForSeq2SeqLM

    checkpoint = load_checkpoint(str(folder), "span_corruption")
    saved = save_checkpoint(checkpoint.model, checkpoint.tokenizer, tmp_path / "存下")
    written = json.loads((saved / "config.json").read_text())
    assert written["tie_word_embeddings"] is False
    again, report = AutoModelForSeq2SeqLM.from_pretrained(
        saved, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert torch.equal(logits(again.eval()), logits(checkpoint.model))


def test_a_shared_head_stays_shared(tmp_path):
    """原来的 T5 共享词嵌入：设置与权重都不动。"""
    model = load_checkpoint(
        str(write_checkpoint(tmp_path, "t5")), "span_corruption"
    ).model
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.shared.weight
