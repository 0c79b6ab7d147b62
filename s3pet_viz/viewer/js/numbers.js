// Numbers: the budget equation, the selection rule, packed rows. No page is needed here: node runs the tests.
// Each function says which Python function it must equal.

export const SLACK = 1e-7; // structure.budget.SLACK

export const expit = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));

/** structure.solve_shift: zeta of sum_i sigmoid((alpha_i - zeta) / tau) n_i = budget (1 - 1e-7). Newton's method, kept
 *  within the bracket that is known in closed form. -Infinity where the budget exceeds the whole space. */
export function solveShift(alpha, counts, budget, tau = 1) {
  let total = 0,
    least = Infinity,
    most = -Infinity;
  for (let i = 0; i < alpha.length; i++) {
    total += counts[i];
    least = Math.min(least, alpha[i]);
    most = Math.max(most, alpha[i]);
  }
  if (budget > total) return -Infinity;
  const share = (budget / total) * (1 - SLACK),
    centre = Math.log(share) - Math.log1p(-share);
  let low = least / tau - centre,
    high = most / tau - centre;
  const pad = 1e-9 * (1 + Math.abs(low) + Math.abs(high));
  low -= pad;
  high += pad;
  let shift = (low + high) / 2;
  for (let round = 0; round < 200 && high - low > 1e-13 * (1 + Math.abs(shift)); round++) {
    let sum = -share,
      slope = 0;
    for (let i = 0; i < alpha.length; i++) {
      const p = expit(alpha[i] / tau - shift),
        part = (counts[i] / total) * p;
      sum += part;
      slope += part * (1 - p);
    }
    if (sum === 0) break;
    if (sum > 0) low = shift;
    else high = shift;
    const next = shift + sum / slope;
    const ok = next > low && next < high;
    if (ok && Math.abs(next - shift) < 1e-14 * (1 + Math.abs(shift))) return next * tau;
    shift = ok ? next : (low + high) / 2;
  }
  return shift * tau;
}

/** structure.probabilities. */
export function probabilities(alpha, zeta, tau = 1) {
  return Float64Array.from(alpha, (a) => expit((a - zeta) / tau));
}

/** Gates from the highest alpha to the lowest; ties: lower index first. */
export function orderOf(alpha) {
  return Int32Array.from(alpha, (_, i) => i).sort((a, b) => alpha[b] - alpha[a] || a - b);
}

/** structure.select: take each gate that still fits.
 *  chosen: 0 not, 1 chosen, 2 chosen only to fill what the gates before it left; cut: the first gate that did not fit
 *  (-1: all did). */
export function select(order, counts, budget) {
  const chosen = new Uint8Array(order.length);
  let left = budget,
    cut = -1;
  for (const i of order) {
    if (counts[i] <= left) {
      chosen[i] = cut < 0 ? 1 : 2;
      left -= counts[i];
    } else if (cut < 0) cut = i;
  }
  return { chosen, cut, used: budget - left };
}

/** viewer.pack: a row of 16-bit codes. code = (place from the lowest) + (level of the value), so that the codes rise
 *  strictly in the order of the gates, which is exact, and the value is known to half a level. */
export function unpack(codes, low, scale) {
  const n = codes.length,
    at = new Int32Array(65536).fill(-1);
  for (let i = 0; i < n; i++) at[codes[i]] = i;
  const order = new Int32Array(n),
    alpha = new Float64Array(n);
  for (let code = 0, place = 0; place < n; code++) {
    const i = at[code];
    if (i < 0) continue;
    order[n - 1 - place] = i;
    alpha[i] = low + (code - place) * scale;
    place++;
  }
  return { alpha, order };
}

/** At most `most` of n row numbers, evenly, the last always among them. */
export function thin(n, most) {
  if (n <= most) return Array.from({ length: n }, (_, i) => i);
  const stride = 2 ** Math.ceil(Math.log2(n / (most - 1)));
  const rows = Array.from({ length: Math.ceil(n / stride) }, (_, i) => i * stride);
  if (rows[rows.length - 1] !== n - 1) rows.push(n - 1);
  return rows;
}

/** Mean ranks from 1, ties share theirs (as scipy.stats.rankdata). */
export function meanRanks(values) {
  const order = Array.from(values, (_, i) => i).sort((a, b) => values[a] - values[b]);
  const ranks = new Float64Array(values.length);
  for (let i = 0; i < order.length;) {
    let j = i;
    while (j + 1 < order.length && values[order[j + 1]] === values[order[i]]) j++;
    for (let k = i; k <= j; k++) ranks[order[k]] = (i + j) / 2 + 1;
    i = j + 1;
  }
  return ranks;
}

/** Spearman's rank correlation (runs.measures.spearman); NaN without spread. */
export function spearman(a, b) {
  const x = meanRanks(a),
    y = meanRanks(b),
    mean = (x.length + 1) / 2;
  let xy = 0,
    xx = 0,
    yy = 0;
  for (let i = 0; i < x.length; i++) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) ** 2;
    yy += (y[i] - mean) ** 2;
  }
  return x.length > 1 && xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : NaN;
}

/** Rows (arrays of numbers, NaN where there is nothing) in an order that puts like ones together: by their place on
 *  the first principal axis. */
export function likeness(rows) {
  const filled = rows.map((row) => {
    const known = row.filter((v) => !Number.isNaN(v)),
      mean = known.reduce((a, b) => a + b, 0) / (known.length || 1);
    return row.map((v) => (Number.isNaN(v) ? mean : v));
  });
  const width = rows[0]?.length ?? 0;
  const centre = Array.from({ length: width }, (_, j) => filled.reduce((a, r) => a + r[j], 0) / (rows.length || 1));
  const x = filled.map((row) => row.map((v, j) => v - centre[j]));
  let axis = Array.from({ length: width }, (_, j) => 1 + j / (width + 1));
  for (let round = 0; round < 60; round++) {
    const along = x.map((row) => row.reduce((a, v, j) => a + v * axis[j], 0));
    const next = axis.map((_, j) => x.reduce((a, row, i) => a + row[j] * along[i], 0));
    const norm = Math.hypot(...next);
    if (!norm) break;
    axis = next.map((v) => v / norm);
  }
  const along = x.map((row) => row.reduce((a, v, j) => a + v * axis[j], 0));
  return along.map((_, i) => i).sort((a, b) => along[a] - along[b] || a - b);
}

/** Budgets at which the gates enter as the budget grows (figures.budget_path): for each gate the first, or Infinity. */
export function entries(order, counts, budgets) {
  const enters = new Float64Array(order.length).fill(Infinity);
  const inside = budgets.map((budget) => select(order, counts, budget).chosen);
  inside.forEach((chosen, b) =>
    chosen.forEach((c, i) => {
      if (c && budgets[b] < enters[i]) enters[i] = budgets[b];
    }),
  );
  return { enters, inside };
}

/** From the smallest gate to the whole space, evenly on a log scale. */
export function budgetSteps(counts, points) {
  const least = counts.reduce((a, b) => Math.min(a, b)),
    total = counts.reduce((a, b) => a + b, 0);
  const spread = Array.from({ length: points }, (_, i) => Math.round(least * (total / least) ** (i / (points - 1))));
  return [...new Set(spread)];
}

/** structure.parse_budget, also with commas: parameters, or a share of the backbone ("0.2%", "2e-3"); NaN: neither. */
export function parseBudget(text, backbone) {
  const plain = text.replace(/[\s,]/g, ""),
    percent = plain.endsWith("%"),
    digits = percent ? plain.slice(0, -1) : plain;
  if (/^\+?\d+(_\d{3})*$/.test(plain)) return +plain.replaceAll("_", "") || NaN;
  const share = digits ? +digits / (percent ? 100 : 1) : NaN;
  return share > 0 && share <= 1 ? Math.floor(share * (backbone || NaN) * (1 + 1e-12)) || NaN : NaN;
}

/** analysis.annotate.short_count. */
export function shortCount(n) {
  if (n < 1000) return n ? String(n) : "";
  for (const [size, sign] of [
    [1e3, "k"],
    [1e6, "M"],
    [1e9, "G"],
  ]) {
    const part = n / size;
    if (part < 9.95) return part.toFixed(1).replace(/\.0$/, "") + sign;
    if (Math.round(part) < 1000) return part.toFixed(0) + sign;
  }
  return `${(n / 1e12).toFixed(0)}T`;
}

/** analysis.annotate.scaled: whole numbers of two digits at most, and the power of ten that they share. */
export function scaled(values) {
  const most = values.reduce((a, v) => (Number.isFinite(v) ? Math.max(a, Math.abs(v)) : a), 0);
  let power = most > 0 ? 1 - Math.floor(Math.log10(most)) : 0;
  if (most > 0 && Math.round(most * 10 ** power) >= 100) power -= 1;
  const texts = Array.from(values, (v) => (Number.isNaN(v) ? "" : (v * 10 ** power).toFixed(0).replace(/^-0$/, "0")));
  return { texts, power };
}

/** A few round numbers from low to high. */
export function ticks(low, high, about = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / about,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9) * step,
    most = Math.ceil(about) + 1; // counted: far from 0 a small step may change nothing
  const found = Array.from({ length: most }, (_, i) => first + i * step).filter((v) => v <= high + step * 1e-9);
  if (found.length < 2 && about < 64) return ticks(low, high, about * 2);
  return found.length ? [...new Set(found)].map((v) => (Math.abs(v) < step * 1e-9 ? 0 : v)) : [low];
}
