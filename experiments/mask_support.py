"""各架构用得用不得四维掩码：五种掩码 × 两种实现 × 两种精度 × 一篇与两篇，逐一扰动试出。

    python experiments/mask_support.py

写 `results/mask_support.json`，第 06 章的表由它生成；测试重试一遍，核对它没有过时。
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, get_args

import torch
from recording import record

from companion.checkpoints.reading import quiet_transformers
from companion.checkpoints.tiny import TINY_KINDS, tiny_model
from companion.objectives.attention import MaskKind
from companion.preflight.visibility import Verdict, mask_verdict

IMPLEMENTATIONS = ("eager", "sdpa")


@dataclass(frozen=True)
class MaskRow:
    """`mask_table` 的一行。"""

    kind: str
    implementation: str
    """"eager" 或 "sdpa"。"""
    dtype: str
    """"float32" 或 "bfloat16"。"""
    mask: MaskKind
    packed: bool
    """一行装两篇文档。"""
    ok: bool
    reason: str
    leak: float | None


def mask_table() -> list[MaskRow]:
    """各架构的极小模型 × 注意力实现 × 精度 × 掩码，逐一试出来的表。"""
    cases = [(mask, packed) for packed in (False, True) for mask in get_args(MaskKind)]
    rows: list[MaskRow] = []
    for kind in TINY_KINDS:
        for implementation in ("eager", "sdpa"):
            try:
                model = tiny_model(kind, attn_implementation=implementation)
            except ValueError:  # 这种架构没有 sdpa 实现
                model = None
            for dtype in (torch.float32, torch.bfloat16):
                if model is None:
                    absent = Verdict(False, f"没有 {implementation} 实现")
                    verdicts = [absent] * len(cases)
                else:
                    half = model.to(dtype)
                    verdicts = [mask_verdict(half, m, packed=p) for m, p in cases]
                name = str(dtype).removeprefix("torch.")
                rows += [
                    MaskRow(
                        kind,
                        implementation,
                        name,
                        *case,
                        each.ok,
                        each.reason,
                        each.leak,
                    )
                    for case, each in zip(cases, verdicts, strict=True)
                ]
    return rows


def summarise(table: Iterable[MaskRow]) -> list[dict[str, Any]]:
    """一种架构一行：各实现下的全部情形用不用得，与用不得的缘由（不带随权重而变的数）。"""
    summary = []
    for kind, group in groupby(table, key=lambda row: row.kind):
        rows = list(group)
        reasons = [re.split("：|，相对差", r.reason)[0] for r in rows if not r.ok]
        summary.append(
            {
                "kind": kind,
                **{name: _verdict(rows, name) for name in IMPLEMENTATIONS},
                "reason": min(reasons, key=lambda text: text.startswith("没有"))
                if reasons
                else "",
            }
        )
    return summary


def _verdict(rows: list[MaskRow], implementation: str) -> str:
    chosen = [row for row in rows if row.implementation == implementation]
    if all(row.reason == f"没有 {implementation} 实现" for row in chosen):
        return "—"
    return "✓" if all(row.ok for row in chosen) else "✗"


def main() -> None:
    """试一遍，写进 results/。"""
    with quiet_transformers():
        table = mask_table()
    path = record(
        "mask_support",
        {
            "claim": "四维掩码：收不收，照不照办",
            "cases_per_implementation": len(table)
            // len({row.kind for row in table})
            // len(IMPLEMENTATIONS),
            "summary": summarise(table),
        },
    )
    print(path)


if __name__ == "__main__":
    main()
