"""只在有标签的位置上计算输出头，并直接给出逐目标的损失。

掩码语言建模只有约 15% 的位置有标签，整行过输出头，大半是白算；25 万词的词表下，因果模型
的 logits 比模型本身还大。这里用前向钩子在输出头入口挑出有目标的行，再让最后的线性层与交
叉熵合在一起、一块一块地算（`LinearLoss`）：前向就把梯度求好，logits 从不整个存在。

各架构的输出头不同：有的压平或缩放 logits，有的不经线性层，有的整行一起算。不认名字，头
一次用到一个模型时试一小批（`head_plan`）：挑行、合并计算与整行的 logits 损失相等才用，
不等就退一步。

钩子只在一次前向之内存在，模型不留痕迹；计算发生在模型自己的 forward 里，因此 DDP、
FSDP2、梯度检查点照常工作。

形状字母：B 行数，L 行长，N 要算的位置数，D 宽度，E 最后一层的宽，V 词表，C 一块的行数。
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from companion.batch import IGNORE_INDEX, LOSS_WEIGHTS, Batch
from companion.checkpoints.running import (
    HEAD_NAMES,
    evaluation_mode,
    inner_model,
    output_head,
    plain_batch,
    takes,
)
from companion.errors import ModelError, raised

T = TypeVar("T")

CHUNK_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""一块至多多少个 logits：CPU 上 8 MB，三级缓存装得下；再小，矩阵乘就喂不饱。"""

Judge = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor]]
"""一块 logits (C, V)、是哪几行、要不要梯度 → 各行的损失与对错；要梯度时把 logits 就地变
成损失对它的梯度。"""


@dataclass(frozen=True)
class TargetLosses:
    """一批的损失；N 个目标的次序是逐行逐位置。"""

    total_nats: Tensor
    """全部目标的损失之和，有权重的乘过，标量 float32，可求导；除以整步的目标数才是要优
    化的量。"""
    nats: Tensor
    """每个目标的损失，没有乘权重，(N,) float32，不求导。"""
    correct: Tensor
    """概率最大的词元就是目标时为真，(N,) bool。"""


def target_positions(labels: Tensor, *, causal: bool) -> Tensor:
    """有目标的标签位置，(B, L) bool；因果模型第 0 列没有上文，不算。"""
    positions = labels != IGNORE_INDEX
    if causal:
        positions = positions.clone()
        positions[:, 0] = False
    return positions


def target_losses(model: nn.Module, batch: Batch, *, causal: bool) -> TargetLosses:
    """前向一次，求每个目标的交叉熵。

    与 `model(**batch)` 的 logits 上逐位置求交叉熵相等（测试逐架构核对），只是不算没有目
    标的位置。因果模型由位置 t−1 的输出对位置 t 的标签，移位在这里做。

    Args:
        model: 带输出头的 transformers 模型，可以包着 DDP 或 peft。
        batch: 整理器的输出，含 `labels` (B, L) int64；有 `loss_weights` (B, L) 的，各
            目标乘以自己的权重。
        causal: 是否因果语言模型。

    Returns:
        N 个目标的损失与对错；没有目标时 N 为 0，`total_nats` 为 0。

    Raises:
        ModelError: 不认识这个架构的输出头。
    """
    labels = batch["labels"]
    positions = target_positions(labels, causal=causal)
    targets = labels[positions]  # (N,)
    rows = positions.roll(-1, dims=1) if causal else positions  # 预测由哪一行作出
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    weights = inputs.pop(LOSS_WEIGHTS, None)
    if weights is not None:
        weights = weights[positions]  # (N,)
    inner = inner_model(model)
    apart = cross_attention(inner, inputs.pop("cross_attention_mask", None))
    if takes(inner, "use_cache"):  # 缓存白占内存；T5Gemma 的还会截短交叉注意力
        inputs["use_cache"] = False  # type: ignore[assignment]

    def score(last: LastLayer) -> tuple[TargetLosses, Tensor]:
        losses = last.cross_entropy(targets, weights)
        return losses, losses.total_nats

    def score_whole(logits: Tensor) -> TargetLosses:
        return score_logits(logits, targets, weights)

    with scoring_head(inner, rows, score, score_whole) as read, apart:
        return read(model(**inputs))


@contextmanager
def cross_attention(model: Any, mask: Tensor | None) -> Generator[None]:
    """期间解码器看编码器时另用一张掩码。

    transformers 的编码器–解码器只收一个 `attention_mask`，编码器的自注意力与交叉注意力
    共用；两个栈不等长时，一张四维掩码顾不了两头。这里让编码器照旧用它，到解码器门口再把
    传进去的那一份换掉。一切仍在模型自己的 forward 里，DDP、FSDP2 与自动混合精度因此都照
    管得到。

    Args:
        model: 编码器–解码器，不带外壳。
        mask: 加性掩码，(B, 1, K, L)；None 表示不换。
    """
    if mask is None:
        yield
        return

    def swap(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "encoder_attention_mask": mask}

    hook = model.get_decoder().register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def last_hidden(model: Any) -> Generator[list[Tensor]]:
    """期间记下输出头收到的隐藏状态，(B, L, D)：最后一层的，挑行之前的；末一份是最近的。

    Args:
        model: 带输出头的模型，不带外壳。

    Raises:
        ModelError: 不认识这个架构的输出头。
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    hook = output_head(model).register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


@dataclass(frozen=True)
class LastLayer:
    """输出头最后的线性层：收到的与自己的。"""

    input: Tensor
    """(N, E)。"""
    weight: Tensor
    """(V, E)。"""
    bias: Tensor | None
    """(V,)。"""

    def cross_entropy(
        self, targets: Tensor, weights: Tensor | None = None
    ) -> TargetLosses:
        """各行对 `targets` (N,) 的交叉熵，和里各乘 `weights` (N,)；logits 不整块存。"""
        grad = torch.is_grad_enabled()
        total, nats, correct = LinearCrossEntropy.apply(
            self.input, self.weight, self.bias, targets, grad, weights
        )  # type: ignore[misc]
        return TargetLosses(total, nats, correct)

    def logits(self, part: slice) -> Tensor:
        """其中几行的 logits，(C, V) float32。"""
        rows = self.input[part]
        return F.linear(rows, self.weight.to(rows.dtype), self.bias).float()


@dataclass(frozen=True)
class HeadPlan:
    """一个模型的输出头怎样算。"""

    entry: str | None
    """在哪个子模块的入口挑行，它的名字；None 是整行都算。"""
    fused: bool
    """最后的线性层与损失合在一起算。"""

    def __str__(self) -> str:
        """给人看的一句。"""
        if self.fused:
            return "只算有目标的位置，线性层与损失合在一起"
        if self.entry is not None:
            return "只算有目标的位置，logits 整块存在"
        return "每个位置的 logits 整块存在"


_PLANS: WeakKeyDictionary[Any, HeadPlan] = WeakKeyDictionary()
_SAME = 1e-4
"""两种算法的损失相差不到它，才算相等；float32 的舍入在 1e-6 左右。"""
_ROUNDED = 0.05
"""半精度的模型，同上。"""
_MARK = 1000.0
"""顶替 logits 穿过模型的一个数：比真的 logits 大得多，压平、缩放、加偏置都看得出。"""


def head_plan(model: Any) -> HeadPlan:
    """这个模型的输出头怎样算；头一次问时试一小批，此后记着。

    由省到费依次试，取第一个与整行的 logits 损失相等的。

    Args:
        model: 带输出头的模型，不带外壳；在评估模式下试，试完还原。

    Raises:
        ModelError: 模型读不了一行文字，不逐位置给出 logits，或读两遍得数不同。
    """
    if model not in _PLANS:
        with torch.random.fork_rng(devices=[]), evaluation_mode(model):
            _PLANS[model] = _tried_plan(model)
    return _PLANS[model]


def _tried_plan(model: Any) -> HeadPlan:
    batch = plain_batch(model)
    ids = batch.get("decoder_input_ids", batch["input_ids"])  # (B, L)
    try:
        whole = word_scores(model(**batch))
    except Exception as error:  # 各架构各抛各的
        raise ModelError(
            found=f"{type(model).__name__} 读不了试读的一行文字：{raised(error)}",
            expected="只给文字就能前向的模型",
            remedy="换一个读文字的检查点；若是 config.json 缺了一项，照上面的英文补上",
        ) from error
    if whole is None or whole.dim() != 3 or whole.shape[:2] != ids.shape:
        shape = None if whole is None else tuple(whole.shape)
        raise ModelError(
            found=f"{type(model).__name__} 读 {tuple(ids.shape)} 的文字，"
            f"给出的 logits 是 {shape}",
            expected=f"每个位置一组 logits，{(*ids.shape, '词表')}",
            remedy="换一个逐词元给出 logits 的检查点",
        )
    rows = torch.zeros_like(ids, dtype=torch.bool)
    rows[:, 1::2] = True
    targets = ids[rows] % whole.shape[-1]
    expected = score_logits(whole[rows], targets).nats

    close = _SAME if whole.dtype == torch.float32 else _ROUNDED

    def score(last: LastLayer) -> tuple[Tensor, Tensor]:
        nonlocal close
        if last.input.dtype != torch.float32:  # 自动混合精度裹着模型
            close = _ROUNDED
        return last.cross_entropy(targets).nats, last.input.new_tensor(_MARK)

    def score_whole(logits: Tensor) -> Tensor:
        return score_logits(logits, targets).nats

    for plan in _candidates(model):
        try:
            with _planned_head(model, plan, rows, score, score_whole) as read:
                outputs = model(**batch)
                if plan.fused and not _untouched(model, outputs):
                    continue
                found = read(outputs)
        except Exception:
            continue  # 这种算法不合这个架构，试下一种
        if found.shape == expected.shape and torch.allclose(
            found, expected, rtol=close, atol=close, equal_nan=True
        ):
            return plan
    raise ModelError(
        found=f"{type(model).__name__} 把同一行读两遍，损失不同",
        expected="评估模式下，同样的文字总是同样的 logits",
        remedy="关掉其中的随机（Reformer 设 config.json 的 hash_seed），或换一个检查点",
    )


def _candidates(model: Any) -> list[HeadPlan]:
    """由省到费的几种算法。"""
    named = [name for name in HEAD_NAMES if hasattr(model, name)][:1]
    linear = model.get_output_embeddings()
    named += [name for name, each in model.named_modules() if each is linear]
    entries = list(dict.fromkeys(named))
    fused = [HeadPlan(name, True) for name in entries]
    return [*fused, *(HeadPlan(name, False) for name in entries), HeadPlan(None, False)]


def _untouched(model: Any, outputs: Any) -> bool:
    """线性层交出的数原样成了 logits，BART 一族的偏置除外。"""
    after = getattr(model, "final_logits_bias", None)
    shown = word_scores(outputs)
    expected = _MARK if after is None else _MARK + after
    return shown is not None and bool((shown == expected).all())


def word_scores(outputs: Any) -> Tensor | None:
    """模型的输出里词元的 logits；没有的为 None。"""
    found = getattr(outputs, "logits", None)
    # BERT、ALBERT 的预训练类有两个头，词元的叫 prediction_logits
    return getattr(outputs, "prediction_logits", None) if found is None else found


@contextmanager
def scoring_head(
    model: Any,
    rows: Tensor,
    score: Callable[[LastLayer], tuple[T, Tensor]],
    score_whole: Callable[[Tensor], T],
) -> Generator[Callable[[Any], T]]:
    """在这段时间里，输出头只算 `rows`，最后的线性层改为就地打分。

    Args:
        model: 带输出头的模型，不带外壳。
        rows: 算哪些位置，(B, L) bool；共 N 个。
        score: 由最后的线性层打分；另交出一个标量，模型把它当作 logits 原样带出。
        score_whole: 由整块 logits (N, V) 打分，给不能合并计算的架构。

    Yields:
        一个函数，由模型的输出读出打分的结果。

    Raises:
        ModelError: 同 `head_plan`。
    """
    plan = head_plan(model)
    with _planned_head(model, plan, rows, score, score_whole) as read:
        yield read


@contextmanager
def _planned_head(
    model: Any,
    plan: HeadPlan,
    rows: Tensor,
    score: Callable[[LastLayer], tuple[T, Tensor]],
    score_whole: Callable[[Tensor], T],
) -> Generator[Callable[[Any], T]]:
    """同 `scoring_head`，算法由 `plan` 定。"""

    def select(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows], *args[1:])  # (B, L, D) → (N, D)

    linear: Any = model.get_output_embeddings() if plan.fused else None
    fused = (
        # FSDP2 把它换成自己的子类，forward 仍是原来的
        getattr(type(linear), "forward", None) is nn.Linear.forward
        and "forward" not in vars(linear)  # 别人已换过 forward（如 accelerate 的卸载）
    )
    kept: list[T] = []

    # BART 一族在线性层之后加一个偏置（缓冲区，不训练）；与线性层自己的偏置是一回事
    after = getattr(model, "final_logits_bias", None)

    def replaced(input: Tensor) -> Tensor:
        bias = linear.bias
        if after is not None:
            bias = after[0] if bias is None else bias + after[0]
        found, shown = score(LastLayer(input, linear.weight, bias))
        kept.append(found)
        return shown.view(1, 1).clone()  # FSDP2 不要视图

    def read(outputs: Any) -> T:
        if fused:
            return kept.pop()
        logits: Any = word_scores(outputs)
        return score_whole(logits[rows] if plan.entry is None else logits)

    hook = None
    if plan.entry is not None:
        hook = model.get_submodule(plan.entry).register_forward_pre_hook(select)
    if fused:
        linear.forward = replaced
    try:
        yield read
    finally:
        if hook is not None:
            hook.remove()
        if fused:
            del linear.forward  # 露出类里的 forward


def score_logits(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None
) -> TargetLosses:
    """由整块 logits (N, V) 求损失：不能合并计算的架构走这条路。"""
    nats = F.cross_entropy(logits.float(), targets, reduction="none")
    total = nats.sum() if weights is None else nats @ weights
    return TargetLosses(total, nats.detach(), logits.argmax(-1) == targets)


class LinearLoss(torch.autograd.Function):
    """线性层与一种损失之和，一块一块地算，前向时就求好梯度。

    每块的 logits 用过就地变成对它的梯度，于是反向不必重算，也不必存 (N, V)。思路同
    Liger Kernel（Hsu 等，2024，§3.2）。子类写 `forward`，说明损失怎样算。
    """

    @staticmethod
    def run(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        training: bool,
        judge: Judge,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D)、(V, D)、(V,) → 损失之和、逐目标损失 (N,)、对错 (N,)。

        有 `weights` (N,) 的，和与梯度里各目标乘以它，逐目标的损失不乘。
        """

        def buffer(index: int, like: Tensor | None, dtype: torch.dtype) -> Any:
            # 在 torch.no_grad 之下 needs_input_grad 仍为真，所以另看 training
            if like is None or not (training and ctx.needs_input_grad[index]):
                return None
            return torch.zeros_like(like, dtype=dtype)

        grad_hidden = buffer(0, hidden, hidden.dtype)
        grad_weight = buffer(1, weight, torch.float32)
        grad_bias = buffer(2, bias, torch.float32)
        gradients = (grad_hidden, grad_weight, grad_bias)
        wanted = any(gradient is not None for gradient in gradients)
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        correct = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        matrix = weight.to(hidden.dtype)  # 混合精度下与隐藏状态同类
        limit = CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cuda"])
        size = max(16, limit // len(weight))
        # 单精度时各块写在同一处：每块新要几兆内存，缺页比矩阵乘还费时
        single = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(
            hidden.device.type
        )
        block = hidden.new_empty(min(size, len(hidden)) if single else 0, len(weight))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            rows = hidden[part]
            if single:
                logits = torch.mm(rows, matrix.T, out=block[: len(rows)])
            else:
                logits = F.linear(rows, matrix).float()  # (C, V)
            if bias is not None:
                logits += bias
            nats[part], correct[part] = judge(logits, part, wanted)
            if not wanted:
                continue
            if weights is not None:
                logits *= weights[part, None]
            slope = logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = slope @ matrix
            if grad_weight is not None and single:
                grad_weight.addmm_(slope.T, rows)
            elif grad_weight is not None:
                grad_weight += slope.T @ rows
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nats, correct)
        return nats.sum() if weights is None else nats @ weights, nats, correct

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, upstream: Tensor, _nats: Any, _correct: Any
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        """上游只有一个标量，各梯度乘以它即可。"""
        hidden, weight, bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if hidden is None else hidden * upstream.to(hidden.dtype),
            None if weight is None else (weight * upstream).to(weight_dtype),
            None if bias is None else (bias * upstream).to(bias_dtype),
            None,
            None,
            None,
        )


class LinearCrossEntropy(LinearLoss):
    """线性层与交叉熵之和；对 logits 的梯度是 softmax 减去独热向量。"""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        training: bool,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D)、(V, D)、(V,)、(N,) → 损失之和、逐目标损失 (N,)、对错 (N,)。"""

        def judge(logits: Tensor, part: slice, wanted: bool) -> tuple[Tensor, Tensor]:
            answers = targets[part, None]  # (C, 1)
            peak, guess = logits.max(1, keepdim=True)
            logits -= peak
            picked = logits.gather(1, answers)
            total = logits.exp_().sum(1, keepdim=True)
            nats = (total.log() - picked)[:, 0]
            if wanted:
                logits /= total
                logits.scatter_add_(1, answers, -torch.ones_like(picked))
            return nats, (guess == answers)[:, 0]

        return LinearLoss.run(ctx, hidden, weight, bias, training, judge, weights)
