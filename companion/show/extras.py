"""一行样本里有的才有的几项：位置、段编号、解码器的输入、片段的边界。"""

from typing import Any

from companion.batch import IGNORE_INDEX
from companion.show.reading import Example

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
