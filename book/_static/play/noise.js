// 两种随机数，与包里的逐位相同：
//   counter   计数器式（companion/objectives/ragged.py）：splitmix64 在（钥匙, 股, i）处的值
//   twister   torch.Generator 的 MT19937，掩码语言建模用
// 网页不用模块（type="module"），因为从文件夹直接打开的页面读不了模块。
"use strict";
const playNoise = (() => {
  const MASK = (1n << 64n) - 1n;
  const GOLDEN = 0x9e3779b97f4a7c15n;

  // splitmix64 的末级搅拌
  const mix = (state) => {
    state = ((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
    state = ((state ^ (state >> 27n)) * 0x94d049bb133111ebn) & MASK;
    return state ^ (state >> 31n);
  };

  const stir = (...values) =>
    values.reduce((state, value) => mix(((state ^ BigInt(value)) + GOLDEN) & MASK), 0n);

  // 种子、第 0 轮、第 0 个样本、行内第 0 篇
  const documentKey = (seed) => stir(seed, 0, 0, 0);

  const bits = (key, width, stream) => {
    const base = mix((key + GOLDEN * BigInt(stream + 1)) & MASK);
    return Array.from({ length: width }, (_, i) =>
      mix((base + GOLDEN * BigInt(i + 1)) & MASK),
    );
  };

  // [0, 1) 上的随机数：取高 53 位
  const uniform = (key, width, stream) =>
    bits(key, width, stream).map((each) => Number(each >> 11n) * 2 ** -53);

  // 分数最小的 count 个；分数相同取前一个
  const choose = (scores, count) => {
    const order = scores.map((_, i) => i);
    order.sort((a, b) =>
      scores[a] < scores[b] ? -1 : scores[a] > scores[b] ? 1 : a - b,
    );
    const chosen = scores.map(() => false);
    for (const place of order.slice(0, count)) chosen[place] = true;
    return chosen;
  };

  // 从 slots 个位置里不放回地选 count 个；只比高 44 位，与 choose_ragged 相同
  const chooseRagged = (key, slots, count, stream) =>
    choose(
      bits(key, slots, stream).map((each) => each >> 20n),
      count,
    );

  // MT19937（Matsumoto 与 Nishimura，1998）；torch 只用种子的低 32 位
  const twister = (seed) => {
    const size = 624;
    const state = new Uint32Array(size);
    state[0] = Number(BigInt.asUintN(32, seed));
    for (let i = 1; i < size; i++) {
      const last = state[i - 1] ^ (state[i - 1] >>> 30);
      state[i] = Math.imul(1812433253, last) + i;
    }
    let at = size;
    const refill = () => {
      for (let i = 0; i < size; i++) {
        const joined = (state[i] & 0x80000000) | (state[(i + 1) % size] & 0x7fffffff);
        state[i] =
          state[(i + 397) % size] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    };
    const next = () => {
      if (at === size) refill();
      let value = state[at++];
      value ^= value >>> 11;
      value ^= (value << 7) & 0x9d2c5680;
      value ^= (value << 15) & 0xefc60000;
      return (value ^ (value >>> 18)) >>> 0;
    };
    return {
      // torch.rand，单精度：取低 24 位
      rand: (count) => Array.from({ length: count }, () => (next() & 0xffffff) / 2 ** 24),
      // torch.randint(high, (count,))
      randint: (high, count) => Array.from({ length: count }, () => next() % high),
      // torch.randperm(count)
      randperm: (count) => {
        const order = Array.from({ length: count }, (_, i) => i);
        for (let i = 0; i + 1 < count; i++) {
          const other = i + (next() % (count - i));
          [order[i], order[other]] = [order[other], order[i]];
        }
        return order;
      },
    };
  };

  // 种子、第 0 轮、第 0 个样本（derive_generator）
  const generator = (seed) => twister(stir(seed, 0, 0));

  // Python 的 round：一半时取偶
  const round = (value) => {
    const below = Math.floor(value);
    if (value - below !== 0.5) return Math.round(value);
    return below % 2 === 0 ? below : below + 1;
  };

  return { documentKey, uniform, choose, chooseRagged, generator, round };
})();
