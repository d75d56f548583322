"""下载：断了接着下，下完核对长度与 sha256，一个地址不通换下一个。

没下完的部分存为 `文件名.part`，旁边的 `文件名.part.tag` 记着服务器给的版本标记
（ETag 或 Last-Modified）。续传时带上 `Range` 与 `If-Range`：内容没变就从断处接，
变了服务器会从头给，不会把两个版本拼在一起。没有标记就从头下，宁慢勿错。
"""

import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from companion.errors import CorpusError

CHUNK_BYTES = 1 << 16
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
"""一个地址中途断线时，接着下的次数。"""
USER_AGENT = "cpt-companion"

Progress = Callable[[int, int | None], None]
"""每收到一块就调用：已有字节数、总字节数（不知道则为 None）。"""


@dataclass(frozen=True)
class Download:
    """一次下载的结果。

    Args:
        path: 下好的文件。
        url: 最后用的地址。
        sha256: 内容的 sha256，十六进制。
        num_bytes: 字节数。
    """

    path: Path
    url: str
    sha256: str
    num_bytes: int


class _UnreachableError(Exception):
    """这个地址这次不通，可以换一个再试。"""


def download(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Download:
    """依次试各个地址，把文件下到 `path`。

    Args:
        urls: 内容相同的几个地址，先到先用。
        path: 目标文件；已有的 `.part` 会接着下。
        sha256: 应有的摘要；不知道则为 None。
        progress: 进度回调。
        timeout_seconds: 连接与每次读的时限。

    Returns:
        下载的结果。

    Raises:
        CorpusError: 所有地址都不通，或内容与 `sha256` 不符，附每个地址的原因。
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    reasons: list[str] = []
    for url in urls:
        host = urllib.parse.urlsplit(url).netloc  # 整个地址太长，主机足以分辨
        try:
            _fetch_part(url, part, progress, timeout_seconds)
        except _UnreachableError as error:
            reasons.append(f"{host}：{error}")
            continue
        found = sha256_of(part)
        if sha256 is not None and found != sha256:
            _discard(part)  # 坏的留着，下次会接在坏的后面
            reasons.append(f"{host}：sha256 是 {found}，应为 {sha256}")
            continue
        size = part.stat().st_size
        part.replace(path)
        _discard(part)
        return Download(path, url, found, size)
    raise CorpusError(
        found=f"{path.name} 下载不成，试过 {len(urls)} 个地址（{'；'.join(reasons)}）",
        expected="至少一个地址能连上，且内容与记录的摘要相符",
        remedy="检查网络或代理（HTTPS_PROXY）后再运行，会从断处接着下；"
        "也可用 --url 给出别的镜像或本地文件，或用 COMPANION_DATA 指明已有的数据",
    )


def sha256_of(path: Path) -> str:
    """文件的 sha256，十六进制。"""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch_part(
    url: str, part: Path, progress: Progress | None, timeout_seconds: float
) -> None:
    """把一个地址的内容收进 `part`，断线就续，仍不成则报 `_UnreachableError`。"""
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            if _receive(url, part, progress, timeout_seconds):
                return
            reason = "连接中断"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # 手里的比服务器的还长：从头来
                _discard(part)
                reason = "服务器上的文件变短了"
                continue
            raise _UnreachableError(f"HTTP {error.code}") from None
        except urllib.error.URLError as error:
            raise _UnreachableError(f"连不上（{error.reason}）") from None
        except (OSError, http.client.HTTPException) as error:
            reason = f"连接中断（{type(error).__name__}）"
    raise _UnreachableError(reason)


def _receive(
    url: str, part: Path, progress: Progress | None, timeout_seconds: float
) -> bool:
    """发一次请求，把收到的写进 `part`；收齐了返回真。"""
    tag_path = part.with_name(part.name + ".tag")
    have = part.stat().st_size if part.exists() else 0
    tag = tag_path.read_text("utf-8") if have and tag_path.exists() else ""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
        start, total = _extent(response)
        if start != have:
            start = 0  # 服务器不理 Range，或内容已变：从头收
        etag: str = response.headers.get("ETag", "")
        # 弱 ETag 只保证“差不多”，不能用来拼接
        new_tag = "" if etag.startswith("W/") else etag
        tag_path.write_text(
            new_tag or response.headers.get("Last-Modified", ""), "utf-8"
        )
        with part.open("ab" if start else "wb") as out:
            received = start
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                received += len(chunk)
                if progress is not None:
                    progress(received, total)
    return total is None or received == total


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """这次响应从第几字节开始，全文共多少字节（不知道则为 None）。"""
    if response.status == 206:
        match = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"])
        if match is not None:
            return int(match.group(1)), int(match.group(2))
        raise http.client.HTTPException("Content-Range 不合规")
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)
