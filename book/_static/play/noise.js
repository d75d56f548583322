// 随机数与包里的逐位相同：numpy 的 default_rng((种子, 第 0 轮, 第 0 个样本, 第几股))，
// 即 SeedSequence 与 PCG64（O'Neill，2014），只用它的 random()（companion/objectives/rows.py）。
// 网页不用模块（type="module"），因为从文件夹直接打开的页面读不了模块。
"use strict";
const playNoise = (() => {
  const WORD = (1n << 64n) - 1n;
  const STATE = (1n << 128n) - 1n;
  const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;

  // 几个整数 → 32 位的字，低位在前
  const entropy = (numbers) =>
    numbers.flatMap((number) => {
      const low = number % 2 ** 32;
      const high = Math.floor(number / 2 ** 32);
      return high ? [low, high] : [low];
    });

  // SeedSequence：把字搅进四格的池子，再取出八个字
  const seedWords = (numbers) => {
    let constant = 0x43b0d7e5;
    const hash = (value) => {
      value ^= constant;
      constant = Math.imul(constant, 0x931e8875);
      value = Math.imul(value, constant);
      return value ^ (value >>> 16);
    };
    const mix = (x, y) => {
      const result = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
      return result ^ (result >>> 16);
    };
    const given = entropy(numbers);
    const pool = [0, 1, 2, 3].map((i) => hash(given[i] ?? 0));
    for (let from = 0; from < 4; from++) {
      for (let to = 0; to < 4; to++) {
        if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
      }
    }
    for (const word of given.slice(4)) {
      for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hash(word));
    }
    let out = 0x8b51f9dd;
    return Array.from({ length: 8 }, (_, i) => {
      let word = pool[i % 4] ^ out;
      out = Math.imul(out, 0x58f38ded);
      word = Math.imul(word, out);
      return BigInt((word ^ (word >>> 16)) >>> 0);
    });
  };

  const generator = (seed, stream = 0) => {
    const words = seedWords([seed, 0, 0, stream]);
    const [a, b, c, d] = [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
    const increment = ((((c << 64n) | d) << 1n) | 1n) & STATE;
    let state = 0n;
    const step = () => {
      state = (state * MULTIPLIER + increment) & STATE;
    };
    step();
    state = (state + ((a << 64n) | b)) & STATE;
    step();
    // [0, 1) 上的一个随机数：取高 53 位
    const next = () => {
      step();
      const turn = state >> 122n;
      const folded = (state >> 64n) ^ (state & WORD);
      const bits = ((folded >> turn) | (folded << (64n - turn))) & WORD;
      return Number(bits >> 11n) * 2 ** -53;
    };
    const random = (count) => Array.from({ length: count }, next);
    return {
      next,
      random,
      // 0 到 count − 1 之间的一个整数
      below: (count) => Math.floor(next() * count),
      // 0 到 count − 1，次序随机
      shuffled: (count) => {
        const scores = random(count);
        return scores.map((_, i) => i).sort((i, j) => scores[i] - scores[j] || i - j);
      },
    };
  };

  // Python 的 round：一半时取偶
  const round = (value) => {
    const below = Math.floor(value);
    if (value - below !== 0.5) return Math.round(value);
    return below % 2 === 0 ? below : below + 1;
  };

  return { generator, round };
})();
