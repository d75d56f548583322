"""语料目录：有名字的语料，来历、权利状况与应有的规模。

- `sample`：随包附带的编年体小史，我们自己写的，CC0；没有网络也能用。
- `tongjian`：《资治通鉴》文言—白话句对，用 `companion corpus fetch tongjian` 取得。
"""

import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from companion.corpus.tongjian import Juan, all_juan


def data_folder() -> Path | None:
    """`COMPANION_DATA` 指的文件夹；没有设置则为 None。"""
    value = os.environ.get("COMPANION_DATA")
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """缓存文件夹：`$XDG_CACHE_HOME/companion`，缺省 `~/.cache/companion`。"""
    value = os.environ.get("XDG_CACHE_HOME")
    return (Path(value) if value else Path.home() / ".cache") / "companion"


@dataclass(frozen=True)
class Expected:
    """整理之后应有的规模，用来发现取错或取残。

    Args:
        lines: 行数（句对数）。
        classical: 文言字数。
        modern: 白话字数。
    """

    lines: int
    classical: int
    modern: int


@dataclass(frozen=True)
class Upstream:
    """语料的上游，钉在一个提交上。

    Args:
        repository: 仓库，`所有者/名字`。
        commit: 40 位提交号。
        files: 逐个文件的镜像，地址里的 `{path}` 换成仓库中的路径。
        archives: 整个仓库的 tar.gz。
        chapters: 要取的卷。
        expected: 每个切分整理后应有的规模。
    """

    repository: str
    commit: str
    files: tuple[str, ...]
    archives: tuple[str, ...]
    chapters: tuple[Juan, ...]
    expected: dict[str, Expected] = field(default_factory=dict[str, Expected])

    @property
    def paths(self) -> tuple[str, ...]:
        """要取的全部文件在仓库中的路径。"""
        return tuple(
            juan.path(side)
            for juan in self.chapters
            for side in ("classical", "modern")
        )


@dataclass(frozen=True)
class NamedSource:
    """一份有名字的语料。

    Args:
        name: 名字，即 `--corpus` 的值。
        title: 一句话介绍。
        licence: 权利状况，取用时原样告诉用户。
        upstream: 上游；随包附带的没有。
    """

    name: str
    title: str
    licence: str
    upstream: Upstream | None = None

    @property
    def embedded(self) -> bool:
        """是否随包附带。"""
        return self.upstream is None

    def folder(self) -> Path | None:
        """数据所在的文件夹；本机没有则为 None。"""
        if self.embedded:
            return Path(str(resources.files("companion.corpus") / "samples"))
        for root in (data_folder(), cache_folder() / "corpora"):
            if root is not None and (root / self.name).is_dir():
                return root / self.name
        return None


_COMMIT = "4e746ea9fa99c3c0d7051c45397330bef7b0962d"
_REPOSITORY = "NiuTrans/Classical-Modern"

NAMED: dict[str, NamedSource] = {
    "sample": NamedSource(
        name="sample",
        title="随包附带的编年体小史，文言与白话逐句对照，人物史事皆为虚构",
        licence="本项目自撰，CC0：可以任意使用，不必署名。",
    ),
    "tongjian": NamedSource(
        name="tongjian",
        title="《资治通鉴》292 卷，文言与白话逐句对照，按卷切分",
        licence=(
            "文言原文（司马光等）属公有领域。句对由 NiuTrans 整理，仓库以 MIT 许可"
            "发布，但只涵盖整理与对齐；现代译文采自网页，没有译者或出版社的授权，"
            "应视为权利未澄清：适合教学与研究，公开再分发或商用之前须自行判断。"
            "只用文言一侧没有这个问题。上游声明：“本语料数据均来自互联网。"
            "所有数据均注明了出处，可详见各书目下文件 数据来源.txt。"
            "原始数据的最终解释权归相关数据来源方所有。”"
        ),
        upstream=Upstream(
            repository=_REPOSITORY,
            commit=_COMMIT,
            files=(
                f"https://raw.githubusercontent.com/{_REPOSITORY}/{_COMMIT}/{{path}}",
                f"https://cdn.jsdelivr.net/gh/{_REPOSITORY}@{_COMMIT}/{{path}}",
            ),
            archives=(
                f"https://codeload.github.com/{_REPOSITORY}/tar.gz/{_COMMIT}",
                f"https://github.com/{_REPOSITORY}/archive/{_COMMIT}.tar.gz",
            ),
            chapters=all_juan(),
            expected={
                "train": Expected(106_055, 2_663_325, 4_193_505),
                "valid": Expected(5_703, 143_330, 234_833),
            },
        ),
    ),
}
"""全部有名字的语料。"""
