// 只有一条行的目标：因果、掩码、前缀语言建模。
"use strict";
const playRows = (() => {
  const { generator, choose, uniform, documentKey, round } = playNoise;
  const { first, plain, words, range, CLS, SEP, MASK, EOS } = playTokens;

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

  // ---- 掩码语言建模（companion/objectives/masked_lm.py）
  const masked = (body, seed, groups = null) => {
    const tokens = [CLS, ...body, SEP];
    const random = generator(seed);
    const candidates = tokens.map((id) => id >= first);
    const budget = Math.min(
      Math.max(1, round(tokens.length * 0.15)),
      candidates.filter(Boolean).length,
    );
    const chosen = groups
      ? chooseWords(groups, candidates, budget, random)
      : chooseTokens(candidates, budget, random);
    const places = range(tokens.length).filter((at) => chosen[at]);
    const lots = random.rand(places.length);
    const draws = random.randint(plain, places.length);
    const inputs = [...tokens];
    const always = Math.fround(0.8); // 单精度的比较，与 torch 相同
    const sometimes = Math.fround(0.8 + 0.1);
    places.forEach((at, i) => {
      if (lots[i] < always) inputs[at] = MASK;
      else if (lots[i] < sometimes) inputs[at] = first + draws[i];
    });
    return single(
      tokens,
      inputs,
      tokens.map((id, at) => (chosen[at] ? id : null)),
    );
  };

  const chooseTokens = (candidates, budget, random) => {
    const scores = random.rand(candidates.length);
    return choose(
      scores.map((score, at) => (candidates[at] ? -score : 1)),
      budget,
    );
  };

  // groups：正文的每个词元属于第几个词，空白为 −1
  const chooseWords = (groups, candidates, budget, random) => {
    const owners = [-1, ...groups, -1];
    const count = Math.max(...owners) + 1;
    const sizes = range(count).map(
      (word) => owners.filter((owner) => owner === word).length,
    );
    const whole = (word) =>
      owners.every((owner, at) => owner !== word || candidates[at]);
    const order = random.randperm(count).filter(whole);
    const taken = new Set();
    let left = budget;
    if (budget >= 1) {
      for (const word of order) {
        if (left > 0 && sizes[word] <= left) {
          taken.add(word);
          left -= sizes[word];
        }
      }
      if (left === budget && order.length) {
        const least = Math.min(...order.map((word) => sizes[word]));
        taken.add(order.find((word) => sizes[word] === least));
      }
    }
    return owners.map((owner) => taken.has(owner));
  };

  // ---- 前缀语言建模（prefix_lm.py、documents.py）
  const prefix = (body, seed) => {
    const tokens = [CLS, ...body, EOS];
    const [lot] = uniform(documentKey(seed), 1, 0);
    const split = body.length < 2 ? 0 : 2 + Math.floor(lot * (body.length - 1));
    const labels = tokens.map((id, at) => (at >= split && at > 0 ? id : null));
    return single(
      tokens,
      tokens,
      labels,
      tokens.map((_, at) => at < split),
    );
  };

  return { causal, masked, prefix };
})();
