"""写出的 GGUF 在 llama.cpp 里，贪心的下一个词元与 transformers 里相不相同。

    pip install "cpt-companion[gguf]" xllamacpp
    python experiments/gguf_agreement.py --model 检查点或文件.gguf

在一篇英文（仓库里的许可证全文）里均匀取若干处，各给前面一段，问下一个词元是什么；两边都取
概率最高的。xllamacpp 是 llama.cpp 的绑定，只为这个实验装。
"""

import argparse
import tempfile
from pathlib import Path

from recording import ROOT, record

CONTEXT = 300
"""前面给多少个字符。"""


def main() -> None:
    """写出、两边各答一遍，记下相同的比例。"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--places", type=int, default=200)
    args = parser.parse_args()

    import torch
    import xllamacpp

    from companion.checkpoints import load_checkpoint, write_gguf

    text = (ROOT / "LICENSE").read_text("utf-8")
    step = (len(text) - CONTEXT) // args.places
    contexts = [text[n * step : n * step + CONTEXT] for n in range(args.places)]
    opened = load_checkpoint(args.model, "causal_lm")
    expected: list[str] = []
    for context in contexts:
        ids = torch.tensor([opened.tokenizer(context).input_ids])
        with torch.no_grad():
            best = opened.model(ids).logits[0, -1].argmax()
        expected.append(opened.tokenizer.decode([int(best)]))
    agreement: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("f16", "q8_0"):
            file = write_gguf(
                opened.model,
                opened.tokenizer,
                Path(folder) / f"{precision}.gguf",
                precision,
            )
            parameters = xllamacpp.CommonParams()
            parameters.model.path = str(file)
            parameters.n_ctx = 512
            server = xllamacpp.Server(parameters)
            found = [
                server.handle_completions(
                    {"prompt": context, "max_tokens": 1, "temperature": 0, "top_k": 1}
                )["choices"][0]["text"]
                for context in contexts
            ]
            same = sum(a == b for a, b in zip(expected, found, strict=True))
            agreement[precision] = same / len(contexts)
            print(precision, agreement[precision], flush=True)
            for ours, theirs in zip(expected, found, strict=True):
                if ours != theirs:
                    print(repr(ours), repr(theirs))
            del server
    content = {
        "claim": "同样的上文，贪心的下一个词元两边相同的比例",
        "model": Path(args.model).name,
        "places": args.places,
        "agreement": agreement,
    }
    record("gguf_agreement", content)


if __name__ == "__main__":
    main()
