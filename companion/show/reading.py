"""批量的第 0 行 → 给人看的几行：词元怎样写，输入、标签怎样对齐，另有哪几项。

输入与标签同列的目标读成 `LabelRows`，编码器–解码器的读成 `PairRows`；GLM 填空的 A、B
两部分装在同一行，也读成 `PairRows`。

形状字母：T 原文一行的词元数，L 输入长，K 解码器的行长。
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from companion.batch import IGNORE_INDEX, Batch, Feature
from companion.corpus.tokenization import unknown_id
from companion.errors import ObjectiveError
from companion.objectives import Objective
from companion.plots.rows import AttentionPanel, LabelRows, PairRows, Span, align

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from companion.objectives.collate import Example as Corrupted
    from companion.objectives.sentences import SentenceMarks


@dataclass(frozen=True)
class Example:
    """一行样本：给人看的几行，和谁看得见谁。"""

    rows: LabelRows | PairRows
    visible: "NDArray[np.bool_]"
    """(L, L) bool，真处表示行号的词元看得见列号的词元；编码器–解码器的是编码器。"""
    input_ids: list[int]
    """整理器给出的输入，(L,)。"""
    labels: list[int]
    """整理器给出的标签，(L,) 或 (K,)；−100 处不计损失。"""
    batch: Batch
    """整理器给出的批量，只有这一行；可以原样交给模型。"""
    explicit: bool = False
    """可见矩阵由批量自己给出（四维掩码），不是模型补上的。"""
    position_ids: list[Any] | None = None
    """整理器给出的位置，(L,) 或 (2, L)；没有给的由模型从 0 数起。"""
    token_type_ids: list[int] | None = None
    """整理器给出的段编号，(L,)。"""
    decoder_input_ids: list[int] | None = None
    """(K,)；只有编码器–解码器有，下同。"""
    decoder_visible: "NDArray[np.bool_] | None" = None
    """解码器的自注意力，(K, K) bool。"""
    cross_visible: "NDArray[np.bool_] | None" = None
    """解码器看编码器，(K, L) bool。"""
    parts: list[int] | None = None
    """输入的哪些位置是前缀（或 GLM 的 A 部分），是为 1，(L,)；只有前缀语言模型有。"""
    reverse: bool = False
    """前缀之外看自己与右边，而不是左边。"""

    def masks(self) -> list[AttentionPanel]:
        """谁看得见谁：编码器–解码器有三个矩阵，别的只有一个。"""
        rows = self.rows
        alone = isinstance(rows, LabelRows)
        if alone or self.decoder_visible is None or self.cross_visible is None:
            row = (rows.inputs, rows.document) if alone else rows.joined()
            panel = _panel(self._mask_title, self.visible, *row)
            return [replace(panel, parts=self.parts)]
        encoder = rows.inputs, rows.input_document
        decoder = rows.decoder_inputs, rows.decoder_document
        return [
            _panel("编码器自注意力", self.visible, *encoder),
            _panel("解码器自注意力", self.decoder_visible, *decoder),
            AttentionPanel(
                title="交叉注意力：解码器看编码器",
                visible=self.cross_visible,
                queries=decoder[0],
                query_documents=decoder[1],
                keys=encoder[0],
                key_documents=encoder[1],
                cross=True,
            ),
        ]

    @property
    def _mask_title(self) -> str:
        """一张矩阵的题目；前缀语言模型的说出是哪一种。"""
        title = "谁看得见谁"
        if self.parts is None:
            return title
        if isinstance(self.rows, PairRows):
            return f"{title}：{self.rows.sides[0]}双向，{self.rows.sides[1]}从左到右"
        way = "从右到左" if self.reverse else "从左到右"
        if all(self.parts):
            return f"{title}：双向"
        return f"{title}：前缀双向，其余{way}" if any(self.parts) else f"{title}：{way}"


def _panel(
    title: str, visible: "NDArray[np.bool_]", words: list[str], owners: list[int]
) -> AttentionPanel:
    """自注意力：行与列是同一条。"""
    return AttentionPanel(
        title=title,
        visible=visible,
        queries=words,
        keys=words,
        query_documents=owners,
        key_documents=owners,
    )


@dataclass(frozen=True)
class Reader:
    """批量的第 0 行 → 给人看的几行。"""

    goal: Objective
    title: str
    feature: Feature
    example: "Corrupted"
    batch: "Batch"
    tokenizer: Any

    def read(self) -> Example:
        """按目标的种类读。"""
        if self.example.decoder_input_ids is not None:
            return self._pair()
        levels = self.example.position_ids
        if levels is not None and levels.ndim == 2:  # GLM：B 部分的第二套位置 > 0
            return self._parted(levels[1] > 0)
        return self._single(self._label_rows())

    def _single(self, rows: LabelRows | PairRows) -> Example:
        """只有一个栈的模型。"""
        from companion.objectives.attention import visible_within_documents

        mask = self.batch["attention_mask"]
        if mask.ndim == 4:  # 整理器自己给出了谁看得见谁
            visible = mask[0, 0] == 0  # (L, L)
        else:  # 一行一个文档：模型自己补上因果的三角
            visible = visible_within_documents(
                self.example.documents[None], causal=self.goal.causal
            )[0]
        return self._example(rows, visible=visible.numpy())

    def _parted(self, second: "Tensor") -> Example:
        """GLM 填空：一行分成 A、B 两部分；`second` (L,) 在 B 部分为真。"""
        first, example = ~second, self.example
        rows = self._pair_rows(
            (example.input_ids[first], example.documents[first]),
            (example.input_ids[second], example.documents[second]),
            (example.labels[second], example.origin[second], example.hidden[second]),
            decoder_visible=[True] * int(second.sum()),
            sides=("A 部分", "B 部分"),
            input_columns=first.nonzero()[:, 0].tolist(),
            decoder_columns=second.nonzero()[:, 0].tolist(),
        )
        return self._single(rows)

    def _pair(self) -> Example:
        """编码器–解码器。"""
        from companion.objectives.attention import (
            PADDING,
            visible_between_documents,
            visible_within_documents,
        )

        example = self.example
        given, owners = example.decoder_input_ids, example.decoder_documents
        assert given is not None  # 编码器–解码器的整理器总是给
        assert owners is not None
        seen = example.decoder_visible
        encoder, decoder = example.documents[None], owners[None]
        if seen is not None:
            decoder = decoder.masked_fill(~seen, PADDING)
        # 一行一个文档时批量只给二维掩码，矩阵由模型补上，补法如下
        visible = {
            "attention_mask": visible_within_documents(encoder, causal=False),
            "decoder_attention_mask": visible_within_documents(decoder, causal=True),
            "cross_attention_mask": visible_between_documents(decoder, encoder),
        }
        for name in visible:
            if name in self.batch and self.batch[name].ndim == 4:
                visible[name] = self.batch[name][:, 0] == 0
        inside, own, across = (each[0].numpy() for each in visible.values())
        rows = self._pair_rows(
            (example.input_ids, example.documents),
            (given, owners),
            (example.labels, example.origin, example.hidden),
            decoder_visible=[True] * len(given) if seen is None else seen.tolist(),
        )
        return self._example(
            rows, visible=inside, decoder_visible=own, cross_visible=across
        )

    def _example(self, rows: LabelRows | PairRows, **visible: Any) -> Example:
        extra = ("position_ids", "token_type_ids", "decoder_input_ids")
        prefix = self.example.prefix
        return Example(
            rows,
            input_ids=self.batch["input_ids"][0].tolist(),
            labels=self.batch["labels"][0].tolist(),
            batch=self.batch,
            explicit=self.batch["attention_mask"].ndim == 4,
            parts=None if prefix is None else prefix.int().tolist(),
            reverse=self.example.reverse,
            **{k: self.batch[k][0].tolist() for k in extra if k in self.batch},
            **visible,
        )

    def _label_rows(self) -> LabelRows:
        """输入与标签同列；原文里没有的列（UniLM 插入的 [SEP]）词元是空的。"""
        causal, labels = self.goal.causal, self.example.labels.tolist()
        raw, special = self._words(self.feature["input_ids"]), self._special
        origin = self.example.origin.tolist()
        return LabelRows(
            title=self.title,
            tokens=[raw[at] if at >= 0 else "" for at in origin],
            inputs=self._words(self.example.input_ids),
            labels=self._labels(labels),
            predicted_by=[
                None if label == IGNORE_INDEX or (causal and at == 0) else at - causal
                for at, label in enumerate(labels)
            ],
            special=[special[at] if at >= 0 else True for at in origin],
            document=self.example.documents.tolist(),
            mask_token=self.tokenizer.mask_token,
        )

    def _pair_rows(
        self,
        encoder: tuple["Tensor", "Tensor"],
        decoder: tuple["Tensor", "Tensor"],
        targets: tuple["Tensor", "Tensor", "Tensor"],
        **shown: Any,
    ) -> PairRows:
        """两条行。

        Args:
            encoder: 输入与它们属于第几个文档，各 (L,) int64。
            decoder: 解码器的输入与它们属于第几个文档，各 (K,) int64。
            targets: 标签、出处、看不看得见，各 (K,)。
            **shown: `PairRows` 的其余各项。
        """
        import torch

        labels, origin, hidden = targets
        raw = torch.as_tensor(self.feature["input_ids"])
        starts = torch.as_tensor(self.feature["document_starts"])
        document = torch.searchsorted(starts, torch.arange(len(raw)), right=True) - 1
        unseen = torch.zeros(len(raw), dtype=torch.bool)
        unseen[origin[hidden & (origin >= 0)]] = True
        # 评估考的：同 companion.evaluation.targets，看不见的原文，词表外的除外
        scored = hidden & (origin >= 0) & (labels != unknown_id(self.tokenizer))
        given = encoder[0].tolist()
        masks = self._mask_ids() - set(raw.tolist())
        return PairRows(
            title=self.title,
            tokens=self._words(raw),
            special=self._special,
            document=document.tolist(),
            hidden=unseen.tolist(),
            inputs=self._words(encoder[0]),
            is_mask=[each in masks for each in given],
            input_document=encoder[1].tolist(),
            spans=_align_documents((raw, document), encoder, unseen, self.tokenizer),
            decoder_inputs=self._words(decoder[0]),
            decoder_document=decoder[1].tolist(),
            labels=self._labels(labels.tolist()),
            origin=[None if at < 0 else at for at in origin.tolist()],
            scored=(scored & (labels != IGNORE_INDEX)).tolist(),
            **shown,
        )

    @property
    def _special(self) -> list[bool]:
        return [bool(each) for each in self.feature["special_tokens_mask"]]

    def _words(self, ids: Any) -> list[str]:
        return [token_text(self.tokenizer, int(each)) for each in ids]

    def _labels(self, ids: list[int]) -> list[str | None]:
        return [
            None if each == IGNORE_INDEX else token_text(self.tokenizer, each)
            for each in ids
        ]

    def _mask_ids(self) -> set[int]:
        """掩码、哨兵与别的特殊词元；UER 的中文 T5 的哨兵不算特殊词元，要另找。"""
        from companion.objectives.seq2seq import sentinel_ids_of

        special = set(self.tokenizer.all_special_ids)
        try:
            return special | set(sentinel_ids_of(self.tokenizer).tolist())
        except ObjectiveError:  # 没有哨兵的词表
            return special


def _align_documents(
    raw: tuple["Tensor", "Tensor"],
    given: tuple["Tensor", "Tensor"],
    unseen: "Tensor",
    tokenizer: Any,
) -> list[Span]:
    """逐篇对齐；前两项各是编号与它们属于第几个文档。"""
    from companion.objectives.sentences import sentence_marks

    marks = sentence_marks(tokenizer)
    special = set(tokenizer.all_special_ids) - {unknown_id(tokenizer)}
    spans: list[Span] = []
    for number in range(int(raw[1][-1]) + 1):
        tokens = (raw[1] == number).nonzero()[:, 0]
        inputs = (given[1] == number).nonzero()[:, 0]
        ids: list[int] = raw[0][tokens].tolist()
        body = [at for at, each in enumerate(ids) if each not in special]
        aligned = align(
            ids,
            given[0][inputs].tolist(),
            unseen[tokens].tolist(),
            _sentences(ids, body[0], body[-1] + 1, marks) if body else (),
        )
        first = int(tokens[0]), int(inputs[0])
        spans += [span.moved(*first) for span in aligned]
    return spans


def _sentences(
    ids: list[int], left: int, right: int, marks: "SentenceMarks"
) -> list[range]:
    """正文的各句。"""
    found: list[range] = []
    for length in marks.split(ids[left:right]):
        found.append(range(left, left + length))
        left += length
    return found


_FIELDS = ("position_ids", "token_type_ids", "decoder_input_ids")


def given_fields(example: Example) -> dict[str, Any]:
    """整理器给出了的各项，名字与批量里的相同。"""
    given = {name: getattr(example, name) for name in _FIELDS}
    if "span_borders" in example.batch:
        given["span_borders"] = example.batch["span_borders"][0].tolist()
    return {name: value for name, value in given.items() if value is not None}


def border_lines(example: Example) -> list[str]:
    """片段边界目标：哪几个词元由哪两个去猜；别的目标没有。"""
    borders = given_fields(example).get("span_borders")
    if borders is None:
        return []
    spans: dict[tuple[int, int], list[int]] = {}
    for place, (left, right) in enumerate(borders):
        if left != IGNORE_INDEX:
            spans.setdefault((left, right), []).append(place)
    told = "；".join(
        f"第 {'、'.join(map(str, places))} 个由第 {left} 与第 {right} 个去猜"
        for (left, right), places in spans.items()
    )
    return [f"片段边界：{told or '没有一段两侧都有词元'}（从 0 数起）"]


def token_text(tokenizer: Any, token_id: int) -> str:
    """一个词元给人看的样子。

    字节级 BPE 的词元存成一串怪字符（“å¸Ŀ”），这里还原成文字；只占半个汉字的词元还原
    不了，写成字节“⟨E5B8⟩”。其余分词器的词元照原样（“##光”“▁是”）。
    """
    token: str = tokenizer.convert_ids_to_tokens(token_id)
    if token_id in tokenizer.all_special_ids or not _is_byte_level(tokenizer):
        return token
    table = _byte_of_character()
    if any(character not in table for character in token):  # 后来添加的词元
        return token
    data = bytes(table[character] for character in token)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{data.hex().upper()}⟩"


def _is_byte_level(tokenizer: Any) -> bool:
    if not tokenizer.is_fast:
        return False
    decoder = tokenizer.backend_tokenizer.decoder
    return decoder is not None and "ByteLevel" in json.dumps(
        json.loads(decoder.__getstate__())
    )


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2 的字节表：可见的字节写成自己，其余依次写成 U+0100 起的字符。"""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {
        chr(256 + number): byte for number, byte in enumerate(hidden)
    }
