"""一个设置的值：命令行来的字符串、YAML 来的标量 → 字段的类型。"""

import difflib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from companion.errors import ConfigError

_SCALARS = (str, int, float, bool, Path, type(None))


def coerce(name: str, value: Any, kind: Any, meaning: str) -> Any:
    """把命令行的字符串与 YAML 的标量变成字段的类型。

    Args:
        name: 字段的名字，写进消息。
        value: 得到的值。
        kind: 字段的类型；可以是 `Literal` 与 `… | None`。
        meaning: 字段的意思，写进消息。

    Raises:
        ConfigError: 变不成。
    """
    if not isinstance(value, _SCALARS):  # 不把它写进消息：别名套别名的列表大得惊人
        raise _wrong_kind(
            name, meaning, f"（{type(value).__name__}）", "一个数、一段文字或真假"
        )
    if get_origin(kind) in (types.UnionType, Union):  # 含 Literal 时是后者
        if value is None or (
            isinstance(value, str) and value.lower() in ("null", "none")
        ):
            return None
        kind = next(k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is Literal:
        return _choose(name, value, get_args(kind))
    if kind is bool:
        word = str(value).lower()
        if word not in ("true", "false"):
            raise _wrong_kind(name, meaning, value, "true 或 false")
        return word == "true"
    if kind is str:
        if not isinstance(value, str | Path) or not str(value):
            raise _wrong_kind(name, meaning, value, "一段文字")
        return str(value)
    if isinstance(value, bool):
        raise _wrong_kind(name, meaning, value, "一个数")
    if kind is int and isinstance(value, int):  # 不经浮点数，大整数一位不丢
        return value
    try:
        number = float(str(value))
    except ValueError as error:
        raise _wrong_kind(name, meaning, value, "一个数") from error
    if number != number or number in (float("inf"), float("-inf")):
        raise _wrong_kind(name, meaning, value, "一个有限的数")
    if kind is int:
        if number != int(number):
            raise _wrong_kind(name, meaning, value, "一个整数")
        return int(number)
    return number


def _choose(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    raise ConfigError(
        found=f"{name} = {value!r}",
        expected=f"{'、'.join(choices)} 之一",
        remedy=f"是不是想写 {near[0]}" if near else f"改成 {choices[0]}",
    )


def _wrong_kind(name: str, meaning: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(
        found=f"{name} = {value!r}",
        expected=f"{name} 是{wanted}",
        remedy=f"改写 {name}；它的意思：{meaning}",
    )
