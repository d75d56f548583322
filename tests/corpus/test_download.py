"""下载与取得：对着本机的真实 HTTP 服务，断线、变卦、造假、离线都试过。"""

import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from companion.corpus.fetching import (
    UPSTREAM,
    Upstream,
    download,
    fetch,
    fetch_upstream,
)
from companion.corpus.sources import read_corpus, resolve, sha256_of
from companion.corpus.tongjian import SplitCount, all_juan
from companion.errors import CorpusError

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """能断线、能换内容的文件服务。"""

    def __init__(self) -> None:
        """在本机随便一个空闲的端口上。"""
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None  # 送这么多字节就断线
        self.cuts = 0  # 还要断几次
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """服务的地址，末尾没有斜杠。"""
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """见 `Server`。"""

    server: Server

    def do_GET(self) -> None:
        """按 `Server` 的设置送文件。"""
        path = unquote(self.path).lstrip("/")
        self.server.requests.append(path)
        body = self.server.files.get(path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        part = body
        if self.server.cuts and self.server.cut_after is not None:
            self.server.cuts -= 1
            part = part[: self.server.cut_after]
            self.close_connection = True
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """不往终端写访问日志。"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """一个只在本机的 HTTP 服务，绕过代理。"""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        running.files["a.bin"] = BODY
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """空的缓存，没有 COMPANION_DATA。"""
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "companion"


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    """下好的文件逐字节相同，不留临时文件；给出用的是哪个地址。"""
    url = f"{server.url}/a.bin"
    assert download([url], tmp_path / "夹" / "a.bin", DIGEST) == url
    assert (tmp_path / "夹" / "a.bin").read_bytes() == BODY
    assert [item.name for item in (tmp_path / "夹").iterdir()] == ["a.bin"]


def test_a_cut_connection_is_tried_again_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    """送到一半断了，从头再下，不拼接；总是断就报出来，不留半个文件。"""
    server.cut_after, server.cuts = 100_000, 2
    download([f"{server.url}/a.bin"], tmp_path / "a.bin", DIGEST)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    server.cuts = 3
    with pytest.raises(CorpusError, match="连接中断"):
        download([f"{server.url}/a.bin"], tmp_path / "b.bin", DIGEST)
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_a_wrong_digest_is_refused_and_the_next_url_tried(
    server: Server, tmp_path: Path
) -> None:
    """摘要不符的内容扔掉，换下一个地址；都不符就报出两个摘要。"""
    server.files["假.bin"] = b"fake"
    urls = [f"{server.url}/%E5%81%87.bin", f"{server.url}/a.bin"]
    assert download(urls, tmp_path / "a.bin", DIGEST) == urls[1]
    with pytest.raises(CorpusError, match="sha256") as caught:
        download(urls[:1], tmp_path / "b.bin", sha256=DIGEST)
    assert DIGEST in caught.value.found
    assert hashlib.sha256(b"fake").hexdigest() in caught.value.found
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def test_a_missing_file_moves_on_to_the_second_url(
    server: Server, tmp_path: Path
) -> None:
    """404 不重试，直接换下一个地址。"""
    urls = [f"{server.url}/none", f"{server.url}/a.bin"]
    assert download(urls, tmp_path / "a.bin") == urls[1]
    assert server.requests == ["none", "a.bin"]


def test_offline_the_message_names_every_url_and_the_alternatives(
    server: Server, tmp_path: Path
) -> None:
    """全连不上时列出每个主机的原因与别的办法。"""
    dead = "http://127.0.0.1:9/a.bin"
    with pytest.raises(CorpusError) as caught:
        download([dead, f"{server.url}/none"], tmp_path / "a.bin")
    assert "127.0.0.1:9：连不上" in caught.value.found
    assert "HTTP 404" in caught.value.found
    assert "COMPANION_DATA" in caught.value.remedy
    assert "--url" in caught.value.remedy


# ── 取得整份语料 ────────────────────────────────────────────────────────

CHAPTERS = tuple(juan for juan in all_juan() if juan.number in (1, 2, 6, 15))
"""卷 1、2 训练，卷 6 留出，卷 15 测试。"""


def upstream_files() -> dict[str, bytes]:
    """假的上游：每卷三个好句对（各卷不同）、一个标题、一个错位。"""
    files: dict[str, bytes] = {}
    for index, juan in enumerate(CHAPTERS):
        mark = "甲乙丙丁"[index]
        left = [
            f"{mark}王{n}月伐赵，取其三城。".replace(str(n), "正二三"[n])
            for n in range(3)
        ]
        right = [
            line.replace("伐赵", "攻打赵国").replace("取其", "夺取了") for line in left
        ]
        left += [f"{mark}王四十三年", f"{mark}使者自长安还，言于天子曰善哉。"]
        right += [f"{mark}王四十三年", "从前有座山，山里住着一个老和尚。"]
        files[juan.path("classical")] = ("\n".join(left) + "\n").encode()
        files[juan.path("modern")] = "\n".join(right).encode()
    return files


def archive_of(files: dict[str, bytes]) -> bytes:
    """仓库归档的样子：首层一个文件夹，另有不相干的与想越界的路径。"""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, body in {**files, "../../逃.txt": b"x", "README.md": b"x"}.items():
            member = tarfile.TarInfo(f"Classical-Modern-4e746ea/{path}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return packed.getvalue()


def tiny_upstream(server: Server, **changes: Any) -> Upstream:
    """只有四卷的《资治通鉴》，镜像都在本机；第一个镜像什么也没有。"""
    small = replace(
        UPSTREAM,
        files=(f"{server.url}/none/{{path}}", f"{server.url}/raw/{{path}}"),
        archives=(f"{server.url}/all.tar.gz",),
        chapters=CHAPTERS,
        expected={"train": SplitCount(6, 72, 90)},
    )
    return replace(small, **changes)


def serve(server: Server, files: dict[str, bytes]) -> None:
    """把文件放上第二个镜像。"""
    server.files |= {f"raw/{path}": body for path, body in files.items()}


def test_fetching_cleans_splits_and_locks(server: Server, cache: Path) -> None:
    """逐个文件取得（第一个镜像全是 404），清洗、按卷切分、锁住、告知权利状况。"""
    serve(server, upstream_files())
    steps: list[tuple[int, int, str]] = []
    report = fetch_upstream(
        tiny_upstream(server), progress=lambda *step: steps.append(step)
    )
    assert report.fresh
    assert report.folder == cache / "corpora" / "tongjian"
    assert {name: count.lines for name, count in report.splits.items()} == {
        "train": 6,
        "valid": 3,
        "test": 3,
    }
    assert report.dropped == {"title": 4, "misaligned": 4}
    assert report.warnings == []
    assert "权利未澄清" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["splits"]["train"]["lines"] == 6
    assert steps[-1][:2] == (8, 8)
    assert (report.folder / "NOTICE.txt").is_file()
    docs = list(read_corpus("tongjian:classical"))
    assert [doc.source for doc in docs] == [
        "train.classical.txt：周纪一",
        "train.classical.txt：周纪二",
    ]
    assert (
        docs[0].text
        == "甲王正月伐赵，取其三城。甲王二月伐赵，取其三城。甲王三月伐赵，取其三城。"
    )
    pairs = list(read_corpus("tongjian:pairs", "valid"))
    assert (len(pairs), pairs[0].target) == (3, "丙王正月攻打赵国，夺取了三城。")
    assert len(list(read_corpus("tongjian", "test"))) == 2


def test_a_second_fetch_touches_no_network(server: Server, cache: Path) -> None:
    """已经取得的只核对；`force` 重新整理时重用下好的文件。"""
    serve(server, upstream_files())
    first = fetch_upstream(tiny_upstream(server))
    server.requests.clear()
    again = fetch_upstream(tiny_upstream(server))
    assert not again.fresh
    assert again.splits == first.splits
    assert fetch_upstream(tiny_upstream(server), force=True).splits == first.splits
    assert server.requests == []


def test_the_archive_is_the_last_resort_and_cannot_escape(
    server: Server, cache: Path
) -> None:
    """逐个文件不成就下整个归档；归档里不相干的、想越界的路径一概不写。"""
    server.files["all.tar.gz"] = archive_of(upstream_files())
    report = fetch_upstream(tiny_upstream(server))
    assert report.origin == f"{server.url}/all.tar.gz"
    names = {path.name for path in cache.parent.parent.rglob("*") if path.is_file()}
    assert "逃.txt" not in names
    assert "README.md" not in names
    assert "archive.tar.gz" not in names


def test_a_mirror_a_local_archive_or_a_checkout_will_do(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    """`--url` 可以是镜像前缀、含 {path} 的模板、本地 tar.gz 或检出的文件夹。"""
    files = upstream_files()
    serve(server, files)
    (tmp_path / "全.tar.gz").write_bytes(archive_of(files))
    for path, body in files.items():
        target = tmp_path / "检出" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
    sizes = []
    for url in (
        f"{server.url}/raw/",
        f"{server.url}/raw/{{path}}?x=1",
        str(tmp_path / "全.tar.gz"),
        str(tmp_path / "检出"),
    ):
        if "?" in url:
            server.files |= {f"raw/{path}?x=1": body for path, body in files.items()}
        sizes.append(fetch_upstream(tiny_upstream(server), url=url, force=True).splits)
        for raw in (cache / "upstream").rglob("*.txt"):
            raw.unlink()
    assert all(size == sizes[0] for size in sizes)
    with pytest.raises(CorpusError, match="里没有 双语数据"):
        fetch_upstream(tiny_upstream(server), url=str(cache), force=True)


def test_content_that_changed_since_the_first_fetch_is_refused(
    server: Server, cache: Path
) -> None:
    """锁记着第一次的 sha256：上游内容换了，重新取得时拒绝，原来的语料不动。"""
    files = upstream_files()
    serve(server, files)
    folder = fetch_upstream(tiny_upstream(server)).folder
    before = sha256_of(folder / "train.classical.txt")
    path = CHAPTERS[0].path("classical")
    server.files[f"raw/{path}"] = files[path].replace("城".encode(), "县".encode())
    next((cache / "upstream").rglob("周纪一/source.txt")).unlink()
    with pytest.raises(CorpusError, match="sha256"):
        fetch_upstream(tiny_upstream(server, archives=()), force=True)
    assert sha256_of(folder / "train.classical.txt") == before


def test_a_damaged_corpus_is_refused_at_use(server: Server, cache: Path) -> None:
    """取得之后文件变了或丢了，使用时拒绝，并说怎么恢复。"""
    serve(server, upstream_files())
    folder = fetch_upstream(tiny_upstream(server)).folder
    path = folder / "train.modern.txt"
    path.write_text("改过\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="sha256"):
        resolve("tongjian:modern")
    path.unlink()
    with pytest.raises(CorpusError, match="文件不在了"):
        resolve("tongjian:modern")
    (folder / "corpus.lock.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorpusError, match="损坏"):
        resolve("tongjian:modern")


def test_a_corpus_of_another_size_is_refused_or_flagged(
    server: Server, cache: Path
) -> None:
    """规模与已知的差一成以上就拒绝、什么也不留；差百分之几只提醒。"""
    serve(server, upstream_files())
    with pytest.raises(CorpusError, match="相差"):
        fetch_upstream(
            tiny_upstream(server, expected={"train": SplitCount(12, 72, 90)})
        )
    assert not (cache / "corpora" / "tongjian").exists()
    assert list((cache / "corpora").iterdir()) == []
    near = tiny_upstream(server, expected={"train": SplitCount(6, 76, 90)})
    assert "与已知的相差 -5.3%" in fetch_upstream(near).warnings[0]


def test_offline_fetching_names_the_ways_out(server: Server, cache: Path) -> None:
    """全连不上：一条消息说清地址、原因与四条出路，不留半份语料。"""
    source = tiny_upstream(
        server,
        files=("http://127.0.0.1:9/{path}",),
        archives=("http://127.0.0.1:9/all.tar.gz",),
    )
    with pytest.raises(CorpusError) as caught:
        fetch_upstream(source)
    assert "连不上" in caught.value.found
    ways = ("HTTPS_PROXY", "--url", "COMPANION_DATA", "sample", "9/all.tar.gz")
    for way in ways:
        assert way in caught.value.remedy
    assert not (cache / "corpora").exists()


def test_unequal_sides_of_a_juan_are_refused(server: Server, cache: Path) -> None:
    """某卷两侧行数不同，指出卷名与行数。"""
    files = upstream_files()
    files[CHAPTERS[1].path("modern")] = "只有一行。\n".encode()
    serve(server, files)
    with pytest.raises(CorpusError, match="周纪二文言 5 行、白话 1 行"):
        fetch_upstream(tiny_upstream(server))


def test_only_known_downloadable_names_can_be_fetched(cache: Path) -> None:
    """拼错的名字给出建议；随包附带的不必取得。"""
    with pytest.raises(CorpusError, match="是不是 tongjian"):
        fetch("tongjain")
    with pytest.raises(CorpusError, match="随包附带"):
        fetch("sample:classical")
