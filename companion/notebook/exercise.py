"""一道练习：正确答案，常见的错误与它错在哪里。"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """一道练习。"""

    right: Any
    """正确答案；或由 `check` 的关键字参数算出答案的函数。"""
    because: str
    """答对之后的一句话。"""
    wrong: list[tuple[Any, str]] = field(default_factory=list[tuple[Any, str]])
    """常见的错误答案（同样可以是函数）与它错在哪里。"""
    hint: str
    """别的错误答案得到的提示。"""
