"""设置文件与命令行里的标量 → 字段的类型；只认普通的数、文字与真假。"""

import difflib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from companion.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """读一个 YAML 映射，只认普通的数与字。

    Raises:
        ConfigError: 打不开、语法错、不是映射，或想构造 Python 对象。
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            found=f"读不了设置文件 {path}：{error}",
            expected="一个 UTF-8 的 YAML 文件",
            remedy="检查路径；用上一次运行的 config.yaml 作样子",
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # 二月三十日、五千位的整数、一万层括号：yaml 由着 Python 的异常出来
        place = getattr(error, "problem_mark", None)
        where = f"第 {place.line + 1} 行第 {place.column + 1} 列" if place else "某处"
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            found=f"{path} {where} 不是合法的设置：{problem}",
            expected="一行一项的“名字: 值”，值是数、字或真假",
            remedy="改正那一行；以 !! 开头的标签一律不执行，删去它",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            found=f"{path} 的内容是 {type(content).__name__}，不是映射",
            expected="一行一项的“名字: 值”",
            remedy="用上一次运行的 config.yaml 作样子",
        )
    return {str(key): value for key, value in content.items()}


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
        empty = value is None or (
            isinstance(value, str) and value.lower() in ("null", "none")
        )
        if empty and types.NoneType in get_args(kind):
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
