"""离线版：网页的 zip、EPUB 与 PDF，放进 _build/offline/。

    python book/make_offline.py              # 先 make book
    python book/make_offline.py --zip-only

zip 解开之后打开 index.html，搜索、公式、互动页都能用。EPUB 给阅读器：那里没有脚本，公式
照 TeX 的写法显示，互动页只剩文字。PDF 由 Chromium 打印构建好的各页，A4，带书签，一章
另起一页；没有 Chromium 就不做，并说出来。
"""

import argparse
import hashlib
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import yaml
from toc import toc_files

ROOT = Path(__file__).resolve().parents[1]
NAME = "continued-pretraining"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PRINTED = """<style>
@page { size: A4; margin: 16mm 15mm; }
body { background: none; }
article.printed { break-before: page; }
figure, table, pre, .sd-card, .admonition { break-inside: avoid; }
.page-ways, .headerlink, .sd-btn { display: none; }
</style>"""


def make_zip(html: Path, out: Path) -> Path:
    """把构建好的网页装成一个 zip，里面是一个文件夹。"""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(html, Path(folder, NAME))
        made = shutil.make_archive(str(out / NAME), "zip", folder, NAME)
    return Path(made)


def make_epub(out: Path) -> Path:
    """另用一份设置构建 EPUB：启动按钮与仓库按钮在那里用不了，留着还会出错。"""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    for key in ("launch_buttons", "repository"):
        config.pop(key)
    config["html"] = {}
    # EPUB 自己管样式与封面；网页的补丁与脚本用不上
    extensions = config["sphinx"]["local_extensions"]
    for name in ("zh_theme", "page_repairs", "local_mathjax", "play_vocabulary",
                 "readers_ways"):  # fmt: skip
        extensions.pop(name)
    for name, folder in extensions.items():
        extensions[name] = str(ROOT / folder)  # 相对的路径从设置文件所在处算起
    settings = config["sphinx"]["config"]
    for key in ("html_css_files", "html_js_files", "html_static_path", "mathjax_path"):
        settings.pop(key, None)
    settings |= {
        "epub_title": config["title"],
        "epub_basename": NAME,
        "epub_uid": NAME,
        "epub_identifier": NAME,
        "epub_scheme": "ID",
        "epub_description": config["title"],
        "epub_contributor": config["author"],
        "epub_show_urls": "no",
        "epub_css_files": [],
        "epub_writing_mode": "horizontal",
        "suppress_warnings": ["epub.unknown_project_files"],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "_config.yml")
        path.write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-c"),
                "from jupyter_book.cli.main import main; main()",
                *("build", str(ROOT), "--config", str(path)),
                *("--toc", str(ROOT / "_toc.yml"), "--path-output", folder),
                *("--builder", "custom", "--custom-builder", "epub"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        made = list(Path(folder).rglob("*.epub"))
        if done.returncode or not made:
            raise SystemExit((done.stdout + done.stderr)[-3000:])
        return Path(shutil.copy2(made[0], out / f"{NAME}.epub"))


def printed_pages() -> list[str]:
    """目录里的各页，按次序；笔记本在仓库里看，不印。"""
    return [page for page in toc_files() if page.startswith("book/")]


def one_page(html: Path) -> str:
    """各页的正文接成一页：编号加上页名，站内的链接指到同一页里。"""
    pages = printed_pages()
    names = {f"{page}.html": page.replace("/", "-") for page in pages}

    def inside(page: str, target: str) -> str:
        path, _, anchor = target.partition("#")
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        if not path:
            return f"#{names[f'{page}.html']}-{anchor}"
        if whole in names:
            return f"#{names[whole]}" + (f"-{anchor}" if anchor else "")
        return whole + (f"#{anchor}" if anchor else "")

    def moved(page: str, match: re.Match[str]) -> str:
        key, target = match[1], match[2]
        if key == "id":
            return f'id="{names[f"{page}.html"]}-{target}"'
        if re.match(r"[a-z]+:", target):
            return match[0]
        return f'{key}="{inside(page, target)}"'

    head = ""
    bodies: list[str] = []
    for page in pages:
        text = (html / f"{page}.html").read_text("utf-8")
        _, _, rest = text.partition('<article class="bd-article">')
        article, _, _ = rest.partition("</article>")
        if not head or ("MathJax" in text and "MathJax" not in head):
            head = text.partition("</head>")[0].replace("../", "")
        article = re.sub(r'\b(id|href|src)="([^"]*)"', partial(moved, page), article)
        bodies.append(
            f'<article class="bd-article printed" id="{names[f"{page}.html"]}">'
            f"{article}</article>"
        )
    return f"{head}{PRINTED}</head><body>{''.join(bodies)}</body></html>"


def make_pdf(html: Path, out: Path) -> Path | None:
    """全书一个 PDF；没有 Chromium 时不做。"""
    paths = (os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS))
    browser = next(filter(None, paths), None)
    if browser is None:
        return None
    page, made = html / "whole-book.html", out / f"{NAME}.pdf"
    page.write_text(one_page(html), "utf-8")
    try:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--no-pdf-header-footer", "--generate-pdf-document-outline"),
                "--virtual-time-budget=60000",
                *(f"--print-to-pdf={made}", page.resolve().as_uri()),
            ],
            capture_output=True,
            check=True,
        )
    finally:
        page.unlink()
    return made


def main() -> None:
    """各做一份，写出大小与 sha256。"""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "offline")
    parser.add_argument("--zip-only", action="store_true", help="不做 EPUB 与 PDF")
    given = parser.parse_args()
    if not (given.html / "index.html").is_file():
        raise SystemExit(f"{given.html} 里没有构建好的书：先运行 make book")
    given.out.mkdir(parents=True, exist_ok=True)
    made = [make_zip(given.html, given.out)]
    if not given.zip_only:
        made.append(make_epub(given.out))
        printed = make_pdf(given.html, given.out)
        if printed is None:
            print("没有做 PDF：装一个 Chromium（Debian：apt install chromium）再试")
        else:
            made.append(printed)
    for path in made:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path.name}  {path.stat().st_size / 1e6:.1f} MB  sha256 {digest}")


if __name__ == "__main__":
    main()
