"""一次训练读进去的东西：各记一个指纹，续训时核对；留出集与训练文字的重合也在这里量。

续训按行号接着读，语料里添一篇，行号就全错了；底座换了，训练前的分数就不是这一次的。路径相同
说明不了什么，所以比内容：`inputs.json` 里是各份文字与权重的 sha256。

留出集的字若也在训练文字里，分数量的是背诵。重合照字量（20 字以上连续相同，
`companion.corpus.dedup.overlap`），写进 `metrics.json` 与报告的开头。
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from companion.checkpoints.loading import Checkpoint
from companion.checkpoints.reading import read_json
from companion.corpus.dedup import OverlapReport, overlap
from companion.corpus.document import Document
from companion.corpus.documents import Documents, sides_of
from companion.corpus.tokens import content_fingerprint, tokenizer_fingerprint
from companion.errors import TrainingError
from companion.evaluation.targets import sample_documents
from companion.training.data import Corpora
from companion.training.output import INPUTS_FILE

NAMES = {
    "corpus": "训练语料",
    "valid": "领域留出集",
    "general": "通用留出集",
    "replay": "回放的文字",
    "model": "起点的权重",
    "tokenizer": "分词器",
    "teacher": "教师的权重",
}


@dataclass(frozen=True)
class Inputs:
    """读进去的东西。"""

    fingerprints: Mapping[str, str]
    """名字（`NAMES` 的键）→ 内容的 sha256；没有的一份不列。"""
    overlap: Mapping[str, OverlapReport]
    """"domain" 与 "general" → 留出集与训练文字（含回放）的重合；不评估则为空。"""
    start: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """接着前一次训练的：哪个检查点、第几步、停下时的学习率、动量带没带来；否则为空。"""
    processes: int = 1
    """运行开头有几个进程：`config.yaml` 里的梯度累积照它写，续训可以换。"""

    def as_dict(self) -> dict[str, Any]:
        """`inputs.json` 的内容。"""
        return asdict(self)

    def shared(self) -> dict[str, float]:
        """各留出集里也见于训练文字的字占的比例，[0, 1]。"""
        return {name: found.shared_ratio for name, found in self.overlap.items()}


def take_inputs(
    checkpoint: Checkpoint, corpora: Corpora, teacher: Any, max_chars: int | None
) -> Inputs:
    """记下指纹，量出重合；什么也不写。

    Args:
        checkpoint: 要训练的检查点，词表已扩充好。
        corpora: 读进来的四份文字。
        teacher: 蒸馏的教师模型；没有则为 None。
        max_chars: 每份留出集至多考这么多字；None 表示不评估，也就不量重合。
    """
    texts = {
        "corpus": corpora.train,
        "valid": corpora.valid,
        "general": corpora.general,
        "replay": corpora.replay,
    }
    fingerprints = {
        name: content_fingerprint(_both_sides(documents))
        for name, documents in texts.items()
        if documents
    }
    fingerprints["model"] = weights_fingerprint(checkpoint.model)
    fingerprints["tokenizer"] = tokenizer_fingerprint(checkpoint.tokenizer)
    if teacher is not None:
        fingerprints["teacher"] = weights_fingerprint(teacher)
    shared: dict[str, OverlapReport] = {}
    held = {"domain": corpora.valid, "general": corpora.general}
    for name, documents in held.items() if max_chars is not None else ():
        if documents:
            examined = sample_documents(documents, max_chars or 0)
            seen = chain(corpora.train, corpora.replay)
            shared[name] = overlap(seen, examined, near=False)
    return Inputs(fingerprints, shared)


def check_unchanged(output: Path, inputs: Inputs) -> None:
    """续训读到的与上一次的相同。

    Raises:
        TrainingError: 有一份的内容变了。
    """
    before: dict[str, str] = read_json(output / INPUTS_FILE).get("fingerprints", {})
    changed = [
        NAMES[name]
        for name, digest in inputs.fingerprints.items()
        if before.get(name, digest) != digest
    ]
    if changed:
        raise TrainingError(
            found=f"{'、'.join(changed)}的内容与上一次不同（{output / INPUTS_FILE} "
            "里记着上一次的指纹）",
            expected="续训读同样的内容：行按编号接着取，添一篇、改一字，编号就对不上",
            remedy="把它还原再续训；要用改过的内容，就换一个 --output 另训一次"
            "（可以最近的检查点为 --model）",
        )


def weights_fingerprint(model: Any) -> str:
    """全部参数与缓冲区的 sha256，十六进制；一对模型各算各的，合成一个。"""
    import torch

    digest = hashlib.sha256()
    for part, each in getattr(model, "parts", {"": model}).items():
        for name, tensor in each.state_dict().items():
            digest.update(
                f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
            )
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _both_sides(documents: Sequence[Document]) -> Sequence[Document]:
    """句对两侧都算。"""
    if documents[0].target is None:
        return documents
    if isinstance(documents, Documents):
        return documents.sides()
    return [side for pair in documents for side in sides_of(pair)]
