"""以极小的设置重跑 notebooks/ 里的每个笔记本，输出写回原处，随仓库提交。

    python experiments/execute_notebooks.py               # 全部
    python experiments/execute_notebooks.py 03 04         # 只跑编号以它们开头的

每个笔记本在一个空文件夹里单独运行，不连网，单线程；跑完去掉随机器而变的元数据，再核对
输出里没有报错、没有绝对路径。换了起步模型之后，运行它一次，再运行
`python -m pytest tests/test_notebooks.py`。
"""

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 600
COLORS = 128
"""图减到这么多色：线条与色块看不出差别，文件只有三分之一大。"""
SAME_ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""各处理器都只用 AVX2：宽一倍的 AVX-512 换了相加的次序，训练几十步就差到第三位小数。"""
OFFLINE = {
    **SAME_ARITHMETIC,
    "PYTHONPATH": str(ROOT),  # 跑的总是这一份检出，装没装都一样
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
LOCAL_PATH = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp|work|opt|mnt)/\w+")


def execute(path: Path) -> float:
    """重跑一个笔记本，返回用了几秒；有一格不对，原来的文件不动。"""
    notebook = nbformat.read(path, as_version=4)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as empty:
        NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            coalesce_streams=True,  # 打印几行分几次到，怎样分随机器而变
            kernel_name="python3",
            resources={"metadata": {"path": empty}},
        ).execute()
    seconds = time.monotonic() - started
    for cell in notebook.cells:
        if cell.cell_type == "code":
            check_outputs(path.name, cell)
            shrink_images(cell)
    nbformat.write(notebook, path)
    return seconds


def check_outputs(name: str, cell: nbformat.NotebookNode) -> None:
    """一格的输出：没有标准错误，没有本机的路径。"""
    for output in cell.outputs:
        text = str(output)
        if output.get("name") == "stderr":
            sys.exit(f"{name} 有一格写到了标准错误：\n{cell.source}\n{output.text}")
        if output.output_type in ("stream", "execute_result") and (
            found := LOCAL_PATH.search(text)
        ):
            sys.exit(f"{name} 有一格的输出里有本机的路径 {found[0]}：\n{cell.source}")


def shrink_images(cell: nbformat.NotebookNode) -> None:
    """把一格里的 PNG 换成调色板图；显示的宽高另记在输出的元数据里，不变。"""
    for output in cell.outputs:
        encoded = output.get("data", {}).get("image/png")
        if encoded is None:
            continue
        picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        small = io.BytesIO()
        picture.quantize(COLORS).save(small, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(small.getvalue()).decode() + "\n"


def main(prefixes: list[str]) -> None:
    """依次重跑，清理，报告各用了多久。"""
    os.environ |= OFFLINE
    chosen = [
        p for p in NOTEBOOKS if not prefixes or p.name.startswith(tuple(prefixes))
    ]
    if not chosen:
        sys.exit(f"notebooks/ 里没有编号以 {'、'.join(prefixes)} 开头的笔记本")
    for path in chosen:
        print(f"{path.name}：{execute(path):.0f} 秒", flush=True)
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "clean_notebooks.py"), *map(str, chosen)],
        check=False,  # 改动过就以 1 结束，那是给 pre-commit 用的
    )


if __name__ == "__main__":
    main(sys.argv[1:])
