"""Arrow 表：由 datasets 建造并缓存，顺着读时不进内存。

datasets 管的事：几个进程一同建造、锁、写完才改名到位、按指纹重用。这里只添两样：一批
多少由建造的人定，不按篇数收，一篇可以有一百万字；从头读一遍时走文件，不走内存映射，读过的
就放手。

导入本模块会载入 datasets 与 pyarrow，所以别处只在函数里导入它。
"""

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from companion.errors import CompanionError, CorpusError

BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException)
"""打开一张缺了一块的表时，datasets 会抛的错误。"""


class Part(NamedTuple):
    """磁盘上的一批：哪个文件的第几批，取其中哪几行（None 是全部）。"""

    path: str
    number: int
    rows: Any


@dataclass
class _Config(datasets.BuilderConfig):
    features: Any = None
    make: Callable[[list[Any]], Iterator[Any]] | None = None
    parts: list[Any] = field(default_factory=list[Any])


class TableBuilder(datasets.ArrowBasedBuilder):
    """一列“部分” → 一张表；各部分可以分给几个进程，行的次序不变。"""

    BUILDER_CONFIG_CLASS = _Config
    config: _Config

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.config.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # 列表会分给各进程，所以不能套在别的东西里
        return [
            datasets.SplitGenerator(
                name=str(datasets.Split.TRAIN), gen_kwargs={"parts": self.config.parts}
            )
        ]

    def _generate_tables(self, **kwargs: Any) -> Iterator[tuple[Key, Any]]:
        assert self.config.make is not None
        try:
            for number, table in enumerate(self.config.make(kwargs["parts"])):
                yield Key(0, number), table
        except CompanionError as error:
            raise _CarriedError(error) from error


class _CarriedError(DatasetGenerationError):
    """我们自己的错误，原样穿过 datasets 与进程的边界。"""


def build_table(
    cache_dir: str | Path,
    name: str,
    fingerprint: str,
    features: Any,
    make: Callable[[list[Any]], Iterator[Any]],
    parts: list[Any],
    num_proc: int = 1,
) -> datasets.Dataset:
    """建一张表，或打开已有的；内存映射，几乎不占内存。

    Args:
        cache_dir: 放表的文件夹，不在就新建。
        name: 表的种类，如 `tokens`。
        fingerprint: 内容的指纹；指纹相同的表直接打开。
        features: 各列的类型，datasets.Features。
        make: 一列部分 → 一张张小表；在各进程里运行。
        parts: 要做的各部分。
        num_proc: 几个进程。

    Raises:
        CorpusError: 文件夹写不进去或磁盘已满。
        CompanionError: `make` 自己的错误，原样。
    """
    folder = Path(cache_dir) / name / fingerprint / "0.0.0"
    try:
        return open_table(folder)
    except BROKEN:
        shutil.rmtree(folder, ignore_errors=True)  # 坏了的重做，不劳用户动手
    with quiet(), _disk(cache_dir):
        builder = TableBuilder(
            cache_dir=str(cache_dir),
            dataset_name=name,
            config_id=fingerprint,
            features=features,
            make=make,
            parts=parts,
        )
        builder.download_and_prepare(num_proc=max(1, min(num_proc, len(parts))))
    return open_table(folder)


def open_table(folder: str | Path) -> datasets.Dataset:
    """打开 `build_table` 建好的表。

    Raises:
        `BROKEN` 之一: 缺了一块，或不是表。
    """
    with quiet():
        info = datasets.DatasetInfo.from_directory(str(folder))
        files = sorted(map(str, Path(folder).glob("*.arrow")))
        tables = [datasets.Dataset.from_file(path) for path in files]
        table = datasets.concatenate_datasets(tables)
    if info.splits is None or len(table) != info.splits["train"].num_examples:
        raise ValueError(f"{folder} 的行数与记录不符")
    return table


def files_of(table: datasets.Dataset) -> list[str]:
    """一张表的各个文件。"""
    return [each["filename"] for each in table.cache_files]


def batches_of(path: str) -> Iterator[Any]:
    """顺着读一个文件；不经内存映射，读过的一批随即放手。"""
    with pa.OSFile(path) as file, pa.ipc.open_stream(file) as reader:
        yield from reader


def batches_at(parts: Sequence[Part]) -> Iterator[Any]:
    """顺着读出各部分；各部分按文件与批的次序排列。"""
    wanted = {(part.path, part.number): part.rows for part in parts}
    for path in dict.fromkeys(part.path for part in parts):
        for index, batch in enumerate(batches_of(path)):
            if (path, index) in wanted:
                rows = wanted[path, index]
                yield batch if rows is None else batch.take(pa.array(rows))


@contextmanager
def quiet() -> Generator[None]:
    """Datasets 不出声；环境变量 HF_DATASETS_DISABLE_PROGRESS_BARS=0 才画进度条。"""
    drawn = not datasets.utils.are_progress_bars_disabled()
    level = datasets.logging.get_verbosity()
    if os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") != "0":
        datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if drawn:
            datasets.enable_progress_bars()


@contextmanager
def _disk(cache_dir: str | Path) -> Generator[None]:
    """写盘的错误说成三段；datasets 包起来的也拆开。"""
    try:
        yield
    except _CarriedError as error:
        raise error.args[0] from None
    except (OSError, DatasetGenerationError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else None
        if reason is None and not _out_of_space(error, cause):
            raise
        raise CorpusError(
            found=f"写不进 {cache_dir}（{reason or '磁盘已满'}）",
            expected="一个可写、空间足够的文件夹，每个词元约占 3 到 6 字节",
            remedy="换一个 cache_dir，或腾出磁盘空间；没写完的部分已经删去",
        ) from error


def _out_of_space(*errors: BaseException | None) -> bool:
    """别的进程里的错误只剩文字。"""
    return any("No space left" in str(error) for error in errors)
