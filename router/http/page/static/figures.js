// Numbers as people read them. Money keeps the unit in which it differs.

const UNITS = [[1, "USD"], [1e-3, "mUSD"], [1e-6, "µUSD"], [1e-9, "nUSD"]];

/** The unit in which amounts of this size are best shown: [USD of one, name]. */
export function unitOf(usd) {
  return UNITS.find(([size]) => Math.abs(usd) >= size) ?? (usd ? UNITS.at(-1) : UNITS[0]);
}

/** An amount in a unit of `unitOf`, or in its own. */
export function usd(amount, unit = unitOf(amount)) {
  return `${amountIn(amount, unit)} ${unit[1]}`;
}

/** The same without the name of the unit. */
export function amountIn(amount, [size]) {
  return digits(amount / size);
}

/** Three significant digits, and no exponent where none is needed. */
export function digits(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e7 || size < 1e-4) return value.toExponential(2);
  if (value < 0) return `−${digits(size)}`;
  if (size < .1) return value.toPrecision(3);
  if (size >= 100 || Number.isInteger(value)) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3);
}

/** A share in percent. */
export function percent(share, places = 0) {
  if (share === null || share === undefined) return "–";
  return `${hundredths(share, places)} %`;
}

/** The same without the sign. */
export function hundredths(share, places = 0) {
  const value = share * 100;
  return (value !== 0 && Math.abs(value) < 1 ? value.toFixed(2) : value.toFixed(places)).replace("-", "−");
}

/** Seconds as a span. */
export function span(seconds) {
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(0)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

/** A moment of the log. */
export function moment(ms) {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}
