"""样本的文字说法：终端里的表，图的替代文字；不需要 matplotlib。"""

from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from companion.plots.rows import (
    FATE_WORDS,
    ROLE_WORDS,
    TARGET_WORDS,
    Fate,
    LabelRows,
    PairRows,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_CHANGED = "bold yellow"
_LABEL = "bold blue"


def alt_text(rows: LabelRows | PairRows, *, limit: int = 10) -> str:
    """标签图的替代文字：不看图也知道哪些列计损失、各由谁预测。

    Args:
        rows: 一个样本的几行。
        limit: 至多逐列说出多少个标签，其余只报数目。
    """
    if isinstance(rows, PairRows):
        return _say_pair(rows, limit)
    arrows = rows.arrows()
    documents = len({d for d in rows.document if d >= 0})
    text = f"{rows.title}的标签对齐图：{len(rows)} 列，{documents} 个文档，"
    text += f"其中 {len(arrows)} 列计损失，"
    text += f"{rows.labels.count(None)} 列的标签是 −100。"
    if rows.is_shifted:
        text += "标签与输入同列，箭头从前一列的输入斜指它所预测的标签。"
    said = [_say(rows, source, column) for source, column in arrows]
    return text + _first(said, limit)


def _first(said: list[str], limit: int) -> str:
    if not said:
        return ""
    rest = f"，其余 {len(said) - limit} 列从略" if len(said) > limit else ""
    return f"列号从 0 数起：{'；'.join(said[:limit])}{rest}。"


def _say(rows: LabelRows, source: int, column: int) -> str:
    role = rows.roles()[column]
    if role == "next":
        return f"第 {source} 列“{rows.inputs[source]}”预测“{rows.labels[column]}”"
    deeds = {
        "masked": "遮住",
        "replaced": f"换成“{rows.inputs[column]}”",
        "kept": "原样留下",
    }
    return f"第 {column} 列{deeds[role]}，标签是“{rows.labels[column]}”"


def _say_pair(rows: PairRows, limit: int) -> str:
    encoder, decoder = rows.sides
    labelled = len(rows.labels) - rows.labels.count(None)
    text = (
        f"{rows.title}的样本图：原文 {len(rows.tokens)} 个词元，"
        f"{encoder}的输入 {len(rows.inputs)} 个，{decoder} {len(rows.labels)} 格，"
        f"其中 {labelled} 格计损失，评估考 {sum(rows.scored)} 格。"
    )
    changes: list[str] = []
    for span, fate in zip(rows.spans, rows.fates, strict=True):
        before = "".join(rows.tokens[at] for at in span.tokens)
        after = "".join(rows.inputs[at] for at in span.inputs)
        if fate in ("masked", "replaced"):
            changes.append(f"“{before}”换成“{after}”")
        elif fate in ("removed", "exposed"):
            changes.append(f"“{before}”{'拿掉' if fate == 'removed' else '原样留下'}")
        elif fate == "added":
            changes.append(f"添上“{after}”")
    if "moved" in rows.fates or rows.jumps:
        changes = ["次序与原文不同", *changes]
    if changes:
        rest = f"等 {len(changes)} 处" if len(changes) > limit else ""
        text += f"{encoder}一侧：{'，'.join(changes[:limit])}{rest}。"
    said = [
        f"第 {_number(rows.decoder_columns, at)} 列的输入"
        f"“{rows.decoder_inputs[at]}”预测“{label}”"
        for at, label in enumerate(rows.labels)
        if label is not None
    ]
    return text + (f"{decoder}一侧，{_first(said, limit)}" if said else "")


def labels_table(rows: LabelRows | PairRows) -> "Table | Group":
    """同样的几行，排成终端里的表：一列一行，长文本也不折断。

    编码器–解码器的样本先是三行字（原文、编码器的输入、解码器要写的），再是两张表。
    """
    if isinstance(rows, PairRows):
        from rich.console import Group

        return Group(_summary(rows), _encoder_table(rows), _decoder_table(rows))
    table = _table(rows.title, ("列", "文档", "词元", "输入", "标签", "预测者", "说明"))
    for column, role in enumerate(rows.roles()):
        source, label = rows.predicted_by[column], rows.labels[column]
        document = rows.document[column]
        last = column + 1 == len(rows) or rows.document[column + 1] != document
        special = "特殊词元，" if rows.special[column] and role == "ignored" else ""
        changed = rows.inputs[column] != rows.tokens[column]
        table.add_row(
            str(column),
            _document(document),
            _cell(rows.tokens[column], "dim" if rows.special[column] else ""),
            _cell(rows.inputs[column], _CHANGED if changed else ""),
            _label(label, _LABEL),
            "" if source is None else str(source),
            _note(special + ROLE_WORDS[role], dim=label is None),
            end_section=last,
        )
    return table


def _summary(rows: PairRows) -> "Text":
    """三行字：原文、编码器的输入、解码器要写的；改动处另有记号，不只靠颜色。"""
    from rich.text import Text

    encoder, decoder = rows.sides
    text = Text(rows.title, style="italic")
    lines = (
        ("原文", rows.tokens, rows.hidden),
        (f"{encoder}看到", rows.inputs, rows.is_mask),
        (
            f"{decoder}要写",
            [label for label in rows.labels if label is not None],
            [
                scored
                for scored, label in zip(rows.scored, rows.labels, strict=True)
                if label is not None
            ],
        ),
    )
    for name, tokens, marked in lines:
        text.append(f"\n{name}：", style="not italic")
        for mark, run in groupby(zip(marked, tokens, strict=True), itemgetter(0)):
            words = " ".join(_shown(token) for _, token in run)
            shown = f"【{words}】" if mark else f" {words} "
            text.append(shown, style=f"not italic {_CHANGED}" if mark else "not italic")
    note = "【】：原文里遮住的，输入里的掩码或哨兵，评估要考的标签"
    text.append(f"\n{note}\n", style="not italic dim")
    return text


def _encoder_table(rows: PairRows) -> "Table":
    side = rows.sides[0]
    names = ("原文列", "文档", "词元", "输入列", f"{side}的输入", "说明")
    table = _table(f"{rows.title}：{side}", names)
    ends, jumps = _last_of_documents(rows), rows.jumps
    for number, (span, fate) in enumerate(zip(rows.spans, rows.fates, strict=True)):
        numbers = " ".join(_number(rows.input_columns, at) for at in span.inputs)
        given = " ".join(_shown(rows.inputs[at]) for at in span.inputs)
        tokens = span.tokens or (None,)
        notes = ("句子换了次序" if number in jumps else "", FATE_WORDS[fate])
        for at, token in enumerate(tokens):
            first, last = at == 0, at + 1 == len(tokens)
            document = (
                rows.input_document[span.inputs[0]]
                if token is None
                else rows.document[token]
            )
            table.add_row(
                "" if token is None else str(token),
                _document(document),
                _cell(rows.tokens[token], "dim" if rows.special[token] else "")
                if token is not None
                else "",
                numbers if first else "",
                (_cell(given, _fate_style(fate)) if span.inputs else "")
                if first
                else _note("〃", dim=True),
                "；".join(filter(None, notes)) if first else "",
                end_section=last and number in ends,
            )
    return table


def _last_of_documents(rows: PairRows) -> set[int]:
    """各文档的最后一段。"""
    owners = [
        rows.document[span.tokens[0]]
        if span.tokens
        else rows.input_document[span.inputs[0]]
        for span in rows.spans
    ]
    return {at for at, (a, b) in enumerate(pairwise([*owners, -2])) if a != b}


def _decoder_table(rows: PairRows) -> "Table":
    side = rows.sides[1]
    names = ("列", "文档", f"{side}的输入", "标签", "原文列", "说明")
    table = _table(f"{rows.title}：{side}（同一列的输出预测标签）", names)
    targets = rows.targets
    for at, (label, target) in enumerate(zip(rows.labels, targets, strict=True)):
        document, source = rows.decoder_document[at], rows.origin[at]
        last = [*rows.decoder_document, -2][at + 1] != document
        unseen = "" if rows.decoder_visible[at] else "看不见，"
        table.add_row(
            _number(rows.decoder_columns, at),
            _document(document),
            _cell(rows.decoder_inputs[at], "" if rows.decoder_visible[at] else "dim"),
            _label(label, _LABEL if target == "scored" else "blue"),
            "" if source is None or label is None else str(source),
            _note(unseen + TARGET_WORDS[target], dim=target != "scored"),
            end_section=last,
        )
    return table


def _table(title: str, names: tuple[str, ...]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))  # Text：标题里的方括号不是样式标记
    for name in names:
        numeric = name in ("文档", "预测者") or name.endswith("列")
        justify = "right" if numeric else "left"
        # 窄终端里折行，不截成“…”：中文没有空格，rich 当它是一个长词
        table.add_column(name, justify=justify, overflow="fold")
    return table


def _number(columns: list[int] | None, at: int) -> str:
    """张量里的列号。"""
    return str(at if columns is None else columns[at])


def _document(number: int) -> str:
    return str(number + 1) if number >= 0 else "填充"


def _fate_style(fate: Fate) -> str:
    return "" if fate in ("kept", "moved") else _CHANGED


def _label(label: str | None, style: str) -> "Text":
    return _note("−100", dim=True) if label is None else _cell(label, style)


def _note(text: str, *, dim: bool) -> "Text":
    from rich.text import Text

    return Text(text, style="dim" if dim else "")


def _cell(token: str, style: str) -> "Text":
    from rich.text import Text

    return Text(_shown(token), style=style)


def _shown(token: str) -> str:
    return token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") or "∅"
