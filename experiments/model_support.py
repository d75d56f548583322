"""书里点了名的模型，打包、四维掩码、bf16、重算、编译哪样用得：逐一试出来。

    python experiments/model_support.py [--backend inductor] [--resume]

写 `results/model_support.json`，书末的“模型×目标支持表”由它生成。torch.compile 缺省用
aot_eager（捕捉整个模型的图与反向，不生成代码），一行几秒；inductor 一行几十秒。
"""

import argparse
import json
import time
from dataclasses import asdict

from recording import RESULTS, record

from companion.checkpoints.quiet import quiet_transformers
from companion.preflight.support import NAMED_MODELS, measure_support

NAME = "model_support"


def main() -> None:
    """照名单逐行试，每行试完就存；同一种架构的同一个目标只试一次。"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backend", default="aot_eager", help="torch.compile 的后端；none 不试这一列"
    )
    parser.add_argument("--resume", action="store_true", help="表里已有的行不再试")
    given = parser.parse_args()
    backend = None if given.backend == "none" else given.backend
    known = {}
    if given.resume:
        written = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))
        known = {
            (row["kind"], row["objective"]): row
            for row in written["rows"]
            if row["compile"] is not None or backend is None
        }
        backends = {*written["backends"], backend} - {None}
    else:
        backends = {backend} - {None}
    rows = []
    for named in NAMED_MODELS:
        key, start = (named.kind, named.objective), time.perf_counter()
        if key not in known:
            with quiet_transformers():
                known[key] = asdict(measure_support(*key, backend=backend))
        rows.append({**known[key], **asdict(named)})
        record(NAME, {"backends": sorted(backends), "rows": rows})
        print(f"{named.label}：{time.perf_counter() - start:.0f} 秒", flush=True)


if __name__ == "__main__":
    main()
