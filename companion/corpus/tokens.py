"""给语料分词并缓存：同样的文字、同样的分词器，第二次直接打开。

分词要读语料两遍：第一遍求内容的指纹，库已在就不必再读第二遍。两遍都是流式的，内存里
只有一批文字和每篇文档一个整数，10 GB 的文件与 10 MB 的一样分。指纹由全部文字、分词器
的全部设置、切词器与格式版本合成，任一改变都另起一个库。

库在临时文件夹里写好才改名到位，所以看得见的库都是完整的。
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from companion.corpus import tokenization
from companion.corpus.store import FORMAT_VERSION, StoreWriter, TokenStore
from companion.corpus.words import Segmenter, segmenter_fingerprint
from companion.errors import CorpusError

if TYPE_CHECKING:
    from companion.corpus.reading import Document

__all__ = ["TokenStore", "tokenize_documents", "tokenizer_fingerprint"]


def tokenize_documents(
    documents: "Sequence[Document] | Callable[[], Iterable[Document]]",
    tokenizer: Any,
    *,
    cache_dir: str | Path,
    segmenter: Segmenter | None = None,
    num_proc: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """给语料分词，存成词元库；同样的文字与分词器第二次直接打开。

    Args:
        documents: 文档的列表；大语料给一个无参数的函数，每次调用从头产出文档。
        tokenizer: transformers 的分词器。
        cache_dir: 放库的文件夹，不在就新建。
        segmenter: 切词器，全词掩码才要。
        num_proc: 至多几个进程；不划算时只用一个，结果都相同。
        on_progress: 每一批之后得到 (已分词的字数, 总字数)。

    Raises:
        CorpusError: 没有一个词元；两遍读到的文字不同；分词器没有偏移却要词界；
            文件夹写不进去或磁盘已满。
    """
    content = _Content(documents)
    for _ in content.texts():
        pass
    digest, characters = content.digest(), content.characters
    key = _key(digest, tokenizer_fingerprint(tokenizer), segmenter)
    target = Path(cache_dir) / key[:32]
    if target.exists():
        try:
            return TokenStore.open(target)
        except CorpusError:  # 坏了的库重做一次，不劳用户动手
            shutil.rmtree(target)
    pays = tokenization.processes_pay(tokenizer, segmenter, characters)
    batches = tokenization.encode_batches(
        tokenization.cut_texts(content.texts()),
        tokenizer,
        segmenter,
        num_proc if pays else 1,
    )
    with _disk(cache_dir):
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=cache_dir))
    try:
        with _disk(cache_dir):
            opened = StoreWriter(temporary, tokenizer, segmenter)
        with opened as writer:
            for batch in batches:
                with _disk(cache_dir):
                    writer.write(batch)
                if on_progress is not None:
                    on_progress(writer.characters, characters)
            if content.digest() != digest:
                raise CorpusError(
                    found="两遍读到的语料不同"
                    f"（{characters} 字与 {content.characters} 字）",
                    expected="分词期间语料不变，传入的函数每次都从头产出文档",
                    remedy="等语料写完再运行；一次性的迭代器先变成列表",
                )
            with _disk(cache_dir):
                writer.finish(key)
        with _disk(cache_dir):
            _move(temporary, target)
    finally:  # 出错或 Ctrl-C 都不留半个库；成功时它已改名
        shutil.rmtree(temporary, ignore_errors=True)
    return TokenStore.open(target)


class _Content:
    """可以从头再读的文字流，边读边求指纹。"""

    def __init__(
        self, documents: "Sequence[Document] | Callable[[], Iterable[Document]]"
    ) -> None:
        if isinstance(documents, Iterator):
            raise CorpusError(
                found="documents 是只能读一遍的迭代器",
                expected="文档的列表，或每次调用都从头产出文档的函数",
                remedy="传 lambda: read_documents(path)，或先用 list 收齐",
            )
        self._documents = documents
        self.characters = 0
        self._hash = hashlib.sha256()

    def texts(self) -> Iterator[str]:
        """从头产出文字；读完之后 `digest` 与 `characters` 属于这一遍。"""
        self.characters, self._hash = 0, hashlib.sha256()
        source = self._documents
        for document in source() if callable(source) else source:
            # 长度在前，文档的分界才进得了指纹
            data = document.text.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little"))
            self._hash.update(data)
            self.characters += len(document.text)
            yield document.text

    def digest(self) -> str:
        return self._hash.hexdigest()


def _key(content: str, tokenizer: str, segmenter: Segmenter | None) -> str:
    parts = (str(FORMAT_VERSION), content, tokenizer, segmenter_fingerprint(segmenter))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """分词器的指纹，sha256 十六进制：只由决定切法的设置而定，与存放的路径无关。"""
    if tokenizer.is_fast:
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        settings.pop("truncation", None)  # 每次调用都会改写，与切法无关
        settings.pop("padding", None)
        parts = [json.dumps(settings, sort_keys=True).encode()]
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = sorted(p for p in Path(folder).rglob("*") if p.is_file())
            parts = [data for p in files for data in (p.name.encode(), p.read_bytes())]
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _move(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not target.exists():  # 在的话是别的进程先写好了同一个库，用它的
            raise


@contextmanager
def _disk(cache_dir: str | Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CorpusError(
            found=f"写不进 {cache_dir}（{error.strerror or error}）",
            expected="一个可写、空间足够的文件夹，每个词元约占 3 到 6 字节",
            remedy="换一个 cache_dir，或腾出磁盘空间；没写完的部分已经删去",
        ) from error
