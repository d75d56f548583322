"""测试用的检查点文件夹：完整的、残缺的、只有词表的。"""

from pathlib import Path
from typing import Any

from companion.models.loading import quiet_transformers
from companion.models.tiny import tiny_model, tiny_tokenizer


def write_checkpoint(folder: Path, kind: str, **overrides: Any) -> Path:
    """某种架构的极小检查点，safetensors。"""
    tokenizer = tiny_tokenizer(kind)
    with quiet_transformers():
        tiny_model(kind, tokenizer, **overrides).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def write_old_checkpoint(folder: Path, kind: str = "bert") -> Path:
    """旧式检查点，如真的 SikuBERT：只有 .bin、vocab.txt 与 config.json。"""
    import torch

    folder.mkdir(parents=True)
    tokenizer = tiny_tokenizer("bert")
    model = tiny_model(kind, tokenizer)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    write_vocabulary(folder, tokenizer)
    return folder


def write_vocabulary(folder: Path, tokenizer: Any) -> None:
    """BERT 式的 vocab.txt：一行一个词元，行号就是编号。"""
    vocabulary = tokenizer.get_vocab()
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def edit_weights(folder: Path, change: Any) -> None:
    """改写 model.safetensors：`change` 收下并返回 名字 → 张量 的字典。"""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
