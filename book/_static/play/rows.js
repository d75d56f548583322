// 只有一条行的目标：因果、中间填补、掩码、掩码扩散、前缀语言建模。
"use strict";
const playRows = (() => {
  const { generator, round } = playNoise;
  const { specials, words, range, replaceTokens } = playTokens;
  const { CLS, SEP, EOS, MASK, PRE, SUF, MID } = playTokens;

  const single = (tokens, inputs, labels, prefix = null) => ({
    tokens: words(tokens),
    inputs: words(inputs),
    labels: words(labels),
    prefix,
  });

  const causal = (body) => {
    const tokens = [...body, EOS];
    return single(tokens, tokens, [null, ...tokens.slice(1)]);
  };

  // ---- 中间填补（fill_in_the_middle.py）；一字一词元，逐字与逐词元的切点相同
  const middle = (body, seed) => {
    const random = generator(seed);
    if (random.next() >= 0.5) return causal(body);
    const spm = random.next() < 0.5;
    const cuts = [random.below(body.length + 1), random.below(body.length + 1)];
    const [first, last] = cuts.sort((a, b) => a - b);
    const [before, inside, after] = [
      body.slice(0, first), body.slice(first, last), body.slice(last),
    ];
    const inputs = spm
      ? [PRE, SUF, ...after, MID, ...before, ...inside, EOS]
      : [PRE, ...before, SUF, ...after, MID, ...inside, EOS];
    const marks = [PRE, SUF, MID];
    const tokens = inputs.map((id) => (marks.includes(id) ? null : id));
    return single(tokens, inputs, [null, ...inputs.slice(1)]);
  };

  // ---- 掩码扩散（masked_diffusion.py）：这一行的比例，再逐个词元定遮不遮
  const diffusion = (body, seed) => {
    const tokens = [CLS, ...body, SEP];
    const rate = 1 - generator(seed, 1).next();
    const lots = generator(seed).random(tokens.length);
    const hidden = tokens.map((id, at) => id >= specials.length && lots[at] < rate);
    return single(
      tokens,
      tokens.map((id, at) => (hidden[at] ? MASK : id)),
      tokens.map((id, at) => (hidden[at] ? id : null)),
    );
  };

  // ---- 掩码语言建模（companion/objectives/masked_lm.py）
  const masked = (body, seed, groups = null) => {
    const tokens = [CLS, ...body, SEP];
    const random = generator(seed);
    const candidates = range(tokens.length).filter((at) => tokens[at] >= specials.length);
    const budget = Math.min(Math.max(1, round(tokens.length * 0.15)), candidates.length);
    const chosen = groups
      ? chooseWords([-1, ...groups, -1], candidates, budget, random)
      : random.shuffled(candidates.length).slice(0, budget).map((i) => candidates[i]);
    const flags = tokens.map((_, at) => chosen.includes(at));
    return single(
      tokens,
      replaceTokens(tokens, flags, random),
      tokens.map((id, at) => (flags[at] ? id : null)),
    );
  };

  // owners：每个词元属于第几个词；有一个词元不是候选，整词不选
  const chooseWords = (owners, candidates, budget, random) => {
    const places = range(owners.length);
    const runs = range(Math.max(...owners) + 1)
      .map((word) => places.filter((at) => owners[at] === word))
      .filter((run) => run.every((at) => candidates.includes(at)));
    const order = random.shuffled(runs.length).map((i) => runs[i]);
    random.random(runs.length); // 词组的长短，整词用不着
    const chosen = [];
    for (const run of budget ? order : []) {
      if (chosen.length + run.length <= budget) chosen.push(...run);
    }
    if (chosen.length || !order.length || !budget) return chosen;
    const least = Math.min(...order.map((run) => run.length));
    return order.find((run) => run.length === least);
  };

  // ---- 前缀语言建模（prefix_lm.py）
  const prefix = (body, seed) => {
    const tokens = [CLS, ...body, EOS];
    const split = body.length < 2 ? 0 : 2 + generator(seed).below(body.length - 1);
    const labels = tokens.map((id, at) => (at >= split && at > 0 ? id : null));
    return single(
      tokens,
      tokens,
      labels,
      tokens.map((_, at) => at < split),
    );
  };

  return { causal, middle, masked, diffusion, prefix };
})();
