"""失败目录：十种常见的失败，各在一分钟之内重现。

    failure = reproduce("double_shift", seed=42)
    print(failure.verdict)
    failure.plot()

做错的不是假想的：凡是库会做错的，都当场让装着的 transformers 做一遍。
"""

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from companion.errors import EvaluationError
from companion.notebook.tables import Table, fixed

if TYPE_CHECKING:
    from companion.notebook.failure import Failure

FAILURES: dict[str, str] = {
    "high_learning_rate": "failure_training",
    "no_replay": "failure_training",
    "wrong_tokenizer": "failure_labels",
    "double_shift": "failure_training",
    "pad_is_eos": "failure_labels",
    "leaking_pack": "failure_data",
    "contaminated_validation": "failure_data",
    "fp16_overflow": "failure_precision",
    "random_head": "failure_training",
    "accumulated_loss": "failure_labels",
}
"""失败的键 → 重现它的模块；函数与键同名。"""

STEPS = {"tiny": 8, "t4": 32, "full": 32}
"""档 → 要训练的走几步；几步已经看得出方向，单线程几秒。模型各档都是起步模型。"""


def reproduce(key: str, seed: int = 42, steps: int = STEPS["tiny"]) -> "Failure":
    """重现一种失败：做错与做对各跑一遍，只差那一处。

    Args:
        key: `FAILURES` 的键。
        seed: 抽哪些行、遮哪些词元。
        steps: 训练几步，至少 4 步；不用训练的不看它。

    Raises:
        EvaluationError: 没有这一种，或步数太少。
    """
    if key not in FAILURES:
        near = difflib.get_close_matches(key, FAILURES, n=1, cutoff=0.4)
        raise EvaluationError(
            found=f"没有名为 {key!r} 的失败",
            expected="、".join(FAILURES) + " 之一",
            remedy=f"是不是想写 {near[0]}" if near else "照上面的名字改写",
        )
    if steps < 4:
        raise EvaluationError(
            found=f"steps = {steps}",
            expected="至少 4 步，曲线才看得出方向",
            remedy=f"改成例如 steps={STEPS['tiny']}",
        )
    module = import_module(f"companion.notebook.{FAILURES[key]}")
    run: Callable[[int, int], Failure] = getattr(module, key)
    return run(seed, steps)


def failures_table(failures: Iterable["Failure"]) -> Table:
    """几种失败一种一行：量的是什么，做错与做对各是多少。"""
    return Table(
        ["失败", "量的是", "做错", "做对"],
        [
            [
                each.title.partition("：")[0],
                each.measure,
                fixed(each.wrong_value),
                fixed(each.right_value),
            ]
            for each in failures
        ],
    )
