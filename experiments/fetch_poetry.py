"""取来诗词：npm 的 `chinese-poetry`（MIT），转成简体，去重，剔去与评测文字相同的。

    python experiments/fetch_poetry.py --work build/small

写 `<work>/poetry.txt.gz`，`pretrain_small.py` 见到它就读；文件不进仓库。一行一首，诗句
首尾相接。环境变量 COMPANION_DATA（或 --data）指语料文件夹。

只取正文：全唐诗、全宋诗、宋词、元曲、五代词、诗经、楚辞、曹操诗；作者小传、评语、蒙学与
四书不要。去重与防泄漏都只看汉字：

- 全文相同的只留一首；
- 与《资治通鉴》（训练、留出，文言、白话）或任一份留出集有连续 8 个汉字相同的整首不要，
  比语料说明里的规则（整句相同，或连续 20 字相同）严。
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import opencc
from numpy.typing import NDArray

PACKAGE = "chinese-poetry@2.0.1"
SHA256 = "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86"
WANTED = re.compile(
    r"package/dist/(quantangshi/poet\.|songci/ci\.song\.|wudaishici/.*\.json"
    r"|yuanqu/|shijing/|chuci/|caocaoshiji/)"
)
HELD_OUT = (
    "tongjian/train.classical.txt.gz",
    "tongjian/train.modern.txt.gz",
    "tongjian/valid.classical.txt",
    "tongjian/valid.modern.txt",
    "base/valid.classical.txt",
    "base/valid.modern.txt",
    "general/valid.txt",
)
SHARED = 8
"""连续这么多汉字相同，就算与评测文字相同。"""
NOT_HAN = re.compile(r"[^㐀-鿿豈-﫿\U00020000-\U0003ffff]")
NOTES = re.compile(r"（[^）]*）|\([^)]*\)|〖[^〗]*〗|\[[^]]*\]|\{[^}]*\}")
BROKEN = re.compile(r"[□�/a-zA-Z0-9？?]{2}|[□�a-zA-Z\ue000-\uf8ff]")


def download(folder: Path) -> Path:
    """由 npm 取来，核对散列。"""
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [archive] = folder.glob("*.tgz")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{archive.name} 的 sha256 是 {found}，应为 {SHA256}")
    return archive


def read_poems(archive: Path) -> Iterator[str]:
    """各首的正文，简体，去掉夹注与空白。"""
    convert = opencc.OpenCC("t2s").convert
    with tarfile.open(archive) as package:
        for member in package:
            file = package.extractfile(member)
            if file is None or not WANTED.match(member.name):
                continue
            try:
                poems = json.load(file)
            except ValueError:
                continue  # 包里有几个作者表不是 JSON
            for poem in poems if isinstance(poems, list) else ():
                lines = poem.get("paragraphs") or poem.get("content") or ()
                text = NOTES.sub("", convert("".join(lines)))
                yield re.sub(r"\s", "", text)


def grams(text: str) -> NDArray[np.uint64]:
    """每连续 `SHARED` 个汉字的散列，(N,)。"""
    codes = np.frombuffer(NOT_HAN.sub("", text).encode("utf-32-le"), "<u4")
    codes = codes.astype(np.uint64)
    count = len(codes) - SHARED + 1
    found = np.zeros(max(count, 0), np.uint64)
    for shift in range(SHARED if count > 0 else 0):
        found = found * np.uint64(0x9E3779B97F4A7C15) + codes[shift : shift + count]
    return found


def read_lines(path: Path) -> Iterable[str]:
    """一行一条；`.gz` 先解压。"""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    return content.decode("utf-8").splitlines()


def main() -> None:
    """取来，清洗，写出，并说各去掉多少。"""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("COMPANION_DATA"))
    parser.add_argument("--work", type=Path, default=Path("build/small"))
    parser.add_argument("--archive", type=Path, help="已经下载的 .tgz")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known = np.unique(
        np.concatenate([grams("".join(read_lines(args.data / f))) for f in HELD_OUT])
    )
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    kept: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for text in read_poems(args.archive or download(Path(folder))):
            han = NOT_HAN.sub("", text)
            mine = grams(text)
            at = np.minimum(np.searchsorted(known, mine), len(known) - 1)
            if len(han) < SHARED or BROKEN.search(text):
                counts["太短或有坏字"] += 1
            elif han in seen:
                counts["重复"] += 1
            elif (known[at] == mine).any():
                counts["与评测文字相同"] += 1
            else:
                seen.add(han)
                kept.append(text)
    with gzip.open(args.work / "poetry.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in kept)
    counts["留下"] = len(kept)
    print(json.dumps({**counts, "字数": sum(map(len, kept))}, ensure_ascii=False))


if __name__ == "__main__":
    main()
